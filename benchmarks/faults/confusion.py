"""What a real verifier says about outputs that are wrong in a known way: a table of classes against verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from agentraft_ray.errors import ErrorType
from agentraft_ray.taxonomy import FREE, Cost, VerdictKind
from agentraft_ray.verifier.asking import ask
from agentraft_ray.verifier.base import Verifier
from benchmarks.faults.corpus import CLASSES, request_of
from benchmarks.faults.counts import Interval
from benchmarks.faults.draws import key_of
from benchmarks.faults.intervals import wilson
from benchmarks.faults.studies.base import Table, percent, span

__all__ = ["Confusion", "confusion_of"]

_AT_A_TIME = 8
_SILENT = (VerdictKind.ABSTAIN.value, VerdictKind.FAULT.value)


@dataclass
class Confusion:
    """By what was wrong (NONE: nothing), how often each verdict was given: a class, NONE for a pass, "abstain" or "fault"."""

    verifier: str
    verdicts: dict[str, dict[str, int]] = field(default_factory=dict)
    cost: Cost = FREE

    def _asked(self, kinds: tuple[ErrorType, ...]) -> tuple[int, int]:
        """(rejected, judged) of the outputs of these classes; silence is neither."""
        rows = [self.verdicts.get(kind.value, {}) for kind in kinds]
        judged = sum(count for row in rows for verdict, count in row.items() if verdict not in _SILENT)
        return judged - sum(row.get(ErrorType.NONE.value, 0) for row in rows), judged

    def recall_under(self, shares: Mapping[ErrorType, float]) -> float:
        """P(reject | wrong) where the classes have these shares; NaN if one was never judged."""
        return sum(share * self.recall_of(kind).estimate for kind, share in shares.items() if share)

    @property
    def false_positives(self) -> Interval:
        """P(reject | right)."""
        return wilson(*self._asked((ErrorType.NONE,)))

    def recall_of(self, kind: ErrorType) -> Interval:
        """P(reject | wrong in this way)."""
        return wilson(*self._asked((kind,)))

    def named(self, kind: ErrorType) -> float:
        """Of the rejected outputs of a class, the share that was given this class."""
        rejected, _ = self._asked((kind,))
        return self.verdicts[kind.value].get(kind.value, 0) / rejected if rejected else float("nan")

    def table(self) -> Table:
        """Rows of what was wrong, columns of what was said."""
        said = [ErrorType.NONE.value, *(kind.value for kind in CLASSES), *_SILENT]
        rows = []
        for kind in (*CLASSES, ErrorType.NONE):
            row = self.verdicts.get(kind.value, {})
            counts = [str(row.get(verdict, 0) or "") for verdict in said]
            ending = (span(self.recall_of(kind)), percent(self.named(kind))) if kind in CLASSES else (span(self.false_positives), "")
            rows.append((kind.value if kind in CLASSES else "(right)", *counts, *ending))
        return Table(("what was wrong", "passed", *said[1:], "rejected [95 %]", "class named"), tuple(rows))


async def confusion_of(verifier: Verifier, samples: int, seed: int) -> Confusion:
    """Ask about `samples` outputs of every class, and as many right ones, some at a time."""
    key, room = key_of(seed), asyncio.Semaphore(_AT_A_TIME)
    found = Confusion(verifier.identity, {kind.value: {} for kind in (*CLASSES, ErrorType.NONE)})

    async def judge(kind: ErrorType, number: int) -> None:
        async with room:
            verdict = await ask(verifier, request_of(key, number, kind))
        assert verdict.kind is not None
        said = verdict.kind.value if verdict.kind.value in _SILENT else verdict.error_type.value
        row = found.verdicts[kind.value]
        row[said] = row.get(said, 0) + 1
        found.cost = found.cost + verdict.cost

    await asyncio.gather(*(judge(kind, number) for kind in (*CLASSES, ErrorType.NONE) for number in range(samples)))
    return found
