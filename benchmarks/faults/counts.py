"""What a batch of trials comes to: whole numbers that add up in any order, so that results do not depend on who counted what when."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from benchmarks.faults.trial import CAUGHT, PARKED, SILENT, SUCCESS
from benchmarks.faults.twin import Flags, Trials

__all__ = ["Counts", "Interval", "added", "counts_of"]

Counts = dict[str, int]
"""By name. `trials` is what shares and means are over; `x_sq` is the sum of squares of `x`, a number per trial."""


class Interval(NamedTuple):
    """An estimate of what counts tell, and where the truth lies at the level of 95 %."""

    estimate: float
    low: float
    high: float


def counts_of(trials: Trials, baseline: Flags) -> Counts:
    """The counts of trials, and of the same pipelines without protection (`baseline`: which of these went right)."""
    by_outcome = np.bincount(trials.outcome, minlength=4)
    succeeded = trials.outcome == SUCCESS
    counts = {
        "trials": len(trials.outcome),
        "success": int(by_outcome[SUCCESS]),
        "silent_corruption": int(by_outcome[SILENT]),
        "caught_failure": int(by_outcome[CAUGHT] + by_outcome[PARKED]),
        "parked": int(by_outcome[PARKED]),
        "baseline_success": int(baseline.sum()),
        "rescued": int((succeeded & ~baseline).sum()),
        "harmed": int((baseline & ~succeeded).sum()),
    }
    for name in ("generations", "verdicts", "rollbacks", "silences"):
        values = getattr(trials, name).astype(np.int64)
        counts[name] = int(values.sum())
        counts[f"{name}_sq"] = int(np.dot(values, values))
    counts["generations_x_verdicts"] = int(np.dot(trials.generations.astype(np.int64), trials.verdicts))
    return counts


def added(parts: Iterable[Counts]) -> Counts:
    """The sum of counts; empty for none."""
    total: Counts = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0) + value
    return total
