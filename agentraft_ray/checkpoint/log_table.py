"""The exact rules of a run store as plain code: `LogTable`, which stores and simulators host.

It does no I/O, reads no clock and draws no random number; it is also the dumb second implementation that the Redis script is checked
against.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from agentraft_ray.checkpoint.base import (
    Admission,
    Answer,
    AnswerKind,
    AppendEntry,
    Command,
    RunMeta,
    RunPart,
    RunPlace,
    RunStatus,
    check_document,
    revoked,
)
from agentraft_ray.config import Limits
from agentraft_ray.errors import StoreError
from agentraft_ray.identity import GENESIS, NO_OWNER, OwnerToken

__all__ = ["LogTable", "RunRow", "inbox_full"]


@dataclass(slots=True)
class RunRow:
    """One run: its log and what guards it."""

    admission: bytes
    head: bytes
    records: list[bytes]
    blobs: dict[bytes, bytes]
    size_bytes: int
    token: OwnerToken = NO_OWNER
    last_append: bytes = b""
    status: RunStatus = "open"
    outcome: str = ""
    nonce: bytes = b""
    number: int = 0
    inbox: dict[str, bytes] = field(default_factory=dict)
    command_ids: set[str] = field(default_factory=set)

    def meta(self) -> RunMeta:
        """The run as the port shows it."""
        return RunMeta(self.token, len(self.records), self.head, self.status, self.admission, self.outcome, size_bytes=self.size_bytes)


class Tombstone(NamedTuple):
    """What is left of a finished run once its log is gone."""

    admission: bytes
    outcome: str
    head: bytes
    token: OwnerToken
    last_append: bytes
    until: float


class LogTable:
    """All runs of a store, with the rules of `RunStore` word for word; every call is atomic because nothing here waits.

    `clock` gives the time in seconds (for leases and retention only); it is called, never read from the system.
    """

    def __init__(self, clock: Callable[[], float], limits: Limits | None = None) -> None:
        self.clock = clock
        self.limits = limits or Limits()
        self.runs: dict[str, RunRow] = {}
        self.tombstones: dict[str, Tombstone] = {}
        self.finished_at: dict[str, float] = {}
        self.leases: dict[str, float] = {}
        self.revoked: dict[str, float] = {}
        self.documents: dict[str, bytes] = {}
        self._numbers = itertools.count(1)

    # --- writing -------------------------------------------------------------------------------------------------------------

    def admit(
        self, run_id: str, admission: bytes, record: bytes, head: bytes, blobs: Sequence[tuple[bytes, bytes]] = (), nonce: bytes = b""
    ) -> Admission:
        """Create the run with its first record unless it exists or has left a tombstone."""
        present = self.meta(run_id)
        if present is not None:
            return Admission(not present.expired and self.runs[run_id].nonce == nonce != b"", present)
        size = len(record) + sum(len(data) for _, data in blobs)
        row = self.runs[run_id] = RunRow(admission, head, [record], dict(blobs), size, nonce=nonce, number=next(self._numbers))
        return Admission(True, row.meta())

    def append(self, entry: AppendEntry) -> Answer:
        """Check everything, then write; see `AnswerKind`."""
        row = self._row(entry.run_id)
        if row is None:
            return self._answer_without_log(entry)
        if self.is_duplicate(row, entry):
            return Answer(AnswerKind.APPENDED, entry.token, entry.index + len(entry.records), entry.new_head)
        refusal = self.refusal(row, entry)
        if refusal is not None:
            return Answer(refusal, row.token, len(row.records), row.head)
        self._write(row, entry)
        return Answer(AnswerKind.APPENDED, row.token, len(row.records), row.head)

    def is_duplicate(self, row: RunRow, entry: AppendEntry) -> bool:
        """Whether this very append stands already; an earlier owner's is not looked for, since that owner is fenced anyway."""
        return row.token == entry.token and row.last_append == entry.append_id

    def is_owner(self, row: RunRow, entry: AppendEntry) -> bool:
        """Whether the log is still owned by whom the entry says; tokens are compared whole."""
        return row.token == (entry.token if entry.claim is None else entry.claim)

    def refusal(self, row: RunRow, entry: AppendEntry) -> AnswerKind | None:
        """Why this append cannot be written, or None; the order of these checks is part of the port."""
        if not self.is_owner(row, entry):
            return AnswerKind.FENCED
        if row.status == "finished":
            return AnswerKind.FINISHED
        takes_over = entry.claim is not None and entry.claim.owner != entry.token.owner
        if takes_over and row.status == "open" and self.lease_alive(row.token.owner):
            return AnswerKind.LEASED
        if len(row.records) != entry.index or row.head != entry.head:
            return AnswerKind.MOVED
        brought = {name for name, _ in entry.blobs}
        if any(name not in row.blobs and name not in brought for name in entry.needs_blobs):
            return AnswerKind.NO_BLOB
        return None

    def _write(self, row: RunRow, entry: AppendEntry) -> None:
        for name, data in entry.blobs:
            if name not in row.blobs:
                row.blobs[name] = data
                row.size_bytes += len(data)
        row.records.extend(entry.records)
        row.size_bytes += sum(map(len, entry.records))
        row.token, row.head, row.last_append, row.status = entry.token, entry.new_head, entry.append_id, entry.status
        for command_id in entry.taken:
            row.inbox.pop(command_id, None)
        if entry.status == "finished":
            self._bury(entry.run_id, row, entry.outcome)

    def _bury(self, run_id: str, row: RunRow, outcome: str) -> None:
        self._forget_expired()
        now, row.outcome = self.clock(), outcome
        until = now + max(self.limits.idempotency_ttl_s, self.limits.retention_s)
        self.tombstones[run_id] = Tombstone(row.admission, outcome, row.head, row.token, row.last_append, until)
        self.finished_at[run_id] = now
        row.number = next(self._numbers)

    def _answer_without_log(self, entry: AppendEntry) -> Answer:
        stone = self._tombstone(entry.run_id)
        if stone is None:
            return Answer(AnswerKind.MISSING, NO_OWNER, 0, GENESIS)
        if stone.token == entry.token and stone.last_append == entry.append_id:
            return Answer(AnswerKind.APPENDED, entry.token, entry.index + len(entry.records), entry.new_head)
        expected = entry.token if entry.claim is None else entry.claim
        kind = AnswerKind.FINISHED if stone.token == expected else AnswerKind.FENCED
        return Answer(kind, stone.token, 0, stone.head)

    def delete_run(self, run_id: str) -> int:
        """Remove a finished run, leaving its tombstone; the bytes freed. Raises StoreError if it is not finished."""
        row = self._row(run_id)
        if row is None:
            return 0
        if row.status != "finished":
            raise StoreError(f"run {run_id!r} is {row.status}, so its log stays; cancel it first", run_id=run_id)
        self._drop(run_id)
        return row.size_bytes

    # --- reading -------------------------------------------------------------------------------------------------------------

    def meta(self, run_id: str) -> RunMeta | None:
        """The run as it stands, from its tombstone when only that is left, or None."""
        row = self._row(run_id)
        if row is not None:
            return row.meta()
        stone = self._tombstone(run_id)
        if stone is None:
            return None
        return RunMeta(stone.token, 0, stone.head, "finished", stone.admission, stone.outcome, expired=True)

    def read(self, run_id: str, start: int = 0, count: int | None = None) -> list[bytes]:
        """Records from position `start`."""
        row = self._row(run_id)
        if row is None:
            return []
        return row.records[start:] if count is None else row.records[start : start + count]

    def blob(self, run_id: str, name: bytes) -> bytes | None:
        """A blob of the run, or None."""
        row = self._row(run_id)
        return row.blobs.get(name) if row else None

    def open_runs(self) -> list[str]:
        """Runs that are open or parked, in the order of their admission."""
        return [run_id for run_id, row in self.runs.items() if row.status != "finished"]

    def finished_runs(self, older_than_s: float = 0) -> list[str]:
        """Runs that finished at least `older_than_s` ago and have their logs, oldest first."""
        self._forget_expired()
        before = self.clock() - older_than_s
        return [run_id for run_id, finished_at in self.finished_at.items() if finished_at <= before]

    def list_runs(self, part: RunPart, count: int, before: RunPlace | None = None) -> list[RunPlace]:
        """Runs of one part, newest first, behind `before`."""
        self._forget_expired()
        newest_first = reversed(self.runs) if part == "unfinished" else reversed(self.finished_at)
        places = (RunPlace(self.runs[run_id].number, run_id) for run_id in newest_first if self._is_in(part, run_id))
        return list(itertools.islice((place for place in places if before is None or place < before), count))

    def _is_in(self, part: RunPart, run_id: str) -> bool:
        return (self.runs[run_id].status == "finished") == (part == "finished")

    # --- commands and leases -------------------------------------------------------------------------------------------------

    def push_command(self, run_id: str, command: Command) -> bool:
        """Put a command into the inbox; False if its id came before or the run is finished or unknown."""
        row = self._row(run_id)
        if row is None or row.status == "finished" or command.id in row.command_ids:
            return False
        if len(row.inbox) >= self.limits.inbox_max:
            raise inbox_full(run_id, self.limits.inbox_max)
        row.command_ids.add(command.id)
        row.inbox[command.id] = command.body
        return True

    def inbox(self, run_id: str) -> list[Command]:
        """The commands that wait, in the order they came."""
        row = self._row(run_id)
        return [Command(*item) for item in row.inbox.items()] if row else []

    def renew_lease(self, owner: str, ttl_s: float) -> None:
        """Keep a lease alive for `ttl_s` from now. Raises OwnershipLost if it was revoked."""
        if self.revoked.get(owner, 0.0) > self.clock():
            raise revoked(owner)
        self.leases[owner] = self.clock() + ttl_s

    def release_lease(self, owner: str) -> None:
        """Give a lease back."""
        self.leases.pop(owner, None)

    def revoke_lease(self, owner: str) -> None:
        """End a lease for good."""
        now = self.clock()
        self.revoked = {one: until for one, until in self.revoked.items() if until > now}
        self.revoked[owner] = now + self.limits.lease_revoked_s
        self.leases.pop(owner, None)

    def put_document(self, name: str, data: bytes) -> None:
        """Store a document."""
        check_document(name, data, self.limits.document_bytes_max)
        self.documents[name] = data

    def lease_alive(self, owner: str) -> bool:
        """Whether a lease lives."""
        until = self.leases.get(owner)
        if until is None:
            return False
        if until <= self.clock():
            del self.leases[owner]
            return False
        return True

    # --- time ----------------------------------------------------------------------------------------------------------------

    def _row(self, run_id: str) -> RunRow | None:
        row = self.runs.get(run_id)
        if row is not None and row.status == "finished" and self._is_expired(run_id):
            self._drop(run_id)
            return None
        return row

    def _is_expired(self, run_id: str) -> bool:
        return self.clock() >= self.finished_at[run_id] + self.limits.retention_s

    def _drop(self, run_id: str) -> None:
        del self.runs[run_id], self.finished_at[run_id]

    def _forget_expired(self) -> None:
        """Both dicts are in the order of finishing, so the expired ones come first."""
        for run_id in list(itertools.takewhile(self._is_expired, self.finished_at)):
            self._drop(run_id)
        for run_id in list(itertools.takewhile(lambda one: self.clock() >= self.tombstones[one].until, self.tombstones)):
            del self.tombstones[run_id]

    def _tombstone(self, run_id: str) -> Tombstone | None:
        stone = self.tombstones.get(run_id)
        if stone is not None and self.clock() >= stone.until:
            del self.tombstones[run_id]
            return None
        return stone


def inbox_full(run_id: str, limit: int) -> StoreError:
    """The error for a command that finds no room; shared with the Redis store."""
    return StoreError(
        f"the inbox of run {run_id!r} holds {limit} commands that no coordinator has taken; resume the run, then send again",
        run_id=run_id,
        limit=limit,
    )
