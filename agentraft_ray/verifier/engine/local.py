"""The engines of this process, each in a child: started when they are first asked, shared by all verifiers with the same settings."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Sequence

from agentraft_ray.taxonomy import FaultKind, VerifierFault
from agentraft_ray.verifier.engine.messages import Ready
from agentraft_ray.verifier.engine.port import Scores
from agentraft_ray.verifier.engine.process import EngineProcess
from agentraft_ray.verifier.engine.settings import EngineSettings

__all__ = ["LocalEngines", "local_engines"]

_DEATHS_MAX = 3
_PERIOD_S = 120.0
_REST_S = 30.0


class LocalEngines:
    """See `Engines`. An engine that died is started again when it is next asked, but not more than 3 times in two minutes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines: dict[EngineSettings, EngineProcess] = {}
        self._deaths: dict[EngineSettings, list[float]] = {}

    async def score(self, settings: EngineSettings, texts: Sequence[str]) -> Scores | VerifierFault:
        """See `Engines.score`."""
        found = self._of(settings)
        return found if isinstance(found, VerifierFault) else await found.score(texts)

    async def ready(self, settings: EngineSettings) -> Ready | VerifierFault:
        """Start the engine with these settings, and wait until it has."""
        found = self._of(settings)
        return found if isinstance(found, VerifierFault) else await found.ready()

    def running(self, settings: EngineSettings) -> EngineProcess | None:
        """The engine with these settings, if there is one."""
        return self._engines.get(settings)

    def close(self, settings: EngineSettings | None = None) -> None:
        """End the engine with these settings, or all of them. Blocks for some seconds at the most."""
        with self._lock:
            chosen = list(self._engines) if settings is None else [one for one in (settings,) if one in self._engines]
            ended = [self._engines.pop(one) for one in chosen]
        for engine in ended:
            engine.close()

    def _of(self, settings: EngineSettings) -> EngineProcess | VerifierFault:
        with self._lock:
            found = self._engines.get(settings)
            if found is not None and found.fault is None:
                return found
            now = time.monotonic()
            deaths = [one for one in self._deaths.get(settings, ()) if now - one < _PERIOD_S]
            if found is not None:
                assert found.fault is not None
                if now - found.failed_at < _REST_S and found.info is None and found.fault.kind is FaultKind.UNAVAILABLE:
                    return found.fault  # it could not start; whoever asks again at once is told so at once
                deaths.append(now)
                self._deaths[settings] = deaths
                if len(deaths) > _DEATHS_MAX:
                    return VerifierFault(FaultKind.OVERLOADED, f"it ended over and over: {found.fault.message}", "vllm", _REST_S)
            elif not self._engines and not self._deaths:
                atexit.register(self.close)
            self._engines[settings] = EngineProcess(settings)
            return self._engines[settings]


_here = LocalEngines()


def local_engines() -> LocalEngines:
    """The engines of this process."""
    return _here
