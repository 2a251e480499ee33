"""Splits that leak nothing: by item, family or domain, never by row. And the check that says so."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from agentraft_ray.verifier.classifier.words import mentions
from agentraft_ray.verifier.training.cases import Case

__all__ = ["Leak", "Split", "by_item", "leaks", "leave_out", "overlap"]

_NGRAM_WORDS = 8
_TELLING_WORDS_MIN = 2


class Split(NamedTuple):
    """Cases to train on, and cases to test on."""

    train: list[Case]
    test: list[Case]


class Leak(NamedTuple):
    """How many test items share a normalised run of eight words with training, beyond the wording of their family."""

    items: int
    of: int
    example: str


def by_item(cases: Iterable[Case], share: float, seed: int = 0) -> Split:
    """About `share` of the items for testing; all outputs to one request stand on one side. Which side depends on the item alone."""
    split = Split([], [])
    for case in cases:
        digest = hashlib.sha256(f"{seed}:{case.item}".encode()).digest()
        (split.test if int.from_bytes(digest[:4], "big") < share * 2**32 else split.train).append(case)
    return split


def leave_out(cases: Iterable[Case], *, family: str = "", domain: str = "") -> Split:
    """Everything of one family, or of one domain, for testing."""
    split = Split([], [])
    for case in cases:
        out = (case.family == family) if family else (case.domain == domain)
        (split.test if out else split.train).append(case)
    return split


def overlap(train: Iterable[Case], test: Iterable[Case]) -> list[str]:
    """The items that stand on both sides: none may."""
    return sorted({case.item for case in train} & {case.item for case in test})


def leaks(train: Sequence[Case], test: Sequence[Case]) -> Leak:
    """Test items of whose request a run of eight words stands in training. Requests of fewer words are compared whole.

    A run counts with two numbers, names, days or the like in it: without, it is how the family puts its requests, and no leak.
    """
    seen = {gram for asked in {case.asked for case in train} for gram in _grams(asked)}
    requests = {case.item: case.asked for case in test}
    found = [asked for asked in requests.values() if any(gram in seen for gram in _grams(asked))]
    return Leak(len(found), len(requests), found[0] if found else "")


def _grams(text: str) -> Iterator[tuple[str, ...]]:
    words = mentions(text)
    telling = [word.kind not in ("word", "name") or (word.kind == "name" and not word.opens) for word in words]
    for at in range(max(1, len(words) - _NGRAM_WORDS + 1)):
        if sum(telling[at : at + _NGRAM_WORDS]) >= _TELLING_WORDS_MIN:
            yield tuple(word.key for word in words[at : at + _NGRAM_WORDS])
