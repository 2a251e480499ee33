"""The whole measurement: a model is trained and tested once per fold, so that each figure is about what that model has not seen.

family:NAME   one of the first ten families, by a model that never saw it (all of them, none left out)
domain:NAME   a whole domain, likewise
items         held-out items with other entities, of families that were trained on
kinds         perturbations of kinds that were kept from training
generator:ID  answers of another generator (temperature, prompt style, model), of families that were trained on
control:*     the request alone, the output alone, permuted labels: must be near chance
view:*        without marks, and marks alone: what the marks are worth
seed:N        the same as items, with another seed
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentraft_ray.verifier.classifier import LABELS, Scoring
from agentraft_ray.verifier.training.cases import Case
from agentraft_ray.verifier.training.dataset import made_cases, renamed
from agentraft_ray.verifier.training.evaluation import Scored, chosen_scoring, figures
from agentraft_ray.verifier.training.families import FAMILIES, FIRST_TEN, PLAIN, TEST, TRAIN, Family
from agentraft_ray.verifier.training.fit import Settings, fit
from agentraft_ray.verifier.training.metrics import fit_temperature
from agentraft_ray.verifier.training.model import Trainable, scores
from agentraft_ray.verifier.training.splits import by_item, leaks, overlap
from agentraft_ray.verifier.training.views import View, view_of

__all__ = ["HELD_OUT_KINDS", "Fold", "Materials", "folds", "results_in", "run_fold", "run_study", "scored", "scoring_on"]

HELD_OUT_KINDS = frozenset({"slot_swap", "number_near", "entity_out", "items_moved", "more_said"})
"""Kinds of perturbation that the fold ``kinds`` keeps from training."""

_CALIBRATION_SHARE = 0.15
_FALSE_POSITIVES = 0.05
_FIRST = frozenset(family.name for family in FIRST_TEN)


@dataclass(frozen=True)
class Materials:
    """What a study is made of. `first` = the cases of the first bank of natural errors; `natural` = those of our own banks."""

    first: Sequence[Case]
    natural: Sequence[Case] = ()
    items: int = 40
    negatives: int = 3
    seed: int = 0

    def made(self, families: Iterable[Family], skip: frozenset[str] = frozenset()) -> list[Case]:
        return made_cases(families, TRAIN, self.seed, self.items, self.negatives, skip)

    def first_renamed(self) -> list[Case]:
        """The first bank about the entities of training: none of those that it is tested with."""
        return renamed(self.first, PLAIN, TRAIN, self.seed)


@dataclass(frozen=True)
class Fold:
    """One training and one test. `started` = from the weights of the families beyond the first ten, which the test shares none of."""

    name: str
    train: Sequence[Case]
    test: Sequence[Case]
    view: View = "whole"
    started: bool = False


def folds(materials: Materials) -> list[Fold]:
    """All folds of a study, in the order in which they tell most."""
    ours = _of_pool(materials.natural, TRAIN.name)
    first, made = materials.first_renamed(), materials.made(FAMILIES.values())
    found = []
    for family in FIRST_TEN:
        rest = [other for other in FAMILIES.values() if other is not family]
        train = [case for case in (*materials.made(rest), *ours, *first) if case.family != family.name]
        found.append(Fold(f"family:{family.name}", train, [case for case in materials.first if case.family == family.name], started=True))
    held_out = _of_pool(materials.natural, TEST.name) or list(by_item(materials.first, 0.3, materials.seed).test)
    tested = {case.item for case in held_out}
    train = [*made, *ours, *(case for case in first if case.item not in tested)]
    found.append(Fold("items", train, held_out))
    found.extend(_domain_folds(materials, ours, first))
    found.append(_kinds_fold(materials, ours, first, tested))
    found.extend(Fold(f"control:{view}", train, held_out, view) for view in ("request", "output"))
    found.append(Fold("control:labels", _permuted(train, materials.seed), held_out))
    found.extend(Fold(f"view:{view}", train, held_out, view) for view in ("unmarked", "marks"))
    found.append(Fold("seed:1", train, held_out))
    return found


def _of_pool(cases: Iterable[Case], pool: str) -> list[Case]:
    return [case for case in cases if case.pool == pool]


def _domain_folds(materials: Materials, ours: Sequence[Case], first: Sequence[Case]) -> list[Fold]:
    found = []
    for domain in sorted({case.domain for case in materials.first}):
        rest = [family for family in FAMILIES.values() if family.domain != domain]
        train = [case for case in (*materials.made(rest), *ours, *first) if case.domain != domain]
        found.append(Fold(f"domain:{domain}", train, [case for case in materials.first if case.domain == domain]))
    return found


def _kinds_fold(materials: Materials, ours: Sequence[Case], first: Sequence[Case], tested: set[str]) -> Fold:
    others = frozenset(f"made:{kind}" for kind in HELD_OUT_KINDS)
    test = [
        case for case in made_cases(FAMILIES.values(), TEST, materials.seed, materials.items, 99) if case.origin in others or not case.wrong
    ]
    kept = [*materials.made(FAMILIES.values(), HELD_OUT_KINDS), *ours, *(case for case in first if case.item not in tested)]
    return Fold("kinds", kept, test)


def _permuted(cases: Sequence[Case], seed: int) -> list[Case]:
    """The same cases with the labels of others."""
    labels = [case.label for case in cases]
    random.Random(f"permuted:{seed}").shuffle(labels)
    return [replace(case, label=label) for case, label in zip(cases, labels, strict=True)]


Progress = Callable[[str, int, int, float], None]


def run_study(materials: Materials, settings: Settings, directory: Path, progress: Progress, only: Sequence[str] = ()) -> dict[str, Any]:
    """Run the folds that have no result in `directory` yet, and return all results by name.

    `only` takes names or their beginnings (``family``). Stopped at any time, it goes on where it was.
    """
    for fold in folds(materials):
        file = directory / "folds" / fold.name.replace(":", "-") / "figures.json"
        if file.exists() or (only and not any(fold.name.startswith(name) for name in only)):
            continue
        start = _start(materials, settings, directory, progress) if fold.started else None
        found = run_fold(fold, settings, file.parent, progress, start)
        partial = file.with_name("figures.partial")
        partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        partial.replace(file)
    return results_in(directory)


def results_in(directory: Path) -> dict[str, Any]:
    """The results of a study as far as it has come, by name of the fold."""
    files = sorted((directory / "folds").glob("*/figures.json"))
    return {file.parent.name.replace("-", ":", 1): json.loads(file.read_text(encoding="utf-8")) for file in files}


def _start(materials: Materials, settings: Settings, directory: Path, progress: Progress) -> Path:
    """The weights that the family folds begin with: trained on families beyond the first ten alone, so that one serves them all."""
    start = directory / "start"
    rest = [family for family in FAMILIES.values() if family.name not in _FIRST]
    natural = [case for case in _of_pool(materials.natural, TRAIN.name) if case.family not in _FIRST]
    fit([*materials.made(rest), *natural], settings, start, lambda step, of, loss: progress("start", step, of, loss))
    return start


def run_fold(fold: Fold, settings: Settings, directory: Path, progress: Progress, start: Path | None) -> dict[str, Any]:
    """Train, choose temperature and threshold on items kept from training, test; the figures with what they rest on."""
    began = time.monotonic()
    seed = int(fold.name.partition(":")[2]) if fold.name.startswith("seed:") else settings.seed
    ours = replace(settings, view=fold.view, seed=seed, epochs=settings.epochs / (3 if start else 1))
    split = by_item(fold.train, _CALIBRATION_SHARE, ours.seed)
    trained = fit(split.train, ours, directory, lambda step, of, loss: progress(fold.name, step, of, loss), start)
    scoring = scoring_on(trained, split.test, fold.view)
    tested = scored(trained, fold.test, fold.view)
    leak = leaks(split.train, fold.test)
    return {
        "fold": fold.name,
        "view": fold.view,
        "seed": ours.seed,
        "trained_on": len(split.train),
        "families_trained_on": len({case.family for case in split.train}),
        "seconds": round(time.monotonic() - began, 1),
        "items_in_both": len(overlap(split.train, fold.test)),
        "leaks": {"items": leak.items, "of": leak.of, "example": leak.example},
        "scoring": {"temperature": scoring.temperature, "threshold": scoring.threshold},
        **figures(tested, scoring),
    }


def scored(trained: Trainable, cases: Sequence[Case], view: View = "whole") -> Scored:
    """Cases with their logits; equal texts are read once."""
    texts = [view_of(case, view) for case in cases]
    different = list(dict.fromkeys(texts))
    places = {text: at for at, text in enumerate(different)}
    logits = scores(trained, different)
    return Scored(cases, logits[[places[text] for text in texts]])


def scoring_on(trained: Trainable, cases: Sequence[Case], view: View = "whole") -> Scoring:
    """Temperature and threshold, chosen on cases that were kept from training: natural ones where there are enough."""
    natural = [case for case in cases if case.natural]
    chosen = natural if len(natural) >= len(cases) / 4 else list(cases)
    found = scored(trained, chosen, view)
    temperature = fit_temperature(found.logits, [LABELS.index(case.label) for case in chosen])
    return chosen_scoring(found, temperature, _FALSE_POSITIVES)
