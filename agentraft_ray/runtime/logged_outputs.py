"""Committed outputs for a process that owns no runs: read back from their logs, by whoever looks and for as long as it takes.

Every look that finds nothing at hand BLOCKS its caller while the log is read. A log is read once: its fold is kept for a while,
and the next look reads what was appended since.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from agentraft_ray.checkpoint.base import RunStore
from agentraft_ray.checkpoint.codec import decode_output
from agentraft_ray.checkpoint.seal import Seal
from agentraft_ray.errors import LogCorrupted
from agentraft_ray.identity import chain
from agentraft_ray.protocol.plan import Plan
from agentraft_ray.protocol.records import Payload, RunAdmitted, StepCommitted, TaskRecord, decode_record
from agentraft_ray.protocol.state import RunState
from agentraft_ray.runtime.outputs import RunOutputs

__all__ = ["LoggedOutputs", "LoggedRuns"]

_READ_RECORDS_MAX = 500  # records in one reply of the server: at most 32 MiB of outputs that are not blobs
_STATE_BYTES = 41  # of a folded state, for every step of the plan


class _LoggedRun:
    """The fold of one log as far as it was read. Only whoever holds `lock` may read on."""

    __slots__ = ("before", "lock", "outputs", "used_at")

    def __init__(self, outputs: RunOutputs, now: float) -> None:
        self.outputs = outputs
        self.before = b""  # head hash before the last record
        self.lock = threading.Lock()
        self.used_at = now

    @property
    def size_bytes(self) -> int:
        state = self.outputs.state
        return self.outputs.kept_bytes + (_STATE_BYTES * state.plan.size + len(state.task.inputs) if state.index else 0)


class LoggedRuns:
    """The folds of the logs that somebody looked into: the last `runs_max` of them, within `bytes_max`, none unused for `age_s_max`.

    Safe from any thread. The store is opened at the first look. `outputs_bytes_max` = what is kept of the outputs of one run.
    """

    def __init__(
        self,
        open_store: Callable[[], RunStore],
        seal: Seal,
        *,
        runs_max: int = 64,
        bytes_max: int = 64 * 1024 * 1024,
        outputs_bytes_max: int = 1024 * 1024,
        age_s_max: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_store = open_store
        self._store: RunStore | None = None
        self.seal = seal
        self._runs_max = runs_max
        self._bytes_max = bytes_max
        self._outputs_bytes_max = outputs_bytes_max
        self._age_s_max = age_s_max
        self._clock = clock
        self._runs: OrderedDict[str, _LoggedRun] = OrderedDict()  # the one used last at the end
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def store(self) -> RunStore:
        """The store that the logs are in."""
        with self._lock:
            if self._store is None:
                self._store = self._open_store()
            return self._store

    def current(self, run_id: str, types: Sequence[Any]) -> RunOutputs:
        """The outputs of a run as its log has them now. Raises LogCorrupted, StoreUnavailable."""
        for _ in range(2):
            run = self._found(run_id, types)
            with run.lock:
                is_new = not run.outputs.state.index
                try:
                    if is_new or self._goes_on(run):
                        self._read_on(run)
                        self._make_room()
                        return run.outputs
                    self._forget(run)
                except LogCorrupted:
                    self._forget(run)
                    if is_new:
                        raise
            # Read from the begin it may well make sense: a failover can replace the end of a log.
        raise _missing(run_id)

    def task(self, run_id: str) -> TaskRecord:
        """The task of a run. Raises LogCorrupted, StoreUnavailable."""
        with self._lock:
            run = self._runs.get(run_id)
        if run is not None and run.outputs.state.index:
            return run.outputs.state.task
        stored = self.store.read_blocking(run_id, 0)
        record = None if stored is None else decode_record(self.seal.open(run_id, 0, stored))
        if not isinstance(record, RunAdmitted):
            raise _missing(run_id)
        return record.task

    def _found(self, run_id: str, types: Sequence[Any]) -> _LoggedRun:
        now, store = self._clock(), self.store
        with self._lock:
            run = self._runs.get(run_id)
            if run is None:
                run = _LoggedRun(RunOutputs(RunState(run_id), types, store, self.seal, self._outputs_bytes_max), now)
                self._runs[run_id] = run
            run.used_at = now
            self._runs.move_to_end(run_id)
            return run

    def _forget(self, run: _LoggedRun) -> None:
        with self._lock:
            if self._runs.get(run.outputs.state.run_id) is run:
                del self._runs[run.outputs.state.run_id]

    def _make_room(self) -> None:
        """Let go of what is too old or too much; the run used last always stays."""
        before = self._clock() - self._age_s_max
        with self._lock:
            size = sum(run.size_bytes for run in self._runs.values())
            while len(self._runs) > 1:
                oldest = next(iter(self._runs.values()))
                if len(self._runs) <= self._runs_max and size <= self._bytes_max and oldest.used_at >= before:
                    return
                size -= oldest.size_bytes
                self._runs.popitem(last=False)

    def _goes_on(self, run: _LoggedRun) -> bool:
        """Whether the log still has, at its place, the last record that was read; False for a run that was not read yet."""
        state = run.outputs.state
        if not state.index:
            return False
        last = self.store.read_blocking(state.run_id, state.index - 1)
        return last is not None and chain(run.before, last) == state.head

    def _read_on(self, run: _LoggedRun) -> None:
        state = run.outputs.state
        while True:
            batch = self.store.read_many_blocking(state.run_id, state.index, _READ_RECORDS_MAX)
            for stored in batch:
                position, before = state.index, state.head
                record = decode_record(self.seal.open(state.run_id, position, stored))
                state.apply(record, stored)
                run.before = before
                if type(record) is StepCommitted and record.output.data is not None:
                    run.outputs.keep(record.certificate.step, position, record.output.data)
            if len(batch) < _READ_RECORDS_MAX:
                break
        if not state.index:
            raise _missing(state.run_id)


class LoggedOutputs:
    """The committed outputs of one run, for one step or verdict. The log is read up to its end once, at the first look."""

    __slots__ = ("_current", "_run_id", "_runs", "_types", "plan")

    def __init__(self, run_id: str, plan: Plan, types: Sequence[Any], runs: LoggedRuns) -> None:
        """`types` as for `RunOutputs`."""
        self.plan = plan
        self._run_id = run_id
        self._types = types
        self._runs = runs
        self._current: RunOutputs | None = None

    def value(self, step: int) -> Any:
        """The committed output of a step, decoded; an isolated copy."""
        return self.decode(step, self.data(step))

    def decode(self, step: int, data: bytes) -> Any:
        """An output of a step as everyone sees it, through the type that the step function declares."""
        return decode_output(data, self._types[step % len(self._types)])

    def data(self, step: int) -> bytes:
        """The encoded bytes of a committed output. Raises LogCorrupted, StoreUnavailable."""
        return self._read().data(step)

    def task(self) -> TaskRecord:
        """The task of the run."""
        return self._runs.task(self._run_id)

    def judged_data(self, payload: Payload, position: int) -> tuple[bytes, str]:
        """The bytes of a payload as they lie in the store; with `position` those of the commit there, and who has passed it."""
        outputs = RunOutputs(RunState(self._run_id), self._types, self._runs.store, self._runs.seal, 0)  # no log is needed for that
        if position < 0:
            return outputs.payload_data(payload, position), ""
        record = outputs.record_at(position)
        return outputs.payload_data(record.output, position), record.certificate.verifier

    def _read(self) -> RunOutputs:
        if self._current is None:
            self._current = self._runs.current(self._run_id, self._types)
        return self._current


def _missing(run_id: str) -> LogCorrupted:
    return LogCorrupted(f"run {run_id}: its log is not in the store any more; restore the store", run_id=run_id, index=0)
