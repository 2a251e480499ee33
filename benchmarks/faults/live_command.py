"""`python -m benchmarks --live`: a real verifier by error class, and the seed's reports with it in place of the simulated one."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.taxonomy import Cost
from agentraft_ray.verifier.base import Verifier
from agentraft_ray.verifier.detection import detect
from agentraft_ray.verifier.llm import LLMVerifier
from agentraft_ray.verifier.rules import RulesVerifier
from agentraft_ray.verifier.tiered import TieredVerifier
from benchmarks.faults.confusion import Confusion, confusion_of
from benchmarks.faults.corpus import CLASSES
from benchmarks.faults.counts import Counts
from benchmarks.faults.experiments import CoreTrials
from benchmarks.faults.live import live_counts
from benchmarks.faults.report import console, print_table, progress_on
from benchmarks.faults.scenario import check_count
from benchmarks.faults.studies import Result, Study
from benchmarks.faults.studies.base import Cell, predictions_of, scenario_of

__all__ = ["run_live"]

_WITH_A_VERIFIER = ("headline", "length")  # the others vary a simulated one
_SAMPLES_MAX = 10_000


def run_live(options: argparse.Namespace, studies: Sequence[Study], trials: int) -> int:
    """The program; 0 when it could measure."""
    check_count("--confusion-samples", options.confusion_samples, 1, _SAMPLES_MAX)
    unfit = [study.name for study in studies if study.name not in _WITH_A_VERIFIER]
    if options.report and unfit:
        raise InvalidConfig(f"--live measures {' and '.join(_WITH_A_VERIFIER)}; {', '.join(unfit)} vary a simulated verifier")
    return asyncio.run(_measured(options, [study for study in studies if study.name in _WITH_A_VERIFIER], trials))


async def _measured(options: argparse.Namespace, studies: Sequence[Study], trials: int) -> int:
    rules, model = RulesVerifier(), _model(options)
    verifier: Verifier = TieredVerifier(l1=rules, l2=model)
    out = console()
    steps = sum(scenario_of(cell.experiment).n_steps for study in studies for cell in study.cells)
    calls = options.confusion_samples * (len(CLASSES) + 1) + (steps * trials * 5 // 4)
    out.print(f"{verifier.identity}\n{trials:,} trials a cell, seed {options.seed}; about {calls:,} verdicts")
    confusions = [await confusion_of(one, options.confusion_samples, options.seed) for one in (rules, model) if one is not None]
    for confusion in confusions:
        cost = f"{confusion.cost.tokens:,} tokens, {_usd(confusion.cost)}" if confusion.cost.tokens else "free"
        what = f"{options.confusion_samples} outputs of every class; {cost}"
        print_table(out, f"Confusion: what {confusion.verifier} says", what, confusion.table())
    results = []
    for study in studies:
        results.append([await _result(cell, verifier, trials, options.seed, confusions[-1]) for cell in study.cells])
        what = "The verifier is the real one; the formulas have its recall and false-positive rate of the confusion table."
        print_table(out, study.title, what, study.table(results[-1]))
    if options.json:
        options.json.write_bytes(_json(verifier, confusions, studies, results, trials, options.seed))
        out.print(f"figures: {options.json}")
    return 0


def _usd(cost: Cost) -> str:
    return "price unknown" if cost.usd is None else f"{cost.usd:.4f} USD"


def _model(options: argparse.Namespace) -> Verifier | None:
    """The model that is named or found; None for rules alone."""
    if options.provider == "none":
        return None
    if options.provider or options.model or options.base_url:
        return LLMVerifier(provider=options.provider, model=options.model, base_url=options.base_url)
    return detect(os.environ)


class _LiveResult(Result):
    """A measured cell whose formulas are those of a simulated verifier as good as the real one was on the texts."""

    def __init__(self, cell: Cell, counts: Counts, confusion: Confusion) -> None:
        super().__init__(cell, counts)
        scenario = scenario_of(cell.experiment)
        recall, fpr = confusion.recall_under(scenario.fault.error_dist), confusion.false_positives.estimate
        is_known = not math.isnan(recall + fpr)
        self.predictions = predictions_of(CoreTrials(replace(scenario, recall=recall, fpr=fpr))) if is_known else ()


async def _result(cell: Cell, verifier: Verifier, trials: int, seed: int, confusion: Confusion) -> Result:
    scenario = scenario_of(cell.experiment)
    with progress_on(", ".join(f"{name} {value}" for name, value in cell.at.items())) as progress:
        counts = await live_counts(scenario, verifier, seed=seed, trials=trials, progress=progress)
    return _LiveResult(cell, counts, confusion)


def _json(
    verifier: Verifier,
    confusions: Sequence[Confusion],
    studies: Sequence[Study],
    results: Sequence[Sequence[Result]],
    trials: int,
    seed: int,
) -> bytes:
    document = {
        "program": "python -m benchmarks --live",
        "version": 1,
        "verifier": verifier.identity,
        "seed": seed,
        "trials": trials,
        "confusions": [
            {"verifier": one.verifier, "verdicts": one.verdicts, "tokens": one.cost.tokens, "usd": one.cost.usd} for one in confusions
        ],
        "studies": [
            {"name": study.name, "cells": [{"at": result.at, "counts": result.counts} for result in row]}
            for study, row in zip(studies, results, strict=True)
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
