"""Group commit: everything that is ready goes to the server in one script execution, hence one fsync.

A lone write goes at once; batches form only while the previous one is in flight. A batch whose outcome is unknown is sent again
byte for byte until it is known or patience ends. No caller's cancellation touches the batch that carries its write.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence

from redis.exceptions import RedisError

from agentraft_ray.checkpoint.keys import Keys
from agentraft_ray.checkpoint.patience import Patience, Remedy, remedy_for, store_error
from agentraft_ray.checkpoint.scripts import INDEX, TRANSITION, Op, frame, sha1
from agentraft_ray.checkpoint.wire import Reply, Wire, pack
from agentraft_ray.config import Limits
from agentraft_ray.errors import AgentRaftError

__all__ = ["INDEX_GRACE_S", "GroupCommit", "Write"]

INDEX_GRACE_S = 120  # an open-run entry without a run is left alone so long: its admission may be under way
_MOVES_MAX = 256  # finished runs that wait for their move in the index


class Write:
    """One item of a batch: what the script gets, its keys, and the future that the caller waits for."""

    __slots__ = ("future", "item", "keys", "op", "queued_at", "run_id")

    def __init__(self, run_id: str, op: bytes, fields: Iterable[bytes], keys: tuple[str, ...]) -> None:
        self.run_id = run_id
        self.op = op
        self.item = frame((op, *fields))
        self.keys = keys
        self.future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.queued_at = time.monotonic()

    def settle(self, reply: Reply) -> None:
        """Answer the caller, unless it has gone."""
        if self.future.done():
            return
        if isinstance(reply, Exception):
            self.future.set_exception(reply)
        else:
            self.future.set_result(reply)


class Parcel:
    """The writes of one batch that share a slot, as the command that carries them; made once, so that a retry repeats it."""

    __slots__ = ("anchor", "answered", "command", "writes")

    def __init__(self, writes: list[Write], settings: tuple[int, ...]) -> None:
        keys = [key for write in writes for key in write.keys]
        items = b"".join([write.item for write in writes])
        self.anchor = keys[0]
        self.writes = writes
        self.answered = False
        self.command = pack("EVALSHA", sha1(TRANSITION), len(keys), *keys, *settings, len(writes), items)

    def is_over(self) -> bool:
        """Nobody waits for it any more: it was answered, or all its callers have gone."""
        return self.answered or all(write.future.done() for write in self.writes)


def _settle_all(writes: Sequence[Write], answers: Sequence[Reply]) -> None:
    for write, answer in zip(writes, answers, strict=True):
        write.settle(answer)


class GroupCommit:
    """The one writer of a store on one event loop."""

    def __init__(self, wire: Wire, keys: Keys, limits: Limits, url: str, wait_ms: int = 2_000) -> None:
        self._wire = wire
        self._keys = keys
        self._limits = limits
        self._url = url
        self._wait_ms = wait_ms
        self._queue: deque[Write] = deque()
        self._moves: list[str] = []
        self._room = asyncio.Semaphore(limits.queued_appends_max)
        self._flusher: asyncio.Task[None] | None = None
        retention_ms = int(limits.retention_s * 1000)
        self._settings = (retention_ms, max(retention_ms, int(limits.idempotency_ttl_s * 1000), 1), limits.inbox_max)

    async def submit(self, run_id: str, op: bytes, fields: Iterable[bytes], keys: tuple[str, ...]) -> Reply:
        """Send one write with the next batch; the script's answer to it. Waits for room first: that is the back-pressure.

        Raises StoreUnavailable, StoreFull or StoreError; after the first two the outcome is unknown.
        """
        async with self._room:
            write = Write(run_id, op, fields, keys)
            self._queue.append(write)
            self._wake()
            return await write.future

    def note(self, move: str, run_id: str) -> None:
        """Have the index of runs corrected soon; idempotent, and a crash before it is made good by the next sweep."""
        self._moves += (move, run_id)
        self._wake()

    async def settled(self) -> None:
        """Wait until nothing is queued or in flight."""
        while self._flusher is not None:
            await asyncio.wait([self._flusher])

    def _wake(self) -> None:
        if self._flusher is None:
            self._flusher = asyncio.get_running_loop().create_task(self._flush(), name="agentraft group commit")

    async def _flush(self) -> None:
        batch: list[Write] = []
        try:
            while self._queue or self._moves:
                batch = self._take()
                if batch:
                    await self._commit(batch)
                    batch = []
                if not self._queue or len(self._moves) >= 2 * _MOVES_MAX:
                    await self._send_moves()
        finally:
            self._flusher = None
            for write in (*batch, *self._queue):
                write.future.cancel()
            self._queue.clear()

    def _take(self) -> list[Write]:
        batch: list[Write] = []
        room_bytes = self._limits.batch_bytes_max
        while self._queue and len(batch) < self._limits.batch_runs_max:
            size = len(self._queue[0].item)
            if batch and size > room_bytes:
                break
            room_bytes -= size
            batch.append(self._queue.popleft())
        return batch

    async def _commit(self, batch: list[Write]) -> None:
        patience = Patience(self._url, self._limits.store_wait_s, batch[0].queued_at)
        parcels = self._parcels(batch)
        opens = [part for write in batch if write.op == Op.ADMIT for part in ("open", write.run_id)]
        again = False
        while parcels:
            try:
                if opens:
                    await self._index(opens)
                    opens = []
                await self._attempt(parcels, again)
            except (RedisError, OSError, AgentRaftError) as error:
                try:
                    await self._bear(patience, error)
                except AgentRaftError as final:
                    for write in (write for parcel in parcels for write in parcel.writes):
                        write.settle(type(final)(str(final), **final.fields))
                    return
            again = True
            parcels = [parcel for parcel in parcels if not parcel.is_over()]

    async def _bear(self, patience: Patience, error: Exception) -> None:
        remedy = await patience.bear(error)
        await self._wire.cure(remedy, (TRANSITION, INDEX))

    def _parcels(self, batch: list[Write]) -> list[Parcel]:
        if not self._wire.is_cluster:
            return [Parcel(batch, self._settings)]
        by_slot: dict[int, list[Write]] = {}
        for write in batch:
            by_slot.setdefault(self._wire.slot(write.keys[0]), []).append(write)
        return [Parcel(writes, self._settings) for writes in by_slot.values()]

    async def _attempt(self, parcels: Sequence[Parcel], again: bool) -> None:
        """Send every parcel once; raises the first error that may pass, after the others were answered."""
        passing: Exception | None = None
        for parcel in parcels:
            mark = self._keys.barrier(parcel.writes[0].run_id) if again else ""
            reply = await self._wire.exchange(parcel.anchor, parcel.command, self._wait_ms, mark)
            parcel.answered = not isinstance(reply, Exception) or remedy_for(reply) is Remedy.NONE
            if not isinstance(reply, Exception):
                # The callers that this wakes take long together; what is queued must be on its way to the server before them.
                asyncio.get_running_loop().call_soon(_settle_all, parcel.writes, reply)
            elif parcel.answered:
                for write in parcel.writes:
                    write.settle(store_error(reply, self._url, 0.0))
            else:
                passing = reply
        if passing is not None:
            raise passing

    async def _send_moves(self) -> None:
        moves, self._moves = self._moves, []
        if moves:
            try:
                await self._index(moves)
            except (RedisError, OSError, AgentRaftError) as error:
                # The index is only a list of hints that the sweep of `open_runs` puts right.
                await self._wire.cure(remedy_for(error), (TRANSITION, INDEX))

    async def _index(self, moves: Sequence[str]) -> None:
        grace = INDEX_GRACE_S * 1_000_000
        command = pack("EVALSHA", sha1(INDEX), 2, self._keys.open, self._keys.finished, grace, *moves)
        reply = await self._wire.exchange(self._keys.open, command)
        if isinstance(reply, Exception):
            raise reply
