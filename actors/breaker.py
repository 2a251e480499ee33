"""The actor that keeps the cluster's breakers: it hears what the shards saw, says what follows, and writes down what must last.

Its memory is in the store. What changes a scope, and every probe, is written before anybody hears of it; the outcomes of closed
scopes at most a second later. While the store is out of reach the actor goes on from memory, and `stats` says so.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from agentraft_ray.actors.breaker_desk import Desk
from agentraft_ray.actors.breaker_messages import Answer, Asked, BreakerSettings, Listen, Report, Reported
from agentraft_ray.actors.control import Controlled, Figures
from agentraft_ray.actors.messages import decode, encode
from agentraft_ray.breaker import BreakerPolicy
from agentraft_ray.errors import AgentRaftError, InvalidConfig

__all__ = ["BreakerActor", "Documents"]

_log = logging.getLogger("agentraft_ray")
_SNAPSHOT_VERSION = 1


class Documents(Protocol):
    """The part of the store that the breaker actor needs. Both raise errors of ours where the store cannot be reached."""

    async def put_document(self, name: str, data: bytes) -> None:
        """Keep `data` under `name`, durably, in the place of what was there."""

    async def document(self, name: str) -> bytes | None:
        """What is kept under `name`."""


class BreakerActor(Controlled):
    """All breakers of a cluster, by policy and scope. `settings` = encoded BreakerSettings; nothing is opened before the first call.

    `open_store` makes the way to the store, at the first call; without one the memory ends with the process. `clock` = seconds.
    """

    def __init__(
        self,
        settings: bytes,
        open_store: Callable[[], Documents] | None = None,
        *,
        clock: Callable[[], float] = time.time,
        observing: bytes | None = None,
    ) -> None:
        super().__init__(observing)
        self._settings: BreakerSettings = decode(settings, BreakerSettings)
        self._open_store = open_store
        self._clock = clock
        self._store: Documents | None = None
        self._desks: OrderedDict[bytes, Desk] = OrderedDict()  # by encoded policy, the one unused for longest first
        self._after_generation = 0
        self._restored = open_store is None
        self._try_store_at = 0.0  # monotonic; a store that failed is left alone for a moment, so that no reply waits for it in vain
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._changes = 0  # what must be written before it is told
        self._written = 0
        self._stale = False  # whether outcomes came since the last write
        self._writer: asyncio.Task[None] | None = None
        self._counts = {"reports": 0, "outcomes": 0, "probes": 0, "writes": 0, "store_failures": 0}

    async def report(self, batch: bytes) -> bytes:
        """Hear what one shard saw (an encoded Report) and say what is new (an encoded Reported)."""
        self.at_work()
        await self._restore()
        report: Report = decode(batch, Report)
        now_s = self._clock()
        desk = self._desk(report.policy)
        before = desk.version
        if desk.hear(report, now_s):
            self._counts["reports"] += 1
            self._counts["outcomes"] += sum(len(seen.outcomes) for seen in report.scopes)
            self._stale = self._stale or bool(report.scopes)
        self._changes += desk.version != before
        since = report.version if report.incarnation == self.incarnation else 0
        scopes = dict.fromkeys(seen.scope for seen in report.scopes)
        scopes |= dict.fromkeys(settled.permit.scope for settled in report.settled)
        scopes |= dict.fromkeys(one.scope for one in report.shut)
        scopes |= dict.fromkeys((*report.watched, *desk.news_since(since)))
        reply = self._word(desk, scopes, now_s)
        await self._write_changes()
        if desk.version != before:
            self._tell()
        return reply

    async def news(self, batch: bytes) -> bytes:
        """What has changed since a shard heard last (an encoded Listen): an encoded Reported, as soon as there is something."""
        self.at_work()
        await self._restore()
        listen: Listen = decode(batch, Listen)
        desk = self._desk(listen.policy)
        since = listen.version if listen.incarnation == self.incarnation else 0
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._settings.listen_s
        while desk.version <= since and loop.time() < ends_at:
            try:
                async with asyncio.timeout_at(ends_at):
                    await self._changed.wait()
            except TimeoutError:
                break
        return self._word(desk, desk.news_since(since), self._clock())

    def _word(self, desk: Desk, scopes: Iterable[str], now_s: float) -> bytes:
        words = tuple(desk.word(scope, now_s) for scope in scopes)
        return encode(Reported(self.incarnation, desk.version, desk.first_generation, words))

    def _tell(self) -> None:
        """Wake those who listen; what has changed is written by now."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def acquire(self, batch: bytes) -> bytes:
        """Answer who may be a probe (an encoded Asked) with an encoded Answer: one probe per half-open scope in the whole cluster."""
        self.at_work()
        await self._restore()
        asked: Asked = decode(batch, Asked)
        now_s = self._clock()
        desk = self._desk(asked.policy)
        before = desk.version
        permits = [desk.ask(ask, now_s) for ask in asked.asks]
        self._counts["probes"] += desk.version - before
        self._changes += desk.version != before
        answers = tuple((desk.word(ask.scope, now_s), permit) for ask, permit in zip(asked.asks, permits, strict=True))
        reply = encode(Answer(self.incarnation, desk.version, answers))
        await self._write_changes()
        if desk.version != before:
            self._tell()
        return reply

    def _desk(self, policy: bytes) -> Desk:
        found = self._desks.get(policy)
        if found is not None:
            self._desks.move_to_end(policy)
            return found
        while len(self._desks) >= self._settings.policies_max:
            quiet = (name for name, desk in self._desks.items() if not desk.open)
            gone = self._desks.pop(next(quiet, next(iter(self._desks))))
            self._after_generation = max(self._after_generation, gone.generations + 1)
        made = Desk(msgspec.msgpack.decode(policy, type=BreakerPolicy), self._settings.clients_max, self._after_generation)
        self._desks[policy] = made
        return made

    # --- the memory in the store -------------------------------------------------------------------------------------------

    async def _restore(self) -> None:
        """Read back what an earlier life wrote, once. As long as that fails nothing is written: it must not be lost."""
        if self._restored or time.monotonic() < self._try_store_at:
            return
        async with self._lock:
            if self._restored or time.monotonic() < self._try_store_at:
                return
            try:
                async with asyncio.timeout(self._settings.store_wait_s):
                    data = await self._opened().document(self._settings.document)
            except (AgentRaftError, OSError, TimeoutError) as failure:
                # Generations of an earlier life are never met again: they are far below the time in milliseconds.
                self._after_generation = max(self._after_generation, int(self._clock() * 1000))
                self._store_failed("read", failure)
                return
            if data is not None:
                self._recall(data)
            self._restored = True

    def _recall(self, data: bytes) -> None:
        try:
            plain = _opened_document(data)
            self._after_generation = max(self._after_generation, plain["after_generation"])
            for policy, desk in plain["desks"]:
                self._desk(policy).restore(desk, self._clock())
        except (InvalidConfig, zlib.error, msgspec.MsgspecError, LookupError, TypeError, ValueError, AttributeError):
            _log.exception("the breakers start closed: what is stored as %r is not readable", self._settings.document)
            self._after_generation = max(self._after_generation, int(self._clock() * 1000))
            self._desks.clear()

    async def _write_changes(self) -> None:
        """Return when all that was changed so far is in the store, or the store has failed. Outcomes alone are written later."""
        if self._written < self._changes:
            self._stale = True
            await self._write(self._changes)
        if self._stale and self._writer is None and self._open_store is not None:
            self._writer = asyncio.get_running_loop().create_task(self._write_later())

    async def _write_later(self) -> None:
        try:
            while self._stale:
                await asyncio.sleep(self._settings.write_every_s)
                await self._restore()
                if self._stale:
                    await self._write(self._changes, even_unchanged=True)
        finally:
            self._writer = None

    async def _write(self, wanted: int, *, even_unchanged: bool = False) -> None:
        async with self._lock:
            if self._written >= wanted and not even_unchanged:
                return  # the write that this one waited for has told it as well
            if not self._restored or self._open_store is None or time.monotonic() < self._try_store_at:
                return
            changes = self._changes
            self._stale = False
            data = self._document()
            try:
                async with asyncio.timeout(self._settings.store_wait_s):
                    await self._opened().put_document(self._settings.document, data)
            except (AgentRaftError, OSError, TimeoutError) as failure:
                self._stale = True
                self._store_failed("written", failure)
                return
            self._written = max(self._written, changes)
            self._counts["writes"] += 1

    def _document(self) -> bytes:
        """All memory, or where that is too long only what has opened: a trip is never lost, a window of outcomes may be."""
        data = b""
        for lean in (False, True):
            desks = [(policy, desk.snapshot(lean=lean)) for policy, desk in self._desks.items()]
            plain = {"version": _SNAPSHOT_VERSION, "after_generation": self._after_generation, "desks": desks}
            data = zlib.compress(encode(plain), level=1)  # ids of attempts that begin alike: a tenth is left of them
            if len(data) <= self._settings.document_bytes_max:
                break
        return data

    def _opened(self) -> Documents:
        if self._store is None:
            assert self._open_store is not None
            self._store = self._open_store()
        return self._store

    def _store_failed(self, verb: str, failure: Exception) -> None:
        self._try_store_at = time.monotonic() + self._settings.write_every_s
        self._counts["store_failures"] += 1
        _log.warning("the breakers' memory cannot be %s (%s); they go on without, and try again", verb, failure)

    # --- control -----------------------------------------------------------------------------------------------------------

    def _begin_drain(self) -> None:
        if self._writer is not None:
            self._writer.cancel()
        self._writer = asyncio.get_running_loop().create_task(self._write(self._changes, even_unchanged=True))

    def _figures(self) -> Figures:
        desks = list(self._desks.values())
        return {
            **self._counts,
            "policies": len(desks),
            "scopes_open": sum(len(desk.open) for desk in desks),
            "restored": int(self._restored),
            "unwritten": self._changes - self._written if self._open_store is not None else 0,
        }


def _opened_document(data: bytes) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.msgpack.decode(zlib.decompress(data))
    if plain.get("version") != _SNAPSHOT_VERSION:
        raise InvalidConfig(f"breaker document of version {plain.get('version')!r}; this release reads {_SNAPSHOT_VERSION}")
    return plain
