"""Lanes: one per provider and model. What bounds, paces and guards the requests to one model, so that none is in another's way.

A request that finds its lane shut, or without room, is answered by a fault at once or within its time; nothing is sent for it. So a
provider that is down, slow or out of quota holds neither threads nor the room of others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol, TypeVar

from agentraft_ray.config import ProviderLimits
from agentraft_ray.taxonomy import FaultKind, VerifierFault

__all__ = ["Guard", "Lane", "NoGuard", "Outcome"]

T = TypeVar("T")  # what a request is answered with, if not with a fault
Outcome = Literal["success", "failure", "released"]

_FAILURES = frozenset({FaultKind.TIMEOUT, FaultKind.CONNECTION, FaultKind.SERVER_ERROR, FaultKind.OVERLOADED, FaultKind.AUTH})
_SHUTS = frozenset({FaultKind.RATE_LIMITED, FaultKind.QUOTA, FaultKind.OVERLOADED})


class Guard(Protocol):
    """Who knows whether requests of a lane may be sent: the breakers of this process, or those of its cluster."""

    async def enter(self, lane: str, limits: ProviderLimits) -> object | float:
        """Leave for one request, to be given back; or a float: the seconds until it makes sense to ask again."""

    def leave(self, leave: object, outcome: Outcome) -> None:
        """How it ended: "success" (the provider answered, whatever it said), "failure" or "released" (nobody knows)."""

    def shut(self, lane: str, limits: ProviderLimits, for_s: float) -> None:
        """Nobody shall send anything of this lane for so long; then one request tries."""


class NoGuard:
    """For a verifier that is used by itself: it remembers only until when a lane is shut."""

    def __init__(self) -> None:
        self._shut_until: dict[str, float] = {}

    async def enter(self, lane: str, limits: ProviderLimits) -> object | float:
        """See `Guard`."""
        left_s = self._shut_until.get(lane, 0.0) - asyncio.get_running_loop().time()
        return left_s if left_s > 0 else lane

    def leave(self, leave: object, outcome: Outcome) -> None:
        """See `Guard`."""

    def shut(self, lane: str, limits: ProviderLimits, for_s: float) -> None:
        """See `Guard`."""
        self._shut_until[lane] = asyncio.get_running_loop().time() + for_s


class Lane:
    """The requests of one event loop to one model. `name` = ``provider:model``, and where it is if that is not the usual place.

    As many are under way at a time as `window` says: all that the limits allow at first, one after a failure of the provider's that
    concerns everybody, and twice as many after every success. The others wait in order.
    """

    def __init__(self, name: str, limits: ProviderLimits) -> None:
        self.name = name
        self.limits = limits
        self.window = limits.concurrency_max
        self.under_way = 0
        self._waiting: deque[asyncio.Future[VerifierFault | None]] = deque()
        self._limited_in_a_row = 0
        self._why = ""  # what shut it last, as far as this process knows

    @property
    def waiting(self) -> int:
        """How many requests wait for room."""
        return len(self._waiting)

    async def ask(self, guard: Guard, send: Callable[[float], Awaitable[T | VerifierFault]], left_s: float) -> T | VerifierFault:
        """What `send(seconds that it may take)` answers, once there is room and leave for it; a fault if there is none in `left_s`."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + left_s
        refused = await self._room(ends_at)
        if refused is not None:
            return refused
        try:
            leave = await self._leave_of(guard, ends_at)
            if isinstance(leave, VerifierFault):
                return leave
            outcome: Outcome = "released"
            try:
                answer = await self._in_time(send, min(self.limits.call_timeout_s, ends_at - loop.time()))
                answer, outcome = self._learn(guard, answer)
                return answer
            finally:
                guard.leave(leave, outcome)
        finally:
            self._give_room()

    # --- room ----------------------------------------------------------------------------------------------------------------

    async def _room(self, ends_at: float) -> VerifierFault | None:
        """Wait for room; the fault that refuses it."""
        if self.under_way < self.window and not self._waiting:
            self.under_way += 1
            return None
        if len(self._waiting) >= self.limits.waiting_max:
            return self._busy(f"{len(self._waiting)} requests wait already")
        turn: asyncio.Future[VerifierFault | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout_at(ends_at):
                return await turn
        except TimeoutError:
            if turn.done() and not turn.cancelled():
                return turn.result()
            return self._busy("there was no room in time")
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result() is None:
                self._give_room()
            raise
        finally:
            if not turn.done() or turn.cancelled():
                self._waiting = deque(one for one in self._waiting if one is not turn)

    def _give_room(self) -> None:
        self.under_way -= 1
        while self._waiting and self.under_way < self.window:
            turn = self._waiting.popleft()
            if not turn.done():
                self.under_way += 1
                turn.set_result(None)

    def _busy(self, why: str) -> VerifierFault:
        return VerifierFault(FaultKind.BUSY, f"nothing was sent: {why}", self.name, self.limits.busy_retry_s)

    # --- leave ---------------------------------------------------------------------------------------------------------------

    async def _leave_of(self, guard: Guard, ends_at: float) -> object | VerifierFault:
        """Leave to send; while it is about to be given, wait for it. Where it is not, whoever waits behind is told too."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout_at(ends_at):
                    answer = await guard.enter(self.name, self.limits)
            except TimeoutError:
                return self._shut_fault(self.limits.busy_retry_s)
            if not isinstance(answer, float):
                return answer
            self.window = 1
            if answer > self.limits.grace_s or loop.time() + answer > ends_at:
                shut = self._shut_fault(answer)
                self._turn_away(shut)
                return shut
            await asyncio.sleep(answer)

    def _turn_away(self, fault: VerifierFault) -> None:
        waiting, self._waiting = self._waiting, deque()
        for turn in waiting:
            if not turn.done():
                turn.set_result(fault)

    def _shut_fault(self, retry_after_s: float) -> VerifierFault:
        why = f" after: {self._why}" if self._why else ""
        return VerifierFault(FaultKind.CLOSED, f"nothing was sent: it is given a rest{why}", self.name, retry_after_s)

    # --- what comes of it ----------------------------------------------------------------------------------------------------

    async def _in_time(self, send: Callable[[float], Awaitable[T | VerifierFault]], timeout_s: float) -> T | VerifierFault:
        try:
            async with asyncio.timeout(timeout_s) as timer:
                return await send(timeout_s)
        except TimeoutError:
            if not timer.expired():
                raise
            return VerifierFault(FaultKind.TIMEOUT, f"no answer within {timeout_s:.3g} s", self.name)

    def _learn(self, guard: Guard, answer: T | VerifierFault) -> tuple[T | VerifierFault, Outcome]:
        """The answer, with the time to ask again where the lane is shut by it, and its outcome for the breaker."""
        if not isinstance(answer, VerifierFault):
            self.window = min(self.limits.concurrency_max, 2 * self.window)
            self._limited_in_a_row = 0
            return answer, "success"
        pause_s = self._pause_s(answer)
        if pause_s is not None:
            self.window = 1
            self._why = f"{answer.kind.value} ({answer.message})"
            guard.shut(self.name, self.limits, pause_s)
            return VerifierFault(answer.kind, answer.message, answer.source, pause_s, answer.status), "released"
        if answer.kind in _FAILURES:
            self.window = max(1, self.window // 2)
            self._why = f"{answer.kind.value} ({answer.message})"
            return answer, "failure"
        return answer, "released" if answer.kind is FaultKind.OTHER else "success"

    def _pause_s(self, fault: VerifierFault) -> float | None:
        """For how long the whole lane is shut by this; None if it is not."""
        if fault.kind not in _SHUTS:
            return None
        if fault.retry_after_s is not None:
            return fault.retry_after_s
        if fault.kind is FaultKind.OVERLOADED:  # one of many; the breaker counts them
            return None
        if fault.kind is FaultKind.QUOTA:
            return self.limits.quota_pause_s
        self._limited_in_a_row += 1
        doubled_s = self.limits.rate_limit_pause_s * 2.0 ** min(self._limited_in_a_row - 1, 30)
        return min(self.limits.rate_limit_pause_s_max, doubled_s)
