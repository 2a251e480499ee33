"""The store in memory: `LogTable` has the rules, `InMemoryCheckpointStore` hosts it for one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from agentraft_ray.checkpoint.base import Admission, Answer, AppendEntry, Command, NewRun, RunMeta, RunPart, RunPlace
from agentraft_ray.checkpoint.log_table import LogTable
from agentraft_ray.checkpoint.logged import LoggedCheckpointStore
from agentraft_ray.config import Limits
from agentraft_ray.errors import StoreError
from agentraft_ray.identity import check_run_id

__all__ = ["InMemoryCheckpointStore"]


class InMemoryCheckpointStore(LoggedCheckpointStore):
    """Runs and checkpoints in this process's memory: fast, and gone with the process."""

    durability = "memory"

    def __init__(self, *, limits: Limits | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.table = LogTable(clock, limits)
        self._saved: dict[str, list[tuple[int, bytes]]] = {}

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to let go of; the runs stay as long as this object does."""

    async def admit(
        self, run_id: str, admission: bytes, record: bytes, head: bytes, blobs: Sequence[tuple[bytes, bytes]] = ()
    ) -> Admission:
        """See `RunStore.admit`."""
        return self.table.admit(check_run_id(run_id), admission, record, head, blobs)

    async def admit_many(self, admissions: Sequence[NewRun]) -> list[Admission | StoreError]:
        """See `RunStore.admit_many`."""
        return [self.table.admit(check_run_id(new.run_id), new.admission, new.record, new.head, new.blobs, new.nonce) for new in admissions]

    async def append(self, entry: AppendEntry) -> Answer:
        """See `RunStore.append`."""
        return self.table.append(entry)

    async def meta(self, run_id: str) -> RunMeta | None:
        """See `RunStore.meta`."""
        return self.table.meta(run_id)

    async def read(self, run_id: str, start: int = 0, count: int | None = None) -> list[bytes]:
        """See `RunStore.read`."""
        return self.table.read(run_id, start, count)

    async def blob(self, run_id: str, name: bytes) -> bytes | None:
        """See `RunStore.blob`."""
        return self.table.blob(run_id, name)

    def read_blocking(self, run_id: str, index: int) -> bytes | None:
        """See `RunStore.read_blocking`."""
        found = self.table.read(run_id, index, 1)
        return found[0] if found else None

    def read_many_blocking(self, run_id: str, start: int, count: int) -> list[bytes]:
        """See `RunStore.read_many_blocking`."""
        return self.table.read(run_id, start, count)

    def blob_blocking(self, run_id: str, name: bytes) -> bytes | None:
        """See `RunStore.blob_blocking`."""
        return self.table.blob(run_id, name)

    async def push_command(self, run_id: str, command: Command) -> bool:
        """See `RunStore.push_command`."""
        return self.table.push_command(run_id, command)

    async def inbox(self, run_id: str) -> list[Command]:
        """See `RunStore.inbox`."""
        return self.table.inbox(run_id)

    async def renew_lease(self, owner: str, ttl_s: float) -> None:
        """See `RunStore.renew_lease`."""
        self.table.renew_lease(owner, ttl_s)

    async def release_lease(self, owner: str) -> None:
        """See `RunStore.release_lease`."""
        self.table.release_lease(owner)

    async def revoke_lease(self, owner: str) -> None:
        """See `RunStore.revoke_lease`."""
        self.table.revoke_lease(owner)

    async def lease_alive(self, owner: str) -> bool:
        """See `RunStore.lease_alive`."""
        return self.table.lease_alive(owner)

    async def open_runs(self) -> list[str]:
        """See `RunStore.open_runs`."""
        return self.table.open_runs()

    async def finished_runs(self, older_than_s: float = 0) -> list[str]:
        """See `RunStore.finished_runs`."""
        return self.table.finished_runs(older_than_s)

    async def list_runs(self, part: RunPart, count: int, before: RunPlace | None = None) -> list[RunPlace]:
        """See `RunStore.list_runs`."""
        return self.table.list_runs(part, count, before)

    async def delete_run(self, run_id: str) -> int:
        """See `RunStore.delete_run`."""
        return self.table.delete_run(run_id)

    async def put_document(self, name: str, data: bytes) -> None:
        """See `RunStore.put_document`."""
        self.table.put_document(name, data)

    async def document(self, name: str) -> bytes | None:
        """See `RunStore.document`."""
        return self.table.documents.get(name)

    async def documents(self) -> dict[str, bytes]:
        """See `RunStore.documents`."""
        return dict(self.table.documents)

    async def _save_text(self, task_id: str, step_index: int, text: bytes) -> None:
        self._saved.setdefault(task_id, []).append((step_index, text))

    async def _saved_texts(self, task_id: str) -> list[bytes]:
        return [text for _, text in self._saved.get(task_id, [])]

    async def _keep_texts(self, task_id: str, step_index: int | None) -> None:
        kept = [] if step_index is None else [one for one in self._saved.get(task_id, []) if one[0] <= step_index]
        if kept:
            self._saved[task_id] = kept
        else:
            self._saved.pop(task_id, None)
