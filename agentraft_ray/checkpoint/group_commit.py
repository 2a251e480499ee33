"""Group commit: everything that is ready goes to the server in one script execution, hence one fsync.

A lone write goes at once; batches form only while the previous one is in flight. A batch whose outcome is unknown is sent again
byte for byte until it is known or patience ends. No caller's cancellation touches the batch that carries its write.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from redis.exceptions import RedisError

from agentraft_ray.checkpoint.keys import Keys
from agentraft_ray.checkpoint.patience import Patience, Remedy, remedy_for, store_error
from agentraft_ray.checkpoint.scripts import INDEX, TRANSITION, Op, frame, sha1
from agentraft_ray.checkpoint.wire import Reply, Wire, pack
from agentraft_ray.config import Limits
from agentraft_ray.errors import AgentRaftError

__all__ = ["INDEX_GRACE_S", "CommitTally", "GroupCommit", "Write", "one_write"]

INDEX_GRACE_S = 120  # an open-run entry without a run is left alone so long: its admission may be under way
_MOVES_MAX = 256  # finished runs that wait for their move in the index


@dataclass(slots=True)
class CommitTally:
    """What the writers of one store have sent so far. `round_trips` counts scripts that the server was sent, repeated ones too;
    `server_s` is the time from sending one to its answer, with whatever the promised durability takes."""

    batches: int = 0
    items: int = 0
    round_trips: int = 0
    sent_bytes: int = 0
    server_s: float = 0.0


class Write:
    """Items of one kind that one caller waits for together: what the script gets, their keys, and the script's answer to each.

    They may go out in several batches; each answer has its place, and the caller wakes once, when all are there.
    """

    __slots__ = ("_missing", "_replies", "future", "items", "keys", "op", "queued_at", "run_ids", "sent")

    def __init__(self, op: bytes, run_ids: Sequence[str], items: Sequence[bytes], keys: Sequence[tuple[str, ...]]) -> None:
        self.op = op
        self.run_ids = run_ids
        self.items = items
        self.keys = keys
        self.sent = 0
        self.queued_at = time.monotonic()
        self.future: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
        self._missing = len(items)
        self._replies: list[Reply] = [None] * len(items)

    def take(self, room_runs: int, room_bytes: int, *, at_least_one: bool) -> tuple[range, int]:
        """The next items that a batch has room for, and their bytes; they count as sent from now on."""
        first, size = self.sent, 0
        stop = min(first + room_runs, len(self.items))
        for position in range(first, stop):
            more = size + len(self.items[position])
            if more > room_bytes and not (at_least_one and position == first):
                stop = position
                break
            size = more
        self.sent = stop
        return range(first, stop), size

    def settle(self, positions: Sequence[int], replies: Sequence[Reply]) -> None:
        """Note the answers to the items at `positions`; wakes the caller when none is missing, unless it has gone."""
        for position, reply in zip(positions, replies, strict=True):
            self._replies[position] = reply
        self._missing -= len(positions)
        if not self._missing and not self.future.done():
            self.future.set_result(self._replies)


def one_write(op: bytes, run_id: str, fields: Iterable[bytes], keys: tuple[str, ...]) -> Write:
    """A write of one item."""
    return Write(op, (run_id,), (frame((op, *fields)),), (keys,))


class Share(NamedTuple):
    """What a batch carries of one write."""

    write: Write
    positions: Sequence[int]


class Parcel:
    """The shares of one batch that go to one slot, as the command that carries them; made once, so that a retry repeats it."""

    __slots__ = ("anchor", "answered", "command", "mark", "shares", "size")

    def __init__(self, shares: Sequence[Share], settings: tuple[int, ...], names: Keys) -> None:
        keys = [key for write, positions in shares for position in positions for key in write.keys[position]]
        items = [write.items[position] for write, positions in shares for position in positions]
        self.anchor = keys[0]
        self.mark = names.barrier(shares[0].write.run_ids[shares[0].positions[0]])
        self.shares = shares
        self.size = len(items)
        self.answered = False
        self.command = pack("EVALSHA", sha1(TRANSITION), len(keys), *keys, *settings, len(items), b"".join(items))

    def is_over(self) -> bool:
        """Nobody waits for it any more: it was answered, or all its callers have gone."""
        return self.answered or all(share.write.future.done() for share in self.shares)

    def settle(self, answers: Sequence[Reply]) -> None:
        """Hand out the answers of the script, one for each item."""
        at = 0
        for write, positions in self.shares:
            write.settle(positions, answers[at : at + len(positions)])
            at += len(positions)

    def fail(self, error: AgentRaftError) -> None:
        """Answer every item with an error; each caller gets one of its own, because to raise it is to change it."""
        for write, positions in self.shares:
            own = type(error)(str(error), **error.fields)
            write.settle(positions, [own] * len(positions))


class GroupCommit:
    """The one writer of a store on one event loop."""

    def __init__(self, wire: Wire, keys: Keys, limits: Limits, url: str, tally: CommitTally, wait_ms: int = 2_000) -> None:
        self._wire = wire
        self._keys = keys
        self._limits = limits
        self._url = url
        self._wait_ms = wait_ms
        self._queue: deque[Write] = deque()
        self._moves: list[str] = []
        self._tally = tally
        self._held = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()
        self._flusher: asyncio.Task[None] | None = None
        retention_ms = int(limits.retention_s * 1000)
        self._settings = (retention_ms, max(retention_ms, int(limits.idempotency_ttl_s * 1000), 1), limits.inbox_max)

    async def submit(self, write: Write) -> Reply:
        """Send a write of one item with the next batch; the script's answer to it.

        Raises StoreUnavailable, StoreFull or StoreError; after the first two the outcome is unknown.
        """
        [reply] = await self.submit_all(write)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def submit_all(self, write: Write) -> list[Reply]:
        """Send all items of a write with the next batches; the script's answer to each, or the error that it ended with.

        Waits for room first, which is the back-pressure; a write that is larger than all the room goes when it is alone.
        """
        count = len(write.items)
        if self._turn.locked() or self._is_full(count):
            async with self._turn:  # in the order of asking, so that small writes do not keep a large one out for ever
                while self._is_full(count):
                    self._freed.clear()
                    await self._freed.wait()
        self._held += count
        try:
            write.queued_at = time.monotonic()
            self._queue.append(write)
            self._wake()
            return await write.future
        finally:
            self._held -= count
            self._freed.set()

    def _is_full(self, more: int) -> bool:
        return self._held > 0 and self._held + more > self._limits.queued_appends_max

    def note(self, move: str, run_id: str) -> None:
        """Have the index of runs corrected soon; idempotent, and a crash before it is made good by the next sweep."""
        self._moves += (move, run_id)
        self._wake()

    async def settled(self) -> None:
        """Wait until nothing is queued or in flight."""
        while self._flusher is not None and not self._flusher.done():  # one that was cancelled before it began has not said so
            await asyncio.wait([self._flusher])

    def _wake(self) -> None:
        if self._flusher is None:
            self._flusher = asyncio.get_running_loop().create_task(self._flush(), name="agentraft group commit")

    async def _flush(self) -> None:
        batch: list[Share] = []
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
            for write in (*(share.write for share in batch), *self._queue):
                write.future.cancel()
            self._queue.clear()

    def _take(self) -> list[Share]:
        batch: list[Share] = []
        room_runs, room_bytes = self._limits.batch_runs_max, self._limits.batch_bytes_max
        while self._queue and room_runs:
            write = self._queue[0]
            positions, size = write.take(room_runs, room_bytes, at_least_one=not batch)
            if not positions:
                break
            batch.append(Share(write, positions))
            room_runs -= len(positions)
            room_bytes -= size
            if write.sent == len(write.items):
                self._queue.popleft()
        return batch

    async def _commit(self, batch: list[Share]) -> None:
        patience = Patience(self._url, self._limits.store_wait_s, batch[0].write.queued_at)
        parcels = self._parcels(batch)
        self._tally.batches += 1
        opens = [
            part
            for write, positions in batch
            if write.op == Op.ADMIT
            for position in positions
            for part in ("open", write.run_ids[position])
        ]
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
                    for parcel in parcels:
                        if not parcel.answered:
                            parcel.fail(final)
                    return
            again = True
            parcels = [parcel for parcel in parcels if not parcel.is_over()]

    async def _bear(self, patience: Patience, error: Exception) -> None:
        remedy = await patience.bear(error)
        await self._wire.cure(remedy, (TRANSITION, INDEX))

    def _parcels(self, batch: list[Share]) -> list[Parcel]:
        if not self._wire.is_cluster:
            return [Parcel(batch, self._settings, self._keys)]
        by_slot: dict[int, dict[Write, list[int]]] = {}
        for write, positions in batch:
            for position in positions:
                by_slot.setdefault(self._wire.slot(write.keys[position][0]), {}).setdefault(write, []).append(position)
        return [Parcel([Share(*item) for item in shares.items()], self._settings, self._keys) for shares in by_slot.values()]

    async def _attempt(self, parcels: Sequence[Parcel], again: bool) -> None:
        """Send every parcel once; raises the first error that may pass, after the others were answered."""
        passing: Exception | None = None
        for parcel in parcels:
            reply = await self._exchange(parcel, again)
            parcel.answered = not isinstance(reply, Exception) or remedy_for(reply) is Remedy.NONE
            if not isinstance(reply, Exception):
                # The callers that this wakes take long together; what is queued must be on its way to the server before them.
                asyncio.get_running_loop().call_soon(parcel.settle, reply)
            elif parcel.answered:
                parcel.fail(store_error(reply, self._url, 0.0))
            else:
                passing = reply
        if passing is not None:
            raise passing

    async def _exchange(self, parcel: Parcel, again: bool) -> Reply:
        sent_at, tally = time.monotonic(), self._tally
        try:
            return await self._wire.exchange(parcel.anchor, parcel.command, self._wait_ms, parcel.mark if again else "")
        finally:
            tally.round_trips += 1
            tally.items += 0 if again else parcel.size
            tally.sent_bytes += len(parcel.command)
            tally.server_s += time.monotonic() - sent_at

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
