"""The connections of one Redis store on one event loop: a client for reads and one pinned connection per server for writes.

Writes stay on a connection of their own because WAIT speaks only of what its connection wrote, and because the promised
durability is checked again on every connection before the first write goes over it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from hiredis import pack_command
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import RedisError, ResponseError

from agentraft_ray.checkpoint.durability import Barrier
from agentraft_ray.checkpoint.patience import NotDurableYet, Remedy

__all__ = ["Reply", "Server", "Wire", "pack"]

Reply = Any
"""What a server answers to one command: plain data, or the ResponseError that it refused with."""


def pack(*words: str | bytes | float) -> bytes:
    """A command as it goes over the wire; redis-py's own packing costs more than all the rest of an append."""
    packed: bytes = pack_command(words)  # type: ignore[arg-type]  # its stub says a tuple of one
    return packed


class Server(Protocol):
    """A server that this process runs: started again when it has gone away."""

    def ensure(self) -> str:
        """Start or join the server unless that is done; its URL."""

    def leave(self) -> None:
        """Leave it; the last user stops it."""


class Wire:
    """A client and the pinned connections of its servers; nothing is connected before the first use."""

    def __init__(self, client: Any, verify: Callable[[Any], Awaitable[Barrier]], revive: Callable[[], Awaitable[None]]) -> None:
        self._verify = verify
        self._revive = revive
        self._pinned: dict[str, Any] = {}
        self._barrier: Barrier | None = None
        self._one_at_a_time = asyncio.Lock()
        self.client = client

    @property
    def is_cluster(self) -> bool:
        """Whether keys of different slots may live on different servers."""
        return isinstance(self.client, RedisCluster)

    def slot(self, key: str) -> int:
        """The slot of `key` on a Redis Cluster; 0 elsewhere, where one script may take all keys."""
        return int(self.client.keyslot(key)) if self.is_cluster else 0

    async def exchange(self, key: str, command: bytes, wait_ms: int = 0, mark: str = "") -> Reply:
        """Send a packed command to the server that has `key`; its reply, or the ResponseError that it was refused with.

        With `wait_ms` it comes back when the write is as durable as was promised. A repeated command may find everything written
        over a connection that is gone, so that there is nothing to wait for: then `mark` is a key to write behind it.
        Raises RedisError or OSError when the connection failed or durability was not reached: the outcome is unknown.
        """
        async with self._one_at_a_time:
            connection, barrier = await self._pin(key)
            if not wait_ms or not barrier.command:
                return (await self._send(connection, [command]))[0]
            marks = [pack("SET", mark, "1", "PX", 1000)] if mark else []
            replies = await self._send(connection, [command, *marks, pack(*barrier.words(wait_ms))])
            for reply in replies[1:]:
                if isinstance(reply, Exception):
                    raise reply
            if not isinstance(replies[0], Exception) and not barrier.kept(replies[-1]):
                raise NotDurableYet(f"{barrier.command} answered {replies[-1]}")
            return replies[0]

    async def _send(self, connection: Any, commands: Sequence[bytes]) -> list[Reply]:
        await connection.send_packed_command(commands, check_health=False)
        replies: list[Reply] = []
        for _ in commands:
            try:
                replies.append(await connection.read_response())
            except ResponseError as refusal:
                replies.append(refusal)
        return replies

    async def _pin(self, key: str) -> tuple[Any, Barrier]:
        if self.is_cluster:
            await self.client.initialize()
            node = self.client.get_node_from_key(key)
            connection = self._pinned.get(node.name) or node.acquire_connection()
            self._pinned[node.name] = connection
        else:
            connection = self._pinned.get("") or await self.client.connection_pool.get_connection()
            self._pinned[""] = connection
        if not connection.is_connected:
            self._barrier = None
            await connection.connect()
        if self._barrier is None:
            self._barrier = await self._verify(self.client)
        return connection, self._barrier

    async def cure(self, remedy: Remedy, scripts: Sequence[str] = ()) -> None:
        """Do what `remedy` says; a cure that fails is no error, the next attempt shows."""
        try:
            if remedy is Remedy.RECONNECT:
                await self.drop()
                await self._revive()
            elif remedy is Remedy.FIND_SLOT and self.is_cluster:
                await self.client.nodes_manager.initialize()
            elif remedy is Remedy.LOAD_SCRIPTS:
                for script in scripts:
                    await self.client.script_load(script)
        except (RedisError, OSError):
            self._barrier = None

    async def drop(self) -> None:
        """Let go of idle connections and of the pinned ones; the next use connects anew and checks the durability again."""
        self._barrier = None
        for connection in self._pinned.values():
            await connection.disconnect(nowait=True)
        if self.is_cluster:
            self._pinned = {}
            await self.client.aclose()
        else:
            await self.client.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        """Close every connection."""
        pinned, self._pinned = self._pinned, {}
        for connection in pinned.values():
            await connection.disconnect(nowait=True)
        await self.client.aclose()
