"""What a study is made of: cells that are measured, a table, pictures, claims. And how a measured cell is asked for its figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from benchmarks.faults.counts import Counts, Interval
from benchmarks.faults.experiments import CoreTrials, Experiment, Fleets, StoppedTests, TwinTrials
from benchmarks.faults.intervals import interval_of, mean_interval, wilson
from benchmarks.faults.predict import Prediction, pipeline_predictions
from benchmarks.faults.predict_blocks import block_predictions
from benchmarks.faults.predict_fleet import fleet_predictions
from benchmarks.faults.scenario import Scenario
from benchmarks.faults.sequential import Side, law_of_stopping, sequence_interval

__all__ = [
    "Cell",
    "Claim",
    "Panel",
    "Picture",
    "Result",
    "Series",
    "Study",
    "Table",
    "ceiling",
    "percent",
    "scenario_of",
    "span",
    "sweep",
    "trial_columns",
    "trial_row",
]


@dataclass(frozen=True)
class Cell:
    """One place of a sweep: its coordinates, and what is measured there."""

    at: dict[str, Any]
    experiment: Experiment


class Result:
    """What a cell came to."""

    def __init__(self, cell: Cell, counts: Counts, side: Side | None = None, *, is_stopped: bool = False) -> None:
        self.cell = cell
        self.at = cell.at
        self.counts = counts
        self.side = side
        self._is_stopped = is_stopped

    @cached_property
    def predictions(self) -> tuple[Prediction, ...]:
        """What formulas say must come out here."""
        return predictions_of(self.cell.experiment)

    @property
    def scenario(self) -> Scenario:
        """Of a cell of trials."""
        return scenario_of(self.cell.experiment)

    def share(self, name: str, of: str = "trials") -> Interval:
        """The share of the trials with an outcome; an interval that holds at any time for what trials were stopped by."""
        if self._is_stopped and name == "silent_corruption" and of == "trials":
            return sequence_interval(self.counts[of], self.counts[name])
        return wilson(self.counts[name], self.counts[of])

    def mean(self, name: str, of: str = "trials") -> Interval:
        """The mean of a number per trial."""
        return mean_interval(self.counts, name, of)

    def predicted(self, name: str) -> float | None:
        """What is predicted for a quantity, None where there is no formula."""
        return next((one.value for one in self.predictions if one.name == name), None)

    def measured(self, prediction: Prediction) -> Interval:
        """What was measured of what is predicted."""
        return interval_of(prediction, self.counts)


def scenario_of(experiment: Experiment) -> Scenario:
    """The scenario of an experiment that has one."""
    assert isinstance(experiment, CoreTrials | TwinTrials | StoppedTests)
    return experiment.scenario


def predictions_of(experiment: Experiment) -> tuple[Prediction, ...]:
    """What formulas say about an experiment."""
    match experiment:
        case CoreTrials(scenario) | TwinTrials(scenario):
            return block_predictions(scenario) if scenario.fault.upstream else pipeline_predictions(scenario)
        case Fleets(fleet):
            return fleet_predictions(fleet)
        case StoppedTests(scenario, target, look, looks_max):
            rate = {one.name: one.value for one in pipeline_predictions(scenario)}["silent_corruption"]
            law = law_of_stopping(rate, target, look=look, looks_max=looks_max)
            return (
                Prediction("below", "share", law.below),
                Prediction("above", "share", law.above),
                Prediction("undecided", "share", law.undecided),
                Prediction("used", "mean", law.trials),
            )
        case _:
            return ()


class Table(NamedTuple):
    """Rows of text under headers."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Series(NamedTuple):
    """Measured points (x, with interval) and predicted ones of one line of a picture."""

    label: str
    points: tuple[tuple[float, Interval], ...]
    predicted: tuple[tuple[float, float], ...]


class Panel(NamedTuple):
    """One pair of axes. `marks` are horizontal lines (value, label)."""

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    scale: Literal["linear", "log"] = "linear"
    marks: tuple[tuple[float, str], ...] = ()
    x_scale: Literal["linear", "log"] = "linear"
    shares_x: bool = True  # whether all lines have their points at the same places


class Picture(NamedTuple):
    """The panels of a study's picture, side by side; `shares_y`: with one scale."""

    title: str
    panels: tuple[Panel, ...]
    shares_y: bool = False


class Claim(NamedTuple):
    """Something that must hold: `holds` None = the intervals do not tell yet; more trials would."""

    text: str
    holds: bool | None


@dataclass(frozen=True)
class Study:
    """A named sweep. `what` says in a line what it shows; `trials` is how many it takes where the user does not say."""

    name: str
    title: str
    what: str
    cells: tuple[Cell, ...]
    table: Callable[[Sequence[Result]], Table]
    picture: Callable[[Sequence[Result]], Picture]
    claims: Callable[[Sequence[Result]], tuple[Claim, ...]] = lambda _: ()


def percent(value: float) -> str:
    """A share for people: enough digits to see it."""
    if math.isnan(value):
        return "-"
    if value in {0, 1} or value >= 0.0995:
        return f"{value:.1%}" if 0 < value < 1 else f"{value:.0%}"
    return f"{value:.2%}" if value >= 0.001 else f"{value:.1e}"


def span(interval: Interval, show: Callable[[float], str] = percent) -> str:
    """An estimate with its interval; a dash where there was nothing to estimate."""
    if math.isnan(interval.estimate):
        return "-"
    return f"{show(interval.estimate)} [{show(interval.low)}, {show(interval.high)}]"


def formula(value: float | None, show: Callable[[float], str] = percent) -> str:
    """A prediction, or a dash."""
    return "-" if value is None else show(value)


_COLUMNS = {
    "baseline_success": "unprotected ok",
    "success": "ok",
    "silent_corruption": "silent corruption",
    "caught_failure": "caught",
    "parked": "parked",
}


def trial_columns(*names: str) -> tuple[str, ...]:
    """Headers for shares of trials, measured and by formula."""
    return tuple(header for name in names for header in (f"{_COLUMNS[name]} [95 %]", "formula"))


def trial_row(result: Result, *names: str) -> tuple[str, ...]:
    """The cells under `trial_columns`."""
    return tuple(text for name in names for text in (span(result.share(name)), formula(result.predicted(name))))


def sweep(results: Sequence[Result], label: str, x: str, name: str) -> Series:
    """A line over a coordinate: a share of the trials, and its prediction."""
    ordered = sorted(results, key=lambda result: float(result.at[x]))
    predicted = [(float(one.at[x]), value) for one in ordered if (value := one.predicted(name)) is not None]
    return Series(label, tuple((float(one.at[x]), one.share(name)) for one in ordered), tuple(predicted))


def ceiling(result: Result, name: str, limit: float, what: str) -> Claim:
    """That a share is at most `limit`, judged by its interval."""
    interval = result.share(name)
    holds = True if interval.high <= limit else False if interval.low > limit else None
    return Claim(f"{what}: {name.replace('_', ' ')} {span(interval)} is at most {percent(limit)}", holds)
