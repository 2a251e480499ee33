"""What scores are worth: figures per family and per class, with intervals and baselines beside them. Plain data in, plain data out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentraft_ray.verifier.classifier import LABELS, PASS, Scoring
from agentraft_ray.verifier.training.cases import Case
from agentraft_ray.verifier.training.metrics import (
    Interval,
    auroc,
    calibration_bins,
    cluster_interval,
    expected_calibration_error,
    macro_f1,
    recall_at,
    threshold_at,
    wilson,
)

__all__ = ["CASES_MIN", "Scored", "chosen_scoring", "consensus_wrong", "figures"]

CASES_MIN = 30
"""An AUROC is given where there are so many right and so many wrong cases; below, it is noise."""

_FALSE_POSITIVES = (0.01, 0.05, 0.10)
_CLASS_CASES_MIN = 10


@dataclass(frozen=True)
class Scored:
    """Cases with the logits that a model gave them, in the same order; rows of `LABELS`."""

    cases: Sequence[Case]
    logits: NDArray[Any]

    def part(self, places: Sequence[int]) -> Scored:
        return Scored([self.cases[place] for place in places], self.logits[list(places)])

    def by(self, key: str) -> dict[str, Scored]:
        """The cases of each family, domain or other attribute."""
        places: dict[str, list[int]] = defaultdict(list)
        for place, case in enumerate(self.cases):
            places[getattr(case, key)].append(place)
        return {value: self.part(where) for value, where in sorted(places.items())}


def figures(scored: Scored, scoring: Scoring) -> dict[str, Any]:
    """Everything about one test set: pooled, per family, per class of error, calibration, baselines."""
    judged = [scoring.of_logits(row) for row in scored.logits.tolist()]
    wrong = np.array([case.wrong for case in scored.cases])
    score = np.array([one.wrong for one in judged])
    flagged = np.array([one.label != PASS for one in judged])
    families = {name: _family(part, scoring) for name, part in scored.by("family").items()}
    known = [one["auroc"] for one in families.values() if one["auroc"] is not None]
    bins = calibration_bins(wrong, score)
    return {
        "cases": len(scored.cases),
        "items": len({case.item for case in scored.cases}),
        "wrong": int(wrong.sum()),
        "auroc_macro": _rounded(float(np.mean(known))) if known else None,
        "auroc_families": len(known),
        "auroc_pooled": _rounded(auroc(wrong, score)),
        "auroc_of_family_prior": _rounded(auroc(wrong, _prior(scored.cases))),
        "recall": _share(flagged[wrong], scored, wrong),
        "false_positives": _share(flagged[~wrong], scored, ~wrong),
        "recall_on_consensus_wrong": _consensus(scored, flagged),
        "ece": _rounded(expected_calibration_error(bins)),
        "reliability": [[_rounded(one.predicted), _rounded(one.observed), one.cases] for one in bins],
        "class_macro_f1": _rounded(_class_f1(scored.cases, [one.label for one in judged])),
        "class_macro_f1_of_majority": _rounded(_class_f1(scored.cases, _majority(scored.cases))),
        "classes": _classes(scored.cases, [one.label for one in judged]),
        "families": families,
    }


def _family(part: Scored, scoring: Scoring) -> dict[str, Any]:
    judged = [scoring.of_logits(row) for row in part.logits.tolist()]
    wrong = np.array([case.wrong for case in part.cases])
    score = np.array([one.wrong for one in judged])
    flagged = np.array([one.label != PASS for one in judged])
    enough = min(int(wrong.sum()), int((~wrong).sum())) >= CASES_MIN
    return {
        "cases": len(wrong),
        "items": len({case.item for case in part.cases}),
        "wrong": int(wrong.sum()),
        "auroc": _rounded(auroc(wrong, score)) if enough else None,
        "recall_at": {str(rate): _rounded(recall_at(wrong, score, rate)) for rate in _FALSE_POSITIVES} if enough else None,
        "accuracy_at_best_guess": _rounded(max(wrong.mean(), 1 - wrong.mean())),
        "accuracy": _rounded(float((flagged == wrong).mean())),
        "recall": _share(flagged[wrong], part, wrong),
        "false_positives": _share(flagged[~wrong], part, ~wrong),
    }


def consensus_wrong(cases: Sequence[Case]) -> list[bool]:
    """For each case, whether it repeats the most frequent answer to its request and that answer is wrong."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for case in cases:
        answers[case.item][case.output] += 1
    modes = {item: counted.most_common(1)[0][0] for item, counted in answers.items()}
    return [case.wrong and case.output == modes[case.item] for case in cases]


def _consensus(scored: Scored, flagged: NDArray[Any]) -> dict[str, Any] | None:
    agreed = np.array(consensus_wrong(scored.cases))
    return _share(flagged[agreed], scored, agreed) if agreed.any() else None


def _prior(cases: Sequence[Case]) -> list[float]:
    """The score of who knows the family's rate of errors and nothing else."""
    counted, errors = Counter(case.family for case in cases), Counter(case.family for case in cases if case.wrong)
    return [errors[case.family] / counted[case.family] for case in cases]


def _share(hits: NDArray[Any], scored: Scored, where: NDArray[Any]) -> dict[str, Any]:
    clusters = [case.item for case, here in zip(scored.cases, where, strict=True) if here]
    return _told(cluster_interval(hits.tolist(), clusters))


def _told(interval: Interval) -> dict[str, Any]:
    return {"share": _rounded(interval.share), "low": _rounded(interval.low), "high": _rounded(interval.high), "of": interval.total}


def _class_f1(cases: Sequence[Case], said: Sequence[str]) -> float:
    return macro_f1([case.label for case in cases], said, LABELS[1:], _CLASS_CASES_MIN)


def _majority(cases: Sequence[Case]) -> list[str]:
    most = Counter(case.label for case in cases if case.wrong).most_common(1)
    return [most[0][0] if most else PASS] * len(cases)


def _classes(cases: Sequence[Case], said: Sequence[str]) -> dict[str, Any]:
    """Per class: how many of it were rejected at all, how many under its own name, and what they were taken for."""
    found: dict[str, Any] = {}
    for label in LABELS:
        heard = [guess for case, guess in zip(cases, said, strict=True) if case.label == label]
        if heard:
            found[label] = {
                "cases": len(heard),
                "rejected": _told(wilson(sum(guess != PASS for guess in heard), len(heard))),
                "named": _told(wilson(heard.count(label), len(heard))),
                "taken_for": dict(Counter(heard).most_common()),
            }
    return found


def chosen_scoring(scored: Scored, temperature: float, false_positives: float) -> Scoring:
    """The threshold that flags at most that share of the right outputs of `scored`, at that temperature."""
    probe = Scoring(temperature=temperature)
    wrongness = [probe.of_logits(row).wrong for row in scored.logits.tolist()]
    threshold = threshold_at([case.wrong for case in scored.cases], wrongness, false_positives)
    told = f"at most {false_positives:.1%} false alarms on {len(scored.cases)} cases kept from training"
    return Scoring(temperature, min(1.0, max(1e-6, threshold)), told)


def _rounded(value: float) -> float | None:
    return None if value != value else round(float(value), 4)  # noqa: PLR0124 - NaN is no JSON
