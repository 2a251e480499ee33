"""The Redis and Valkey store: what a run store promises, in terms of the scripts, the group commit and a few plain reads.

Core commands and EVAL only. One object may be used from several event loops, also at the same time; each gets connections of its own.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from agentraft_ray.checkpoint.base import (
    Admission,
    Answer,
    AppendEntry,
    Command,
    NewRun,
    RunMeta,
    RunPart,
    RunPlace,
    check_document,
    revoked,
)
from agentraft_ray.checkpoint.calls import Address, Here, ServerCalls
from agentraft_ray.checkpoint.durability import parse_durability
from agentraft_ray.checkpoint.embedded import EmbeddedServer
from agentraft_ray.checkpoint.group_commit import CommitTally, Write, one_write
from agentraft_ray.checkpoint.items import admission_of, admit_item, answer_of, append_item, meta_of, refused
from agentraft_ray.checkpoint.keys import DOCUMENTS, Keys
from agentraft_ray.checkpoint.log_table import inbox_full
from agentraft_ray.checkpoint.logged import LoggedCheckpointStore
from agentraft_ray.checkpoint.run_index import RunIndex
from agentraft_ray.checkpoint.scripts import DENIED, KEEP_SAVED, RELEASE, RENEW, REVOKED, SAVE, TRANSITION, Op, frame
from agentraft_ray.checkpoint.wire import Server, pack
from agentraft_ray.config import Limits
from agentraft_ray.errors import ForeignKey, InvalidConfig, StoreError
from agentraft_ray.identity import check_run_id

__all__ = ["RedisCheckpointStore"]

_CHUNK = 500  # runs looked at in one round trip of a sweep


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
        self._index = RunIndex(self._calls, self.keys)

    @classmethod
    def embedded(cls, directory: Path | str | None = None, **options: Any) -> Self:
        """A store on the server of a data directory (default: `.agentraft` here), started when needed and shared."""
        server = EmbeddedServer(directory)
        return cls(server.url, server=server, **options)

    @property
    def tally(self) -> CommitTally:
        """What the writers of this store have sent so far."""
        return self._calls.tally

    # --- life ----------------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See `RunStore.open`. Raises ForeignKey, and StoreError where the user lacks a permission."""
        await self._calls.revive()
        for key, ours in ((self.keys.open, b"zset"), (self.keys.finished, b"zset"), (self.keys.documents, b"hash")):
            kind = await self._calls.ask_as_writer(key, pack("TYPE", key))
            if kind not in {b"none", ours}:
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
        [answer] = await self.admit_many([NewRun(run_id, admission, record, head, tuple(blobs))])
        if isinstance(answer, StoreError):
            raise answer
        return answer

    async def admit_many(self, admissions: Sequence[NewRun]) -> list[Admission | StoreError]:
        """See `RunStore.admit_many`."""
        if not admissions:
            return []
        run_ids = [check_run_id(new.run_id) for new in admissions]
        here = await self._calls.here()
        items = [admit_item(new, new.nonce or secrets.token_bytes(8)) for new in admissions]
        replies = await here.writer.submit_all(Write(Op.ADMIT, run_ids, items, [self.keys.run(run_id) for run_id in run_ids]))
        return [self._admitted(here, run_id, reply) for run_id, reply in zip(run_ids, replies, strict=True)]

    def _admitted(self, here: Here, run_id: str, reply: Any) -> Admission | StoreError:
        try:
            answer = admission_of(run_id, _raised(reply), self._calls.shown_url)
        except StoreError as error:
            return error
        if answer.meta.status == "finished":
            here.writer.note("drop" if answer.meta.expired else "finish", run_id)
        return answer

    async def append(self, entry: AppendEntry) -> Answer:
        """See `RunStore.append`."""
        run_id, here = check_run_id(entry.run_id), await self._calls.here()
        claimed = _claimed_from(entry)
        item, keys = append_item(entry, bool(claimed) and await self.lease_alive(claimed), self.keys)
        answer = self._appended(here, entry, await here.writer.submit(Write(Op.APPEND, (run_id,), (item,), (keys,))))
        if isinstance(answer, StoreError):
            raise answer
        return answer

    async def append_many(self, entries: Sequence[AppendEntry]) -> list[Answer | StoreError]:
        """See `RunStore.append_many`."""
        if not entries:
            return []
        run_ids = [check_run_id(entry.run_id) for entry in entries]
        here = await self._calls.here()
        try:
            living = await self._living([claimed for entry in entries if (claimed := _claimed_from(entry))])
        except StoreError as error:
            return [error] * len(entries)
        made = [append_item(entry, _claimed_from(entry) in living, self.keys) for entry in entries]
        replies = await here.writer.submit_all(Write(Op.APPEND, run_ids, [item for item, _ in made], [keys for _, keys in made]))
        return [
            self._appended(here, entry, reply if not isinstance(reply, Exception) else _value(reply))
            for entry, reply in zip(entries, replies, strict=True)
        ]

    def _appended(self, here: Here, entry: AppendEntry, reply: Any) -> Answer | StoreError:
        if reply == 1 and entry.status == "finished":
            here.writer.note("finish", entry.run_id)
        return reply if isinstance(reply, StoreError) else answer_of(entry, reply, self._calls.shown_url)

    async def push_command(self, run_id: str, command: Command) -> bool:
        """See `RunStore.push_command`."""
        here = await self._calls.here()
        fields = (command.id.encode(), command.body, secrets.token_bytes(8))
        reply = await here.writer.submit(one_write(Op.PUSH, run_id, fields, self.keys.run(check_run_id(run_id))))
        if isinstance(reply, list):
            if reply[0] == b"full":
                raise inbox_full(run_id, self.limits.inbox_max)
            raise refused(run_id, reply, self._calls.shown_url)
        return bool(reply)

    async def delete_run(self, run_id: str) -> int:
        """See `RunStore.delete_run`."""
        here = await self._calls.here()
        reply = await here.writer.submit(one_write(Op.DELETE, run_id, (), self.keys.run(check_run_id(run_id))))
        if isinstance(reply, list):
            if reply[0] == b"unfinished":
                raise StoreError(f"run {run_id!r} is {reply[1].decode()}, so its log stays; cancel it first", run_id=run_id)
            raise refused(run_id, reply, self._calls.shown_url)
        here.writer.note("drop", run_id)
        return int(reply)

    # --- reading -------------------------------------------------------------------------------------------------------------

    async def meta(self, run_id: str) -> RunMeta | None:
        """See `RunStore.meta`."""
        [found] = await self.metas([run_id])
        if isinstance(found, StoreError):
            raise found
        return found

    async def metas(self, run_ids: Sequence[str]) -> list[RunMeta | StoreError | None]:
        """See `RunStore.metas`. One round trip for every 500 runs, and on a Redis Cluster for every slot."""
        here = await self._calls.here()
        by_slot: dict[int, list[str]] = {}
        for run_id in dict.fromkeys(map(check_run_id, run_ids)):
            by_slot.setdefault(here.wire.slot(self.keys.run(run_id).meta), []).append(run_id)
        parts = [ids[start : start + _CHUNK] for ids in by_slot.values() for start in range(0, len(ids), _CHUNK)]
        found: dict[str, RunMeta | StoreError | None] = {}
        for part in await asyncio.gather(*map(self._metas, parts)):
            found |= part
        return [found[run_id] for run_id in run_ids]

    async def _metas(self, run_ids: Sequence[str]) -> dict[str, RunMeta | StoreError | None]:
        keys = [key for run_id in run_ids for key in self.keys.core(run_id)]
        try:
            replies = await self._calls.run_script(TRANSITION, keys, (0, 0, 0, len(run_ids), frame((Op.META,)) * len(run_ids)))
        except StoreError as error:
            return dict.fromkeys(run_ids, error)
        return {run_id: self._meta(run_id, reply) for run_id, reply in zip(run_ids, replies, strict=True)}

    def _meta(self, run_id: str, reply: list[Any]) -> RunMeta | StoreError | None:
        try:
            return meta_of(run_id, reply, self._calls.shown_url)
        except StoreError as error:
            return error

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
        if count <= 0:
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
        return await self._index.open_runs()

    async def finished_runs(self, older_than_s: float = 0) -> list[str]:
        """See `RunStore.finished_runs`."""
        return await self._index.finished_runs(older_than_s)

    async def list_runs(self, part: RunPart, count: int, before: RunPlace | None = None) -> list[RunPlace]:
        """See `RunStore.list_runs`."""
        return await self._index.list_runs(part, count, before)

    # --- leases --------------------------------------------------------------------------------------------------------------

    async def renew_lease(self, owner: str, ttl_s: float) -> None:
        """See `RunStore.renew_lease`."""
        if not await self._calls.run_script(RENEW, (self.keys.lease(owner),), (max(1, int(ttl_s * 1000)),), lease=True):
            raise revoked(owner)

    async def release_lease(self, owner: str) -> None:
        """See `RunStore.release_lease`."""
        await self._calls.run_script(RELEASE, (self.keys.lease(owner),), (), lease=True)

    async def revoke_lease(self, owner: str) -> None:
        """See `RunStore.revoke_lease`."""
        key, ttl_ms = self.keys.lease(owner), int(self.limits.lease_revoked_s * 1000)
        await self._calls.read(lambda client: client.set(key, REVOKED, px=ttl_ms), key, lease=True)

    async def lease_alive(self, owner: str) -> bool:
        """See `RunStore.lease_alive`."""
        return bool(await self._living([owner]))

    async def _living(self, owners: Sequence[str]) -> set[str]:
        """Those whose leases live, in one round trip."""
        if not owners:
            return set()

        async def ask(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for owner in owners:
                pipeline.get(self.keys.lease(owner))
            return list(await pipeline.execute())

        found = await self._calls.read(ask, self.keys.lease(owners[0]))
        return {owner for owner, held in zip(owners, found, strict=True) if held not in {None, REVOKED}}

    # --- documents -----------------------------------------------------------------------------------------------------------

    async def put_document(self, name: str, data: bytes) -> None:
        """See `RunStore.put_document`."""
        check_document(name, data, self.limits.document_bytes_max)
        here = await self._calls.here()
        reply = await here.writer.submit(one_write(Op.PUT, DOCUMENTS, (name.encode(), data), (self.keys.documents,)))
        if isinstance(reply, list):
            raise refused(f"document {name}", reply, self._calls.shown_url)

    async def document(self, name: str) -> bytes | None:
        """See `RunStore.document`."""
        key = self.keys.documents
        found: bytes | None = await self._calls.read(lambda client: client.hget(key, name), key)
        return found

    async def documents(self) -> dict[str, bytes]:
        """See `RunStore.documents`."""
        key = self.keys.documents
        found = await self._calls.read(lambda client: client.hgetall(key), key)
        return {name.decode(): data for name, data in found.items()}

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


def _claimed_from(entry: AppendEntry) -> str:
    """The owner whose lease forbids this claim, "" for none."""
    claim = entry.claim
    return "" if claim is None or claim.owner == entry.token.owner else claim.owner


def _raised(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise _value(reply)
    return reply


def _value(error: Exception) -> StoreError:
    """What went wrong, as the port gives it: a setting that keeps our server from starting is a failure of the store too."""
    return error if isinstance(error, StoreError) else StoreError(str(error))
