"""From cells to counts: cuts them into batches, takes what a journal knows, has the rest made, stops cells that are decided.

The result depends on cells, seed and number of trials alone: batches are cut at the same places whoever makes them, counts are whole
numbers, and a cell that stops early stops after the first batches that decide it, whatever else was made meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.faults.counts import Counts, added
from benchmarks.faults.experiments import CoreTrials, Experiment, TwinTrials
from benchmarks.faults.journal import Journal, identity_of
from benchmarks.faults.sequential import Side, decided
from benchmarks.faults.spread import Job, Spread

__all__ = ["Measured", "StopRule", "measure", "trials_of"]


class StopRule(NamedTuple):
    """A cell of trials stops when it is decided on which side of `target` its rate of silent corruption lies."""

    target: float


class Measured(NamedTuple):
    """The counts of a cell, and where it stopped early, on which side of the target its rate lies."""

    counts: Counts
    side: Side | None = None


def trials_of(experiment: Experiment, trials: int) -> int:
    """How many of an experiment's trials there are where ordinary cells have `trials`."""
    return max(1, trials // experiment.weight)


@dataclass(slots=True)
class _Cell:
    """The batches of one cell. Its first `whole` batches are all there; `total` is their sum."""

    experiment: Experiment
    identity: str
    batches: list[tuple[int, int]]
    parts: dict[int, Counts] = field(default_factory=dict)  # beyond those
    whole: int = 0
    total: Counts = field(default_factory=dict)
    side: Side | None = None

    def take(self, start: int, counts: Counts, rule: StopRule | None) -> None:
        """Add a batch."""
        self.parts[start] = counts
        while self.side is None and self.whole < len(self.batches) and self.batches[self.whole][0] in self.parts:
            self.total = added([self.total, self.parts.pop(self.batches[self.whole][0])])
            self.whole += 1
            if rule is not None and isinstance(self.experiment, CoreTrials | TwinTrials):
                self.side = decided(self.total["trials"], self.total["silent_corruption"], rule.target)


def measure(
    experiments: Sequence[Experiment],
    *,
    seed: int,
    trials: int,
    spread: Spread,
    journal: Journal | None = None,
    stop: StopRule | None = None,
    progress: Callable[[int, int], None] = lambda made, total: None,  # noqa: ARG005
) -> list[Measured]:
    """The counts of every experiment, of about `trials` trials each. `progress(made, total)` hears of work in trials of equal weight."""
    cells = [_Cell(one, identity_of(one, seed), _batches(one, trials_of(one, trials))) for one in experiments]
    total = sum(cell.batches[-1][1] * cell.experiment.weight for cell in cells)
    made = 0

    def jobs() -> Iterator[Job]:
        for number, cell in enumerate(cells):
            for start, end in cell.batches:
                known = journal.get(cell.identity, start, end) if journal is not None else None
                if known is not None:
                    take(cell, start, end, known)
                elif cell.side is None:
                    yield Job(number, cell.experiment, seed, start, end)

    def take(cell: _Cell, start: int, end: int, counts: Counts) -> None:
        nonlocal made
        cell.take(start, counts, stop)
        made += (end - start) * cell.experiment.weight
        progress(made, total)

    for job, counts in spread(jobs()):
        cell = cells[job.cell]
        if journal is not None:
            journal.add(cell.identity, job.start, job.stop, counts)
        take(cell, job.start, job.stop, counts)
    progress(total, total)
    return [Measured(cell.total, cell.side) for cell in cells]


def _batches(experiment: Experiment, trials: int) -> list[tuple[int, int]]:
    edges: Iterable[int] = range(0, trials, experiment.batch)
    return [(start, min(start + experiment.batch, trials)) for start in edges]
