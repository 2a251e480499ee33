"""A simulated world: one thread, one clock, one random generator; coordinators, a store, a breaker, workers, verifiers, people.

A safety phase with faults is followed by a liveness phase without, after which every run must have finished. Same seed, same bytes:
everything that happens goes into a digest.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any

from agentraft_ray.breaker import BreakerPolicy, ScopedBreakers
from agentraft_ray.protocol.plan import plan_of
from agentraft_ray.protocol.records import RunAdmitted, encode_record
from agentraft_ray.protocol.state import RunState
from agentraft_ray.testing.checkers import Checkers
from agentraft_ray.testing.faults import NO_FAULTS, Faults
from agentraft_ray.testing.flaky_store import FlakyStore
from agentraft_ray.testing.host import Host
from agentraft_ray.testing.outside import Outside
from agentraft_ray.testing.scenario import Scenario, draw_scenarios
from agentraft_ray.testing.tally import Tally, Violation

__all__ = ["LIVENESS_S", "SAFETY_S", "World"]

SAFETY_S = 90.0
LIVENESS_S = 3_000.0
_EVENTS_MAX = 200_000


class World:
    """One seed. `run()` raises Violation; `seen` counts what happened."""

    def __init__(self, seed: int, tell: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.now = 1_000.0
        self.seen: Counter[str] = Counter()
        self.faults = Faults.drawn(self.rng)
        self.tally = Tally()
        self.checkers = Checkers(self.tally, self.seen)
        self.store = FlakyStore(self)
        self.breakers = ScopedBreakers(
            BreakerPolicy(failure_threshold=3, cooldown_s=8.0, runs_min=self.rng.choice((1, 2)), probe_ttl_s=10.0)
        )
        self.outside = Outside(self)
        self.scenarios = draw_scenarios(self.rng)
        self.hosts = [Host(self, f"h{k}") for k in range(self.rng.randint(1, 3))]
        self.healed = False
        self._tell = tell
        self._digest = hashlib.sha256()
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()

    # --- time and chance ---------------------------------------------------------------------------------------------------

    def after(self, delay_s: float, call: Callable[..., None], *args: Any) -> None:
        """`call(*args)` in `delay_s` seconds."""
        heappush(self._queue, (self.now + delay_s, next(self._order), call, args))

    def chance(self, fault: str) -> bool:
        """Whether this fault happens now."""
        probability: float = getattr(self.faults, fault)
        if probability and self.rng.random() < probability:
            self.seen[fault] += 1
            return True
        return False

    def delay(self, low: float = 0.005, high: float = 0.05) -> float:
        return low + (high - low) * self.rng.random()

    def note(self, *what: object) -> None:
        """Something happened; part of the digest."""
        line = f"{self.now:.6f} {what!r}"
        self._digest.update(line.encode())
        if self._tell is not None:
            self._tell(line)

    @property
    def digest(self) -> str:
        """Of everything that happened so far."""
        return self._digest.hexdigest()

    # --- the course of a world ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Both phases and the final checks. Raises Violation."""
        for scenario in self.scenarios:
            self.after(scenario.submitted_at_s, self._submit, scenario)
        for host in self.hosts:
            self.after(self.rng.random(), host.boot)
        self.outside.begin()
        self.store.begin(SAFETY_S)
        self._until(self.now + SAFETY_S, lambda: False)
        self._heal()
        self._until(self.now + LIVENESS_S, self._is_over)
        self._check_the_end()

    def _submit(self, scenario: Scenario) -> None:
        plan = plan_of(scenario.plan)
        record = RunAdmitted(scenario.run_id, scenario.task, scenario.plan, plan.fingerprint, self.now)
        stored = encode_record(record)
        state = RunState(scenario.run_id)
        state.apply(record, stored)
        self.store.admit(scenario.run_id, plan.fingerprint, stored, state.head)
        self.note("submit", scenario.run_id)

    def _until(self, end: float, is_over: Callable[[], bool]) -> None:
        events = 0
        while self._queue and self._queue[0][0] <= end:
            self.now, _, call, args = heappop(self._queue)
            call(*args)
            events += 1
            if events > _EVENTS_MAX:
                raise Violation("law 6: no run spins", f"{events} events and no end")
            if events % 8 == 0 and is_over():
                return
        self.now = max(self.now, end) if not is_over() else self.now

    def _heal(self) -> None:
        self.note("faults end")
        self.faults = NO_FAULTS
        self.healed = True
        self.store.heal()
        for host in self.hosts:
            host.heal()

    def _is_over(self) -> bool:
        return all(self.store.is_finished(scenario.run_id) for scenario in self.scenarios)

    def _check_the_end(self) -> None:
        for scenario in self.scenarios:
            run = scenario.run_id
            if run not in self.store.table.runs:
                raise Violation("law 6: every run finishes", f"{run} is not in the store")
            log = self.checkers.logs[run]
            if log.finished is None:
                raise Violation("law 6: every run finishes", f"{run} does not; parked on {log.parked}, {log.count} records")
            self.checkers.at_end(run, self.store.table.read(run))
            self.seen[f"run {log.finished.outcome}"] += 1
            if log.finished.error is not None:
                self.seen[f"error {log.finished.error.kind}"] += 1
            self.note("end", run, log.finished.outcome, log.head.hex())
