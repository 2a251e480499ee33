"""What a run of the program found, as one value: every cell, every comparison with a formula, every claim; and as JSON.

The JSON holds nothing that depends on when, where or how fast it was made: the same seed and trials give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from benchmarks.faults.counts import Interval
from benchmarks.faults.evaluate import comparison_of
from benchmarks.faults.experiments import CoreTrials, TwinTrials
from benchmarks.faults.intervals import FAMILY_ALPHA, disagreements, p_value
from benchmarks.faults.measure import Measured, StopRule
from benchmarks.faults.predict import Prediction
from benchmarks.faults.sequential import sequence_interval
from benchmarks.faults.studies import Claim, Result, Study

__all__ = ["Check", "Findings", "findings_of"]


@dataclass(frozen=True, slots=True)
class Check:
    """A prediction beside its measurement. `agrees` is None where there was too little to tell."""

    study: str
    at: dict[str, Any]
    prediction: Prediction
    measured: Interval
    p_value: float | None
    agrees: bool | None

    def __str__(self) -> str:
        place = ", ".join(f"{name}={value}" for name, value in self.at.items())
        likely = "" if self.p_value is None else f", p = {self.p_value:.1e}"
        return (
            f"{self.study} ({place}): {self.prediction.name} measured {self.measured.estimate:.6g} "
            f"[{self.measured.low:.6g}, {self.measured.high:.6g}], the formula says {self.prediction.value:.6g}{likely}"
        )


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that was found."""

    seed: int
    trials: int
    engine: str
    stop: StopRule | None
    studies: tuple[tuple[Study, tuple[Result, ...]], ...]
    checks: tuple[Check, ...]
    claims: tuple[tuple[str, Claim], ...]

    @property
    def disagreements(self) -> tuple[Check, ...]:
        """Where measurement and formula do not go together."""
        return tuple(check for check in self.checks if check.agrees is False)

    @property
    def broken_claims(self) -> tuple[tuple[str, Claim], ...]:
        """What should hold and does not."""
        return tuple(one for one in self.claims if one[1].holds is False)

    def to_json(self) -> bytes:
        """The findings as a JSON document, infinities as null."""
        document = {
            "program": "python -m benchmarks",
            "version": 1,
            "seed": self.seed,
            "trials": self.trials,
            "engine": self.engine,
            "stop_below": None if self.stop is None else self.stop.target,
            "studies": [self._study(study, results) for study, results in self.studies],
            "comparisons": {
                "tested": sum(check.agrees is not None for check in self.checks),
                "family_alpha": FAMILY_ALPHA,
                "disagreements": [str(check) for check in self.disagreements],
            },
        }
        return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"

    def _study(self, study: Study, results: Sequence[Result]) -> dict[str, Any]:
        checks = [check for check in self.checks if check.study == study.name]
        return {
            "name": study.name,
            "title": study.title,
            "cells": [_cell(result, [check for check in checks if check.at is result.at]) for result in results],
            "claims": [{"text": claim.text, "holds": claim.holds} for name, claim in self.claims if name == study.name],
        }


def _cell(result: Result, checks: Sequence[Check]) -> dict[str, Any]:
    experiment = result.cell.experiment
    cell: dict[str, Any] = {
        "at": result.at,
        "kind": experiment.name,
        "settings": experiment.settings(),
        "counts": result.counts,
        "decided": result.side,
        "comparisons": [
            {
                "quantity": check.prediction.name,
                "kind": check.prediction.kind,
                "of": check.prediction.of,
                "formula": check.prediction.value,
                "measured": check.measured.estimate,
                "interval_95": [check.measured.low, check.measured.high],
                "p_value": check.p_value,
                "agrees": check.agrees,
            }
            for check in checks
        ],
    }
    if isinstance(experiment, CoreTrials | TwinTrials):
        compared = comparison_of(experiment.scenario, result.counts)
        cell["cost"] = {
            "unprotected": compared.baseline_cost,
            "protected": compared.protected_cost,
            "full_rerun": compared.full_rerun_cost,
            "cost_vs_full_rerun": compared.cost_vs_full_rerun,
            "corruption_reduction": compared.corruption_reduction,
        }
    return cell


def findings_of(
    studies: Sequence[Study],
    measured: Sequence[Measured],
    *,
    seed: int,
    trials: int,
    engine: str,
    stop: StopRule | None = None,
    results: Sequence[Sequence[Result]] | None = None,
) -> Findings:
    """Put what was measured (of all cells of all studies, in order) beside what was predicted."""
    if results is None:
        left = iter(measured)
        results = [[Result(cell, *next(left), is_stopped=stop is not None) for cell in study.cells] for study in studies]
    everything = [(study, one) for study, row in zip(studies, results, strict=True) for one in row]
    checks = _stopped_checks(everything) if stop is not None else _checks(everything)
    claims = [(study.name, claim) for study, row in zip(studies, results, strict=True) for claim in study.claims(row)]
    pairs = tuple((study, tuple(row)) for study, row in zip(studies, results, strict=True))
    return Findings(seed, trials, engine, stop, pairs, tuple(checks), tuple(claims))


def _checks(everything: Sequence[tuple[Study, Result]]) -> list[Check]:
    """Every prediction, judged together with all others."""
    pairs = [(study, result, prediction) for study, result in everything for prediction in result.predictions]
    values = [p_value(prediction, result.counts) for _, result, prediction in pairs]
    wrong = set(disagreements(values))
    return [
        Check(
            study.name,
            result.at,
            prediction,
            result.measured(prediction),
            value,
            None if value is None else index not in wrong,
        )
        for index, ((study, result, prediction), value) in enumerate(zip(pairs, values, strict=True))
    ]


def _stopped_checks(everything: Sequence[tuple[Study, Result]]) -> list[Check]:
    """Where cells stopped early only intervals that hold at any time say something: those of silent corruption."""
    pairs = [
        (study, result, prediction)
        for study, result in everything
        for prediction in result.predictions
        if prediction.name == "silent_corruption" and isinstance(result.cell.experiment, CoreTrials | TwinTrials)
    ]
    checks = []
    for study, result, prediction in pairs:
        trials, events = result.counts["trials"], result.counts["silent_corruption"]
        allowed = sequence_interval(trials, events, FAMILY_ALPHA / len(pairs))
        agrees = allowed.low <= prediction.value <= allowed.high
        checks.append(Check(study.name, result.at, prediction, sequence_interval(trials, events), None, agrees))
    return checks
