"""What "durable" was asked for, and whether a server keeps it. Asked at every connect; nothing is ever set on the server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import redis
import redis.asyncio

from agentraft_ray.errors import DurabilityUnverified, InvalidConfig

__all__ = ["AsyncClient", "Barrier", "Durability", "parse_durability", "verify_durability"]

AsyncClient = redis.asyncio.Redis | redis.asyncio.RedisCluster
_REPLICATED = re.compile(r"replicated\(\s*([1-9]\d{0,2})\s*\)")


@dataclass(frozen=True, slots=True)
class Durability:
    """``fsync``: on disk before an append returns. ``replicated(n)``: also in the memory of n replicas. ``memory``: no promise.
    ``trust-server``: nothing is checked, you know the server."""

    level: Literal["fsync", "replicated", "memory", "trust-server"]
    replicas: int = 0

    def __str__(self) -> str:
        return f"replicated({self.replicas})" if self.level == "replicated" else self.level


@dataclass(frozen=True, slots=True)
class Barrier:
    """What to send after a write, on the same connection, before it counts as durable; `command` "" = nothing.

    >>> Barrier("WAIT", 2).words(500)
    ('WAIT', 2, 500)
    """

    command: Literal["", "WAIT", "WAITAOF"] = ""
    replicas: int = 0

    def words(self, timeout_ms: int) -> tuple[str | int, ...]:
        """The command; () where nothing is needed."""
        if self.command == "WAITAOF":
            return ("WAITAOF", 1, self.replicas, timeout_ms)
        return ("WAIT", self.replicas, timeout_ms) if self.command else ()

    def kept(self, reply: Any) -> bool:
        """Whether the reply says that the write is as durable as was asked."""
        if self.command == "WAITAOF":
            return int(reply[0]) >= 1 and int(reply[1]) >= self.replicas
        return not self.command or int(reply) >= self.replicas


def parse_durability(text: str) -> Durability:
    """Read ``durability=``. Raises InvalidConfig.

    >>> parse_durability("replicated(2)")
    Durability(level='replicated', replicas=2)
    """
    match text:
        case "fsync" | "memory" | "trust-server":
            return Durability(text)
        case str() if found := _REPLICATED.fullmatch(text):
            return Durability("replicated", int(found[1]))
    raise InvalidConfig(f"durability={text!r} is not one of: fsync, replicated(n), memory, trust-server")


async def verify_durability(client: AsyncClient, wanted: str | Durability, *, can_wait: bool = False) -> Barrier:
    """Check that the server keeps `wanted`; what to send after each write. On a cluster every primary is asked.

    For ``fsync`` that is AOF with ``appendfsync always``. A server that fsyncs later, or does not let us look, passes only where
    it has WAITAOF and the caller `can_wait`, that is, sends the barrier. One that may evict keys passes only for
    ``trust-server``.

    Raises:
        DurabilityUnverified: the promise is not kept or cannot be checked.
        InvalidConfig: `wanted` is no durability.
        redis.RedisError: the server did not answer.
    """
    asked = parse_durability(wanted) if isinstance(wanted, str) else wanted
    if asked.level == "trust-server":
        return Barrier()
    barrier = Barrier()
    for node in await _primaries(client):
        server = _Server(client, node)
        await _refuse_eviction(server, asked)
        if asked.level == "fsync":
            found = await _check_fsync(server, asked, can_wait=can_wait)
            barrier = found if found.command else barrier
        elif asked.level == "replicated":
            barrier = await _check_replicas(server, asked)
    return barrier


class _Server:
    """One server to ask; what it forbids reads as empty."""

    def __init__(self, client: AsyncClient, node: Any) -> None:
        self._client = client
        self._where = {} if node is None else {"target_nodes": node}

    async def config(self, pattern: str) -> dict[str, str]:
        found = await self._ask("CONFIG GET", pattern)
        return {_text(name): _text(value) for name, value in found.items()} if isinstance(found, dict) else {}

    async def info(self, section: str) -> dict[str, Any]:
        found = await self._ask("INFO", section)
        return found if isinstance(found, dict) else {}

    async def has_waitaof(self) -> bool:
        return await self._ask("WAITAOF", 0, 0, 0) is not None

    async def _ask(self, *words: str | int) -> Any:
        try:
            return await self._client.execute_command(*words, **self._where)
        except redis.ResponseError:  # forbidden, renamed or unknown
            return None


async def _primaries(client: AsyncClient) -> list[Any]:
    if not isinstance(client, redis.asyncio.RedisCluster):
        return [None]
    await client.initialize()
    return list(client.get_primaries())


async def _refuse_eviction(server: _Server, asked: Durability) -> None:
    policy = (await server.config("maxmemory-policy")).get("maxmemory-policy")
    policy = policy or _text((await server.info("memory")).get("maxmemory_policy", ""))
    if policy not in ("", "noeviction"):
        raise DurabilityUnverified(
            f"the server's maxmemory-policy is {policy}: when memory runs out it deletes run logs without a word. "
            "Set it to noeviction, or give AgentRaft a server of its own",
            wanted=str(asked),
            found=policy,
        )


async def _check_fsync(server: _Server, asked: Durability, *, can_wait: bool) -> Barrier:
    settings = await server.config("append*")
    aof, fsync = settings.get("appendonly"), settings.get("appendfsync")
    if aof is None:
        enabled = (await server.info("persistence")).get("aof_enabled")
        aof, fsync = {1: "yes", 0: "no", None: "unknown"}.get(enabled, "unknown"), "unknown"
    if aof == "yes" and fsync == "always":
        return Barrier()
    if aof == "yes" and fsync in ("everysec", "unknown") and can_wait and await server.has_waitaof():
        return Barrier("WAITAOF")
    found = f"appendonly {aof}, appendfsync {fsync}"
    raise DurabilityUnverified(
        f"durability='fsync' was asked for, and the server has {found}. Set appendonly yes and appendfsync always there, or, "
        "if you know that it keeps every acknowledged write, use durability='trust-server'; durability='memory' asks for nothing",
        wanted=str(asked),
        found=found,
    )


async def _check_replicas(server: _Server, asked: Durability) -> Barrier:
    replication = await server.info("replication")
    role, replicas = _text(replication.get("role", "unknown")), replication.get("connected_slaves")
    if role == "slave" or (replicas is not None and replicas < asked.replicas):
        found = "a replica" if role == "slave" else f"{replicas} connected replicas"
        raise DurabilityUnverified(
            f"durability={str(asked)!r} was asked for, and the server has {found}. Connect the replicas, or ask for fewer",
            wanted=str(asked),
            found=found,
        )
    return Barrier("WAIT", asked.replicas)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
