"""What trying again buys: budgets of retries, and going back to a cause that lies upstream."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.faults.experiments import CoreTrials
from benchmarks.faults.scenario import FaultConfig, Scenario
from benchmarks.faults.studies.base import Cell, Panel, Picture, Result, Study, Table, formula, span, sweep, trial_columns, trial_row

__all__ = ["RETRIES", "ROLLBACK"]

_OUTCOMES = ("success", "silent_corruption", "caught_failure")
_KINDS = {
    "independent": FaultConfig(p_fail=0.25, retry_improvement=1.0),
    "correlated 0.2": FaultConfig(p_fail=0.25, retry_improvement=1.0, retry_correlation=0.2),
    "correlated 0.46": FaultConfig(p_fail=0.25, retry_improvement=1.0, retry_correlation=0.46),
    "hard core 5 %": FaultConfig(p_fail=0.25, retry_improvement=1.0, hard_core=0.05),
}


def _retries(kind: str, retries: int) -> Cell:
    return Cell({"faults": kind, "retries": retries}, CoreTrials(Scenario(10, _KINDS[kind], 0.95, 0.10, retries)))


def _retries_picture(results: Sequence[Result]) -> Picture:
    def lines(name: str) -> tuple:  # type: ignore[type-arg]
        return tuple(sweep([one for one in results if one.at["faults"] == kind], kind, "retries", name) for kind in _KINDS)

    return Picture(
        "Retries, by how faults of one step hang together",
        (
            Panel("Wrong results shipped", "retries per step", "share of the trials", lines("silent_corruption")),
            Panel("Given up", "retries per step", "share of the trials", lines("caught_failure"), "log"),
        ),
    )


RETRIES = Study(
    "retries",
    "Retry budgets: retries turn failures into results, and with correlated faults into wrong ones",
    "10 steps of error rate 0.25, one verifier of recall 0.95 and false-positive rate 0.10, no help of hints.",
    tuple(_retries(kind, retries) for kind in _KINDS for retries in (0, 1, 2, 3, 5, 7)),
    lambda results: Table(
        ("faults", "retries", *trial_columns(*_OUTCOMES), "generations [95 %]", "formula"),
        tuple(
            (
                one.at["faults"],
                str(one.at["retries"]),
                *trial_row(one, *_OUTCOMES),
                span(one.mean("generations"), "{:.2f}".format),
                formula(one.predicted("generations"), "{:.2f}".format),
            )
            for one in results
        ),
    ),
    _retries_picture,
)


def _rollback(distance: int, accuracy: float | None) -> Cell:
    fault = FaultConfig(p_fail=0.05, retry_improvement=1.0, upstream=0.15, upstream_distance=distance)
    scenario = Scenario(
        12,
        fault,
        max_rollback_depth=0 if accuracy is None else 3,
        blame_accuracy=accuracy or 0.0,
        false_blame=0.05,
    )
    return Cell(
        {"distance": distance, "blame": 0.0 if accuracy is None else accuracy, "rollback": accuracy is not None}, CoreTrials(scenario)
    )


def _rollback_picture(results: Sequence[Result]) -> Picture:
    panels = []
    for name, title in (("success", "Right results"), ("caught_failure", "Given up"), ("silent_corruption", "Wrong results shipped")):
        lines = tuple(
            sweep(
                [one for one in results if one.at["distance"] == distance],
                f"cause {distance} step{'s' * (distance > 1)} back",
                "blame",
                name,
            )
            for distance in (1, 2)
        )
        panels.append(Panel(title, "share of rejections that blame the cause (0: rollback off)", "share of the trials", lines))
    return Picture("Deep rollback with causes upstream; 12 steps", tuple(panels))


ROLLBACK = Study(
    "rollback",
    "Deep rollback: faults whose cause lies upstream",
    "12 steps; in every block a first step hides a flaw with probability 0.15, and its last step then fails until the first is redone. "
    "5 % of other rejections blame it wrongly; judged again, a bad output falls with 0.9.",
    tuple(_rollback(distance, accuracy) for distance in (1, 2) for accuracy in (None, 0.14, 0.5, 0.9)),
    lambda results: Table(
        ("cause", "rollback", *trial_columns(*_OUTCOMES), "rollbacks per run [95 %]", "formula"),
        tuple(
            (
                f"{one.at['distance']} back",
                f"blame {one.at['blame']:g}" if one.at["rollback"] else "off",
                *trial_row(one, *_OUTCOMES),
                span(one.mean("rollbacks"), "{:.3f}".format),
                formula(one.predicted("rollbacks"), "{:.3f}".format),
            )
            for one in results
        ),
    ),
    _rollback_picture,
)
