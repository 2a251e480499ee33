"""The cascade: deterministic checks, agreement of samples, learned score; any of them vetoes. Frozen before it is measured.

Its rules and thresholds are chosen on one bank of generations and written to a file with a digest. What it is measured on is drawn
afterwards, from a seed that is made of that digest, so that nobody can have looked at it before.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.verifier.training.cases import Case
from agentraft_ray.verifier.training.checks import CHECKS, RULES_VERSION
from agentraft_ray.verifier.training.metrics import Interval, clopper_pearson, cluster_interval, threshold_at

__all__ = ["Frozen", "Signals", "agreement", "freeze", "measure"]

VETOES = (*CHECKS, "agreement", "learned")
"""Every signal that may veto, in the order in which they are asked."""

_SILENT_MAX = 0.01
_MODE_RIGHT_MIN = 0.9
_FALSE_POSITIVES = {"agreement": 0.02, "learned": 0.02}


@dataclass(frozen=True, slots=True)
class Signals:
    """One case with all that the cascade knows of it: which checks reject it, how many samples agree, the learned P(wrong)."""

    case: Case
    checks: Mapping[str, bool]
    votes: int
    samples: int
    learned: float


@dataclass(frozen=True)
class Frozen:
    """The rules: `model` names the weights, `regimes` say of each family whether its outputs may be committed at all.

    ``commit``: an output passes if nothing vetoes it. ``abstain``: nothing is ever committed, for there the majority errs and no
    check can tell. A family that is not named abstains.
    """

    model: str
    votes_min: int
    samples: int
    learned_max: float
    regimes: Mapping[str, Literal["commit", "abstain"]]
    rules: str = RULES_VERSION
    chosen_on: str = ""

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def seed(self) -> int:
        """What fresh items are drawn from: nobody knows it before the rules are fixed."""
        return int(self.digest[:12], 16)

    def save(self, path: Path) -> None:
        """Write the rules with their digest."""
        path.write_text(json.dumps({"digest": self.digest, "seed": self.seed, **asdict(self)}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Frozen:
        """Read frozen rules. Raises InvalidConfig for a file that was changed since, or that belongs to other rules."""
        told = json.loads(path.read_text(encoding="utf-8"))
        digest = told.pop("digest", "")
        told.pop("seed", None)
        found = cls(**told)
        if found.digest != digest:
            raise InvalidConfig(f"{path} was changed after it was frozen: its contents do not have the digest that it names")
        if found.rules != RULES_VERSION:
            raise InvalidConfig(f"{path} froze version {found.rules} of the checks, here they are {RULES_VERSION}; freeze anew")
        return found

    def vetoes(self, one: Signals) -> list[str]:
        """Which signals reject an output, of those that its family has."""
        found = [name for name in CHECKS if one.checks.get(name)]
        if one.votes < self.votes_min:
            found.append("agreement")
        if one.learned >= self.learned_max:
            found.append("learned")
        return found

    def commits(self, one: Signals) -> bool:
        return self.regimes.get(one.case.family) == "commit" and not self.vetoes(one)


def agreement(cases: Sequence[Case]) -> list[tuple[int, int]]:
    """For each case, how many of the samples for its request gave the same answer, and of how many; both count itself."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for case in cases:
        answers[case.item][case.output] += 1
    return [(answers[case.item][case.output], answers[case.item].total()) for case in cases]


def freeze(signals: Sequence[Signals], model: str, chosen_on: str) -> Frozen:
    """Choose rules on `signals`: thresholds for few false alarms, and the families in which outputs may be committed.

    A family commits if its majority is right nearly always, or if what would be committed is bounded to be wrong in at most 1 %.
    """
    families: dict[str, list[Signals]] = defaultdict(list)
    for one in signals:
        families[one.case.family].append(one)
    votable = {name for name, found in families.items() if _mode_right(found) >= _MODE_RIGHT_MIN}
    inside = [one for one in signals if one.case.family in votable]
    samples = max((one.samples for one in signals), default=0)
    votes_min = _votes_min(inside, samples)
    learned_max = threshold_at([one.case.wrong for one in inside], [one.learned for one in inside], _FALSE_POSITIVES["learned"])
    rules = Frozen(model, votes_min, samples, float(min(1.0, learned_max)), dict.fromkeys(families, "commit"), chosen_on=chosen_on)
    regimes: dict[str, Literal["commit", "abstain"]] = {
        name: "commit" if name in votable or _bounded(rules, found) else "abstain" for name, found in sorted(families.items())
    }
    return Frozen(model, votes_min, samples, rules.learned_max, regimes, chosen_on=chosen_on)


def _mode_right(signals: Sequence[Signals]) -> float:
    """The share of requests whose most frequent answer is right."""
    best: dict[str, Signals] = {}
    for one in signals:
        if one.case.item not in best or one.votes > best[one.case.item].votes:
            best[one.case.item] = one
    return sum(not one.case.wrong for one in best.values()) / len(best)


def _votes_min(signals: Sequence[Signals], samples: int) -> int:
    """The most votes that may be asked for without too many false alarms."""
    right = [one.votes for one in signals if not one.case.wrong]
    allowed = _FALSE_POSITIVES["agreement"] * len(right)
    return max((votes for votes in range(1, samples + 1) if sum(had < votes for had in right) <= allowed), default=1)


def _bounded(rules: Frozen, signals: Sequence[Signals]) -> bool:
    """Whether so few wrong outputs would be committed, with 95 % confidence over requests, that the aim holds."""
    silent = {one.case.item for one in signals if one.case.wrong and rules.commits(one)}
    return clopper_pearson(len(silent), len({one.case.item for one in signals})).high <= _SILENT_MAX


def measure(frozen: Frozen, signals: Sequence[Signals]) -> dict[str, Any]:
    """What the cascade does on `signals`: recall and false alarms where it may commit, what each signal adds, what they miss together,
    and what gets through in silence where it must abstain."""
    open_to = [one for one in signals if frozen.regimes.get(one.case.family) == "commit"]
    wrong = [one for one in open_to if one.case.wrong]
    right = [one for one in open_to if not one.case.wrong]
    silent = [one.case.wrong and frozen.commits(one) for one in signals]
    closed = [(one, gone) for one, gone in zip(signals, silent, strict=True) if frozen.regimes.get(one.case.family) != "commit"]
    return {
        "frozen": frozen.digest,
        "model": frozen.model,
        "families": {name: frozen.regimes.get(name, "abstain") for name in sorted({one.case.family for one in signals})},
        "wrong": len(wrong),
        "wrong_distinct": len({(one.case.item, one.case.output) for one in wrong}),
        "recall": _over_items([bool(frozen.vetoes(one)) for one in wrong], wrong),
        "false_positives": _over_items([bool(frozen.vetoes(one)) for one in right], right),
        "alone": {name: _alone(frozen, name, wrong, right) for name in VETOES},
        "joint_misses": _joint(frozen, wrong),
        "trap_silent": _over_items([gone for _, gone in closed], [one for one, _ in closed]),
        "silent_of_all": _over_items(silent, signals),
        "missed": [
            {"family": one.case.family, "asked": one.case.asked, "output": one.case.output} for one in wrong if not frozen.vetoes(one)
        ],
    }


def _over_items(hits: Sequence[bool], signals: Sequence[Signals]) -> dict[str, Any]:
    found: Interval = cluster_interval(hits, [one.case.item for one in signals])
    share = None if found.total == 0 else round(found.share, 5)
    return {"share": share, "low": round(found.low, 5), "high": round(found.high, 5), "hits": found.hits, "of": found.total}


def _alone(frozen: Frozen, name: str, wrong: Sequence[Signals], right: Sequence[Signals]) -> dict[str, Any]:
    return {
        "recall": _over_items([name in frozen.vetoes(one) for one in wrong], wrong),
        "false_positives": _over_items([name in frozen.vetoes(one) for one in right], right),
    }


def _joint(frozen: Frozen, wrong: Sequence[Signals]) -> dict[str, Any]:
    """Pairs of signals: how often both miss, beside what independence would give, and the correlation of their misses."""
    groups = {"checks": set(CHECKS), "agreement": {"agreement"}, "learned": {"learned"}}
    vetoes = [set(frozen.vetoes(one)) for one in wrong]
    missed = {name: np.array([not (heard & members) for heard in vetoes]) for name, members in groups.items()}
    found: dict[str, Any] = {}
    for first, second in itertools.combinations(groups, 2):
        one, other = missed[first], missed[second]
        both = float((one & other).mean()) if len(wrong) else None
        product = float(one.mean() * other.mean()) if len(wrong) else None
        spread = float(one.std() * other.std()) if len(wrong) else 0.0
        found[f"{first}+{second}"] = {
            "both_miss": both,
            "if_independent": product,
            "correlation": None if both is None or product is None or not spread else (both - product) / spread,
        }
    if len(wrong):
        found["all"] = {
            "both_miss": float(np.logical_and.reduce(list(missed.values())).mean()),
            "if_independent": float(np.prod([one.mean() for one in missed.values()])),
        }
    return found
