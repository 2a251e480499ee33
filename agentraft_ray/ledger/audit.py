"""An audit of one log, from its bytes alone: is the chain whole, does every record follow from those before it, does every commit carry
a passing verdict about exactly its output, and are the outputs what their digests say. Needs no code of the pipeline and no cluster.

What it cannot see: whether a verifier was right, and a log that somebody who can write to the store has made up as a whole.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from agentraft_ray.checkpoint.seal import PlainSeal, Seal
from agentraft_ray.errors import AgentRaftError, InvalidConfig, LogCorrupted
from agentraft_ray.identity import digest
from agentraft_ray.ledger.following import refuse_absent
from agentraft_ray.protocol.records import (
    AttemptRejected,
    CommandTaken,
    OutputProposed,
    Payload,
    Record,
    RolledBack,
    RunAdmitted,
    StepCommitted,
    decode_record,
)
from agentraft_ray.protocol.state import RunState
from agentraft_ray.runtime.logs import RunLogs

__all__ = ["AuditReport", "audit", "audit_file", "export"]

_FORMAT = "agentraft-log.1"
_READ_RECORDS_MAX = 2_000
_PROBLEMS_MAX = 100

Blob = Callable[[Payload], Awaitable[bytes | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What an audit found. `head` = the hash over the whole log, hex; whoever wrote it down earlier can compare. `verdicts` counts
    passing verdicts of present and former commits by who gave them; `approvals` are those that persons gave.
    """

    run_id: str
    pipeline: str
    records: int
    head: str
    outcome: str
    owners: int
    commits: int
    rejections: int
    rollbacks: int
    approvals: int
    outputs_checked: int
    verdicts: dict[str, int]
    problems: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


async def audit(logs: RunLogs, run_id: str) -> AuditReport:
    """Audit a run of a store. Raises RunNotFound, RunExpired, StoreUnavailable; what is wrong with the log is in the report."""
    meta = await refuse_absent(logs, run_id)
    stored = await _read_all(logs, run_id)

    async def blob(payload: Payload) -> bytes | None:
        return await _blob(logs, run_id, payload)

    report = await _audited(run_id, stored, logs.seal, blob)
    moved = await logs.meta(run_id) != meta  # a run that goes on while it is audited is compared with nothing
    return report if moved else _compared(report, meta.index, meta.head.hex())


async def export(logs: RunLogs, run_id: str) -> str:
    """The run as text that `audit_file` can audit anywhere: its stored records, the head that the store holds, and its blobs.

    An encrypted log stays encrypted. Raises RunNotFound, RunExpired, LogCorrupted, StoreUnavailable.
    """
    meta = await refuse_absent(logs, run_id)
    stored = (await _read_all(logs, run_id))[: meta.index]
    lines = [json.dumps({"format": _FORMAT, "run_id": run_id, "records": meta.index, "head": meta.head.hex()})]
    lines += [json.dumps({"record": base64.b64encode(one).decode()}) for one in stored]
    for name in await _blob_names(logs, run_id, stored):
        data = await logs.store.blob(run_id, name)
        if data is not None:
            lines.append(json.dumps({"blob": name.hex(), "data": base64.b64encode(data).decode()}))
    return "\n".join(lines) + "\n"


async def audit_file(text: str, seal: Seal | None = None) -> AuditReport:
    """Audit what `export` wrote. Raises InvalidConfig for text that is no such file."""
    try:
        head, *rest = [json.loads(line) for line in text.splitlines()]
        is_ours = head["format"] == _FORMAT
        run_id, expected = str(head["run_id"]), (int(head["records"]), str(head["head"]))
        stored = [base64.b64decode(line["record"], validate=True) for line in rest if "record" in line]
        blobs = {bytes.fromhex(line["blob"]): base64.b64decode(line["data"], validate=True) for line in rest if "blob" in line}
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidConfig(f"this is no exported log ({error}); `agentraft audit RUN --export FILE` writes one") from None
    if not is_ours:
        raise InvalidConfig(f"this log was exported as {head['format']!r:.100}; this release reads {_FORMAT!r}")
    opened = seal or PlainSeal()

    async def blob(payload: Payload) -> bytes | None:
        for name in opened.blob_names(payload.digest):
            if name in blobs:
                return opened.open_blob(run_id, name, blobs[name])
        return None

    report = await _audited(run_id, stored, opened, blob)
    return _compared(report, *expected)


class _Findings:
    """What an audit has counted so far."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()
        self.problems: list[str] = []

    def note(self, record: Record) -> None:
        """Count one record."""
        self.counts[type(record).__name__] += 1
        if isinstance(record, StepCommitted):
            self.verdicts[record.certificate.verifier] += 1
        elif isinstance(record, CommandTaken) and record.applied and record.kind == "approve":
            self.counts["approvals"] += 1

    def problem(self, index: int, what: str) -> None:
        """Something is wrong with a record."""
        if len(self.problems) < _PROBLEMS_MAX:
            self.problems.append(f"record {index}: {what}")


async def _audited(run_id: str, stored: Sequence[bytes], seal: Seal, blob: Blob) -> AuditReport:
    state, found = RunState(run_id), _Findings()
    admitted: RunAdmitted | None = None
    for index, data in enumerate(stored):
        try:
            record = decode_record(seal.open(run_id, index, data))
            state.apply(record, data)  # refuses a commit whose certificate is not about exactly it
        except LogCorrupted as error:
            found.problem(index, str(error))
            break  # what follows cannot be judged without it
        if isinstance(record, RunAdmitted):
            admitted = record
        found.note(record)
        payload = getattr(record, "output", None)
        if isinstance(payload, Payload):
            await _check_output(found, index, record, payload, blob)
    if not stored:
        found.problem(0, "the log is empty")
    return AuditReport(
        run_id=run_id,
        pipeline="" if admitted is None else admitted.plan.name,
        records=state.index,
        head=state.head.hex(),
        outcome=state.finished.outcome if state.finished is not None else "",
        owners=found.counts["OwnerClaimed"],
        commits=found.counts[StepCommitted.__name__],
        rejections=found.counts[AttemptRejected.__name__],
        rollbacks=found.counts[RolledBack.__name__],
        approvals=found.counts["approvals"],
        outputs_checked=found.counts["outputs"],
        verdicts=dict(found.verdicts),
        problems=tuple(found.problems),
    )


async def _check_output(found: _Findings, index: int, record: Record, payload: Payload, blob: Blob) -> None:
    """An output's bytes are there and are what its digest says; those of blobs nobody else looks at."""
    try:
        data = payload.data if payload.data is not None else await blob(payload)
    except AgentRaftError as error:
        found.problem(index, f"its blob cannot be opened: {error}")
        return
    if data is None:
        found.problem(index, f"its output of {payload.size:,} bytes is missing")
    elif digest(data) != payload.digest or len(data) != payload.size:
        found.problem(index, "its output is not the one that its verdict is about")
    elif isinstance(record, StepCommitted | OutputProposed):
        found.counts["outputs"] += 1


def _compared(report: AuditReport, records: int, head: str) -> AuditReport:
    """With what the store holds beside the log, or an export says, compared with what was read."""
    if report.problems or (report.records, report.head) == (records, head):
        return report
    problem = f"the chain over {report.records} records ends in {report.head[:16]}..., but {records} records and {head[:16]}... are on file"
    return replace(report, problems=(*report.problems, problem))


async def _read_all(logs: RunLogs, run_id: str) -> list[bytes]:
    stored: list[bytes] = []
    while True:
        batch = await logs.store.read(run_id, len(stored), _READ_RECORDS_MAX)
        stored += batch
        if len(batch) < _READ_RECORDS_MAX:
            return stored


async def _blob(logs: RunLogs, run_id: str, payload: Payload) -> bytes | None:
    for name in logs.seal.blob_names(payload.digest):
        data = await logs.store.blob(run_id, name)
        if data is not None:
            return logs.seal.open_blob(run_id, name, data)
    return None


async def _blob_names(logs: RunLogs, run_id: str, stored: Iterable[bytes]) -> list[bytes]:
    names: dict[bytes, None] = {}
    for index, data in enumerate(stored):
        payload = getattr(decode_record(logs.seal.open(run_id, index, data)), "output", None)
        if isinstance(payload, Payload) and payload.data is None:
            names.update(dict.fromkeys(logs.seal.blob_names(payload.digest)))
    return list(names)
