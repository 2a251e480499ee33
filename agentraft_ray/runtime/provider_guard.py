"""The breakers of the providers' models in one process, as the lanes of its verifiers ask them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from agentraft_ray.breaker import BreakerPolicy, BreakerState, Permit, ScopedBreakers, provider_policy
from agentraft_ray.config import ProviderLimits
from agentraft_ray.verifier.providers.lanes import Outcome

__all__ = ["ProcessGuard"]

_SOON_S = 1.0  # while one request tries whether a provider is back, the others look again after this


class _Leave(NamedTuple):
    breakers: ScopedBreakers
    permit: Permit


class ProcessGuard:
    """One breaker per lane. What one event loop of the process learns holds for all: providers limit accounts, not loops."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._breakers: dict[BreakerPolicy, ScopedBreakers] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count()

    async def enter(self, lane: str, limits: ProviderLimits) -> object | float:
        """See `Guard`."""
        now_s = self._clock()
        with self._lock:
            breakers = self._of(limits)
            answer = breakers.acquire(lane, str(next(self._numbers)), "process", "", now_s)
            if isinstance(answer, Permit):
                return _Leave(breakers, answer)
            left_s = max(0.0, answer.retry_at_s - now_s)
            return min(_SOON_S, left_s) if breakers.state(lane, now_s) is BreakerState.HALF_OPEN else left_s

    def leave(self, leave: object, outcome: Outcome) -> None:
        """See `Guard`."""
        assert isinstance(leave, _Leave)
        with self._lock:
            leave.breakers.settle(leave.permit, outcome, self._clock())

    def shut(self, lane: str, limits: ProviderLimits, for_s: float) -> None:
        """See `Guard`."""
        with self._lock:
            self._of(limits).shut(lane, for_s, self._clock())

    def state(self, lane: str, limits: ProviderLimits | None = None) -> BreakerState:
        """How a lane stands."""
        with self._lock:
            return self._of(limits or ProviderLimits()).state(lane, self._clock())

    def _of(self, limits: ProviderLimits) -> ScopedBreakers:
        policy = provider_policy(limits)
        found = self._breakers.get(policy)
        if found is None:
            found = self._breakers[policy] = ScopedBreakers(policy)
        return found
