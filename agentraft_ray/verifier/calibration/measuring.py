"""Measuring a verifier: asking it about labelled cases, so many at a time, and counting what it says."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from agentraft_ray.errors import ErrorType, InvalidConfig
from agentraft_ray.taxonomy import FREE, Cost, VerdictKind, VerificationResult
from agentraft_ray.verifier.asking import ask
from agentraft_ray.verifier.base import Verifier
from agentraft_ray.verifier.calibration.cases import LabelledCase
from agentraft_ray.verifier.calibration.threshold import best_threshold

__all__ = ["Measured", "Progress", "measure"]

Progress = Callable[[int, int], object]


class Measured(NamedTuple):
    """What was found, and the verifier that it was found of. The fields are those of `Calibration`."""

    verifier: Verifier
    confusion: dict[str, dict[str, int]]
    groups: dict[str, int]
    chosen_on: int
    cost: Cost


async def measure(
    verifier: Verifier,
    cases: Sequence[LabelledCase],
    false_positive_rate: float | None,
    at_a_time: int,
    deadline_s: float,
    progress: Progress | None,
) -> Measured:
    """See `Calibration.measure`."""
    counted = list(cases)
    deciding: list[LabelledCase] = []
    if false_positive_rate is not None:
        counted, deciding = _halves(cases)
        _check_labels(deciding)
    _check_labels(counted)
    asker = _Asker(at_a_time, deadline_s, progress, len(cases))
    if false_positive_rate is not None:
        verdicts = await asker.ask(verifier.at_threshold(0.0), deciding)
        right, wrong = (_confidences(deciding, verdicts, is_right=is_right) for is_right in (True, False))
        verifier = verifier.at_threshold(best_threshold(right, wrong, false_positive_rate))
    verdicts = await asker.ask(verifier, counted)
    return Measured(verifier, _confusion(counted, verdicts), _groups(counted), len(deciding), asker.cost)


class _Asker:
    """Asks about cases, so many at a time, and sums what that costs."""

    def __init__(self, at_a_time: int, deadline_s: float, progress: Progress | None, total: int) -> None:
        if at_a_time < 1:
            raise InvalidConfig(f"at_a_time={at_a_time} must be at least 1")
        self._room = asyncio.Semaphore(at_a_time)
        self._deadline_s = deadline_s
        self._progress = progress
        self._total = total
        self._done = 0
        self.cost = FREE

    async def ask(self, verifier: Verifier, cases: Sequence[LabelledCase]) -> list[VerificationResult]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._one(verifier, case)) for case in cases]
        return [task.result() for task in tasks]

    async def _one(self, verifier: Verifier, case: LabelledCase) -> VerificationResult:
        async with self._room:
            verdict = await ask(verifier, replace(case.request, deadline_s=self._deadline_s))
        self.cost = self.cost + verdict.cost
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)
        return verdict


def _halves(cases: Sequence[LabelledCase]) -> tuple[list[LabelledCase], list[LabelledCase]]:
    """Two halves with about as many right and wrong outputs each; a group is wholly in one of them."""
    groups: dict[str, list[LabelledCase]] = {}
    for position, case in enumerate(cases):
        groups.setdefault(case.group or f"\x00{position}", []).append(case)
    seen: Counter[frozenset[ErrorType]] = Counter()
    halves: tuple[list[LabelledCase], list[LabelledCase]] = [], []
    for members in groups.values():
        labels = frozenset(case.expected for case in members)
        halves[seen[labels] % 2].extend(members)
        seen[labels] += 1
    return halves


def _check_labels(cases: Sequence[LabelledCase]) -> None:
    right = sum(case.is_right for case in cases)
    if not 0 < right < len(cases):
        raise InvalidConfig(
            f"{len(cases)} cases with {right} right outputs among them cannot tell how good a verifier is; it takes right and wrong ones,"
            " and two of each to choose a threshold"
        )


def _confidences(cases: Sequence[LabelledCase], verdicts: Sequence[VerificationResult], *, is_right: bool) -> list[float | None]:
    """With what confidence cases passed, None for a rejection; cases without a verdict are left out."""
    answered = [
        verdict
        for case, verdict in zip(cases, verdicts, strict=True)
        if case.is_right is is_right and verdict.kind in (VerdictKind.PASS, VerdictKind.REJECT)
    ]
    return [verdict.confidence if verdict.passed else None for verdict in answered]


def _confusion(cases: Sequence[LabelledCase], verdicts: Sequence[VerificationResult]) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for case, verdict in zip(cases, verdicts, strict=True):
        assert verdict.kind is not None
        said = verdict.error_type.value if verdict.kind is VerdictKind.REJECT else verdict.kind.value
        found.setdefault(case.expected.value, Counter())[said] += 1
    return {label: dict(sorted(counts.items())) for label, counts in sorted(found.items())}


def _groups(cases: Sequence[LabelledCase]) -> dict[str, int]:
    found: dict[str, set[str]] = {}
    for position, case in enumerate(cases):
        found.setdefault(case.expected.value, set()).add(case.group or f"\x00{position}")
    return {label: len(names) for label, names in sorted(found.items())}
