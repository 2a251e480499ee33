"""One engine in a child process, as its parent sees it. Nothing waits on the parent's event loop, and nothing is left when it dies.

The child ends when its socket does: after `close`, and when this process is killed, in whatever way. So does what the child itself
has started, which is in its process group.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from agentraft_ray.taxonomy import FaultKind, VerifierFault
from agentraft_ray.verifier.engine.messages import Abort, Answered, Ask, Channel, Close, Ready, Start, ToParent
from agentraft_ray.verifier.engine.port import Scores
from agentraft_ray.verifier.engine.settings import EngineSettings

__all__ = ["EngineProcess"]

T = TypeVar("T")

_LOG_TAIL_BYTES = 4_000
_ENDS_S = 5.0
_MODULE = "agentraft_ray.verifier.engine.host"
_SOURCE = "vllm"
_PACKAGE_IS_IN = str(Path(__file__).parents[3])

# In one process, without a core of its own: a third of the start and of the memory (docs/decisions/0023).
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}


class EngineProcess:
    """Starts at once and loads for a while; what is asked meanwhile waits. Safe to use from any thread and any event loop.

    `on_death` is called once, in a thread of this object, when the process has ended without `close`.
    """

    def __init__(self, settings: EngineSettings, on_death: Callable[[str], object] | None = None) -> None:
        self.settings = settings
        self.failed_at = 0.0  # by the monotonic clock, once there is a `fault`
        self._on_death = on_death
        self._lock = threading.Lock()
        self._tickets = itertools.count(1)
        self._open: dict[int, concurrent.futures.Future[Scores | VerifierFault]] = {}
        self._waiting: list[concurrent.futures.Future[Ready | VerifierFault]] = []
        self._state: Ready | VerifierFault | None = None  # None while it loads
        self._is_closing = False
        ours, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                [sys.executable, "-m", _MODULE, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=_environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,  # Ctrl-C is for us; and all that it starts can be ended together
            )
        self._channel = Channel(ours)
        self._channel.send([Start(settings)])
        self._late = threading.Timer(settings.start_s, self._too_late)
        self._late.daemon = True
        self._late.start()
        threading.Thread(target=self._receive, name=f"engine {settings.key}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the child; its process group has the same number."""
        return self._process.pid

    @property
    def info(self) -> Ready | None:
        """What the engine said of itself when it had started."""
        return self._state if isinstance(self._state, Ready) else None

    @property
    def fault(self) -> VerifierFault | None:
        """Why it will never answer, None while it may."""
        return self._state if isinstance(self._state, VerifierFault) else None

    @property
    def open(self) -> int:
        """Requests without an answer."""
        return len(self._open)

    async def ready(self) -> Ready | VerifierFault:
        """Wait until it has started; or why it will not."""
        future: concurrent.futures.Future[Ready | VerifierFault] = concurrent.futures.Future()
        with self._lock:
            if self._state is not None:
                return self._state
            self._waiting.append(future)
        return await asyncio.wrap_future(future)

    async def score(self, texts: Sequence[str]) -> Scores | VerifierFault:
        """See `Engines.score`."""
        future: concurrent.futures.Future[Scores | VerifierFault] = concurrent.futures.Future()
        with self._lock:
            if isinstance(self._state, VerifierFault):
                return self._state
            ticket = next(self._tickets)
            self._open[ticket] = future
        self._send(Ask(ticket, list(texts)))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            with self._lock:
                is_open = self._open.pop(ticket, None) is not None
            if is_open:
                self._send(Abort(ticket))
            raise

    def close(self, timeout_s: float = _ENDS_S) -> None:
        """End the process, in good order if that takes no longer than this; what is open gets a fault. Blocks."""
        self._is_closing = True
        self._send(Close())
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        self._kill()
        self._channel.close()

    def _send(self, message: Ask | Abort | Close) -> None:
        with contextlib.suppress(OSError):  # that it is gone is noticed where answers come from
            self._channel.send([message])

    # --- in threads of this object -----------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        while (messages := self._channel.to_parent()) is not None:
            for message in messages:
                self._take(message)
        self._died()

    def _take(self, message: ToParent) -> None:
        if isinstance(message, Ready):
            self._late.cancel()
            self._settle(message)
        elif isinstance(message, Answered):
            self._answer(message.ticket, message.scores)
        elif message.ticket:
            self._answer(message.ticket, message.fault)
        else:
            self._settle(message.fault)

    def _answer(self, ticket: int, answer: Scores | VerifierFault) -> None:
        with self._lock:
            future = self._open.pop(ticket, None)
        if future is not None:
            _give(future, answer)

    def _settle(self, state: Ready | VerifierFault) -> None:
        with self._lock:
            if isinstance(self._state, VerifierFault):
                return
            self._state, self.failed_at = state, time.monotonic()
            waiting, self._waiting = self._waiting, []
            lost = list(self._open.values()) if isinstance(state, VerifierFault) else []
            if lost:
                self._open.clear()
        for future in waiting:
            _give(future, state)
        for other in lost:
            assert isinstance(state, VerifierFault)
            _give(other, state)

    def _died(self) -> None:
        self._late.cancel()
        self._kill()
        code = self._process.returncode
        why = "it was closed" if self._is_closing else f"its process ended (exit code {code}){self._last_words()}"
        was_running = self._state is None or isinstance(self._state, Ready)
        self._settle(VerifierFault(FaultKind.SERVER_ERROR, f"the engine of {self.settings.model} is gone: {why}", _SOURCE))
        self._log.close()
        if was_running and not self._is_closing and self._on_death is not None:
            self._on_death(why)

    def _too_late(self) -> None:
        message = f"the engine of {self.settings.model} did not start within {self.settings.start_s:g} s{self._last_words()}"
        self._settle(VerifierFault(FaultKind.UNAVAILABLE, message, _SOURCE))
        self._kill()

    def _kill(self) -> None:
        """End the whole process group, and reap the child."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDS_S)

    def _last_words(self) -> str:
        try:
            end = self._log.seek(0, os.SEEK_END)
            self._log.seek(max(0, end - _LOG_TAIL_BYTES))
            lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        except (OSError, ValueError):
            return ""
        errors = [line for line in lines if "Error" in line]
        return f"; its last words: {(errors or lines)[-1].strip()[:500]}" if lines else ""


def _give(future: concurrent.futures.Future[T], value: T) -> None:
    with contextlib.suppress(concurrent.futures.InvalidStateError):  # whoever waited was cancelled just now
        future.set_result(value)


def _environment(settings: EngineSettings) -> dict[str, str]:
    """With what this process was started with; the child must find the same package, and no hub where it needs none."""
    path = os.pathsep.join(filter(None, [_PACKAGE_IS_IN, os.environ.get("PYTHONPATH", "")]))
    offline = {"HF_HUB_OFFLINE": "1"} if Path(settings.model).is_dir() else {}
    return {"VLLM_LOGGING_LEVEL": "WARNING", **os.environ, **_ENVIRONMENT, **offline, "PYTHONPATH": path}
