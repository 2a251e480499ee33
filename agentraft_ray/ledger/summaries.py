"""Runs on one line each, without reading long logs: short ones are folded, of long ones only the first and the last records count."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from agentraft_ray.checkpoint.base import RunMeta
from agentraft_ray.errors import AgentRaftError, LogCorrupted, StoreUnavailable
from agentraft_ray.ledger.views import RunSummary
from agentraft_ray.protocol.records import ErrorInfo, Record, RunAdmitted, RunFinished, RunParked, decode_record
from agentraft_ray.protocol.state import fold
from agentraft_ray.result import RunStatusName
from agentraft_ray.runtime.logs import RunLogs

__all__ = ["Summaries", "status_of"]

_FOLDED_RECORDS_MAX = 300  # a log up to this is read whole, which costs about as much as reading its ends
_TAIL_RECORDS = 20
_KEPT_MAX = 20_000
_READS_AT_A_TIME = 32
_GOAL_CHARS_MAX = 300
_ERROR_CHARS_MAX = 500


def status_of(meta: RunMeta) -> RunStatusName:
    """A run's status as the store tells it."""
    if meta.status == "finished":
        return _outcome(meta.outcome)
    return "waiting" if meta.status == "parked" else "running"


def _outcome(name: str) -> RunStatusName:
    return "succeeded" if name == "succeeded" else "cancelled" if name == "cancelled" else "failed"


class Summaries:
    """Makes summaries, and keeps the last ones: a run whose log has not moved is not read again."""

    def __init__(self, logs: RunLogs) -> None:
        self._logs = logs
        self._heads: OrderedDict[str, RunAdmitted] = OrderedDict()
        self._kept: OrderedDict[str, tuple[bytes, RunSummary]] = OrderedDict()
        self._reads = asyncio.Semaphore(_READS_AT_A_TIME)

    async def of(self, runs: Sequence[tuple[str, RunMeta]]) -> list[RunSummary]:
        """One summary each, in order; what is wrong with a log is said in its summary. Raises StoreUnavailable."""
        return list(await asyncio.gather(*(self._one(run_id, meta) for run_id, meta in runs)))

    async def head(self, run_id: str) -> RunAdmitted:
        """The first record of a run. Raises LogCorrupted, StoreError."""
        known = self._heads.get(run_id)
        if known is None:
            async with self._reads:
                stored = await self._logs.store.read(run_id, 0, 1)
            record = self._opened(run_id, 0, stored[0]) if stored else None
            if not isinstance(record, RunAdmitted):
                raise LogCorrupted(f"run {run_id}: its log does not start with its admission", run_id=run_id, index=0)
            known = record
            _keep(self._heads, run_id, known)
        return known

    async def _one(self, run_id: str, meta: RunMeta) -> RunSummary:
        kept = self._kept.get(run_id)
        if kept is not None and kept[0] == meta.head:
            return kept[1]
        try:
            if meta.index <= _FOLDED_RECORDS_MAX:
                async with self._reads:
                    stored = await self._logs.store.read(run_id, 0, meta.index)
                summary = self._folded(run_id, meta, stored)
            else:
                head = await self.head(run_id)
                async with self._reads:
                    stored = await self._logs.store.read(run_id, meta.index - _TAIL_RECORDS, _TAIL_RECORDS)
                first = meta.index - _TAIL_RECORDS
                summary = _of_ends(run_id, meta, head, [self._opened(run_id, first + n, one) for n, one in enumerate(stored)])
        except StoreUnavailable:
            raise
        except AgentRaftError as error:
            return _unreadable(run_id, meta, error)
        _keep(self._kept, run_id, (meta.head, summary))
        return summary

    def _folded(self, run_id: str, meta: RunMeta, stored: Sequence[bytes]) -> RunSummary:
        records = [self._opened(run_id, index, one) for index, one in enumerate(stored)]
        state = fold(run_id, zip(records, stored, strict=True))
        if not state.index:
            raise LogCorrupted(f"run {run_id}: its log is gone from the store", run_id=run_id, index=0)
        head = records[0]
        assert isinstance(head, RunAdmitted)
        committed = state.committed
        return _of_ends(run_id, meta, head, records, committed, state.parked or ())

    def _opened(self, run_id: str, index: int, stored: bytes) -> Record:
        return decode_record(self._logs.seal.open(run_id, index, stored))


def _of_ends(
    run_id: str,
    meta: RunMeta,
    head: RunAdmitted,
    tail: Sequence[Record],
    committed: int | None = None,
    parked: tuple[str, ...] | None = None,
) -> RunSummary:
    status = status_of(meta)
    steps = len(head.plan.block) * head.plan.repeats
    last = next((record for record in reversed(tail) if getattr(record, "at", None) is not None), head)
    finished = next((record for record in reversed(tail) if isinstance(record, RunFinished)), None)
    if parked is None:
        parked = next((record.reasons for record in reversed(tail) if isinstance(record, RunParked)), ())
    return RunSummary(
        run_id=run_id,
        pipeline=head.plan.name,
        goal=head.task.goal[:_GOAL_CHARS_MAX],
        status=status,
        steps=steps,
        committed=steps if status == "succeeded" else committed,
        waiting_for=parked if status == "waiting" else (),
        error=None if finished is None else _error_text(finished.error),
        records=meta.index,
        size_bytes=meta.size_bytes,
        started_at=head.at,
        updated_at=getattr(last, "at", head.at),
        forked_from=None if head.forked_from is None else head.forked_from[0],
    )


def _error_text(error: ErrorInfo | None) -> str | None:
    return None if error is None else f"{error.kind}: {error.message}"[:_ERROR_CHARS_MAX]


def _unreadable(run_id: str, meta: RunMeta, error: AgentRaftError) -> RunSummary:
    return RunSummary(
        run_id=run_id,
        pipeline="",
        goal="",
        status=status_of(meta),
        steps=0,
        committed=None,
        error=f"{type(error).__name__}: {error}"[:_ERROR_CHARS_MAX],
        records=meta.index,
        size_bytes=meta.size_bytes,
    )


def _keep(kept: OrderedDict[str, Any], run_id: str, value: Any) -> None:
    kept[run_id] = value
    kept.move_to_end(run_id)
    if len(kept) > _KEPT_MAX:
        kept.popitem(last=False)
