"""Lanes: tasks that do requests one after the other, as many at a time as really wait.

A task of its own for every request costs more than most requests do; a request without a task breaks `asyncio.timeout` and all else
that asks for the current task. So a lane takes requests until one makes it wait. The event loop then finds that others are queued
and starts another lane for them: instant requests share a task, and every one that waits has a task to itself.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Awaitable
from typing import Any, Protocol

from agentraft_ray.actors.exchange import Outbox
from agentraft_ray.actors.messages import Reply

__all__ = ["HELD_S_MAX", "Host", "Lanes", "Request"]

HELD_S_MAX = 0.05
"""How long a lane may keep the event loop to itself; then what is done can leave, and others have their turn. A batch of some
hundred instant steps takes a tenth of that, also on a machine that has too much to do."""


class Request:
    """A request on its way. `ask` is its message; it is settled once, by whatever comes first: its end, its time-out, its cancellation."""

    __slots__ = ("ask", "definition", "is_settled", "lane", "outbox", "running", "timer")

    def __init__(self, outbox: Outbox[Request], ask: Any, definition: Any) -> None:
        self.outbox = outbox
        self.ask = ask
        self.definition = definition
        self.is_settled = False
        self.lane: _Lane | None = None
        self.running: Any = None  # what the host keeps of it while it is under way
        self.timer: asyncio.TimerHandle | None = None  # ends when it is settled

    def settle(self, reply: Reply) -> None:
        """Answer it; only while it is not settled."""
        self.is_settled = True
        self.running = None
        if self.timer is not None:
            self.timer.cancel()
        self.outbox.open.pop(self.ask.ticket, None)
        self.outbox.put(reply)


class Host(Protocol):
    """Who knows what a request means."""

    def begin(self, request: Request) -> Awaitable[Any]:
        """Start with a request; awaiting what comes back does it."""

    def waits(self, request: Request) -> None:
        """A request has begun and does not end at once: the time to set a timer."""

    def reply(self, request: Request, done: Any) -> Reply:
        """The reply that says what awaiting it gave."""

    def failed(self, request: Request, error: BaseException) -> Reply:
        """The reply that says what was raised instead. A cancellation that nobody of ours asked for comes here too."""


class _Lane:
    __slots__ = ("is_watched", "is_yielding", "request", "since", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.request: Request | None = None
        self.is_watched = False  # the event loop will tell when the lane waits
        self.is_yielding = False
        self.since = 0.0  # when it got the event loop


class Lanes:
    """The requests of one actor and the lanes that do them; with `slots`, at most so many at a time, the others wait in order. One that
    waits for somebody else, who bounds that himself, takes no slot meanwhile (`leave_slot`, `take_slot`).

    A request starts in an empty context: no context variable of one reaches another.
    """

    def __init__(self, host: Host, slots: int | None = None) -> None:
        self._host = host
        self._slots = slots
        self._queue: deque[Request] = deque()
        self._lanes: set[_Lane] = set()
        self._next: _Lane | None = None  # the lane that is about to take from the queue
        self._elsewhere = 0
        self.done = 0

    @property
    def queued(self) -> int:
        """How many requests wait for a lane."""
        return len(self._queue)

    @property
    def busy(self) -> int:
        """How many lanes there are; all but one of them are in a request."""
        return len(self._lanes)

    def add(self, request: Request) -> None:
        """Queue a request; `go` must follow."""
        self._queue.append(request)

    def go(self) -> None:
        """See to it that somebody takes what is queued."""
        if self._queue and self._next is None and (self._slots is None or len(self._lanes) - self._elsewhere < self._slots):
            lane = self._next = _Lane()
            self._lanes.add(lane)
            loop = asyncio.get_running_loop()
            lane.is_watched = True
            loop.create_task(self._work(lane), context=contextvars.Context()).add_done_callback(_retrieved)
            loop.call_soon(self._waits, lane)

    def leave_slot(self) -> None:
        """A request waits for somebody else."""
        self._elsewhere += 1
        self.go()

    def take_slot(self) -> None:
        """It goes on; it need not wait for that, since it has begun."""
        self._elsewhere -= 1

    def take_back(self) -> list[Request]:
        """The requests that no lane has begun, which now none will."""
        queued = [request for request in self._queue if not request.is_settled]
        self._queue.clear()
        return queued

    def stop(self, request: Request) -> None:
        """End a request that was settled: what runs is cancelled, what is queued never starts."""
        lane = request.lane
        if lane is not None and lane.task is not None:
            lane.task.cancel()

    def _waits(self, lane: _Lane) -> None:
        """Called by the event loop, so the lane has let go of it: it waits, or has ended."""
        lane.is_watched = False
        if lane.request is not None and not lane.request.is_settled:
            self._host.waits(lane.request)
        if self._next is lane and not lane.is_yielding:
            self._next = None
        self.go()

    async def _work(self, lane: _Lane) -> None:
        queue, host = self._queue, self._host
        task = lane.task = asyncio.current_task()
        assert task is not None
        lane.since = time.perf_counter()
        try:
            while queue:
                request = queue.popleft()
                if request.is_settled:
                    continue
                if not lane.is_watched:  # it has waited
                    lane.is_watched = True
                    lane.since = time.perf_counter()
                    asyncio.get_running_loop().call_soon(self._waits, lane)
                request.lane, lane.request = lane, request
                try:
                    reply = host.reply(request, await host.begin(request))
                    if not request.is_settled:
                        request.settle(reply)
                except GeneratorExit:
                    raise
                except BaseException as error:  # noqa: BLE001 - the boundary: nothing that a request does ends an actor
                    if not request.is_settled:
                        request.settle(host.failed(request, error))
                request.lane = lane.request = None
                self.done += 1
                if task.cancelling() or contextvars.copy_context():
                    return  # what it leaves behind must not reach the next one
                if time.perf_counter() - lane.since > HELD_S_MAX and queue:
                    lane.is_yielding = True
                    await asyncio.sleep(0)
                    lane.is_yielding = False
                    lane.since = time.perf_counter()
        finally:
            self._ended(lane)

    def _ended(self, lane: _Lane) -> None:
        self._lanes.discard(lane)
        if self._next is lane:
            self._next = None
        self.go()


def _retrieved(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()
