"""The Redis and Valkey store: what a run store promises, in terms of the scripts, the group commit and a few plain reads.

Core commands and EVAL only. One object may be used from several event loops one after another; each gets connections of its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from agentraft_ray.checkpoint.base import Admission, Answer, AnswerKind, AppendEntry, Command, RunMeta
from agentraft_ray.checkpoint.calls import Address, ServerCalls
from agentraft_ray.checkpoint.durability import parse_durability
from agentraft_ray.checkpoint.embedded import EmbeddedServer
from agentraft_ray.checkpoint.keys import Keys
from agentraft_ray.checkpoint.logged import LoggedCheckpointStore
from agentraft_ray.checkpoint.memory import inbox_full
from agentraft_ray.checkpoint.scripts import DENIED, KEEP_SAVED, SAVE, TRANSITION, Op, frame, frame_list
from agentraft_ray.checkpoint.wire import Server, pack
from agentraft_ray.config import Limits
from agentraft_ray.errors import ForeignKey, InvalidConfig, StoreError
from agentraft_ray.identity import GENESIS, NO_OWNER, OwnerToken, check_run_id

__all__ = ["RedisCheckpointStore"]

_CHUNK = 500  # runs looked at in one round trip of a sweep
_NOT_DONE = {kind.value: kind for kind in AnswerKind}


class RedisCheckpointStore(LoggedCheckpointStore):
    """Durable, fenced run logs on a Redis >= 6.2 or Valkey server; appends of all runs share one group commit per event loop.

    `durability` is a promise that is checked at every connect: "fsync", "replicated(n)", "memory" or "trust-server". `server` is
    a server of ours that is joined, left, and started again when it has gone away. Nothing is connected before the first call.
    Raises InvalidConfig for a URL, prefix or durability that cannot be.
    """

    def __init__(
        self,
        url: str = "redis://localhost:6379/0",
        *,
        prefix: str = "agentraft",
        durability: str = "fsync",
        limits: Limits | None = None,
        max_connections: int = 16,
        timeout_s: float = 5.0,
        server: Server | None = None,
        **options: Any,
    ) -> None:
        if not prefix or any(char in prefix for char in "{}* \n"):
            raise InvalidConfig(f"store prefix {prefix!r} is not allowed: use a short word without braces, stars and blanks")
        self.url = url
        self.durability = durability
        self.limits = limits or Limits()
        self.keys = Keys(prefix)
        address = Address(url, parse_durability(durability), max_connections, timeout_s, options, server)
        self._calls = ServerCalls(address, self.keys, self.limits)

    @classmethod
    def embedded(cls, directory: Path | str | None = None, **options: Any) -> Self:
        """A store on the server of a data directory (default: `.agentraft` here), started when needed and shared."""
        server = EmbeddedServer(directory)
        return cls(server.url, server=server, **options)

    # --- life ----------------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See `RunStore.open`. Raises ForeignKey, and StoreError where the user lacks a permission."""
        await self._calls.revive()
        for key in (self.keys.open, self.keys.finished):
            kind = await self._calls.ask_as_writer(key, pack("TYPE", key))
            if kind not in {b"none", b"zset"}:
                raise ForeignKey(f"key {key!r} holds a {kind.decode()}, which is not ours; choose another prefix=", key=key)
        denied = await self._calls.run_script(DENIED, (self.keys.run("probe").log,), ())
        if denied:
            names = ", ".join(name.decode() for name in denied)
            raise StoreError(f"the store's user at {self._calls.shown_url} may not use {names}; grant them on {self.keys.prefix}:*")

    async def close(self) -> None:
        """See `RunStore.close`."""
        await self._calls.close()

    # --- writing -------------------------------------------------------------------------------------------------------------

    async def admit(
        self, run_id: str, admission: bytes, record: bytes, head: bytes, blobs: Sequence[tuple[bytes, bytes]] = ()
    ) -> Admission:
        """See `RunStore.admit`."""
        here = await self._calls.here()
        fields = [admission, record, head, secrets.token_bytes(8), *frame_list(_flat(blobs))]
        reply = await here.writer.submit(run_id, Op.ADMIT, fields, self.keys.run(check_run_id(run_id)))
        meta = self._meta(run_id, reply)
        assert meta is not None
        if meta.status == "finished":
            here.writer.note("drop" if meta.expired else "finish", run_id)
        return Admission(reply[0] == 1, meta)

    async def append(self, entry: AppendEntry) -> Answer:
        """See `RunStore.append`."""
        here = await self._calls.here()
        leased = False
        if entry.claim is not None and entry.claim.owner not in {"", entry.token.owner}:
            leased = await self.lease_alive(entry.claim.owner)
        check_run_id(entry.run_id)
        fields, keys = self._append_fields(entry, leased)
        reply = await here.writer.submit(entry.run_id, Op.APPEND, fields, keys)
        if reply == 1:
            if entry.status == "finished":
                here.writer.note("finish", entry.run_id)
            return Answer(AnswerKind.APPENDED, entry.token, entry.index + len(entry.records), entry.new_head)
        word = reply[0].decode()
        if word == "foreign":
            return Answer(AnswerKind.FOREIGN, entry.token, entry.index, entry.head)
        if word == "error":
            raise StoreError(f"the store at {self._calls.shown_url} refused an append to run {entry.run_id!r}: {reply[1].decode()}")
        return Answer(_NOT_DONE[word], _token(reply[1]), reply[2], reply[3] or GENESIS)

    def _append_fields(self, entry: AppendEntry, leased: bool) -> tuple[list[bytes], tuple[str, ...]]:
        token = _packed(entry.token)
        expected = token if entry.claim is None else _packed(entry.claim)
        place = (b"%d" % entry.index, entry.head, entry.new_head, expected, b"1" if leased else b"0", entry.status.encode())
        fields = [token, entry.append_id, *place, b"%d" % len(entry.records), *entry.records]
        if not (entry.blobs or entry.needs_blobs or entry.taken or entry.status == "finished"):
            fields.append(b"0")
            return fields, self.keys.core(entry.run_id)
        fields += (b"1", entry.outcome.encode(), *frame_list(_flat(entry.blobs)), *frame_list(entry.needs_blobs))
        fields += frame_list([command_id.encode() for command_id in entry.taken])
        return fields, self.keys.run(entry.run_id)

    async def push_command(self, run_id: str, command: Command) -> bool:
        """See `RunStore.push_command`."""
        here = await self._calls.here()
        fields = (command.id.encode(), command.body, secrets.token_bytes(8))
        reply = await here.writer.submit(run_id, Op.PUSH, fields, self.keys.run(check_run_id(run_id)))
        if isinstance(reply, list):
            if reply[0] == b"full":
                raise inbox_full(run_id, self.limits.inbox_max)
            raise self._refused(run_id, reply)
        return bool(reply)

    async def delete_run(self, run_id: str) -> int:
        """See `RunStore.delete_run`."""
        here = await self._calls.here()
        reply = await here.writer.submit(run_id, Op.DELETE, (), self.keys.run(check_run_id(run_id)))
        if isinstance(reply, list):
            if reply[0] == b"unfinished":
                raise StoreError(f"run {run_id!r} is {reply[1].decode()}, so its log stays; cancel it first", run_id=run_id)
            raise self._refused(run_id, reply)
        here.writer.note("drop", run_id)
        return int(reply)

    # --- reading -------------------------------------------------------------------------------------------------------------

    async def meta(self, run_id: str) -> RunMeta | None:
        """See `RunStore.meta`."""
        reply = await self._calls.run_script(TRANSITION, self.keys.run(check_run_id(run_id)), (0, 0, 0, 1, frame((Op.META,))))
        return self._meta(run_id, reply[0])

    def _meta(self, run_id: str, reply: list[Any]) -> RunMeta | None:
        if isinstance(reply[0], bytes):
            if reply[0] == b"missing":
                return None
            raise self._refused(run_id, reply)
        _, token, index, head, status, admission, outcome, expired, size = reply
        return RunMeta(_token(token), index, head, status.decode(), admission, outcome.decode(), bool(expired), size)

    def _refused(self, run_id: str, reply: list[Any]) -> StoreError:
        text = reply[1].decode()
        if reply[0] == b"foreign":
            return ForeignKey(f"key {text!r} holds a value of a type that is not ours; choose another prefix=", key=text)
        return StoreError(f"the store at {self._calls.shown_url} refused a write to run {run_id!r}: {text}; check its permissions")

    async def read(self, run_id: str, start: int = 0, count: int | None = None) -> list[bytes]:
        """See `RunStore.read`."""
        if count == 0:
            return []
        key, last = self.keys.run(run_id).log, -1 if count is None else start + count - 1
        return list(await self._calls.read(lambda client: client.lrange(key, start, last), key))

    async def blob(self, run_id: str, name: bytes) -> bytes | None:
        """See `RunStore.blob`."""
        key = self.keys.run(run_id).blobs
        found: bytes | None = await self._calls.read(lambda client: client.hget(key, name), key)
        return found

    def read_blocking(self, run_id: str, index: int) -> bytes | None:
        """See `RunStore.read_blocking`."""
        key = self.keys.run(run_id).log
        found: bytes | None = self._calls.read_blocking(lambda client: client.lindex(key, index), key)
        return found

    def read_many_blocking(self, run_id: str, start: int, count: int) -> list[bytes]:
        """See `RunStore.read_many_blocking`."""
        if count == 0:
            return []
        key = self.keys.run(run_id).log
        return list(self._calls.read_blocking(lambda client: client.lrange(key, start, start + count - 1), key))

    def blob_blocking(self, run_id: str, name: bytes) -> bytes | None:
        """See `RunStore.blob_blocking`."""
        key = self.keys.run(run_id).blobs
        found: bytes | None = self._calls.read_blocking(lambda client: client.hget(key, name), key)
        return found

    async def inbox(self, run_id: str) -> list[Command]:
        """See `RunStore.inbox`."""
        key = self.keys.run(run_id).inbox
        waiting = await self._calls.read(lambda client: client.hgetall(key), key)
        ordered = sorted((packed[:12], name, packed[12:]) for name, packed in waiting.items())
        return [Command(name.decode(), body) for _, name, body in ordered]

    async def open_runs(self) -> list[str]:
        """See `RunStore.open_runs`."""
        here = await self._calls.here()
        await here.writer.settled()
        found: list[str] = []
        for names in _chunks(await self._calls.read(lambda client: client.zrange(self.keys.open, 0, -1), self.keys.open)):
            for run_id, status in zip(names, await self._statuses(names), strict=True):
                if status is None:
                    here.writer.note("sweep", run_id)
                elif status == b"finished":
                    here.writer.note("finish", run_id)
                else:
                    found.append(run_id)
        return found

    async def finished_runs(self, older_than_s: float = 0) -> list[str]:
        """See `RunStore.finished_runs`."""
        here = await self._calls.here()
        await here.writer.settled()
        seconds, micros = await self._calls.read(lambda client: client.time(), "")
        before = seconds * 1_000_000 + micros - int(older_than_s * 1_000_000)
        key = self.keys.finished
        found: list[str] = []
        for names in _chunks(await self._calls.read(lambda client: client.zrangebyscore(key, "-inf", before), key)):
            for run_id, status in zip(names, await self._statuses(names), strict=True):
                if status == b"finished":
                    found.append(run_id)
                else:
                    here.writer.note("drop", run_id)
        return found

    async def _statuses(self, run_ids: Sequence[str]) -> list[bytes | None]:
        async def ask(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for run_id in run_ids:
                pipeline.hget(self.keys.run(run_id).meta, "status")
            return list(await pipeline.execute(raise_on_error=False))

        # A foreign value at one run's key must not hide the others; that run shows its ForeignKey when it is asked for.
        return [None if isinstance(one, Exception) else one for one in await self._calls.read(ask, "")]

    # --- leases --------------------------------------------------------------------------------------------------------------

    async def renew_lease(self, owner: str, ttl_s: float) -> None:
        """See `RunStore.renew_lease`."""
        key, ttl_ms = self.keys.lease(owner), max(1, int(ttl_s * 1000))
        await self._calls.read(lambda client: client.set(key, b"1", px=ttl_ms), key, lease=True)

    async def release_lease(self, owner: str) -> None:
        """See `RunStore.release_lease`."""
        key = self.keys.lease(owner)
        await self._calls.read(lambda client: client.delete(key), key, lease=True)

    async def lease_alive(self, owner: str) -> bool:
        """See `RunStore.lease_alive`."""
        key = self.keys.lease(owner)
        return bool(await self._calls.read(lambda client: client.exists(key), key))

    # --- checkpoints saved by hand -------------------------------------------------------------------------------------------

    async def _save_text(self, task_id: str, step_index: int, text: bytes) -> None:
        entry = b"%d:%s:%s" % (step_index, secrets.token_hex(8).encode(), text)
        await self._calls.run_script(SAVE, (self.keys.saved(task_id),), (entry,))

    async def _saved_texts(self, task_id: str) -> list[bytes]:
        key = self.keys.saved(task_id)
        return [entry.split(b":", 2)[2] for entry in await self._calls.read(lambda client: client.lrange(key, 0, -1), key)]

    async def _keep_texts(self, task_id: str, step_index: int | None) -> None:
        last = "" if step_index is None else str(step_index)
        await self._calls.run_script(KEEP_SAVED, (self.keys.saved(task_id),), (last,))


def _packed(token: OwnerToken) -> bytes:
    return f"{token.epoch}:{token.owner}".encode()


def _token(packed: bytes) -> OwnerToken:
    epoch, _, owner = packed.decode().partition(":")
    return OwnerToken(int(epoch), owner) if epoch else NO_OWNER


def _flat(blobs: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    return [part for blob in blobs for part in blob]


def _chunks(names: Sequence[bytes]) -> Iterator[list[str]]:
    for start in range(0, len(names), _CHUNK):
        yield [name.decode() for name in names[start : start + _CHUNK]]
