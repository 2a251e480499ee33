"""Calls to a Redis server as a store makes them: with connections of the running event loop, bounded in number, repeated with
patience. What is called, and what its answer means, is `redis.py`'s business.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from redis.exceptions import NoScriptError, RedisError

from agentraft_ray.checkpoint.connect import connect, redact
from agentraft_ray.checkpoint.durability import Barrier, Durability, verify_durability
from agentraft_ray.checkpoint.group_commit import CommitTally, GroupCommit
from agentraft_ray.checkpoint.keys import Keys
from agentraft_ray.checkpoint.patience import Patience
from agentraft_ray.checkpoint.scripts import INDEX, TRANSITION, sha1
from agentraft_ray.checkpoint.wire import Server, Wire
from agentraft_ray.config import Limits
from agentraft_ray.errors import InvalidConfig

__all__ = ["Address", "Here", "ServerCalls"]

T = TypeVar("T")
_RESERVED = 3  # connections that reads leave free: for the writer, the check of its durability, and leases


@dataclass(slots=True)
class Here:
    """What a store holds on one event loop."""

    wire: Wire
    writer: GroupCommit
    reads: asyncio.Semaphore
    leases: asyncio.Semaphore
    guard: AsyncGenerator[None, None]


@dataclass(frozen=True, slots=True)
class Address:
    """Where and how to connect. `server` is one of ours, started again when it has gone away."""

    url: str
    durability: Durability
    max_connections: int
    timeout_s: float
    options: Mapping[str, Any]
    server: Server | None


class ServerCalls:
    """The calls of one store, from any number of event loops and threads."""

    def __init__(self, address: Address, keys: Keys, limits: Limits) -> None:
        if address.max_connections <= _RESERVED:
            raise InvalidConfig(f"max_connections={address.max_connections} is too few: it takes {_RESERVED} and some to read")
        self.shown_url = redact(address.url)
        self._address = address
        self._keys = keys
        self._limits = limits
        self.tally = CommitTally()
        self._loops: dict[asyncio.AbstractEventLoop, Here] = {}
        self._loops_lock = threading.Lock()
        self._blocking: Any = None
        self._blocking_lock = threading.Lock()

    async def here(self) -> Here:
        """The connections of the running event loop; not connected yet at the first time."""
        loop = asyncio.get_running_loop()
        here = self._loops.get(loop)
        if here is not None:
            return here
        timeout_s, most = self._address.timeout_s, self._address.max_connections
        wire = Wire(self._connect(blocking=False, max_connections=most), self._verify, self.revive)
        wait_ms = int(min(2.0, timeout_s / 2) * 1000)
        writer = GroupCommit(wire, self._keys, self._limits, self.shown_url, self.tally, wait_ms)
        here = Here(wire, writer, asyncio.Semaphore(most - _RESERVED), asyncio.Semaphore(1), _closing(wire))
        with self._loops_lock:
            self._loops = {one: held for one, held in self._loops.items() if not one.is_closed()} | {loop: here}
        # An event loop closes its asynchronous generators when it ends: a store that nobody closed lets go of its sockets then.
        await anext(here.guard)
        return here

    def _connect(self, *, blocking: bool, max_connections: int) -> Any:
        words: dict[str, Any] = {"timeout_s": self._address.timeout_s, **self._address.options}
        words |= {"blocking": blocking, "max_connections": max_connections}
        return connect(self._address.url, **words)

    async def _verify(self, client: Any) -> Barrier:
        return await verify_durability(client, self._address.durability, can_wait=True)

    async def revive(self) -> None:
        """Start or join the server if it is ours."""
        if self._address.server is not None:
            await asyncio.to_thread(self._address.server.ensure)

    async def close(self) -> None:
        """Finish what is in flight on this loop, close its connections, leave the server if it is ours."""
        with self._blocking_lock:
            client, self._blocking = self._blocking, None
        if client is not None:
            client.close()
        with self._loops_lock:
            here = self._loops.pop(asyncio.get_running_loop(), None)
        if here is not None:
            await here.writer.settled()
            await here.guard.aclose()
        if self._address.server is not None:
            await asyncio.to_thread(self._address.server.leave)

    async def read(self, call: Callable[[Any], Awaitable[T]], key: str, *, lease: bool = False) -> T:
        """Make a call that may be repeated. Bounded in number, so that there is always a connection for it."""
        here = await self.here()
        patience = Patience(self.shown_url, self._limits.store_wait_s)
        async with here.leases if lease else here.reads:
            while True:
                try:
                    return await _heeding_cancellation(call(here.wire.client))
                except (RedisError, OSError) as error:
                    await here.wire.cure(await patience.bear(error, key), (TRANSITION, INDEX))

    async def run_script(self, script: str, keys: Sequence[str], args: Sequence[Any], *, lease: bool = False) -> Any:
        """Run a script that may be repeated."""

        async def run(client: Any) -> Any:
            try:
                return await client.evalsha(sha1(script), len(keys), *keys, *args)
            except NoScriptError:
                return await client.eval(script, len(keys), *keys, *args)

        return await self.read(run, keys[0], lease=lease)

    async def ask_as_writer(self, key: str, command: bytes) -> Any:
        """Make a repeatable call over the connection that writes, which connects it and has its durability checked."""
        here = await self.here()
        patience = Patience(self.shown_url, self._limits.store_wait_s)
        while True:
            try:
                reply = await _heeding_cancellation(here.wire.exchange(key, command))
                if isinstance(reply, Exception):
                    raise reply
                return reply
            except (RedisError, OSError) as error:
                await here.wire.cure(await patience.bear(error, key))

    def read_blocking(self, call: Callable[[Any], T], key: str) -> T:
        """Make a call that may be repeated without an event loop, on connections of its own."""
        with self._blocking_lock:
            if self._blocking is None:
                self._blocking = self._connect(blocking=True, max_connections=4)
            client = self._blocking
        patience = Patience(self.shown_url, self._limits.store_wait_s)
        while True:
            try:
                return call(client)
            except (RedisError, OSError) as error:
                patience.bear_blocking(error, key)
                if self._address.server is not None:
                    self._address.server.ensure()


async def _heeding_cancellation(work: Awaitable[T]) -> T:
    """Await a call of the client; a cancellation always comes through.

    The client uses `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that arrives together with the reply
    (CPython issue 86296): whoever cancelled would then wait for ever. In a task of its own it can only swallow that task's.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # nobody waits for what it says
        raise


async def _closing(wire: Wire) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await wire.close()
