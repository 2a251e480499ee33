"""The three reports that the seed's users know: headline, length of the pipeline, quality of the verifier."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.faults.evaluate import comparison_of
from benchmarks.faults.experiments import CoreTrials
from benchmarks.faults.scenario import FaultConfig, Scenario
from benchmarks.faults.studies.base import (
    Cell,
    Panel,
    Picture,
    Result,
    Series,
    Study,
    Table,
    formula,
    percent,
    span,
    sweep,
    trial_columns,
    trial_row,
)

__all__ = ["HEADLINE", "LENGTH", "QUALITY"]

_SHARES = ("success", "silent_corruption", "caught_failure")


def _times(value: float) -> str:
    return "inf" if value == float("inf") else f"{value:,.1f} x"


_TASKS = (
    Scenario(n_steps=5, fault=FaultConfig(p_fail=0.05), label="short, reliable"),
    Scenario(n_steps=10, fault=FaultConfig(p_fail=0.10), label="medium"),
    Scenario(n_steps=20, fault=FaultConfig(p_fail=0.10), label="long, critical"),
)


def _headline(results: Sequence[Result]) -> Table:
    rows = []
    for result in results:
        compared = comparison_of(result.scenario, result.counts)
        rows.append(
            (
                f"{result.at['task']}: {result.at['steps']} steps, p={result.at['p_fail']:.2f}",
                span(result.share("baseline_success")),
                span(result.share("success")),
                percent(compared.baseline.silent_corruption_rate),
                span(result.share("silent_corruption")),
                formula(result.predicted("silent_corruption")),
                percent(compared.protected.caught_failure_rate),
                _times(compared.corruption_reduction),
                _times(compared.cost_vs_full_rerun),
            )
        )
    headers = (
        "task",
        "unprotected ok [95 %]",
        "protected ok [95 %]",
        "unprotected corrupt",
        "protected corrupt [95 %]",
        "formula",
        "caught",
        "less corruption",
        "cheaper than full reruns",
    )
    return Table(headers, tuple(rows))


def _headline_picture(results: Sequence[Result]) -> Picture:
    numbers = range(1, len(results) + 1)
    names = ", ".join(f"{number} = {result.at['task']}" for number, result in zip(numbers, results, strict=True))

    def points(name: str, label: str) -> Series:
        measured = tuple((float(number), result.share(name)) for number, result in zip(numbers, results, strict=True))
        predicted = tuple((float(number), result.predicted(name) or 0.0) for number, result in zip(numbers, results, strict=True))
        return Series(label, measured, predicted)

    right = Panel(
        "Right results", names, "share of the trials", (points("success", "protected"), points("baseline_success", "unprotected"))
    )
    wrong = Panel("Wrong results shipped", names, "share of the trials", (points("silent_corruption", "protected"),))
    return Picture("With the layer and without it", (right, wrong))


HEADLINE = Study(
    "headline",
    "Headline: without the layer and with it",
    "One verifier of recall 0.90 and false-positive rate 0.03, three retries; hints are assumed to leave 45 % of the faults each time.",
    tuple(
        Cell({"task": scenario.label, "steps": scenario.n_steps, "p_fail": scenario.fault.p_fail}, CoreTrials(scenario))
        for scenario in _TASKS
    ),
    _headline,
    _headline_picture,
)


def _length_picture(results: Sequence[Result]) -> Picture:
    lines = (
        sweep(results, "protected: right", "steps", "success"),
        sweep(results, "unprotected: right", "steps", "baseline_success"),
        sweep(results, "protected: silent corruption", "steps", "silent_corruption"),
        sweep(results, "protected: caught", "steps", "caught_failure"),
    )
    return Picture("Length of the pipeline, 0.90 per step", (Panel("", "steps", "share of the trials", lines),))


LENGTH = Study(
    "length",
    "Length: what 0.90 per step comes to",
    "The unprotected pipeline follows 0.9^n. One verifier lets through what it misses: (1 - recall) of the faults, at every step.",
    tuple(Cell({"steps": steps}, CoreTrials(Scenario(n_steps=steps))) for steps in (5, 10, 15, 20)),
    lambda results: Table(
        ("steps", *trial_columns("baseline_success", *_SHARES)),
        tuple((str(result.at["steps"]), *trial_row(result, "baseline_success", *_SHARES)) for result in results),
    ),
    _length_picture,
)


def _quality_picture(results: Sequence[Result]) -> Picture:
    lines = tuple(
        sweep(results, label, "recall", name) for name, label in zip(_SHARES, ("right", "silent corruption", "caught"), strict=True)
    )
    return Picture("Quality of the verifier, 15 steps", (Panel("", "recall of the verifier", "share of the trials", lines),))


QUALITY = Study(
    "quality",
    "Quality of the verifier: 15 steps, 0.90 per step",
    "End-to-end reliability follows the verifier's recall.",
    tuple(Cell({"recall": recall}, CoreTrials(Scenario(n_steps=15, recall=recall))) for recall in (0.5, 0.7, 0.9, 0.99)),
    lambda results: Table(
        ("recall", *trial_columns(*_SHARES)),
        tuple((f"{result.at['recall']:.2f}", *trial_row(result, *_SHARES)) for result in results),
    ),
    _quality_picture,
)
