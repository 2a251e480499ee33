"""The records of a run's log: what they hold and how they become bytes. The log is the truth; state is its fold (`state.py`).

Every record type carries its version in its tag (``committed.1``). Fields may be added at the end with a default; anything else
is a new tag, and golden logs of every tag are kept in the tests. Times (`at`) are seconds since the epoch, for people and budgets;
the protocol orders by position alone.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from agentraft_ray.errors import LogCorrupted
from agentraft_ray.protocol.plan import PlanSpec
from agentraft_ray.taxonomy import Cost

__all__ = [
    "AttemptFailed",
    "AttemptRejected",
    "AttemptStarted",
    "Certificate",
    "CommandTaken",
    "CostBooked",
    "ErrorInfo",
    "OutputProposed",
    "OwnerClaimed",
    "Payload",
    "Record",
    "RolledBack",
    "RunAdmitted",
    "RunFinished",
    "RunParked",
    "RunResumed",
    "StepCommitted",
    "SuspectCleared",
    "TaskRecord",
    "decode_record",
    "encode_record",
]


class _Value(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A part of a record."""


class Payload(_Value, frozen=True):
    """An output: digest and size of its encoded bytes, and the bytes themselves unless they are a blob."""

    digest: bytes
    size: int
    data: bytes | None


class Certificate(_Value, frozen=True):
    """A verdict, bound to exactly what it is about.

    `inputs` is the digest of the task and the parents' outputs, `parents` the log positions of the parents' commits, `goal` and
    `policy` the digests from the plan. `verifier`, `prompt` and `calibration` say who judged, and by which versions. `cached`: the
    verdict was given before about exactly the same. `cost` is the verdict's own (None: nothing); the record's includes it.
    """

    run: str
    step: int
    lineage: int
    attempt: int
    inputs: bytes
    parents: tuple[int, ...]
    output: bytes
    goal: bytes
    policy: bytes
    verifier: str
    prompt: str
    calibration: str
    kind: str
    error_type: str
    confidence: float
    cached: bool = False
    cost: Cost | None = None

    @property
    def passed(self) -> bool:
        return self.kind == "pass"


class TaskRecord(_Value, frozen=True):
    """The task: its goal, its inputs as encoded plain data, its id."""

    goal: str
    inputs: bytes
    id: str


class ErrorInfo(_Value, frozen=True):
    """Why a run failed: the name of an error class, its message and its typed fields (plain data)."""

    kind: str
    message: str
    fields: dict[str, str | int | float | bool | None] = {}


class _Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The base of all records."""


class RunAdmitted(_Record, frozen=True, tag="admitted.1"):
    """The first record. `forked_from` = (run, number of records copied) of a fork. `trace` = the context that all spans of the run
    belong to, "" where nobody traced its admission; telemetry alone reads it."""

    run: str
    task: TaskRecord
    plan: PlanSpec
    fingerprint: bytes
    at: float
    forked_from: tuple[str, int] | None = None
    trace: str = ""


class OwnerClaimed(_Record, frozen=True, tag="claimed.1"):
    """A coordinator took the run over; from here on only its token may append. `trace` = the span of this life, as in `RunAdmitted`."""

    epoch: int
    owner: str
    at: float
    trace: str = ""


class AttemptStarted(_Record, frozen=True, tag="started.1"):
    """Under a budget only: an attempt (or one sample of it) is about to be dispatched, `reserved` is set aside for it."""

    step: int
    lineage: int
    attempt: int
    sample: int
    reserved: Cost


class OutputProposed(_Record, frozen=True, tag="proposed.1"):
    """An output that waits: for a verdict that no verifier can give now, or (with a certificate) for a person's approval."""

    step: int
    lineage: int
    attempt: int
    inputs: bytes
    output: Payload
    certificate: Certificate | None
    cost: Cost
    at: float


class StepCommitted(_Record, frozen=True, tag="committed.1"):
    """The step's output stands. The certificate passes and covers exactly this output, or a person approved exactly it."""

    certificate: Certificate
    output: Payload
    cost: Cost
    at: float


class AttemptRejected(_Record, frozen=True, tag="rejected.1"):
    """The output was judged bad and thrown away. `blame` is the position of a suspected earlier step, -1 for none."""

    certificate: Certificate
    hint: str
    reasoning: str
    evidence: tuple[str, ...]
    blame: int
    cost: Cost
    at: float


class AttemptFailed(_Record, frozen=True, tag="failed.1"):
    """The attempt ended without an output: `cause` is a `FailureCause`; `final` = another attempt would fail alike."""

    step: int
    lineage: int
    attempt: int
    cause: str
    message: str
    final: bool
    cost: Cost
    at: float


class RolledBack(_Record, frozen=True, tag="rolledback.1"):
    """A suspect fell: it and all its dependents, each as (step, log position of its commit), are no longer committed."""

    suspect: int
    accuser: int
    removed: tuple[tuple[int, int], ...]
    certificate: Certificate
    hint: str
    cost: Cost
    at: float


class SuspectCleared(_Record, frozen=True, tag="cleared.1"):
    """A suspect was judged again and stands; this accusation is settled."""

    suspect: int
    position: int
    accuser: int
    certificate: Certificate
    cost: Cost
    at: float


class CommandTaken(_Record, frozen=True, tag="command.1"):
    """A command from outside left the inbox. `applied` = it had an effect."""

    id: str
    kind: str
    step: int
    lineage: int
    output: bytes
    by: str
    note: str
    applied: bool
    at: float


class RunParked(_Record, frozen=True, tag="parked.1"):
    """Nothing goes on before an outside condition changes. `reasons` are ``kind:detail`` texts."""

    reasons: tuple[str, ...]
    at: float


class RunResumed(_Record, frozen=True, tag="resumed.1"):
    """The owner of a parked run goes on with it. Others may take over what is parked, so this must stand before anything starts."""

    at: float


class CostBooked(_Record, frozen=True, tag="booked.1"):
    """What was used outside of any other record: late replies, attempts that were closed under way, verifiers that failed."""

    cost: Cost
    at: float


class RunFinished(_Record, frozen=True, tag="finished.1"):
    """The last record. `outcome` is succeeded, failed or cancelled; `late` is the cost of replies that came after their time."""

    outcome: str
    error: ErrorInfo | None
    late: Cost
    at: float


Record = (
    RunAdmitted
    | OwnerClaimed
    | AttemptStarted
    | OutputProposed
    | StepCommitted
    | AttemptRejected
    | AttemptFailed
    | RolledBack
    | SuspectCleared
    | CommandTaken
    | RunParked
    | RunResumed
    | CostBooked
    | RunFinished
)

_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


encode_record: Callable[[Record], bytes] = msgspec.msgpack.Encoder().encode
"""The stored bytes of a record."""


def decode_record(data: bytes) -> Record:
    """The record in `data`. Raises LogCorrupted for anything that no version of ours has written."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise LogCorrupted(f"a record of {len(data)} bytes is not one of ours ({error}); the log was damaged or is newer") from error
