"""What a fleet must come to: exactly without the breaker, and with it how many attempts fail before it opens.

Without a breaker runs do not touch each other, so one run is a small Markov chain over (step, rejections, whether something wrong was
shipped), a round at a time. With one, outcomes in the outage are independent until it opens: the time to the first k failures in a
row, from j in a row, is (c^-k - c^-j) / (1-c). That it opened by chance before the outage is neglected.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.faults.fleet import FleetScenario
from benchmarks.faults.predict import Prediction

__all__ = ["fleet_predictions"]


def fleet_predictions(fleet: FleetScenario) -> tuple[Prediction, ...]:
    """What episodes of a fleet come to."""
    if not fleet.breaker:
        return _without_breaker(fleet)
    if fleet.p_outage == fleet.recall == 1 and fleet.p_fail == fleet.fpr == 0:
        return _with_certainty(fleet)
    before, inside = _rejected(fleet, fleet.p_fail), _rejected(fleet, fleet.p_outage)
    k = fleet.failure_threshold
    in_a_row = np.array([before**j * (1 - before) for j in range(k)])
    in_a_row /= in_a_row.sum()
    left = [(inside**-k - inside**-j) / (1 - inside) if inside < 1 else float(k - j) for j in range(k)]
    return (Prediction("until_open", "mean", float(in_a_row @ np.array(left)), "opened"),)


def _rejected(fleet: FleetScenario, p: float) -> float:
    return p * fleet.recall + (1 - p) * fleet.fpr


def _with_certainty(fleet: FleetScenario) -> tuple[Prediction, ...]:
    """A total outage under a verifier that never errs: the threshold, then one probe every cooldown, by whichever run asks first."""
    probes = -(-fleet.outage_rounds // fleet.cooldown_rounds) - 1
    found = [Prediction("until_open", "mean", float(fleet.failure_threshold), "opened")]
    if probes < fleet.max_retries:  # the run that probes uses up its retries
        found += [
            Prediction("outage_generations", "mean", float(fleet.failure_threshold + probes)),
            Prediction("success", "share", 1.0, "runs"),
            Prediction("silent_corruption", "share", 0.0, "runs"),
            Prediction("caught_failure", "share", 0.0, "runs"),
        ]
    return tuple(found)


def _without_breaker(fleet: FleetScenario) -> tuple[Prediction, ...]:
    steps, tries = fleet.n_steps, fleet.max_retries + 1
    at: NDArray[np.float64] = np.zeros((steps, tries, 2))  # by step, rejections of it, whether a wrong output was committed
    at[0, 0, 0] = 1.0
    ended = np.zeros(3)  # right, wrong, given up
    generations = outage_generations = 0.0
    round_ = 0
    while at.sum() > 1e-15:
        p = fleet.p_outage if fleet.is_out(round_) else fleet.p_fail
        right, wrong = (1 - p) * (1 - fleet.fpr), p * (1 - fleet.recall)
        generations += at.sum()
        outage_generations += at.sum() * fleet.is_out(round_)
        committed = at.sum(axis=1)
        committed = np.stack([committed[:, 0] * right, committed[:, 1] * (right + wrong) + committed[:, 0] * wrong], axis=1)
        rejected = at * (1 - right - wrong)
        at = np.zeros_like(at)
        at[1:, 0] = committed[:-1]
        at[:, 1:] = rejected[:, :-1]
        ended += [committed[-1, 0], committed[-1, 1], rejected[:, -1].sum()]
        round_ += 1
    return (
        Prediction("success", "share", float(ended[0]), "runs"),
        Prediction("silent_corruption", "share", float(ended[1]), "runs"),
        Prediction("caught_failure", "share", float(ended[2]), "runs"),
        Prediction("generations", "mean", float(generations) * fleet.runs),
        Prediction("outage_generations", "mean", float(outage_generations) * fleet.runs),
    )
