"""When what the layer stands on fails: a provider's outage with and without the breaker, verifiers that do not answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.faults.experiments import CoreTrials, Fleets
from benchmarks.faults.fleet import FleetScenario
from benchmarks.faults.predict import pipeline_predictions
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

__all__ = ["BREAKER", "VERIFIER_FAULTS"]


def _fleet(p_outage: float, breaker: bool, *, is_certain: bool = False) -> Cell:
    fleet = FleetScenario(p_outage=p_outage, breaker=breaker)
    if is_certain:
        fleet = replace(fleet, p_fail=0.0, recall=1.0, fpr=0.0)
    return Cell({"p_outage": p_outage, "verifier": "perfect" if is_certain else "0.90 / 0.03", "breaker": breaker}, Fleets(fleet))


def _breaker_row(one: Result) -> tuple[str, ...]:
    def number(name: str, of: str = "trials") -> tuple[str, str]:
        return span(one.mean(name, of), "{:.1f}".format), formula(one.predicted(name), "{:.1f}".format)

    return (
        f"{one.at['p_outage']:.1f}",
        one.at["verifier"],
        "on" if one.at["breaker"] else "off",
        *number("until_open", "opened"),
        *number("outage_generations"),
        *(text for name in _FLEET_SHARES for text in (span(one.share(name, "runs")), formula(one.predicted(name)))),
    )


_FLEET_SHARES = ("success", "silent_corruption", "caught_failure")


def _breaker_picture(results: Sequence[Result]) -> Picture:
    usual = sorted((one for one in results if one.at["verifier"] != "perfect"), key=lambda one: float(one.at["p_outage"]))

    def lines(name: str, of: str) -> tuple[Series, ...]:
        made = []
        for breaker in (True, False):
            chosen = [one for one in usual if one.at["breaker"] is breaker]
            points = [(one.at["p_outage"], one.share(name, of) if of == "runs" else one.mean(name, of)) for one in chosen]
            predicted = [(one.at["p_outage"], value) for one in chosen if (value := one.predicted(name)) is not None]
            made.append(Series(f"breaker {'on' if breaker else 'off'}", tuple(points), tuple(predicted)))
        return tuple(made)

    x = "error rate in the outage"
    return Picture(
        "48 runs through an outage of 12 rounds",
        (
            Panel("Attempts made during the outage", x, "per episode", lines("outage_generations", "trials"), "log"),
            Panel("Right results", x, "share of the runs", lines("success", "runs")),
            Panel("Given up", x, "share of the runs", lines("caught_failure", "runs")),
        ),
    )


BREAKER = Study(
    "breaker",
    "Breaker: a cascade over 48 runs",
    "Every run makes one attempt a round; for 12 rounds agents fail at the outage's rate. 5 rejections in a row open the breaker for "
    "4 rounds. Until it opens outcomes are independent, which the formula uses; after that only the certain case has one.",
    (
        *(_fleet(p, breaker) for p in (0.5, 0.7, 0.9, 1.0) for breaker in (False, True)),
        _fleet(1.0, False, is_certain=True),
        _fleet(1.0, True, is_certain=True),
    ),
    lambda results: Table(
        (
            "outage",
            "verifier",
            "breaker",
            "attempts until it opens [95 %]",
            "formula",
            "attempts in the outage [95 %]",
            "formula",
            *(text for name in ("ok", "silent corruption", "caught") for text in (f"{name} [95 %]", "formula")),
        ),
        tuple(map(_breaker_row, results)),
    ),
    _breaker_picture,
)


def _fail_open(scenario: Scenario) -> float:
    """Silent corruption if an answer that does not come were taken for a pass, by formula."""
    answers = 1 - scenario.verifier_fault
    open_ = replace(scenario, recall=scenario.recall * answers, fpr=scenario.fpr * answers, verifier_fault=0.0)
    return next(one.value for one in pipeline_predictions(open_) if one.name == "silent_corruption")


def _faults_picture(results: Sequence[Result]) -> Picture:
    lines = (
        sweep(results, "silent corruption", "fault_rate", "silent_corruption"),
        Series(
            "silent corruption if a fault passed (formula)", (), tuple((one.at["fault_rate"], _fail_open(one.scenario)) for one in results)
        ),
        sweep(results, "parked: waits for the verifier", "fault_rate", "parked"),
        sweep(results, "right", "fault_rate", "success"),
    )
    return Picture(
        "Verifiers that do not answer; 10 steps",
        (Panel("", "share of the verifier's calls that fail", "share of the trials", lines),),
    )


VERIFIER_FAULTS = Study(
    "verifier-faults",
    "Verifier faults: never a pass, never the agent's fault",
    "10 steps at 0.90; a verifier that fails to answer three times about one output parks the run.",
    tuple(
        Cell({"fault_rate": rate}, CoreTrials(Scenario(10, FaultConfig(retry_improvement=1.0), verifier_fault=rate)))
        for rate in (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
    ),
    lambda results: Table(
        ("calls that fail", *trial_columns("success", "silent_corruption", "parked"), "silent if faults passed (formula)"),
        tuple(
            (
                f"{one.at['fault_rate']:.0%}",
                *trial_row(one, "success", "silent_corruption"),
                span(one.share("parked")),
                formula(one.predicted("parked") if one.at["fault_rate"] else 0.0),
                percent(_fail_open(one.scenario)),
            )
            for one in results
        ),
    ),
    _faults_picture,
)
