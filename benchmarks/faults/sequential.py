"""Stopping when it is decided: whether a rate lies below or above a target, judged after every look without paying for looking.

The evidence against `target` is the beta-binomial mixture martingale (Robbins 1970): after s events in n trials
M = B(s + 1/2, n - s + 1/2) / (B(1/2, 1/2) target^s (1 - target)^(n-s)). If the target is the true rate, M ever reaches 1/alpha with
probability at most alpha (Ville), so one may stop at any time. The set of targets that it has not ruled out is an interval around
s/n: that is the interval to report for a rate that was measured in this way.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.faults.counts import Interval

__all__ = ["ALPHA", "Law", "decided", "law_of_stopping", "log_evidence", "sequence_interval", "trials_at_least"]

ALPHA = 0.05
Side = Literal["below", "above"]


def log_evidence(trials: int, events: int, target: float) -> float:
    """ln M; infinite for what the target rules out."""
    if (events and not target) or (events < trials and target == 1):
        return math.inf
    likelihood = (events * math.log(target) if events else 0.0) + ((trials - events) * math.log1p(-target) if events < trials else 0.0)
    return _log_beta(events + 0.5, trials - events + 0.5) - _log_beta(0.5, 0.5) - likelihood


def decided(trials: int, events: int, target: float, alpha: float = ALPHA) -> Side | None:
    """On which side of the target the rate lies; None while that is open."""
    if not trials or log_evidence(trials, events, target) < math.log(1 / alpha):
        return None
    return "below" if events / trials < target else "above"


def sequence_interval(trials: int, events: int, alpha: float = ALPHA) -> Interval:
    """The rates that are not ruled out, valid whenever one stopped."""
    if not trials:
        return Interval(math.nan, 0.0, 1.0)
    share, limit = events / trials, math.log(1 / alpha)

    def edge(inside: float, outside: float) -> float:
        if log_evidence(trials, events, outside) < limit:
            return outside
        for _ in range(60):
            middle = (inside + outside) / 2
            if log_evidence(trials, events, middle) < limit:
                inside = middle
            else:
                outside = middle
        return outside

    return Interval(share, edge(share, 0.0), edge(share, 1.0))


class Law(NamedTuple):
    """How a test ends, and after how many trials on average."""

    below: float
    above: float
    undecided: float
    trials: float


def law_of_stopping(rate: float, target: float, *, look: int, looks_max: int, alpha: float = ALPHA) -> Law:
    """Exactly, by following the distribution of the events that are there while nothing is decided, a look at a time."""
    from scipy.stats import binom  # noqa: PLC0415 - processes that make trials do without scipy

    step: NDArray[np.float64] = binom.pmf(np.arange(look + 1), look, rate)
    open_: NDArray[np.float64] = np.ones(1)
    below = above = trials = 0.0
    for number in range(1, looks_max + 1):
        trials += look * float(open_.sum())
        open_ = np.convolve(open_, step)
        sides = [decided(number * look, events, target, alpha) for events in range(len(open_))]
        below += float(open_[[side == "below" for side in sides]].sum())
        above += float(open_[[side == "above" for side in sides]].sum())
        open_ = np.where([side is None for side in sides], open_, 0.0)
    return Law(below, above, float(open_.sum()), trials)


def trials_at_least(rate: float, target: float, alpha: float = ALPHA) -> float:
    """What no test with this error can do without on average: ln(1/alpha) over the divergence of the two rates (Wald 1945)."""
    if rate == target:
        return math.inf
    divergence = (rate * math.log(rate / target) if rate else 0.0) + (1 - rate) * math.log((1 - rate) / (1 - target))
    return math.log(1 / alpha) / divergence


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
