"""The store port: run logs that only their owner can extend, and the checkpoint calls that users of the seed know.

A log is a list of opaque records under a hash chain. What is in a record is the protocol's business; the store guards who may
append, where, and that it happens once. Every call that changes a log is atomic: all of it or nothing.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from agentraft_ray.errors import OwnershipLost, PayloadTooLarge, StoreError
from agentraft_ray.identity import OwnerToken

__all__ = [
    "Admission",
    "Answer",
    "AnswerKind",
    "AppendEntry",
    "Checkpoint",
    "CheckpointStore",
    "Command",
    "NewRun",
    "RunMeta",
    "RunPart",
    "RunPlace",
    "RunStatus",
    "RunStore",
    "check_document",
    "revoked",
]

T = TypeVar("T")
RunStatus = Literal["open", "parked", "finished"]
RunPart = Literal["unfinished", "finished"]


class RunMeta(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A run as the store sees it. `index` = number of records; `head` = hash chain over them; `admission` = digest of task and
    fingerprint; `outcome` is "" until the run finished; `expired` = only the tombstone is left (index 0); `size_bytes` counts
    records and blobs."""

    token: OwnerToken
    index: int
    head: bytes
    status: RunStatus
    admission: bytes
    outcome: str = ""
    expired: bool = False
    size_bytes: int = 0


class Admission(NamedTuple):
    """The answer to `admit`: whether this call created the run, and the run as it stands now."""

    created: bool
    meta: RunMeta


class NewRun(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One admission: the run, the digest of its task and fingerprint, its first record, the head hash after it, and its blobs.

    With a random `nonce` it can be sent again after an unknown outcome: the run that it made the first time is `created` then too.
    """

    run_id: str
    admission: bytes
    record: bytes
    head: bytes
    blobs: tuple[tuple[bytes, bytes], ...] = ()
    nonce: bytes = b""


class AppendEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One append to one run. A retry after an unknown outcome sends the very same entry again.

    `append_id` names this append among those of `token`; `index` and `head` are what the log must be before it, `new_head` what
    it is after it. `claim` is the token that the log must still be owned by when this append takes the run over (`token` becomes
    the owner); None = `token` must own the run already. `blobs` are written with the records; `needs_blobs` must be there.
    `taken` are ids of commands that leave the inbox with this append. `status` is the run's status after it.
    """

    run_id: str
    token: OwnerToken
    append_id: bytes
    index: int
    head: bytes
    records: tuple[bytes, ...]
    new_head: bytes
    claim: OwnerToken | None = None
    blobs: tuple[tuple[bytes, bytes], ...] = ()
    needs_blobs: tuple[bytes, ...] = ()
    taken: tuple[str, ...] = ()
    status: RunStatus = "open"
    outcome: str = ""


class AnswerKind(str, Enum):
    """APPENDED: it stands in the log (also when a retry finds that it already did). Everything else: nothing was written.

    FENCED: another token owns the run. MOVED: the token is right but index or head are not (a log that was rewound looks so).
    FINISHED: the run has ended. LEASED: a claim was refused because the owner's lease lives
    and it has not put the run aside (parked). MISSING: no such run.
    FOREIGN: a key of the run has a type that is not ours. NO_BLOB: a needed blob is not there.
    """

    APPENDED = "appended"
    FENCED = "fenced"
    MOVED = "moved"
    FINISHED = "finished"
    LEASED = "leased"
    MISSING = "missing"
    FOREIGN = "foreign"
    NO_BLOB = "no_blob"


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The store's answer to one append, with the log as it stands after it."""

    kind: AnswerKind
    token: OwnerToken
    index: int
    head: bytes


class Command(NamedTuple):
    """A command from outside that waits in a run's inbox: its id (unique per run) and its encoded content."""

    id: str
    body: bytes


class RunPlace(NamedTuple):
    """Where a run stands in its part of the index of runs. `number` grows with the time at which runs came there."""

    number: int
    run_id: str


@dataclass
class Checkpoint:
    """A verified output, as users of the seed see it. `created_at` is in seconds since the epoch."""

    task_id: str
    step_index: int
    step_name: str
    output: Any
    attempt: int
    verification: dict[str, Any] = field(default_factory=dict)
    created_at: float = field(default_factory=time.time)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Checkpoint:
        """The inverse of `to_dict`; unknown keys are ignored."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})


class CheckpointStore(ABC):
    """The seed's checkpoint calls. For a user's own subclass they are a mirror of the log, never the truth.

    In our stores `latest`, `at`, `history` and `outputs` read the run's log where there is one; `save`, `rollback_to` and `clear`
    called by hand work on keys of their own, so that nothing unverified ever enters a log.
    """

    @abstractmethod
    async def save(self, checkpoint: Checkpoint) -> None:
        """Add a checkpoint by hand."""

    @abstractmethod
    async def history(self, task_id: str) -> list[Checkpoint]:
        """All checkpoints of a task, oldest first."""

    @abstractmethod
    async def rollback_to(self, task_id: str, step_index: int) -> None:
        """Keep the checkpoints up to `step_index` (inclusive); -1 removes all."""

    @abstractmethod
    async def clear(self, task_id: str) -> None:
        """Remove all checkpoints that were saved by hand."""

    async def latest(self, task_id: str) -> Checkpoint | None:
        """The last checkpoint, or None."""
        found = await self.history(task_id)
        return found[-1] if found else None

    async def at(self, task_id: str, step_index: int) -> Checkpoint | None:
        """The checkpoint of the step at `step_index`, or None."""
        return next((one for one in await self.history(task_id) if one.step_index == step_index), None)

    async def outputs(self, task_id: str) -> dict[str, Any]:
        """Step name -> output, of all checkpoints."""
        return {one.step_name: one.output for one in await self.history(task_id)}


class RunStore(ABC):
    """Durable, fenced run logs. Calls may be made from any number of runs at a time; the store batches appends by itself.

    Every method raises StoreUnavailable when the server cannot be reached within the store's deadline; for `append` that leaves
    the outcome unknown until the same entry is sent again or the log is read.
    """

    durability: str

    @abstractmethod
    async def open(self) -> None:
        """Connect and check the promised durability. Raises StoreUnavailable, DurabilityUnverified. May be called again."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what is in flight and let go of every connection. The store can be opened again."""

    @abstractmethod
    async def admit(
        self, run_id: str, admission: bytes, record: bytes, head: bytes, blobs: Sequence[tuple[bytes, bytes]] = ()
    ) -> Admission:
        """Create the run with its first record unless it exists (then nothing changes, `created` is False). Durable on return.

        `admission` is the digest of task and fingerprint, `head` the hash after `record`. Raises ForeignKey.
        """

    async def admit_many(self, admissions: Sequence[NewRun]) -> list[Admission | StoreError]:
        """Admit many runs at once, each answered alone and in order; errors are values. Raises InvalidConfig for a bad run id.

        This one forgets the `nonce`; a store that can be sent the same admissions twice needs its own.
        """
        return await _each(self.admit(new.run_id, new.admission, new.record, new.head, new.blobs) for new in admissions)

    @abstractmethod
    async def append(self, entry: AppendEntry) -> Answer:
        """Append under the rules of `AppendEntry`; joins the group commit in progress. APPENDED means durable."""

    async def append_many(self, entries: Sequence[AppendEntry]) -> list[Answer | StoreError]:
        """Append to many runs at once, each answered alone and in order; errors are values.

        A StoreUnavailable or StoreFull among them leaves the outcome of its entry unknown: send the very same entry again. Entries of
        one run are appended in the order in which they stand. Raises InvalidConfig for a bad run id, before anything is sent.
        """
        return await _each(self.append(entry) for entry in entries)

    @abstractmethod
    async def meta(self, run_id: str) -> RunMeta | None:
        """The run as it stands, or None. An expired run answers from its tombstone. Raises ForeignKey."""

    async def metas(self, run_ids: Sequence[str]) -> list[RunMeta | StoreError | None]:
        """Many runs as they stand, in order, with few round trips; what is wrong with one of them (ForeignKey) is a value."""
        return await _each(self.meta(run_id) for run_id in run_ids)

    @abstractmethod
    async def read(self, run_id: str, start: int = 0, count: int | None = None) -> list[bytes]:
        """Records from position `start`, as they were stored."""

    @abstractmethod
    async def blob(self, run_id: str, name: bytes) -> bytes | None:
        """A blob of the run, or None."""

    @abstractmethod
    def read_blocking(self, run_id: str, index: int) -> bytes | None:
        """One record, read on a connection of its own without an event loop: for outputs that a step reaches back to."""

    @abstractmethod
    def read_many_blocking(self, run_id: str, start: int, count: int) -> list[bytes]:
        """Up to `count` records from position `start`, likewise."""

    @abstractmethod
    def blob_blocking(self, run_id: str, name: bytes) -> bytes | None:
        """One blob, likewise."""

    @abstractmethod
    async def push_command(self, run_id: str, command: Command) -> bool:
        """Put a command into the run's inbox. False if its id was pushed before or the run is finished or unknown."""

    @abstractmethod
    async def inbox(self, run_id: str) -> list[Command]:
        """The commands that wait, in the order they came."""

    @abstractmethod
    async def renew_lease(self, owner: str, ttl_s: float) -> None:
        """Keep the lease of a coordinator alive for `ttl_s` seconds of the server's clock; not through the batch queue.

        Raises OwnershipLost if it was revoked: this coordinator counts as dead, and must stop.
        """

    @abstractmethod
    async def release_lease(self, owner: str) -> None:
        """Give the lease back, so that others may claim its runs at once. One that was revoked stays revoked."""

    @abstractmethod
    async def revoke_lease(self, owner: str) -> None:
        """Declare a coordinator dead: its lease ends now, and cannot be renewed for `Limits.lease_revoked_s` (a day), so that one
        that only slept does not come back to life between its successor's claims."""

    @abstractmethod
    async def lease_alive(self, owner: str) -> bool:
        """Whether the coordinator's lease lives."""

    @abstractmethod
    async def open_runs(self) -> list[str]:
        """Ids of the runs that are not finished (open or parked), oldest first. Dangling entries are swept on the way."""

    @abstractmethod
    async def finished_runs(self, older_than_s: float = 0) -> list[str]:
        """Ids of the runs that finished at least `older_than_s` ago and whose logs are still there, oldest first."""

    @abstractmethod
    async def list_runs(self, part: RunPart, count: int, before: RunPlace | None = None) -> list[RunPlace]:
        """Up to `count` runs of one part of the index, newest first: those that stand behind `before`, or the newest.

        A short answer means that there are no more. What goes from one part to the other meanwhile is seen in at least one of them
        by who reads the unfinished ones first; a run that finished just now may still be missing among the finished ones.
        """

    @abstractmethod
    async def delete_run(self, run_id: str) -> int:
        """Remove a finished run's log and blobs but its tombstone; the bytes freed. Raises StoreError if it is not finished."""

    @abstractmethod
    async def put_document(self, name: str, data: bytes) -> None:
        """Store a small document under a name, over the last one; durable on return, as an append is.

        For what belongs to no run: a breaker's snapshot, a pipeline's definition. Raises PayloadTooLarge, ForeignKey.
        """

    @abstractmethod
    async def document(self, name: str) -> bytes | None:
        """A document, or None. Raises ForeignKey."""

    @abstractmethod
    async def documents(self) -> dict[str, bytes]:
        """All documents by their names. Raises ForeignKey."""


async def _each(calls: Iterable[Awaitable[T]]) -> list[T | StoreError]:
    answers = await asyncio.gather(*calls, return_exceptions=True)
    return [_value(answer) for answer in answers]


def _value(answer: T | BaseException) -> T | StoreError:
    if isinstance(answer, BaseException) and not isinstance(answer, StoreError):
        raise answer
    return answer


def check_document(name: str, data: bytes, limit_bytes: int) -> None:
    """Raises PayloadTooLarge for a document that is over the limit; shared by the stores."""
    if len(data) > limit_bytes:
        raise PayloadTooLarge(
            f"document {name!r} has {len(data)} bytes, over the limit of {limit_bytes}: store less, or raise document_bytes_max",
            document=name,
            size_bytes=len(data),
            limit_bytes=limit_bytes,
        )


def revoked(owner: str) -> OwnershipLost:
    """The error for renewing a lease that was revoked; shared by the stores."""
    return OwnershipLost(
        f"the lease of coordinator {owner} was revoked: it counts as dead and must stop; its runs go on elsewhere", owner=owner
    )
