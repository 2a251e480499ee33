"""One scenario, with and without the layer: `await evaluate(Scenario(...), trials=400, seed=1)`."""

from __future__ import annotations

import asyncio
import itertools
import math
from dataclasses import dataclass

from agentraft_ray.verifier.base import Verifier
from benchmarks.faults.counts import Counts, added
from benchmarks.faults.draws import TRIALS_MAX
from benchmarks.faults.experiments import CoreTrials
from benchmarks.faults.scenario import Scenario, check_count

__all__ = ["Aggregate", "Comparison", "evaluate", "evaluate_sync", "full_rerun_cost"]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """How many of the trials ended in which way; the three outcomes add up to `trials`."""

    trials: int
    success: int
    silent_corruption: int
    caught_failure: int

    @property
    def success_rate(self) -> float:
        return self.success / self.trials

    @property
    def silent_corruption_rate(self) -> float:
        return self.silent_corruption / self.trials

    @property
    def caught_failure_rate(self) -> float:
        return self.caught_failure / self.trials


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same trials without protection and with it. Costs are per trial, in generations.

    `rescued` trials went wrong without the layer and right with it, `harmed` ones the other way round.
    """

    scenario: Scenario
    baseline: Aggregate
    protected: Aggregate
    rescued: int
    harmed: int
    baseline_cost: float
    protected_cost: float
    full_rerun_cost: float

    @property
    def cost_vs_full_rerun(self) -> float:
        """How many times cheaper the layer is than running the whole pipeline again until it is right, by an oracle that costs nothing."""
        return self.full_rerun_cost / self.protected_cost

    @property
    def corruption_reduction(self) -> float:
        """How many times fewer trials ship something wrong; infinite if none does."""
        shipped, before = self.protected.silent_corruption, self.baseline.silent_corruption
        return before / shipped if shipped else math.inf if before else 1.0


def full_rerun_cost(scenario: Scenario) -> float:
    """Generations until a run of all steps is right: n / p^n, if runs are independent of each other."""
    right = scenario.right_unprotected
    return scenario.n_steps / right if right else math.inf


def comparison_of(scenario: Scenario, counts: Counts) -> Comparison:
    """The counts of trials as a comparison."""
    trials, right = counts["trials"], counts["baseline_success"]
    cost = (counts["generations"] + scenario.verify_cost_ratio * counts["verdicts"]) / trials
    return Comparison(
        scenario,
        Aggregate(trials, right, trials - right, 0),
        Aggregate(trials, counts["success"], counts["silent_corruption"], counts["caught_failure"]),
        counts["rescued"],
        counts["harmed"],
        float(scenario.n_steps),
        cost,
        full_rerun_cost(scenario),
    )


async def evaluate(scenario: Scenario, *, trials: int = 400, seed: int = 1234, verifier: Verifier | None = None) -> Comparison:
    """Run paired trials: the faults of all first attempts are the same with and without protection.

    Simulated trials go through the protocol core, one at a time in a thread. With a `verifier` the agents return text of the
    drawn error classes, the whole runtime runs them, and the scenario's own verifiers are left out.

    >>> import asyncio
    >>> found = asyncio.run(evaluate(Scenario(n_steps=5, recall=1.0, fpr=0.0), trials=50))
    >>> found.protected.silent_corruption, found.protected.trials
    (0, 50)

    Raises InvalidConfig for numbers out of range.
    """
    check_count("trials", trials, 1, TRIALS_MAX)
    if verifier is not None:
        from benchmarks.faults.live import live_counts  # noqa: PLC0415 - the runtime only where it is used

        return comparison_of(scenario, await live_counts(scenario, verifier, seed=seed, trials=trials))
    experiment = CoreTrials(scenario)
    edges = [*range(0, trials, experiment.batch), trials]
    parts = [await asyncio.to_thread(experiment.run, seed, *ends) for ends in itertools.pairwise(edges)]
    return comparison_of(scenario, added(parts))


def evaluate_sync(scenario: Scenario, *, trials: int = 400, seed: int = 1234, verifier: Verifier | None = None) -> Comparison:
    """`evaluate` where no event loop runs."""
    return asyncio.run(evaluate(scenario, trials=trials, seed=seed, verifier=verifier))
