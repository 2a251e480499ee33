"""What verifiers did, counted from the records that somebody has read. Counts only: whether they were right stands in no log."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from agentraft_ray.ledger.views import CostView
from agentraft_ray.protocol.records import AttemptRejected, OutputProposed, Record, RolledBack, StepCommitted, SuspectCleared
from agentraft_ray.taxonomy import FREE, Cost

__all__ = ["Scoreboard", "VerifierScore"]

_VERIFIERS_MAX = 200  # their names are users' text


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierScore:
    """One verifier, under one calibration. `by_class` = its rejections; `cost` = of the attempts that it decided, their steps included."""

    verifier: str
    calibration: str
    judged: int
    passed: int
    rejected: int
    abstained: int
    confidence: float
    by_class: dict[str, int]
    cost: CostView


class _Row:
    __slots__ = ("by_class", "confidence", "cost", "kinds")

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.by_class: Counter[str] = Counter()
        self.confidence = 0.0
        self.cost: Cost = FREE


class Scoreboard:
    """The tally of the verdicts in the records that were noted."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], _Row] = {}

    def note(self, record: Record) -> None:
        """Count the verdict in a record, if there is one. An output that waits for a person counts when that is over, unless the
        verifier abstained."""
        certificate = getattr(record, "certificate", None)
        if certificate is None or not isinstance(record, StepCommitted | AttemptRejected | OutputProposed | RolledBack | SuspectCleared):
            return
        if isinstance(record, OutputProposed) and certificate.kind != "abstain":
            return
        key = (certificate.verifier, certificate.calibration)
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= _VERIFIERS_MAX:
                return
            row = self._rows[key] = _Row()
        row.kinds[certificate.kind] += 1
        row.confidence += certificate.confidence
        row.cost = row.cost + record.cost
        if certificate.kind == "reject":
            row.by_class[certificate.error_type] += 1

    def scores(self) -> list[VerifierScore]:
        """Those who judged most first."""
        found = [_score(verifier, calibration, row) for (verifier, calibration), row in self._rows.items()]
        return sorted(found, key=lambda score: (-score.judged, score.verifier))


def _score(verifier: str, calibration: str, row: _Row) -> VerifierScore:
    judged = row.kinds.total()
    return VerifierScore(
        verifier=verifier,
        calibration=calibration,
        judged=judged,
        passed=row.kinds["pass"],
        rejected=row.kinds["reject"],
        abstained=row.kinds["abstain"],
        confidence=row.confidence / judged,
        by_class=dict(row.by_class),
        cost=CostView(row.cost.tokens, row.cost.usd, row.cost.seconds),
    )
