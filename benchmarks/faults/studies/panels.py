"""Several verifiers: what it takes to stay flat over the length of a pipeline, and what correlation of their errors undoes."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.faults.experiments import CoreTrials
from benchmarks.faults.scenario import FaultConfig, Scenario
from benchmarks.faults.studies.base import Cell, Claim, Panel, Picture, Result, Study, Table, ceiling, sweep, trial_columns, trial_row

__all__ = ["FLAT", "QUORUM"]

_NO_HELP = FaultConfig(p_fail=0.10, retry_improvement=1.0)
_CORRELATIONS = (0.0, 0.2, 0.44)  # independent; different kinds of verifiers; a panel of language models


def _flat(steps: int, retries: int, correlation: float) -> Cell:
    scenario = Scenario(steps, _NO_HELP, max_retries=retries, verifiers=3, verifier_correlation=correlation)
    return Cell({"steps": steps, "retries": retries, "correlation": correlation}, CoreTrials(scenario))


def _flat_claims(results: Sequence[Result]) -> tuple[Claim, ...]:
    chosen = next(one for one in results if (one.at["steps"], one.at["retries"], one.at["correlation"]) == (20, 4, 0.0))
    what = "3 independent verifiers, 4 retries, 20 steps"
    return ceiling(chosen, "silent_corruption", 0.005, what), ceiling(chosen, "caught_failure", 0.01, what)


def _flat_picture(results: Sequence[Result]) -> Picture:
    at_four = [one for one in results if one.at["retries"] == 4]
    independent = [one for one in results if one.at["correlation"] == 0.0]
    wrong = tuple(
        sweep([one for one in at_four if one.at["correlation"] == rho], f"correlation {rho:g}", "steps", "silent_corruption")
        for rho in _CORRELATIONS
    )
    caught = tuple(
        sweep([one for one in independent if one.at["retries"] == retries], f"{retries} retries", "steps", "caught_failure")
        for retries in (2, 3, 4)
    )
    return Picture(
        "Three verifiers, any of which vetoes; 0.90 per step, hints do not help",
        (
            Panel("Wrong results shipped, 4 retries", "steps", "share of the trials", wrong, "log", ((0.005, "aim: 0.5 %"),)),
            Panel("Given up, independent errors", "steps", "share of the trials", caught, "log", ((0.01, "aim: 1 %"),)),
        ),
    )


FLAT = Study(
    "flat",
    "Flat over length: three verifiers, any of which vetoes",
    "Each of recall 0.90 and false-positive rate 0.03; 0.90 per step, no benefit of hints assumed.",
    tuple(_flat(steps, retries, rho) for rho in _CORRELATIONS for retries in (2, 3, 4) for steps in (5, 10, 15, 20)),
    lambda results: Table(
        ("correlation", "retries", "steps", *trial_columns("success", "silent_corruption", "caught_failure")),
        tuple(
            (
                f"{one.at['correlation']:g}",
                str(one.at["retries"]),
                str(one.at["steps"]),
                *trial_row(one, "success", "silent_corruption", "caught_failure"),
            )
            for one in results
        ),
    ),
    _flat_picture,
    _flat_claims,
)


def _quorum(verifiers: int, reject_at: int, correlation: float) -> Cell:
    scenario = Scenario(10, _NO_HELP, max_retries=3, verifiers=verifiers, reject_at=reject_at, verifier_correlation=correlation)
    return Cell({"verifiers": verifiers, "reject_at": reject_at, "correlation": correlation}, CoreTrials(scenario))


def _quorum_picture(results: Sequence[Result]) -> Picture:
    panels = []
    for rho in _CORRELATIONS:
        here = [one for one in results if one.at["correlation"] == rho]
        lines = tuple(
            sweep(
                [one for one in here if one.at["reject_at"] == k], "any veto" if k == 1 else f"{k} flags", "verifiers", "silent_corruption"
            )
            for k in (1, 2, 3)
        )
        panels.append(Panel(f"correlation {rho:g}", "verifiers", "silent corruption", lines, "log"))
    return Picture("Panels: how many verifiers, how many flags reject; 10 steps", tuple(panels), shares_y=True)


QUORUM = Study(
    "quorum",
    "Panels: 1 to 5 verifiers, and how many flags reject an output",
    "10 steps at 0.90, 3 retries without help of hints; each verifier has recall 0.90 and false-positive rate 0.03.",
    tuple(_quorum(count, k, rho) for rho in _CORRELATIONS for count in range(1, 6) for k in range(1, count + 1)),
    lambda results: Table(
        ("correlation", "verifiers", "flags", *trial_columns("success", "silent_corruption", "caught_failure")),
        tuple(
            (
                f"{one.at['correlation']:g}",
                str(one.at["verifiers"]),
                str(one.at["reject_at"]),
                *trial_row(one, "success", "silent_corruption", "caught_failure"),
            )
            for one in results
        ),
    ),
    _quorum_picture,
)
