"""What a model is trained on: cases made of families, weighted so that no family, and no request, gives the answer away. Pure, seeded."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from agentraft_ray.pipeline import Step, Task
from agentraft_ray.verifier.base import VerifyInput
from agentraft_ray.verifier.classifier import PASS, label_of, request_text
from agentraft_ray.verifier.training.cases import Case, item_id
from agentraft_ray.verifier.training.families import FAMILIES, FIRST_TEN, PLAIN, Family, Item, Pool, judge
from agentraft_ray.verifier.training.perturb import Perturbed, perturbed

__all__ = ["asked_text", "balanced_weights", "made_cases", "natural_cases", "renamed"]

_GOALLESS_SHARE = 0.5  # of requests, shown without the goal of the step: users' goals say much or nothing


def asked_text(family: Family, item: Item, rng: random.Random) -> str:
    """The request as a verifier is given it: with or without a goal of the step."""
    goal = "" if rng.random() < _GOALLESS_SHARE else family.goal
    task = Task(goal=goal, inputs={"request": item.request}, id="case")
    return request_text(VerifyInput(task, Step(family.name, _nothing), None))


def _nothing(_: object) -> None:
    return None


def made_cases(
    families: Iterable[Family], pool: Pool, seed: int, items: int, negatives: int = 3, skip: frozenset[str] = frozenset()
) -> list[Case]:
    """Cases without a model: of every item its right answer, other right forms, and `negatives` perturbed ones.

    Perturbations of the kinds in `skip` are left out. All the outputs to one item stand together: they are contrasts of each other.
    """
    found: list[Case] = []
    for family in families:
        rng = random.Random(f"made:{family.name}:{pool.name}:{seed}")
        drawn = family.items(seed, pool, items)
        for position, item in enumerate(drawn):
            asked = asked_text(family, item, rng)
            other = drawn[(position + 1) % len(drawn)]
            changed = [one for one in perturbed(item, other, pool, rng) if one.kind not in skip]
            wrong = [one for one in changed if label_of(one.truth) != PASS]
            right = [one for one in changed if label_of(one.truth) == PASS]
            chosen = [*right[:1], *_spread(wrong, negatives, rng)]
            base = (family.name, family.domain, item_id(family.name, item.request), asked)
            found.append(Case(*base, item.gold, PASS, "made:gold", pool=pool.name))
            found.extend(Case(*base, one.output, label_of(one.truth), f"made:{one.kind}", pool=pool.name) for one in chosen)
    return found


def _spread(options: Sequence[Perturbed], count: int, rng: random.Random) -> list[Perturbed]:
    return list(options) if len(options) <= count else rng.sample(options, count)


def natural_cases(path: Path, generator: str = "smollm2-135m-instruct:4-shot:t0.7") -> list[Case]:
    """The cases of a file of natural errors, ``{family: [[request, gold, [output], [correct]]]}``; classes by rule."""
    found: list[Case] = []
    for name, items in json.loads(path.read_text(encoding="utf-8")).items():
        family = FAMILIES[name]
        for request, gold, outputs, correct in items:
            item = first_item(name, request, gold)
            base = (name, family.domain, item_id(name, request), request)
            for output, right in zip(outputs, correct, strict=True):
                label = label_of(judge(item, output))
                if (label == PASS) != bool(right):
                    raise ValueError(f"{name}: {output!r} to {request!r} is recorded as {right}, the rule says {label}")
                found.append(Case(*base, output, label, "natural", generator, PLAIN.name))
    return found


def first_item(name: str, request: str, gold: str) -> Item:
    """The item of one of the first ten families that a request of theirs was."""
    family = next(family for family in FIRST_TEN if family.name == name)
    form = family.items(0, PLAIN, 1)[0].form
    return Item(request, gold, form)


def balanced_weights(cases: Sequence[Case]) -> list[float]:
    """One weight a case: right and wrong weigh the same within every family, and every family the same. They add up to the count."""
    groups = Counter((case.family, case.wrong) for case in cases)
    sides: dict[str, int] = Counter(family for family, _ in groups)
    raw = [1.0 / (groups[case.family, case.wrong] * sides[case.family]) for case in cases]
    scale = len(cases) / sum(raw)
    return [weight * scale for weight in raw]


def renamed(cases: Sequence[Case], source: Pool, target: Pool, seed: int) -> list[Case]:
    """The same cases about other entities: each one of `source` becomes one of `target` of its kind, the same within an item."""
    names: dict[str, dict[str, str]] = {}
    for case in cases:
        if case.item not in names:
            names[case.item] = _others(source, target, random.Random(f"renamed:{case.item}:{seed}"))
    return [
        replace(case, asked=_put(case.asked, names[case.item]), output=_put(case.output, names[case.item]), pool=target.name)
        for case in cases
    ]


def _others(source: Pool, target: Pool, rng: random.Random) -> dict[str, str]:
    found: dict[str, str] = {}
    for kind in ("names", "cities", "goods", "acts", "firms", "things"):
        ours = getattr(source, kind)
        found |= dict(zip(ours, rng.sample(getattr(target, kind), len(ours)), strict=True))
    return found


def _put(text: str, names: dict[str, str]) -> str:
    return re.sub(r"[A-Za-z]+", lambda found: names.get(found.group(), found.group()), text)
