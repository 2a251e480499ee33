"""What every actor can be asked beside its work: whether it lives, to take nothing new, and its figures.

Calls of the control group run in another thread, on another event loop than the work. Here is all that both sides touch.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable

from agentraft_ray.actors.messages import Pong, encode
from agentraft_ray.actors.observing import Observer

__all__ = ["Controlled", "Figures"]

Figures = dict[str, float | int | str]

_BEAT_S = 0.5
_BEATS_PER_REPORT = 4  # of figures for metrics, which Ray takes on every ten seconds


class Controlled:
    """The base of an actor class. Work methods call `at_work()` first; `ping`, `drain` and `stats` are for the control group.

    `incarnation` is random per life of the actor: whoever sees another one knows that all memory of the last is gone.
    `observing` = encoded `Observing`, None where nobody wants to see anything.
    """

    def __init__(self, observing: bytes | None = None) -> None:
        self.incarnation = secrets.token_hex(8)
        self._born_at = time.monotonic()
        self._due_at = self._born_at
        self._draining = False
        self._work_loop: asyncio.AbstractEventLoop | None = None
        self._observer = None if observing is None else Observer(observing, self._shown)
        self._beats = 0
        try:
            self._beat(asyncio.get_running_loop())
        except RuntimeError:  # not made inside a loop: the first work call brings one
            return

    @property
    def is_draining(self) -> bool:
        """Whether this actor was told to take nothing new."""
        return self._draining

    def at_work(self) -> None:
        """Note the running event loop as that of the work. Cheap; every work method begins with it."""
        loop = asyncio.get_running_loop()
        if loop is not self._work_loop:
            self._beat(loop)

    def on_work_loop(self, call: Callable[[], object]) -> None:
        """Have `call` made on the work loop soon, from any thread; nothing happens where no work was ever begun."""
        if self._work_loop is not None and not self._work_loop.is_closed():
            self._work_loop.call_soon_threadsafe(call)

    # --- the control group -------------------------------------------------------------------------------------------------

    async def ping(self) -> bytes:
        """A `Pong`; it comes even while the work loop is blocked, and says for how long it has been."""
        return encode(Pong(self.incarnation, os.getpid(), self._lag_s()))

    async def drain(self) -> None:
        """Take nothing new from now on; what was begun goes on."""
        if not self._draining:
            self._draining = True
            self.on_work_loop(self._begin_drain)

    async def stats(self) -> Figures:
        """What this actor has done since it was born, as plain figures."""
        own: Figures = {
            "incarnation": self.incarnation,
            "pid": os.getpid(),
            "age_s": time.monotonic() - self._born_at,
            "draining": int(self._draining),
        }
        return own | self._shown()

    # --- for subclasses ----------------------------------------------------------------------------------------------------

    def _begin_drain(self) -> None:
        """Called once on the work loop when draining begins."""

    def _figures(self) -> Figures:
        """The figures of this kind of actor. Called in the control thread: read, do not change."""
        return {}

    # --- the heartbeat -----------------------------------------------------------------------------------------------------

    def _shown(self) -> Figures:
        return {"lag_s": self._lag_s(), **self._figures()}

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._observer is not None and self._work_loop is None:
            loop.call_soon(self._observer.begin)
        self._work_loop = loop
        self._due_at = time.monotonic() + _BEAT_S
        loop.call_later(_BEAT_S, self._next_beat, loop)

    def _next_beat(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._work_loop:  # the work has moved to another loop, which beats by itself
            return
        self._beats += 1
        if self._observer is not None and self._beats % _BEATS_PER_REPORT == 0:
            self._observer.report()
        self._beat(loop)

    def _lag_s(self) -> float:
        return max(0.0, time.monotonic() - self._due_at) if self._work_loop is not None else 0.0
