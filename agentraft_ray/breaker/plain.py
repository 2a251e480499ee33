"""The seed's circuit breaker: failures in a row, an injected clock, nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum

from agentraft_ray.errors import CircuitBreakerOpen, InvalidConfig

__all__ = ["BreakerState", "CircuitBreaker"]


class BreakerState(str, Enum):
    """CLOSED lets everything through, OPEN nothing, HALF_OPEN tries whether the trouble is over."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Opens after `failure_threshold` failures in a row and is half-open `cooldown_seconds` later; the seed's breaker.

    It counts plainly: no runs, no permits; in half-open everything passes, a success closes it and a failure opens it again. With
    `cooldown_seconds=0` it is half-open at the next read. Not thread-safe; `clock` returns seconds and never goes back.

    >>> breaker = CircuitBreaker(failure_threshold=1, cooldown_seconds=0)
    >>> breaker.record_failure(); breaker.state
    <BreakerState.HALF_OPEN: 'half_open'>
    """

    def __init__(self, *, failure_threshold: int = 5, cooldown_seconds: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        if failure_threshold < 1:
            raise InvalidConfig(f"a breaker needs failure_threshold >= 1, not {failure_threshold}")
        if cooldown_seconds < 0:
            raise InvalidConfig(f"a breaker needs cooldown_seconds >= 0, not {cooldown_seconds}")
        self.failure_threshold = failure_threshold
        self.cooldown_seconds = cooldown_seconds
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None

    @property
    def state(self) -> BreakerState:
        """The state at this moment; an open breaker becomes half-open by the passing of time alone."""
        if self._opened_at is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._remaining_s(self._opened_at) > 0 else BreakerState.HALF_OPEN

    @property
    def consecutive_failures(self) -> int:
        """Failures since the last success."""
        return self._failures

    def check(self) -> None:
        """Return if work may start. Raises CircuitBreakerOpen (never in half-open) with `retry_after_s`."""
        if self._opened_at is not None and (wait_s := self._remaining_s(self._opened_at)) > 0:
            raise CircuitBreakerOpen(
                f"the circuit breaker is open after {self._failures} failures in a row; try again in {wait_s:.1f} s",
                scope="",
                retry_after_s=wait_s,
            )

    def record_success(self) -> None:
        """Close the breaker and forget all failures."""
        self._failures = 0
        self._opened_at = None

    def record_failure(self) -> None:
        """Count a failure; the one that reaches the threshold, and any while it is not closed, starts the cooldown anew."""
        self._failures += 1
        if self._failures >= self.failure_threshold or self._opened_at is not None:
            self._opened_at = self._clock()

    def _remaining_s(self, opened_at: float) -> float:
        return opened_at + self.cooldown_seconds - self._clock()
