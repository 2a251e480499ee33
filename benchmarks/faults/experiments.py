"""What can be measured, each as a value that makes counts of any range of trials, in any process: the same range gives the same counts.

`CoreTrials` go through the protocol, `TwinTrials` through its twin, `Fleets` are episodes of many runs, `StoppedTests` are sequential
tests, each over trials of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from agentraft_ray.protocol.state import fold
from benchmarks.faults.counts import Counts, added, counts_of
from benchmarks.faults.fleet import FleetScenario, run_episode
from benchmarks.faults.model import TrialModel
from benchmarks.faults.scenario import Scenario
from benchmarks.faults.sequential import ALPHA, decided
from benchmarks.faults.trial import SILENT, TrialHost, TrialResult
from benchmarks.faults.twin import CHUNK, Trials, Twin

__all__ = [
    "CoreTrials",
    "Disagreement",
    "Experiment",
    "Fleets",
    "StoppedTests",
    "TwinTrials",
    "as_trials",
    "core_trials",
    "disagreement_of",
]


class Disagreement(RuntimeError):
    """The protocol and its twin made different trials of the same draws, or a run's log does not fold to the state it was in."""


class Experiment(Protocol):
    """One cell of a study. `batch` trials are one piece of work; `weight` = trials of an ordinary cell that take as long as one here."""

    name: ClassVar[str]
    batch: ClassVar[int]
    weight: ClassVar[int]

    def settings(self) -> dict[str, Any]:
        """Everything that decides what is counted, besides the seed."""

    def run(self, seed: int, start: int, stop: int) -> Counts:
        """The counts of the trials from `start` up to `stop`."""


def core_trials(model: TrialModel, start: int, stop: int) -> Trials:
    """Trials through the protocol. The log of the first is folded again, and must lead to the state that its run was in."""
    host = TrialHost(model)
    log: list[bytes] = []
    results = [host.run(start, log)]
    run_id = f"trial-{start}"
    if fold(run_id, log) != host.state:
        raise Disagreement(f"{run_id} of {model.scenario}: the fold of its log is not the state that the run was in")
    results += map(host.run, range(start + 1, stop))
    return as_trials(results)


def as_trials(results: Iterable[TrialResult]) -> Trials:
    """Single results as one value."""
    table = np.array(list(results), np.int32).T
    return Trials(table[0].astype(np.uint8), *table[1:])


def disagreement_of(scenario: Scenario, seed: int, start: int, core: Trials, twin: Trials) -> str | None:
    """The first trial in which the two differ, described; None where they are the same."""
    for name in Trials._fields:
        ours, theirs = getattr(core, name), getattr(twin, name)
        different = np.flatnonzero(ours != theirs)
        if len(different):
            first = int(different[0])
            return f"trial {start + first} of seed {seed}: {name} {ours[first]} in the protocol, {theirs[first]} in its twin, of {scenario}"
    return None


@dataclass(frozen=True, slots=True)
class CoreTrials:
    """Trials through the real protocol. Every one is compared with its twin; that takes a fiftieth of the time."""

    scenario: Scenario
    name: ClassVar[str] = "core"
    batch: ClassVar[int] = 500
    weight: ClassVar[int] = 1

    def settings(self) -> dict[str, Any]:
        return self.scenario.settings()

    def run(self, seed: int, start: int, stop: int) -> Counts:
        twin = Twin(self.scenario, seed)
        trials = core_trials(TrialModel(self.scenario, seed), start, stop)
        different = disagreement_of(self.scenario, seed, start, trials, twin.run(start, stop))
        if different is not None:
            raise Disagreement(different)
        return counts_of(trials, twin.right_unprotected(start, stop))


@dataclass(frozen=True, slots=True)
class TwinTrials:
    """The same trials without the protocol, for what takes too many of them."""

    scenario: Scenario
    name: ClassVar[str] = "twin"
    batch: ClassVar[int] = 1 << 21
    weight: ClassVar[int] = 1

    def settings(self) -> dict[str, Any]:
        return self.scenario.settings()

    def run(self, seed: int, start: int, stop: int) -> Counts:
        twin = Twin(self.scenario, seed)
        edges = [*range(start, stop, CHUNK), stop]
        return added(counts_of(twin.run(*ends), twin.right_unprotected(*ends)) for ends in itertools.pairwise(edges))


@dataclass(frozen=True, slots=True)
class Fleets:
    """Episodes of many runs at a time under one breaker."""

    fleet: FleetScenario
    name: ClassVar[str] = "fleet"
    batch: ClassVar[int] = 2
    weight: ClassVar[int] = 40

    def settings(self) -> dict[str, Any]:
        return self.fleet.settings()

    def run(self, seed: int, start: int, stop: int) -> Counts:
        return added(run_episode(self.fleet, seed, number) for number in range(start, stop))


@dataclass(frozen=True, slots=True)
class StoppedTests:
    """Sequential tests of whether silent corruption is below `target`, of at most `look * looks_max` trials each."""

    scenario: Scenario
    target: float
    look: int = 20
    looks_max: int = 50
    name: ClassVar[str] = "sequential test"
    batch: ClassVar[int] = 2
    weight: ClassVar[int] = 40

    def settings(self) -> dict[str, Any]:
        return {**self.scenario.settings(), "target": self.target, "look": self.look, "looks_max": self.looks_max, "alpha": ALPHA}

    def run(self, seed: int, start: int, stop: int) -> Counts:
        return added(self._test(seed, number) for number in range(start, stop))

    def _test(self, seed: int, number: int) -> Counts:
        model = TrialModel(self.scenario, seed)
        first = number * self.look * self.looks_max
        events = used = 0
        side = None
        while side is None and used < self.look * self.looks_max:
            trials = core_trials(model, first + used, first + used + self.look)
            used += self.look
            events += int((trials.outcome == SILENT).sum())
            side = decided(used, events, self.target)
        return {
            "trials": 1,
            "below": int(side == "below"),
            "above": int(side == "above"),
            "undecided": int(side is None),
            "used": used,
            "used_sq": used * used,
            "events": events,
        }
