"""What safety costs: silent corruption against money, and trials against certainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.faults.counts import Interval
from benchmarks.faults.experiments import CoreTrials, StoppedTests
from benchmarks.faults.intervals import wilson
from benchmarks.faults.predict import pipeline_predictions
from benchmarks.faults.scenario import FaultConfig, Scenario
from benchmarks.faults.sequential import ALPHA, trials_at_least
from benchmarks.faults.studies.base import Cell, Panel, Picture, Result, Series, Study, Table, formula, percent, span

__all__ = ["EARLY", "FRONTIER", "GENERATION_USD"]

GENERATION_USD = 0.01  # what a generation is taken to cost; everything else is a multiple of it


class _Kind(NamedTuple):
    """A verifier that one can buy: what it sees, and what a verdict costs in generations."""

    recall: float
    fpr: float
    price: float


_VERIFIERS = {"small": _Kind(0.75, 0.03, 0.02), "medium": _Kind(0.90, 0.03, 0.08), "large": _Kind(0.97, 0.02, 0.40)}
_CORRELATION = 0.1  # of verifiers of different mechanism, as measured on natural errors


def _bought(kind: str, count: int, retries: int) -> Cell:
    verifier = _VERIFIERS[kind]
    scenario = Scenario(
        10,
        FaultConfig(retry_improvement=1.0),
        verifier.recall,
        verifier.fpr,
        retries,
        verifier.price,
        verifiers=count,
        verifier_correlation=_CORRELATION,
    )
    return Cell({"verifier": kind, "count": count, "retries": retries}, CoreTrials(scenario))


def _usd(result: Result) -> Interval:
    """Money per result that was shipped, with the interval of what was spent."""
    counts, ratio = result.counts, result.scenario.verify_cost_ratio
    trials, shipped = counts["trials"], counts["success"] + counts["silent_corruption"]
    if not shipped:
        return Interval(math.inf, math.inf, math.inf)
    spent = counts["generations"] + ratio * counts["verdicts"]
    squares = counts["generations_sq"] + 2 * ratio * counts["generations_x_verdicts"] + ratio**2 * counts["verdicts_sq"]
    error = math.sqrt(max(0.0, squares - spent * spent / trials))
    return Interval(*(GENERATION_USD * (spent + side * 1.96 * error) / shipped for side in (0, -1, 1)))


def _usd_predicted(result: Result) -> float:
    said = {one.name: one.value for one in result.predictions}
    shipped = said["success"] + said["silent_corruption"]
    return GENERATION_USD * (said["generations"] + result.scenario.verify_cost_ratio * said["verdicts"]) / shipped


def _wrong(result: Result) -> Interval:
    """The share of what was shipped that is wrong."""
    return wilson(result.counts["silent_corruption"], result.counts["success"] + result.counts["silent_corruption"])


def _wrong_predicted(result: Result) -> float:
    said = {one.name: one.value for one in result.predictions}
    return said["silent_corruption"] / (said["success"] + said["silent_corruption"])


def _is_on_frontier(result: Result, results: Sequence[Result]) -> bool:
    """Whether, by formula, nothing is both cheaper and safer."""
    usd, wrong = _usd_predicted(result), _wrong_predicted(result)
    slack = 1 + 1e-9  # the same risk by another sum is the same risk
    return not any(_usd_predicted(one) < usd and _wrong_predicted(one) <= wrong * slack for one in results)


def _frontier(results: Sequence[Result]) -> Table:
    rows = [
        (
            f"{one.at['count']} {one.at['verifier']}",
            str(one.at["retries"]),
            span(_usd(one), "{:.4f}".format),
            f"{_usd_predicted(one):.4f}",
            span(_wrong(one)),
            percent(_wrong_predicted(one)),
            span(one.share("caught_failure")),
            formula(one.predicted("caught_failure")),
            "*" if _is_on_frontier(one, results) else "",
        )
        for one in sorted(results, key=_usd_predicted)
    ]
    headers = (
        "verifiers",
        "retries",
        "USD per shipped result [95 %]",
        "formula",
        "wrong among shipped [95 %]",
        "formula",
        "caught [95 %]",
        "formula",
        "frontier",
    )
    return Table(headers, tuple(rows))


def _frontier_picture(results: Sequence[Result]) -> Picture:
    best = sorted((one for one in results if _is_on_frontier(one, results)), key=_usd_predicted)
    series = [
        Series(kind, tuple((_usd(one).estimate, _wrong(one)) for one in results if one.at["verifier"] == kind), ()) for kind in _VERIFIERS
    ]
    series.append(Series("frontier (formula)", (), tuple((_usd_predicted(one), _wrong_predicted(one)) for one in best)))
    panel = Panel("", "USD per shipped result", "wrong among what was shipped", tuple(series), "log", shares_x=False)
    return Picture("What safety costs: 10 steps at 0.90, 1 to 4 verifiers, 1 to 4 retries", (panel,))


FRONTIER = Study(
    "frontier",
    "Cost frontier: silent corruption against money",
    f"A generation costs {GENERATION_USD} USD; a verdict of a small, medium or large verifier 2, 8 or 40 % of that (recall 0.75, 0.90, "
    f"0.97). Any veto; their errors are correlated by {_CORRELATION}. On the frontier nothing is both cheaper and safer.",
    tuple(_bought(kind, count, retries) for kind in _VERIFIERS for count in (1, 2, 3, 4) for retries in (1, 2, 4)),
    _frontier,
    _frontier_picture,
)

_TESTED = Scenario(5, FaultConfig(retry_improvement=1.0))
_TESTED_RATE = next(one.value for one in pipeline_predictions(_TESTED) if one.name == "silent_corruption")
_RATIOS = (0.25, 0.5, 0.67, 1.5, 2.0, 4.0)
_FIXED_WIDTH = 1_000


def _early(ratio: float) -> Cell:
    return Cell({"rate_over_target": ratio}, StoppedTests(_TESTED, _TESTED_RATE / ratio))


def _early_row(one: Result) -> tuple[str, ...]:
    target = one.at["rate_over_target"]
    return (
        f"{target:g} x",
        percent(_TESTED_RATE / target),
        *(text for name in ("below", "above", "undecided") for text in (span(one.share(name)), formula(one.predicted(name)))),
        span(one.mean("used"), "{:.0f}".format),
        formula(one.predicted("used"), "{:.0f}".format),
        f"{trials_at_least(_TESTED_RATE, _TESTED_RATE / target):.0f}",
    )


def _early_picture(results: Sequence[Result]) -> Picture:
    ordered = sorted(results, key=lambda one: float(one.at["rate_over_target"]))
    xs = [float(one.at["rate_over_target"]) for one in ordered]
    used = Series(
        "used until decided",
        tuple((x, one.mean("used")) for x, one in zip(xs, ordered, strict=True)),
        tuple((x, one.predicted("used") or 0.0) for x, one in zip(xs, ordered, strict=True)),
    )
    bound = Series("no test can do with less (Wald)", (), tuple((x, trials_at_least(_TESTED_RATE, _TESTED_RATE / x)) for x in xs))
    panel = Panel(
        "", "true rate over the target", "trials", (used, bound), "log", ((_FIXED_WIDTH, "fixed number of trials"),), x_scale="log"
    )
    return Picture("Stopping when it is decided", (panel,))


EARLY = Study(
    "early-stopping",
    "Early stopping: trials until it is decided whether silent corruption is below a target",
    f"5 steps whose rate of silent corruption is {_TESTED_RATE:.2%}; a look every 20 trials, at most {_FIXED_WIDTH:,}; a wrong decision "
    f"has probability {ALPHA} at most. The formula follows the exact distribution; the last column is what no test can do without.",
    tuple(_early(ratio) for ratio in _RATIOS),
    lambda results: Table(
        (
            "rate",
            "target",
            *(text for name in ("below", "above", "open") for text in (f"{name} [95 %]", "formula")),
            "trials used [95 %]",
            "formula",
            "bound",
        ),
        tuple(map(_early_row, results)),
    ),
    _early_picture,
)
