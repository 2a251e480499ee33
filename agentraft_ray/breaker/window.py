"""The recent outcomes of a closed scope, and whether they are a cascade. No scopes, no permits, no time."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from agentraft_ray.breaker.policy import BreakerPolicy

__all__ = ["Window"]


@dataclass(slots=True)
class Window:
    """The outcomes of a closed scope that may open it: the failures in a row, and the last `window` outcomes."""

    in_a_row: int = 0
    runs_in_a_row: set[str] = field(default_factory=set)  # never more than runs_min
    outcomes: deque[tuple[str, bool]] = field(default_factory=deque)  # (run, failed), oldest first
    failures_by_run: Counter[str] = field(default_factory=Counter)

    def add(self, run_id: str, failed: bool, policy: BreakerPolicy) -> None:
        self.outcomes.append((run_id, failed))
        if failed:
            self.in_a_row += 1
            if len(self.runs_in_a_row) < policy.runs_min:
                self.runs_in_a_row.add(run_id)
            self.failures_by_run[run_id] += 1
        elif self.in_a_row:
            self.in_a_row = 0
            self.runs_in_a_row.clear()
        if len(self.outcomes) > policy.window:
            self._forget_oldest()

    def is_cascade(self, policy: BreakerPolicy) -> bool:
        if self.in_a_row >= policy.failure_threshold and len(self.runs_in_a_row) >= policy.runs_min:
            return True
        samples = len(self.outcomes)
        if samples < policy.samples_min or len(self.failures_by_run) < policy.runs_min:
            return False
        return self.failures_by_run.total() >= policy.failure_share * samples

    def _forget_oldest(self) -> None:
        run_id, failed = self.outcomes.popleft()
        if failed:
            self.failures_by_run[run_id] -= 1
            if not self.failures_by_run[run_id]:
                del self.failures_by_run[run_id]
