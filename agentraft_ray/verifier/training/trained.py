"""A training on disk: what it was made of, its weights, and how its scores become verdicts. Opens trainings and exports alike."""

from __future__ import annotations

import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.verifier.classifier import RENDERING_VERSION, ModelDirectory, Scoring
from agentraft_ray.verifier.classifier.model_directory import MANIFEST
from agentraft_ray.verifier.training.cases import Case
from agentraft_ray.verifier.training.fit import ONE_PROCESS, Settings, Workers, fit, load_weights
from agentraft_ray.verifier.training.model import Architecture, Trainable
from agentraft_ray.verifier.training.splits import by_item
from agentraft_ray.verifier.training.study import scoring_on

__all__ = ["TRAINING", "open_trained", "opened_name", "train"]

TRAINING = "training.json"
"""The file that tells what a training was made of; written last, so that a directory without it holds an unfinished one."""

_CALIBRATION_SHARE = 0.12


def train(
    cases: Sequence[Case],
    settings: Settings,
    directory: Path,
    progress: Callable[[int, int, float], None],
    workers: Workers = ONE_PROCESS,
) -> dict[str, Any]:
    """Train on most of `cases`, choose temperature and threshold on the items that were kept back; what training.json then holds.

    Raises InvalidConfig when `directory` holds a training of something else.
    """
    began = time.monotonic()
    split = by_item(cases, _CALIBRATION_SHARE, settings.seed)
    trained = fit(split.train, settings, directory, progress, workers=workers)
    scoring = scoring_on(trained, split.test, settings.view)
    if workers.rank == 0:
        scoring.save(directory)
    told = {
        "rendering": RENDERING_VERSION,
        "settings": asdict(settings),
        "data": _described(cases, len(split.test)),
        "seconds": round(time.monotonic() - began, 1),
        "machine": platform.processor() or platform.machine(),
    }
    if workers.rank == 0:
        (directory / TRAINING).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return told


def _described(cases: Sequence[Case], kept: int) -> dict[str, Any]:
    natural = [case for case in cases if case.natural]
    return {
        "cases": len(cases),
        "cases kept for temperature and threshold": kept,
        "natural outputs": len(natural),
        "made by perturbation": len(cases) - len(natural),
        "families": len({case.family for case in cases}),
        "requests": len({case.item for case in cases}),
        "labels": dict(Counter(case.label for case in cases).most_common()),
        "generators": sorted({case.generator for case in natural}),
    }


def open_trained(directory: Path) -> tuple[Trainable, Scoring]:
    """The model in a directory of `train` or of `export`. Raises InvalidConfig that says what is wrong with it."""
    if (directory / MANIFEST).exists():
        found = ModelDirectory(directory)
        architecture = Architecture(str(found.servable()), "encoder", 0, found.manifest.tokens_max)
        return Trainable.build(architecture, 0), found.scoring
    told = _told(directory)
    settings = told["settings"]
    trained = Trainable.build(Architecture(**settings["architecture"]), settings["seed"])
    load_weights(trained, directory)
    return trained, Scoring.load(directory)


def _told(directory: Path) -> dict[str, Any]:
    file = directory / TRAINING
    if not file.exists():
        raise InvalidConfig(f"{directory} holds neither a finished training ({TRAINING}) nor an export ({MANIFEST})")
    told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if told["rendering"] != RENDERING_VERSION:
        raise InvalidConfig(f"{directory} was trained on rendering {told['rendering']}, here it is {RENDERING_VERSION}; train anew")
    return told


def opened_name(directory: Path) -> str:
    """What names the weights in a directory: an export's identity, else the directory's name."""
    return ModelDirectory(directory).identity if (directory / MANIFEST).exists() else directory.name
