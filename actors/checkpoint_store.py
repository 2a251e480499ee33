"""The store actor: the one process of a cluster that writes run logs, so that appends of all coordinators share one group commit.

It holds nothing: every promise is the store's (`checkpoint/`), and what it was doing when it died is found out by sending the same
bytes again. Errors of ours cross its boundary as values.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

from agentraft_ray.actors.control import Controlled, Figures
from agentraft_ray.actors.messages import decode, encode
from agentraft_ray.actors.store_messages import DRAINING, Outcome, admitted, appended, refusal_of
from agentraft_ray.actors.store_spec import StoreSpec, open_store
from agentraft_ray.checkpoint.base import AppendEntry, NewRun
from agentraft_ray.checkpoint.redis import RedisCheckpointStore
from agentraft_ray.errors import AgentRaftError, StoreError

__all__ = ["CheckpointStoreActor"]


class CheckpointStoreActor(Controlled):
    """Work: `append`, `admit`, `put_document`, `delete_run`. Control: the lease calls, which must not wait behind batches, and what
    every actor can be asked. A draining one finishes what it has and lets go of the server; leases are still served."""

    def __init__(self, spec: bytes, *, observing: bytes | None = None) -> None:
        """`spec` = an encoded `StoreSpec`; nothing is opened yet."""
        super().__init__(observing)
        self._spec = spec
        self._store: RedisCheckpointStore | None = None
        self._making = threading.Lock()
        self._opening: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._in_flight = 0
        self._calls = self._entries = self._admissions = self._refused = self._received_bytes = 0
        self._calls_s = 0.0

    # --- work --------------------------------------------------------------------------------------------------------------

    async def append(self, batch: bytes) -> bytes:
        """`list[AppendEntry]` -> the answers, see `store_messages.answers_from`."""

        async def work(store: RedisCheckpointStore) -> bytes:
            self._entries += len(entries)
            answers = await store.append_many(entries)
            self._refused += sum(isinstance(answer, StoreError) for answer in answers)
            return appended(answers)

        entries: list[AppendEntry] = decode(batch, list[AppendEntry])
        return await self._work(len(batch), work, lambda error: appended([error] * len(entries)))

    async def admit(self, batch: bytes) -> bytes:
        """`list[NewRun]` with nonces -> the answers, see `store_messages.admissions_from`."""

        async def work(store: RedisCheckpointStore) -> bytes:
            self._admissions += len(news)
            answers = await store.admit_many(news)
            self._refused += sum(isinstance(answer, StoreError) for answer in answers)
            return admitted(answers)

        news: list[NewRun] = decode(batch, list[NewRun])
        return await self._work(len(batch), work, lambda error: admitted([error] * len(news)))

    async def put_document(self, name: str, data: bytes) -> bytes:
        """An `Outcome`."""

        async def work(store: RedisCheckpointStore) -> bytes:
            await store.put_document(name, data)
            return encode(Outcome())

        return await self._work(len(data), work, _refused)

    async def delete_run(self, run_id: str) -> bytes:
        """An `Outcome` with the bytes freed; 0 when sent again after it was done."""

        async def work(store: RedisCheckpointStore) -> bytes:
            return encode(Outcome(await store.delete_run(run_id)))

        return await self._work(0, work, _refused)

    async def _work(
        self, size: int, work: Callable[[RedisCheckpointStore], Awaitable[bytes]], refused: Callable[[AgentRaftError], bytes]
    ) -> bytes:
        self.at_work()
        if self.is_draining:
            return DRAINING
        self._calls += 1
        self._received_bytes += size
        self._in_flight += 1
        began_at = time.monotonic()
        try:
            return await work(await self._opened())
        except AgentRaftError as error:
            self._refused += 1
            return refused(error)
        finally:
            self._in_flight -= 1
            self._calls_s += time.monotonic() - began_at
            if self.is_draining:
                self._begin_drain()

    async def _opened(self) -> RedisCheckpointStore:
        """The store, once it has been opened; all calls wait for the same opening, and one after a failure tries again."""
        store = self._made()
        if self._opening is None:
            self._opening = asyncio.create_task(store.open(), name="opening the store")
        opening = self._opening
        try:
            await asyncio.shield(opening)
        except AgentRaftError:
            if self._opening is opening:
                self._opening = None
            raise
        return store

    def _made(self) -> RedisCheckpointStore:
        with self._making:  # a lease call may be the first one, in its thread
            if self._store is None:
                self._store = open_store(decode(self._spec, StoreSpec))
            return self._store

    def _begin_drain(self) -> None:
        if not self._in_flight and self._store is not None and self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_task(self._store.close(), name="leaving the store")

    # --- control: another thread, another event loop -------------------------------------------------------------------------

    async def renew_lease(self, owner: str, ttl_s: float) -> bytes:
        """An `Outcome`; refused with OwnershipLost where the lease was revoked."""
        return await self._control(lambda store: store.renew_lease(owner, ttl_s))

    async def release_lease(self, owner: str) -> bytes:
        """An `Outcome`."""
        return await self._control(lambda store: store.release_lease(owner))

    async def revoke_lease(self, owner: str) -> bytes:
        """An `Outcome`."""
        return await self._control(lambda store: store.revoke_lease(owner))

    async def _control(self, call: Callable[[RedisCheckpointStore], Awaitable[None]]) -> bytes:
        # The store has connections of its own for this thread's loop; an embedded server that does not run is started by them.
        try:
            await call(self._made())
        except AgentRaftError as error:
            return _refused(error)
        return encode(Outcome())

    def _figures(self) -> Figures:
        """`calls` = messages from coordinators, `calls_s` = how long they took, added up; the rest = what became of them on the way to
        the server (`CommitTally`)."""
        own: Figures = {
            "calls": self._calls,
            "entries": self._entries,
            "admissions": self._admissions,
            "refused": self._refused,
            "received_bytes": self._received_bytes,
            "in_flight": self._in_flight,
            "calls_s": self._calls_s,
        }
        if self._store is not None:
            tally = self._store.tally
            own |= {"batches": tally.batches, "items": tally.items, "round_trips": tally.round_trips}
            own |= {"sent_bytes": tally.sent_bytes, "server_s": tally.server_s}
        return own


def _refused(error: AgentRaftError) -> bytes:
    return encode(Outcome(0, refusal_of(error)))
