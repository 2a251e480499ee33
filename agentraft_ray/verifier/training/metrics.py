"""Figures about scores and labels, with intervals. Pure numpy; known values of each stand in the tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Bin",
    "Interval",
    "auroc",
    "calibration_bins",
    "clopper_pearson",
    "cluster_interval",
    "expected_calibration_error",
    "fit_temperature",
    "macro_f1",
    "recall_at",
    "softmax",
    "threshold_at",
    "wilson",
]

Array = NDArray[np.float64]

_Z95 = 1.959963984540054  # two-sided 95 %
_BISECTIONS = 60  # halves [0, 1] to below one float's precision


class Interval(NamedTuple):
    """A share with its 95 % interval; `hits` of `total`."""

    share: float
    low: float
    high: float
    hits: int
    total: int


class Bin(NamedTuple):
    """One bar of a reliability diagram: mean predicted and observed share of wrong outputs."""

    predicted: float
    observed: float
    cases: int


def auroc(wrong: Sequence[bool] | NDArray[Any], score: Sequence[float] | NDArray[Any]) -> float:
    """The chance that a wrong output scores above a right one, ties as one half; NaN without both kinds.

    >>> auroc([True, False, True, False], [0.9, 0.1, 0.4, 0.4])
    0.875
    """
    labels, values = np.asarray(wrong, bool), np.asarray(score, float)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return math.nan
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def wilson(count: int, total: int) -> Interval:
    """Wilson's score interval: good for shares in the middle and small totals."""
    if not total:
        return Interval(math.nan, 0.0, 1.0, count, total)
    share = count / total
    middle = share + _Z95**2 / (2 * total)
    off = _Z95 * math.sqrt(share * (1 - share) / total + _Z95**2 / (4 * total**2))
    scale = 1 + _Z95**2 / total
    return Interval(share, max(0.0, (middle - off) / scale), min(1.0, (middle + off) / scale), count, total)


def clopper_pearson(count: int, total: int) -> Interval:
    """The exact interval: never too narrow, for bounds that something rests on."""
    if not total:
        return Interval(math.nan, 0.0, 1.0, count, total)
    low = 0.0 if count == 0 else _bisect(lambda share: 1 - _binomial_below(count - 1, total, share) - 0.025)
    high = 1.0 if count == total else _bisect(lambda share: 0.025 - _binomial_below(count, total, share))
    return Interval(count / total, low, high, count, total)


def _bisect(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return (low + high) / 2


def _binomial_below(count: int, total: int, share: float) -> float:
    """P(at most `count` of `total`)."""
    if share <= 0 or share >= 1:
        return 1.0 if share <= 0 else float(count >= total)
    places = np.arange(count + 1)
    log_choose = math.lgamma(total + 1) - np.array([math.lgamma(k + 1) + math.lgamma(total - k + 1) for k in places.tolist()])
    return float(np.exp(log_choose + places * math.log(share) + (total - places) * math.log1p(-share)).sum())


def cluster_interval(hits: Sequence[bool], clusters: Sequence[str], seed: int = 0, draws: int = 2000) -> Interval:
    """A share with a bootstrap interval over clusters: the samples of one request are one observation, not many.

    Where every hit is one (or none is), resampling cannot see doubt: the exact interval over the clusters then bounds it.
    """
    values = np.asarray(hits, float)
    if not len(values):
        return Interval(math.nan, 0.0, 1.0, 0, 0)
    names, places = np.unique(np.asarray(clusters), return_inverse=True)
    sums, sizes = np.bincount(places, values), np.bincount(places).astype(float)
    chosen = np.random.default_rng(seed).integers(0, len(names), (draws, len(names)))
    shares = sums[chosen].sum(1) / sizes[chosen].sum(1)
    low, high = np.quantile(shares, (0.025, 0.975))
    exact = clopper_pearson(int((sums == sizes).sum()), len(names)) if values.min() == values.max() else None
    count = int(values.sum())
    if exact is not None:
        low, high = (exact.low, 1.0) if values.max() else (0.0, 1 - clopper_pearson(len(names), len(names)).low)
    return Interval(float(values.mean()), float(low), float(high), count, len(values))


def threshold_at(wrong: Sequence[bool] | NDArray[Any], score: Sequence[float] | NDArray[Any], false_positives: float) -> float:
    """The lowest score from which on at most that share of the right outputs is flagged; above all scores if none will do."""
    right = np.sort(np.asarray(score, float)[~np.asarray(wrong, bool)])
    if not len(right):
        return math.nan
    allowed = math.floor(false_positives * len(right))
    return float(np.nextafter(right[len(right) - 1 - allowed], np.inf)) if allowed < len(right) else float(right[0])


def recall_at(wrong: Sequence[bool] | NDArray[Any], score: Sequence[float] | NDArray[Any], false_positives: float) -> float:
    """The share of wrong outputs that is flagged where at most that share of right ones is."""
    labels, values = np.asarray(wrong, bool), np.asarray(score, float)
    if not labels.any() or labels.all():
        return math.nan
    return float((values[labels] >= threshold_at(labels, values, false_positives)).mean())


def macro_f1(truth: Sequence[str], said: Sequence[str], classes: Sequence[str], least: int = 1) -> float:
    """The mean F1 over those of `classes` that are true of at least `least` cases."""
    found = []
    for one in classes:
        true = sum(label == one for label in truth)
        if true >= least:
            hits = sum(label == guess == one for label, guess in zip(truth, said, strict=True))
            named = sum(guess == one for guess in said)
            found.append(2 * hits / (true + named))
    return sum(found) / len(found) if found else math.nan


def calibration_bins(wrong: Sequence[bool] | NDArray[Any], probability: Sequence[float] | NDArray[Any], count: int = 10) -> list[Bin]:
    """The reliability diagram, in `count` bins of equal width; empty ones are left out."""
    labels, values = np.asarray(wrong, float), np.asarray(probability, float)
    places = np.clip((values * count).astype(int), 0, count - 1)
    inside = [places == place for place in range(count)]
    return [Bin(float(values[here].mean()), float(labels[here].mean()), int(here.sum())) for here in inside if here.any()]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """The mean distance of predicted and observed share over the cases in `bins` (Naeini et al. 2015)."""
    total = sum(one.cases for one in bins)
    return sum(one.cases * abs(one.predicted - one.observed) for one in bins) / total if total else math.nan


def softmax(logits: NDArray[Any], temperature: float = 1.0) -> Array:
    """Probabilities of rows of logits."""
    scaled = np.asarray(logits, float) / temperature
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: Array = scaled / scaled.sum(axis=1, keepdims=True)
    return result


def fit_temperature(logits: NDArray[Any], truth: Sequence[int]) -> float:
    """The temperature that makes the truth most likely (Guo et al. 2017), between 0.05 and 20, by golden-section search."""
    places = np.asarray(truth, int)

    def loss(log_temperature: float) -> float:
        chosen = softmax(logits, math.exp(log_temperature))[np.arange(len(places)), places]
        return float(-np.log(np.maximum(chosen, 1e-12)).mean())

    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(0.05), math.log(20.0)
    for _ in range(_BISECTIONS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return math.exp((low + high) / 2)
