"""The store as a process of the cluster sees it: reads go straight to the server, writes through the store actor.

A write whose actor was lost is sent again, the very same bytes: append ids and nonces make the store answer as it did the first
time. Nothing is ever made anew here, so nothing can be written twice.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec

from agentraft_ray.actors.messages import decode, encode
from agentraft_ray.actors.peers import Peer, PeerLost
from agentraft_ray.actors.store_messages import DRAINING, Outcome, admissions_from, answers_from, error_from
from agentraft_ray.actors.store_spec import StoreSpec, limits_of, open_store
from agentraft_ray.checkpoint.base import Admission, Answer, AppendEntry, Command, NewRun, RunMeta, RunPart, RunPlace, check_document
from agentraft_ray.checkpoint.logged import LoggedCheckpointStore
from agentraft_ray.errors import StoreError, StoreUnavailable
from agentraft_ray.identity import check_run_id

__all__ = ["ClusterStore"]

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_HANGS_AFTER_WAITS = 3  # the actor gives up by itself after two `store_wait_s`: one to open the store, one to write
_ENTRY_BYTES = 256  # what an entry has beside its records and blobs, about

E = TypeVar("E", AppendEntry, NewRun)


class ClusterStore(LoggedCheckpointStore):
    """A run store over a store actor. Single appends that come while one is on its way share the next message; `append_many` is a
    message of its own. For one event loop at a time.

    Beside inboxes, `reader` writes only what belongs to no log: checkpoints saved by hand, and repairs of the index of runs.
    """

    def __init__(self, spec: StoreSpec, peer: Peer) -> None:
        """No I/O. Raises InvalidConfig for a spec that this process cannot use."""
        self.durability = spec.durability
        self.limits = limits_of(spec)
        self.reader = open_store(spec, reader=True)
        self._peer = peer
        self._waiting: deque[tuple[AppendEntry, asyncio.Future[Answer | StoreError]]] = deque()
        self._sender: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """See `RunStore.open`; the store actor opens its own when it gets its first call."""
        await self.reader.open()

    async def close(self) -> None:
        """See `RunStore.close`."""
        while self._sender is not None and not self._sender.done():  # one that was cancelled before it began has not said so
            await asyncio.wait([self._sender])
        await self.reader.close()

    # --- the store actor -----------------------------------------------------------------------------------------------------

    async def _call(self, method: str, *args: object) -> bytes:
        """Call the store actor; the same call again, with growing pauses, for as long as it is lost. Raises StoreUnavailable."""
        since, pause_s = time.monotonic(), _FIRST_PAUSE_S
        while True:
            try:
                async with asyncio.timeout(_HANGS_AFTER_WAITS * self.limits.store_wait_s):
                    reply: bytes = await self._peer.call(method, *args)
            except PeerLost as lost:
                trouble = str(lost)
            except TimeoutError:
                raise self._unavailable("it does not answer", since) from None
            else:
                if reply != DRAINING:
                    return reply
                trouble = "it drains, and no other one has taken its place"
            if time.monotonic() - since >= self.limits.store_wait_s:
                raise self._unavailable(trouble, since)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)

    def _unavailable(self, trouble: str, since: float) -> StoreUnavailable:
        waited_s = time.monotonic() - since
        name = self._peer.name
        message = f"the store actor {name} could not be reached for {waited_s:.1f} s ({trouble}); the run can be resumed when it is back"
        return StoreUnavailable(message, url=name, waited_s=waited_s)

    async def _outcome(self, method: str, *args: object) -> int:
        outcome: Outcome = decode(await self._call(method, *args), Outcome)
        if outcome.refusal is not None:
            raise error_from(outcome.refusal)
        return outcome.value

    # --- writing -------------------------------------------------------------------------------------------------------------

    async def append(self, entry: AppendEntry) -> Answer:
        """See `RunStore.append`."""
        check_run_id(entry.run_id)
        future: asyncio.Future[Answer | StoreError] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, future))
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send_waiting(), name="appends to the store actor")
        answer = await future
        if isinstance(answer, StoreError):
            raise answer
        return answer

    async def _send_waiting(self) -> None:
        batch: list[tuple[AppendEntry, asyncio.Future[Answer | StoreError]]] = []
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self.limits.batch_runs_max))]
                answers = await self.append_many([entry for entry, _ in batch])
                for (_, future), answer in zip(batch, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
        finally:
            self._sender = None
            for _, future in (*batch, *self._waiting):
                future.cancel()
            self._waiting.clear()

    async def append_many(self, entries: Sequence[AppendEntry]) -> list[Answer | StoreError]:
        """See `RunStore.append_many`."""
        for entry in entries:
            check_run_id(entry.run_id)
        answers: list[Answer | StoreError] = []
        for part in self._parts(entries):
            try:
                answers += answers_from(part, await self._call("append", encode(part)))
            except StoreUnavailable as error:
                return answers + [_own(error) for _ in entries[len(answers) :]]
        return answers

    async def admit(
        self, run_id: str, admission: bytes, record: bytes, head: bytes, blobs: Sequence[tuple[bytes, bytes]] = ()
    ) -> Admission:
        """See `RunStore.admit`."""
        [answer] = await self.admit_many([NewRun(run_id, admission, record, head, tuple(blobs))])
        if isinstance(answer, StoreError):
            raise answer
        return answer

    async def admit_many(self, admissions: Sequence[NewRun]) -> list[Admission | StoreError]:
        """See `RunStore.admit_many`."""
        for new in admissions:
            check_run_id(new.run_id)
        known = [new if new.nonce else msgspec.structs.replace(new, nonce=secrets.token_bytes(8)) for new in admissions]
        answers: list[Admission | StoreError] = []
        for part in self._parts(known):
            try:
                answers += admissions_from(part, await self._call("admit", encode(part)))
            except StoreUnavailable as error:
                return answers + [_own(error) for _ in known[len(answers) :]]
        return answers

    def _parts(self, entries: Sequence[E]) -> Iterator[list[E]]:
        """Entries in messages of bounded size, one after another so that entries of one run stay in order."""
        part: list[E] = []
        room_bytes = self.limits.batch_bytes_max
        for entry in entries:
            size = _size(entry)
            if part and size > room_bytes:
                yield part
                part, room_bytes = [], self.limits.batch_bytes_max
            part.append(entry)
            room_bytes -= size
        if part:
            yield part

    async def put_document(self, name: str, data: bytes) -> None:
        """See `RunStore.put_document`."""
        check_document(name, data, self.limits.document_bytes_max)
        await self._outcome("put_document", name, data)

    async def delete_run(self, run_id: str) -> int:
        """See `RunStore.delete_run`; 0 also when it was done by a first call whose answer was lost."""
        return await self._outcome("delete_run", check_run_id(run_id))

    async def renew_lease(self, owner: str, ttl_s: float) -> None:
        """See `RunStore.renew_lease`."""
        await self._outcome("renew_lease", owner, ttl_s)

    async def release_lease(self, owner: str) -> None:
        """See `RunStore.release_lease`."""
        await self._outcome("release_lease", owner)

    async def revoke_lease(self, owner: str) -> None:
        """See `RunStore.revoke_lease`."""
        await self._outcome("revoke_lease", owner)

    # --- straight to the server ------------------------------------------------------------------------------------------------

    async def meta(self, run_id: str) -> RunMeta | None:
        """See `RunStore.meta`."""
        return await self.reader.meta(run_id)

    async def metas(self, run_ids: Sequence[str]) -> list[RunMeta | StoreError | None]:
        """See `RunStore.metas`."""
        return await self.reader.metas(run_ids)

    async def read(self, run_id: str, start: int = 0, count: int | None = None) -> list[bytes]:
        """See `RunStore.read`."""
        return await self.reader.read(run_id, start, count)

    async def blob(self, run_id: str, name: bytes) -> bytes | None:
        """See `RunStore.blob`."""
        return await self.reader.blob(run_id, name)

    def read_blocking(self, run_id: str, index: int) -> bytes | None:
        """See `RunStore.read_blocking`."""
        return self.reader.read_blocking(run_id, index)

    def read_many_blocking(self, run_id: str, start: int, count: int) -> list[bytes]:
        """See `RunStore.read_many_blocking`."""
        return self.reader.read_many_blocking(run_id, start, count)

    def blob_blocking(self, run_id: str, name: bytes) -> bytes | None:
        """See `RunStore.blob_blocking`."""
        return self.reader.blob_blocking(run_id, name)

    async def push_command(self, run_id: str, command: Command) -> bool:
        """See `RunStore.push_command`."""
        return await self.reader.push_command(run_id, command)

    async def inbox(self, run_id: str) -> list[Command]:
        """See `RunStore.inbox`."""
        return await self.reader.inbox(run_id)

    async def lease_alive(self, owner: str) -> bool:
        """See `RunStore.lease_alive`."""
        return await self.reader.lease_alive(owner)

    async def open_runs(self) -> list[str]:
        """See `RunStore.open_runs`."""
        return await self.reader.open_runs()

    async def finished_runs(self, older_than_s: float = 0) -> list[str]:
        """See `RunStore.finished_runs`. Looks through the open ones first: the actor moves those that finished only soon after."""
        await self.reader.open_runs()
        return await self.reader.finished_runs(older_than_s)

    async def list_runs(self, part: RunPart, count: int, before: RunPlace | None = None) -> list[RunPlace]:
        """See `RunStore.list_runs`."""
        return await self.reader.list_runs(part, count, before)

    async def document(self, name: str) -> bytes | None:
        """See `RunStore.document`."""
        return await self.reader.document(name)

    async def documents(self) -> dict[str, bytes]:
        """See `RunStore.documents`."""
        return await self.reader.documents()

    async def _save_text(self, task_id: str, step_index: int, text: bytes) -> None:
        await self.reader._save_text(task_id, step_index, text)

    async def _saved_texts(self, task_id: str) -> list[bytes]:
        return await self.reader._saved_texts(task_id)

    async def _keep_texts(self, task_id: str, step_index: int | None) -> None:
        await self.reader._keep_texts(task_id, step_index)


def _size(entry: AppendEntry | NewRun) -> int:
    records = (entry.record,) if isinstance(entry, NewRun) else entry.records
    return _ENTRY_BYTES + sum(map(len, records)) + sum(len(data) for _, data in entry.blobs)


def _own(error: StoreUnavailable) -> StoreUnavailable:
    return StoreUnavailable(str(error), **error.fields)  # each caller raises its own
