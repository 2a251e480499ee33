"""The vLLM verifier's actor: one engine, for every verifier of the cluster that asks its model. It judges nothing; it gives scores.

The engine is a child of this process (`verifier.engine.process`), so it ends with it; when the engine dies, this process ends, and
comes back with a new one.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from agentraft_ray.actors.control import Figures
from agentraft_ray.actors.hosting import ExchangeHost
from agentraft_ray.actors.lanes import Request
from agentraft_ray.actors.messages import EngineState, Reply, Score, Scored, decode, encode
from agentraft_ray.runtime.boundary import described
from agentraft_ray.taxonomy import FaultKind, VerifierFault
from agentraft_ray.verifier.engine.port import Scores
from agentraft_ray.verifier.engine.process import EngineProcess
from agentraft_ray.verifier.engine.settings import EngineSettings

__all__ = ["VLLMSettings", "VLLMVerifierActor"]

_RETRY_S = 30.0  # an engine that could not start is tried again when it is asked after so long
_LEFT_BEHIND = 1
_SOURCE = "vllm"


class VLLMSettings(msgspec.Struct, frozen=True):
    """How the actor is made; `hold_s` = how long an exchange without replies is held."""

    engine: EngineSettings
    hold_s: float = 2.0


class VLLMVerifierActor(ExchangeHost):
    """Scores texts. `settings` = encoded `VLLMSettings`; `leave` ends the process, `start` starts an engine."""

    def __init__(
        self,
        settings: bytes,
        *,
        leave: Callable[[int], Any] = os._exit,
        start: Callable[..., EngineProcess] = EngineProcess,
        observing: bytes | None = None,
    ) -> None:
        chosen: VLLMSettings = decode(settings, VLLMSettings)
        super().__init__(slots=None, hold_s=chosen.hold_s, store=None, encryption_key=None, load=None, open_store=None, observing=observing)
        self._settings = chosen.engine
        self._leave = leave
        self._start = start
        self._engine: EngineProcess | None = None
        if self._work_loop is not None:  # in Ray: it loads while the cluster starts
            self._work_loop.call_soon(self._running)

    async def exchange(self, client: str, batch: bytes, sent_at: float = 0.0, good_for_s: float = 0.0, session: str = "") -> bytes:
        """Take in a batch of `Score`; the scores that are ready, once there are any, at the latest after `hold_s`."""
        return await self._exchanged(client, decode(batch, list[Score]), sent_at, good_for_s, session)

    async def ready(self, wait_s: float) -> bytes:
        """An `EngineState`, as soon as the engine has started or cannot, at the latest after `wait_s`."""
        self.at_work()
        engine = self._running()
        try:
            async with asyncio.timeout(wait_s):
                found = await engine.ready()
        except TimeoutError:
            return encode(EngineState(""))
        return encode(EngineState("", found) if isinstance(found, VerifierFault) else EngineState(found.engine))

    async def shut_down(self) -> None:
        """End the engine in good order."""
        self._draining = True
        engine, self._engine = self._engine, None
        if engine is not None:
            await asyncio.to_thread(engine.close)

    # --- one request -----------------------------------------------------------------------------------------------------------

    def begin(self, request: Request) -> Awaitable[Scores | VerifierFault]:
        """Start with a request; what comes back gives the scores. Cancelling it takes it back from the engine."""
        return self._running().score(request.ask.texts)

    def reply(self, request: Request, done: Scores | VerifierFault) -> Reply:
        """The scores, or the fault."""
        if isinstance(done, VerifierFault):
            return Scored(request.ask.ticket, None, done)
        return Scored(request.ask.ticket, done)

    def failed(self, request: Request, error: BaseException) -> Reply:
        """Something of ours is broken."""
        return self._fault(request, described(error))

    def _called_off(self, request: Request) -> Reply:
        return self._fault(request, "it was called off")

    def _fault(self, request: Request, why: str) -> Reply:
        return Scored(request.ask.ticket, None, VerifierFault(FaultKind.OTHER, why, _SOURCE))

    def _definition_of(self, ask: Any) -> Any:
        return self._settings

    # --- the engine ------------------------------------------------------------------------------------------------------------

    def _running(self) -> EngineProcess:
        """The engine; a new one where the last one could not start and that is a while ago."""
        engine = self._engine
        if engine is None or (engine.fault is not None and time.monotonic() - engine.failed_at > _RETRY_S):
            engine = self._engine = self._start(self._settings, self._engine_died)
        return engine

    def _engine_died(self, why: str) -> None:
        """It does not heal, and neither does what it left of a GPU: begin anew as a whole. Called in a thread of the engine's."""
        self._leave(_LEFT_BEHIND)

    def _figures(self) -> Figures:
        engine = self._engine
        info = engine.info if engine is not None else None
        fault = engine.fault if engine is not None else None
        return super()._figures() | {
            "model": self._settings.model,
            "engine": info.engine if info is not None else "",
            "engine_pid": engine.pid if engine is not None else 0,
            "engine_open": engine.open if engine is not None else 0,
            "engine_start_s": info.seconds if info is not None else 0.0,
            "engine_fault": fault.message if fault is not None else "",
        }
