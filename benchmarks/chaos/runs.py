"""The runs of a campaign as the driver knows them: handed out while faults are to come, and what became of each."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from agentraft_ray import RunResult, Task
from benchmarks.chaos.work import GOAL, inputs_of

__all__ = ["FAILURE_THRESHOLD", "LEASE_TTL_S", "MAX_RETRIES", "Runs"]

LEASE_TTL_S = 4.0
MAX_RETRIES = 8  # killed workers and planned troubles use some up; a run must not fail for that
FAILURE_THRESHOLD = 10_000  # a quarter of all first attempts is rejected on purpose; no breaker is to open for it


@dataclass
class Runs:
    """`trouble` says which step of a run misbehaves, by the run's number. `told` = what the program heard of a run's end, `seen` = how
    long its log was at times, and the digest of the last record then."""

    tally: Path
    trouble: Callable[[int], tuple[str, str] | None]
    count_min: int
    prefix: str = "chaos"
    enough: threading.Event = field(default_factory=threading.Event)
    made: dict[str, tuple[str, str] | None] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    seen: dict[str, list[tuple[int, bytes]]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def under(cls, directory: Path, trouble: Callable[[int], tuple[str, str] | None], count_min: int, prefix: str) -> Self:
        """Runs whose tally is in `directory`, which is made."""
        tally = directory / "tally"
        for made in (tally, Path(f"{tally}.marks")):
            made.mkdir(parents=True)
        return cls(tally, trouble, count_min, prefix)

    def tasks(self) -> Iterator[Task]:
        """Tasks with ids of their own, until there were enough faults and runs."""
        while not self.enough.is_set() or len(self.made) < self.count_min:
            number = len(self.made)
            run, trouble = f"{self.prefix}-{number:05}", self.trouble(number)
            self.made[run] = trouble
            yield Task(GOAL, inputs_of(self.tally, trouble), run)

    def take(self, result: RunResult) -> None:
        """A run has ended, as the program is told."""
        is_over = result.status in {"succeeded", "failed"}
        self.told[result.task_id] = result.status if is_over else f"{result.status}: {result.error}"

    def live(self) -> set[str]:
        """The runs under way."""
        return self.made.copy().keys() - self.told.copy().keys()  # copies: another thread hands out and takes in
