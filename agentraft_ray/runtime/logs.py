"""From stored bytes to run states and back: admitting, claiming, reading and forking runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from agentraft_ray.checkpoint.base import Answer, AnswerKind, AppendEntry, Checkpoint, RunMeta, RunStore
from agentraft_ray.checkpoint.codec import decode_output, encode_output
from agentraft_ray.checkpoint.seal import PlainSeal, Seal
from agentraft_ray.config import Limits
from agentraft_ray.errors import (
    FingerprintMismatch,
    ForeignKey,
    InvalidConfig,
    LogCorrupted,
    OutputNotEncodable,
    PayloadTooLarge,
    RunExpired,
    RunIdConflict,
    RunNotFound,
)
from agentraft_ray.events import verdict_of
from agentraft_ray.identity import NO_OWNER, OwnerToken, chain, digest_of_parts
from agentraft_ray.pipeline import Task
from agentraft_ray.protocol.messages import Ready
from agentraft_ray.protocol.plan import Plan, plan_of
from agentraft_ray.protocol.records import (
    OwnerClaimed,
    Record,
    RunAdmitted,
    RunFinished,
    StepCommitted,
    TaskRecord,
    decode_record,
    encode_record,
)
from agentraft_ray.protocol.state import RunState, fold
from agentraft_ray.runtime.boundary import plain_text
from agentraft_ray.telemetry.context import current_trace
from agentraft_ray.telemetry.tracing import tracing

__all__ = ["RunLogs", "admission_digest", "append_entry", "checkpoints_of_log", "task_record"]

_READ_RECORDS_MAX = 5_000
_COPY_RECORDS_MAX = 500
_COPY_BYTES_MAX = 1024 * 1024


def admission_digest(task: TaskRecord, plan: Plan) -> bytes:
    """What must be equal for a second submission under one run id to mean the first: the task and the pipeline's fingerprint."""
    return digest_of_parts(task.goal.encode(), task.inputs, plan.fingerprint)


def task_record(task: Task, limits: Limits) -> TaskRecord:
    """The task as its log holds it. Raises InvalidConfig, OutputNotEncodable or PayloadTooLarge for what cannot stand in a log."""
    if not isinstance(task.goal, str) or not isinstance(task.id, str):
        raise InvalidConfig(f"a task's goal and id are text, not {task.goal!r:.100} and {task.id!r:.100}")
    for field, text in (("goal", task.goal), ("id", task.id)):
        if plain_text(text) != text:
            raise OutputNotEncodable(f"task {task.id!r}: its {field} holds a lone surrogate, which is no text", field=field)
    try:
        inputs = encode_output(task.inputs)
    except OutputNotEncodable as error:
        field = error.field.replace("output", "inputs", 1)
        raise OutputNotEncodable(f"task {task.id!r}: {str(error).replace(error.field, field, 1)}", field=field) from None
    if len(inputs) > limits.payload_bytes_max:
        raise PayloadTooLarge(
            f"task {task.id!r}: its inputs are {len(inputs):,} bytes, over {limits.payload_bytes_max:,}; pass a reference to them",
            step="",
            size_bytes=len(inputs),
            limit_bytes=limits.payload_bytes_max,
        )
    return TaskRecord(plain_text(task.goal), inputs, plain_text(task.id))


def append_entry(run_id: str, ready: Ready, seal: Seal) -> AppendEntry:
    """The append that a machine asks for."""
    blobs: tuple[tuple[bytes, bytes], ...] = ()
    if ready.blobs:
        named = [(seal.blob_name(digest), data) for digest, data in ready.blobs]
        blobs = tuple((name, seal.seal_blob(run_id, name, data)) for name, data in named)
    return AppendEntry(
        run_id,
        ready.token,
        ready.new_head,
        ready.index,
        ready.head,
        ready.records,
        ready.new_head,
        None,
        blobs,
        tuple([seal.blob_name(digest) for digest in ready.needs]) if ready.needs else (),
        ready.taken,
        ready.status,  # type: ignore[arg-type]
        ready.outcome,
    )


class RunLogs:
    """The logs of a store, opened with a seal."""

    def __init__(self, store: RunStore, seal: Seal) -> None:
        self.store = store
        self.seal = seal

    async def admit(self, run_id: str, task: TaskRecord, plan: Plan) -> tuple[bool, RunMeta, RunState]:
        """Make the run exist; durable on return. (created here, the run as it stands, the state that admission leads to).

        Raises RunIdConflict when the id stands for another task or pipeline, RunExpired when only a tombstone is left.
        """
        spans = tracing()
        span = spans.admission(plan, run_id, current_trace()) if spans is not None else None
        wanted, stored, state = self.admission(run_id, task, plan, span.context if span is not None else "")
        created, meta = await self.store.admit(run_id, wanted, stored, state.head)
        if span is not None and created:
            span.end()
        self.check_admitted(run_id, wanted, meta)
        return created, meta, state

    def admission(self, run_id: str, task: TaskRecord, plan: Plan, trace: str = "") -> tuple[bytes, bytes, RunState]:
        """What admits a run: its digest, its first record as it is stored, and the state that it leads to."""
        record = RunAdmitted(run_id, task, plan.spec, plan.fingerprint, time.time(), trace=trace)
        stored = self.seal.seal(run_id, 0, encode_record(record))
        state = RunState(run_id)
        state.apply(record, stored)
        return admission_digest(task, plan), stored, state

    def check_admitted(self, run_id: str, wanted: bytes, meta: RunMeta) -> None:
        """Raise RunIdConflict or RunExpired where the run that stands in the store is not the one that was to be admitted."""
        if meta.admission != wanted:
            raise RunIdConflict(
                f"run {run_id!r} was admitted before with another task or pipeline; use another run id, or resume that run",
                run_id=run_id,
            )
        if meta.expired:
            raise RunExpired(
                f"run {run_id!r} has {meta.outcome} and its log has expired; use a new run id to run it again",
                run_id=run_id,
                outcome=meta.outcome,
            )

    async def claim(self, run_id: str, owner: str, meta: RunMeta, remembered: int, admitted: RunState | None, trace: str = "") -> Answer:
        """Take the run over as it stands in `meta`. Only after the claim stands may the log be read.

        `remembered` = the highest epoch that this process knows of. A state that equals the log before the claim (a run that was
        admitted just now) may be given as `admitted`; it then takes the claim in and need not be read.
        """
        entry, record = self.claim_entry(run_id, owner, meta, remembered, trace)
        answer = await self.store.append(entry)
        if answer.kind is AnswerKind.APPENDED and admitted is not None:
            admitted.apply(record, entry.records[0])
        return answer

    def claim_entry(self, run_id: str, owner: str, meta: RunMeta, remembered: int, trace: str = "") -> tuple[AppendEntry, OwnerClaimed]:
        """The append that takes a run over as it stands in `meta`, and the record in it."""
        token = OwnerToken(max(meta.token.epoch, remembered) + 1, owner)
        record = OwnerClaimed(token.epoch, token.owner, time.time(), trace)
        stored = self.seal.seal(run_id, meta.index, encode_record(record))
        head = chain(meta.head, stored)
        return AppendEntry(run_id, token, head, meta.index, meta.head, (stored,), head, claim=meta.token), record

    async def meta(self, run_id: str) -> RunMeta:
        """The run as it stands. Raises RunNotFound."""
        meta = await self.store.meta(run_id)
        if meta is None:
            raise RunNotFound(f"no run {run_id!r} in this store; `submit` or `run` creates one", run_id=run_id)
        return meta

    async def admitted(self, run_id: str) -> RunAdmitted:
        """The record that a run was admitted with. Raises RunNotFound, LogCorrupted."""
        stored = await self.store.read(run_id, 0, 1)
        record = decode_record(self.seal.open(run_id, 0, stored[0])) if stored else None
        if not isinstance(record, RunAdmitted):
            raise RunNotFound(f"no log of run {run_id!r} in this store", run_id=run_id)
        return record

    async def admitted_plan(self, run_id: str) -> Plan:
        """The plan that a run was admitted with. Raises RunNotFound, LogCorrupted."""
        return plan_of((await self.admitted(run_id)).plan)

    async def records(self, run_id: str) -> list[tuple[Record, bytes]]:
        """All records of a run with their stored bytes. Raises LogCorrupted for what cannot be opened."""
        found: list[tuple[Record, bytes]] = []
        while True:
            batch = await self.store.read(run_id, len(found), _READ_RECORDS_MAX)
            for stored in batch:
                found.append((decode_record(self.seal.open(run_id, len(found), stored)), stored))
            if len(batch) < _READ_RECORDS_MAX:
                return found

    async def replay(self, run_id: str) -> AsyncIterator[tuple[RunState, Record]]:
        """The log of a run from its begin, checked on the way: every record, with the state that it led to.

        Raises RunNotFound, RunExpired, LogCorrupted.
        """
        state = RunState(run_id)
        while True:
            batch = await self.store.read(run_id, state.index, _READ_RECORDS_MAX)
            for stored in batch:
                record = decode_record(self.seal.open(run_id, state.index, stored))
                state.apply(record, stored)
                yield state, record
            if len(batch) < _READ_RECORDS_MAX:
                break
        meta = await self.meta(run_id)
        if meta.expired:
            raise RunExpired(f"run {run_id!r} has expired; only its outcome is left: {meta.outcome}", run_id=run_id)
        if not state.index or (meta.index == state.index and meta.head != state.head):
            raise LogCorrupted(
                f"run {run_id}: the hash chain over its {state.index} records does not end in the head that the store holds",
                run_id=run_id,
                index=state.index,
            )

    async def fold(self, run_id: str, note: Callable[[RunState, Record], None] | None = None) -> RunState:
        """The state of a run; `note` sees every record and the state that it led to. Raises as `replay` does."""
        state = RunState(run_id)
        async for state, record in self.replay(run_id):
            if note is not None:
                note(state, record)
        return state

    async def fork(self, run_id: str, step: str, new_id: str, plan: Plan, owner: str) -> RunState:
        """A new run that shares the log of `run_id` up to before `step` first ran on its present inputs, owned by `owner`."""
        records = await self.records(run_id)
        if not records:
            raise RunNotFound(f"no run {run_id!r} to fork", run_id=run_id)
        origin = await self.fold(run_id)
        index = plan.index_of(step)
        if index is None:
            raise FingerprintMismatch(f"pipeline {plan.spec.name!r} has no step {step!r} to fork at", run_id=run_id, changed=step)
        cut = _cut(origin, records, index)
        _refuse_unlike(fold(run_id, records[:cut]), plan)
        spans = tracing()
        span = spans.admission(plan, new_id, current_trace(), forked_from=origin.trace) if spans is not None else None
        trace = span.context if span is not None else ""
        admitted = RunAdmitted(new_id, origin.task, plan.spec, plan.fingerprint, time.time(), (run_id, cut), trace)
        state = RunState(new_id)
        first = self.seal.seal(new_id, 0, encode_record(admitted))
        state.apply(admitted, first)
        created, _ = await self.store.admit(new_id, admission_digest(origin.task, plan), first, state.head)
        if not created:
            raise RunIdConflict(f"run {new_id!r} exists; give the fork an id of its own", run_id=new_id)
        if span is not None:
            span.end()
        await self._copy_prefix(origin, records[1:cut], state, owner)
        return state

    async def _copy_prefix(self, origin: RunState, prefix: list[tuple[Record, bytes]], state: RunState, owner: str) -> None:
        token = OwnerToken(max(origin.token.epoch, 0) + 1, owner)
        claimed = OwnerClaimed(token.epoch, token.owner, time.time())
        expected: OwnerToken | None = NO_OWNER
        todo: deque[Record] = deque([*(record for record, _ in prefix), claimed])
        while todo:
            index, head, size = state.index, state.head, 0
            stored: list[bytes] = []
            blobs: list[tuple[bytes, bytes]] = []
            while todo and len(stored) < _COPY_RECORDS_MAX and size < _COPY_BYTES_MAX:
                record = todo.popleft()
                data = self.seal.seal(state.run_id, state.index, encode_record(record))
                state.apply(record, data)
                stored.append(data)
                blobs += (copied := await self._copied_blob(origin.run_id, state.run_id, record))
                size += len(data) + sum(len(blob) for _, blob in copied)
            answer = await self.store.append(
                AppendEntry(state.run_id, token, state.head, index, head, tuple(stored), state.head, claim=expected, blobs=tuple(blobs))
            )
            if answer.kind is not AnswerKind.APPENDED:
                raise RunIdConflict(f"run {state.run_id!r} was taken by another owner while it was forked", run_id=state.run_id)
            expected = None

    async def _copied_blob(self, source: str, target: str, record: Record) -> list[tuple[bytes, bytes]]:
        payload = getattr(record, "output", None)
        digest = getattr(payload, "digest", None)
        if payload is None or digest is None or payload.data is not None:
            return []
        for name in self.seal.blob_names(digest):
            blob = await self.store.blob(source, name)
            if blob is not None:
                data = self.seal.open_blob(source, name, blob)
                new_name = self.seal.blob_name(digest)
                return [(new_name, self.seal.seal_blob(target, new_name, data))]
        raise LogCorrupted(f"run {source}: a blob of its log is missing; it cannot be forked here", run_id=source, index=-1)

    def refuse_foreign(self, run_id: str) -> ForeignKey:
        return ForeignKey(f"a key of run {run_id!r} holds a value of another program; use another run id or store prefix", key=run_id)


def _cut(state: RunState, records: list[tuple[Record, bytes]], step: int) -> int:
    """How many records a fork at `step` keeps: all before the first one about it that follows its parents' present commits."""
    parents = [state.position(parent) for parent in state.plan.parents(step) if state.is_committed(parent)]
    start = max(parents, default=0) + 1
    for position in range(start, len(records)):
        record = records[position][0]
        certificate = getattr(record, "certificate", None)
        about = certificate.step if certificate is not None else getattr(record, "step", None)
        if about == step or isinstance(record, RunFinished):
            return position
    return len(records)


def _refuse_unlike(kept: RunState, plan: Plan) -> None:
    """Raise FingerprintMismatch where a fork would keep what `plan` names, feeds, wants or judges otherwise."""
    for step in range(kept.plan.size):
        if not kept.is_committed(step) and step not in kept.histories:
            continue
        if step >= plan.size or _nature(plan, step) != _nature(kept.plan, step):
            name = kept.plan.name(step)
            raise FingerprintMismatch(
                f"run {kept.run_id!r} cannot be forked there: step {name!r}, which the fork would keep, differs in this pipeline; "
                f"fork at {name!r} or before it",
                run_id=kept.run_id,
                changed=name,
            )


def _nature(plan: Plan, step: int) -> tuple[Any, ...]:
    return plan.name(step), plan.parents(step), plan.goal(step), plan.judged_by(step), plan.step(step).version


def changed_between(stored: Plan, wanted: Plan) -> str:
    """What makes two plans differ, in words, for the error of a resume with a changed pipeline."""
    old = {step.name: step for step in stored.spec.block}
    new = {step.name: step for step in wanted.spec.block}
    changes = [f"step {name!r} is gone" for name in old if name not in new]
    changes += [f"step {name!r} is new" for name in new if name not in old]
    changes += [f"step {name!r} differs" for name in old if name in new and old[name] != new[name]]
    if stored.spec.policies != wanted.spec.policies:
        changes.append("the run's policies differ (verifier, retries, budget or rollback)")
    if not changes:
        changes.append("the order, name or length of the pipeline differs")
    return ", ".join(changes)


async def checkpoints_of_log(store: RunStore, run_id: str, seal: Seal | None = None) -> list[Checkpoint]:
    """The seed's view of a log: one checkpoint for every step that is committed now, in the order of the pipeline."""
    logs = RunLogs(store, seal or PlainSeal())
    meta = await store.meta(run_id)
    if meta is None or meta.expired:
        return []
    records = await logs.records(run_id)
    state = RunState(run_id)
    for record, stored in records:
        state.apply(record, stored)
    found = []
    for step in range(state.plan.size):
        if state.is_committed(step):
            record = records[state.position(step)][0]
            assert isinstance(record, StepCommitted)
            data = record.output.data
            if data is None:
                name = logs.seal.blob_name(record.output.digest)
                data = logs.seal.open_blob(run_id, name, await store.blob(run_id, name) or b"")
            verdict = verdict_of(record.certificate).to_dict()
            name_ = state.plan.name(step)
            found.append(Checkpoint(run_id, step, name_, decode_output(data), record.certificate.attempt, verdict, record.at))
    return found
