"""Statistics of what was measured: intervals for it, and whether it agrees with what was predicted.

Shares have Wilson intervals and exact binomial tests, means have Student's. A run makes hundreds of comparisons, so a disagreement counts
only if it survives Holm's correction for all of them at once: by chance alone a whole run fails one time in 1 / `FAMILY_ALPHA`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.stats import binomtest, norm
from scipy.stats import t as student

from benchmarks.faults.counts import Counts, Interval
from benchmarks.faults.predict import Prediction

__all__ = ["FAMILY_ALPHA", "disagreements", "interval_of", "mean_interval", "p_value", "wilson"]

FAMILY_ALPHA = 0.01
LEVEL = 0.95
_EVENTS_MIN = 25  # of which a mean is made, before its test means anything


def wilson(hits: int, of: int, level: float = LEVEL) -> Interval:
    """The share of `hits` (Wilson 1927); with none of N the upper end is about 3.8 / N."""
    if not of:
        return Interval(math.nan, 0.0, 1.0)
    z = float(norm.ppf((1 + level) / 2))
    share, weight = hits / of, z * z / of
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / of + weight / (4 * of)) / (1 + weight)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Interval(share, 0.0 if not hits else low, 1.0 if hits == of else high)


def mean_interval(counts: Counts, name: str, of: str = "trials", level: float = LEVEL) -> Interval:
    """The mean of a number per trial (Student's t)."""
    number = counts[of]
    if number < 2:
        return Interval(counts[name] / number if number else math.nan, -math.inf, math.inf)
    mean = counts[name] / number
    half = float(student.ppf((1 + level) / 2, number - 1)) * _standard_error(counts, name, number)
    return Interval(mean, mean - half, mean + half)


def interval_of(prediction: Prediction, counts: Counts) -> Interval:
    """What was measured of what is predicted."""
    if prediction.kind == "share":
        return wilson(counts[prediction.name], counts[prediction.of])
    return mean_interval(counts, prediction.name, prediction.of)


def p_value(prediction: Prediction, counts: Counts) -> float | None:
    """How likely so large a difference is if the prediction is right; None where there is too little to tell."""
    number, value = counts[prediction.of], prediction.value
    if not number:
        return None
    if prediction.kind == "share":
        return float(binomtest(counts[prediction.name], number, min(1.0, max(0.0, value))).pvalue)
    difference = abs(counts[prediction.name] / number - value)
    error = _standard_error(counts, prediction.name, number)
    if difference <= 1e-9 * max(1.0, abs(value)):
        return 1.0
    if number * value < _EVENTS_MIN:
        return None
    if number < 2:
        return None
    return float(2 * student.sf(difference / error, number - 1)) if error else 0.0


def disagreements(p_values: Sequence[float | None]) -> list[int]:
    """Which of the comparisons disagree, by Holm's step-down procedure (1979); None is no comparison."""
    ranked = sorted((value, index) for index, value in enumerate(p_values) if value is not None)
    found = []
    for rank, (value, index) in enumerate(ranked):
        if value > FAMILY_ALPHA / (len(ranked) - rank):
            break
        found.append(index)
    return sorted(found)


def _standard_error(counts: Counts, name: str, number: int) -> float:
    mean = counts[name] / number
    variance = (counts[f"{name}_sq"] - mean * counts[name]) / max(1, number - 1)
    return math.sqrt(max(0.0, variance) / number)
