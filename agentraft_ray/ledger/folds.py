"""The fold of one log as far as it was read, kept so that the next look reads only what was appended since."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import NamedTuple

from agentraft_ray.errors import LogRewound
from agentraft_ray.protocol.records import Certificate, Record, RolledBack, StepCommitted, decode_record
from agentraft_ray.protocol.state import RunState
from agentraft_ray.runtime.logs import RunLogs
from agentraft_ray.taxonomy import Cost

__all__ = ["Folds", "RunFold", "StandingCommit"]

_READ_RECORDS_MAX = 2_000
_COMMITS_MAX = 10_000  # steps of a run up to which the verdicts of all its commits are kept


class StandingCommit(NamedTuple):
    """What is known of a commit that stands."""

    certificate: Certificate
    cost: Cost
    at: float


class RunFold:
    """One run's state, and the verdicts of its present commits. For one reader at a time."""

    def __init__(self, logs: RunLogs, run_id: str) -> None:
        self.state = RunState(run_id)
        self.commits: dict[int, StandingCommit] = {}
        self.updated_at = 0.0
        self._logs = logs
        self._last = b""

    async def advance(self) -> AsyncIterator[tuple[RunState, Record]]:
        """Read on to the end of the log: each record with the state that it led to. Raises LogCorrupted, LogRewound, StoreError."""
        state = self.state
        while True:
            known = 1 if state.index else 0  # read again, to see that the log is still the same one
            batch = await self._logs.store.read(state.run_id, state.index - known, _READ_RECORDS_MAX)
            if known and (not batch or batch[0] != self._last):
                raise LogRewound(
                    f"run {state.run_id}: the log of {state.index} records that was read here is gone from the store or was replaced",
                    run_id=state.run_id,
                    acknowledged=state.index,
                )
            for stored in batch[known:]:
                yield state, self._take(stored)
            if len(batch) < _READ_RECORDS_MAX:
                return

    async def catch_up(self) -> RunState:
        """`advance` for who only wants to know where the log has come to."""
        async for _ in self.advance():
            pass
        return self.state

    def _take(self, stored: bytes) -> Record:
        state = self.state
        record = decode_record(self._logs.seal.open(state.run_id, state.index, stored))
        state.apply(record, stored)
        self._last = stored
        self.updated_at = getattr(record, "at", self.updated_at)
        if type(record) is StepCommitted and state.plan.size <= _COMMITS_MAX:
            self.commits[record.certificate.step] = StandingCommit(record.certificate, record.cost, record.at)
        elif type(record) is RolledBack:
            for step, _ in record.removed:
                self.commits.pop(step, None)
        return record


class Folds:
    """The folds of the runs that were looked at last, at most `runs_max`."""

    def __init__(self, logs: RunLogs, runs_max: int) -> None:
        self._logs = logs
        self._runs_max = runs_max
        self._kept: OrderedDict[str, RunFold] = OrderedDict()

    async def current(self, run_id: str) -> RunFold:
        """The fold of a run up to the end of its log; empty for a run without one. Raises LogCorrupted, StoreError."""
        fold = self._kept.pop(run_id, None)  # so that nobody else reads on with it meanwhile
        try:
            if fold is not None:
                await fold.catch_up()
        except LogRewound:
            fold = None
        if fold is None:
            fold = RunFold(self._logs, run_id)
            await fold.catch_up()
        if fold.state.index:
            self._kept[run_id] = fold
            if len(self._kept) > self._runs_max:
                self._kept.popitem(last=False)
        return fold
