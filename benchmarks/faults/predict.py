"""What must come out by formula: the laws of one step and of a pipeline of them. `benchmarks/README.md` derives them.

The simplest case (independent faults, no help of hints) is the geometric series of one step: with a = (1-p)(1-f), b = p(1-r),
c = 1-a-b and A = (1-c^(R+1))/(1-c), a step ends right with probability aA, wrong with bA, given up with c^(R+1), after A attempts.
Blocks with hidden causes are in `predict_blocks.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from scipy.special import roots_jacobi

from benchmarks.faults.scenario import Scenario

__all__ = ["PanelLaw", "Prediction", "StepLaw", "panel_law", "pipeline_predictions", "rates_of_steps", "step_law"]

_CALLS_MAX = 3  # of a panel that does not answer: Limits.verifier_faults_max


class Prediction(NamedTuple):
    """A quantity of `Counts`: its share of another one, or its mean over that many."""

    name: str
    kind: Literal["share", "mean"]
    value: float
    of: str = "trials"


class PanelLaw(NamedTuple):
    """P(reject) of a panel, and how many of it are asked on average."""

    rejects: float
    asked: float


class StepLaw(NamedTuple):
    """How a step ends, and what it takes on average. `right + wrong + failed + parked` = 1."""

    right: float
    wrong: float
    failed: float
    parked: float
    generations: float
    verdicts: float
    silences: float


def panel_law(scenario: Scenario, is_wrong: bool) -> PanelLaw:
    """Of `verifiers` exchangeable verifiers, asked in turn until `reject_at` flags or enough passes settle it.

    Given y flags of i verifiers the next flags with probability (mean (1-rho) + rho y) / (1 - rho + rho i): the beta-binomial.
    """
    mean = scenario.recall if is_wrong else scenario.fpr
    rho, count, reject_at = scenario.verifier_correlation, scenario.verifiers, scenario.reject_at
    undecided, rejects, asked = {0: 1.0}, 0.0, 0.0
    for before in range(count):
        after: dict[int, float] = {}
        for flags, chance in undecided.items():
            asked += chance
            flag = (mean * (1 - rho) + rho * flags) / (1 - rho + rho * before)
            if flags + 1 == reject_at:
                rejects += chance * flag
            else:
                after[flags + 1] = after.get(flags + 1, 0.0) + chance * flag
            if before + 1 - flags <= count - reject_at:
                after[flags] = after.get(flags, 0.0) + chance * (1 - flag)
        undecided = after
    return PanelLaw(rejects, asked)


def rates_of_steps(scenario: Scenario) -> Iterator[tuple[float, float]]:
    """(weight, error rate): the rates that single steps have, as a sum that is exact for all that R retries can ask.

    With correlated faults a step's rate is Beta(p (1-rho)/rho, (1-p) (1-rho)/rho); whatever follows from it is a polynomial of degree
    R+1 in the rate, so Gauss-Jacobi quadrature with as many nodes is exact.
    """
    p, rho = scenario.fault.p_fail, scenario.fault.retry_correlation
    if not rho or not 0 < p < 1:
        yield 1.0, p
        return
    heavy = (1 - rho) / rho
    nodes, weights = roots_jacobi(scenario.max_retries + 2, (1 - p) * heavy - 1, p * heavy - 1)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        yield float(weight), float(1 + node) / 2


def step_law(scenario: Scenario) -> StepLaw:
    """How one step ends that nothing goes back over."""
    hard = scenario.fault.hard_core
    parts = [(weight * (1 - hard), _law_at(scenario, rate)) for weight, rate in rates_of_steps(scenario)]
    if hard:
        parts.append((hard, _law_of_stuck(scenario)))
    return StepLaw(*(sum(weight * law[index] for weight, law in parts) for index in range(len(StepLaw._fields))))


def _law_at(scenario: Scenario, rate: float) -> StepLaw:
    wrong_law, right_law = panel_law(scenario, True), panel_law(scenario, False)
    mute = scenario.verifier_fault
    unheard, heard = mute**_CALLS_MAX, 1 - mute**_CALLS_MAX
    left, right, wrong, parked, generations, verdicts, silences = 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for attempt in range(scenario.max_retries + 1):
        p = rate * scenario.fault.retry_improvement**attempt
        generations += left
        silences += left * sum(mute**call for call in range(1, _CALLS_MAX + 1))
        parked += left * unheard
        verdicts += left * heard * (p * wrong_law.asked + (1 - p) * right_law.asked)
        right += left * heard * (1 - p) * (1 - right_law.rejects)
        wrong += left * heard * p * (1 - wrong_law.rejects)
        left *= heard * (p * wrong_law.rejects + (1 - p) * right_law.rejects)
    return StepLaw(right, wrong, left, parked, generations, verdicts, silences)


def _law_of_stuck(scenario: Scenario) -> StepLaw:
    """The same wrong output at every attempt: judged once, afterwards rejected unseen."""
    law, mute = panel_law(scenario, True), scenario.verifier_fault
    heard = 1 - mute**_CALLS_MAX
    caught = heard * law.rejects
    generations = 1 + caught * scenario.max_retries
    silences = sum(mute**call for call in range(1, _CALLS_MAX + 1))
    return StepLaw(0.0, heard * (1 - law.rejects), caught, 1 - heard, generations, heard * law.asked, silences)


def pipeline_predictions(scenario: Scenario) -> tuple[Prediction, ...]:
    """What trials of a scenario without upstream faults come to."""
    assert not scenario.fault.upstream, "block_predictions is for these"
    steps = scenario.n_steps
    law = step_law(scenario)
    goes_on = law.right + law.wrong
    begun = steps if goes_on == 1 else (1 - goes_on**steps) / (1 - goes_on)
    found = [
        Prediction("baseline_success", "share", scenario.right_unprotected),
        Prediction("success", "share", law.right**steps),
        Prediction("silent_corruption", "share", goes_on**steps - law.right**steps),
        Prediction("caught_failure", "share", 1 - goes_on**steps),
        Prediction("generations", "mean", law.generations * begun),
        Prediction("verdicts", "mean", law.verdicts * begun),
    ]
    if scenario.verifier_fault:
        found += [Prediction("parked", "share", law.parked * begun), Prediction("silences", "mean", law.silences * begun)]
    return tuple(found)
