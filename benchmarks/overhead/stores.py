"""The store under measurement, and its server: opened, looked at, and cleaned up behind."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import redis
import redis.asyncio

from agentraft_ray import InMemoryCheckpointStore
from agentraft_ray.checkpoint.logged import LoggedCheckpointStore
from benchmarks.overhead.figures import Probe, ServerFacts
from benchmarks.processes import cpu_s

__all__ = ["Bench", "open_bench"]

_CONNECTIONS_MAX = 64


class Bench:
    """A store and, where it has one, its server."""

    def __init__(self, store: LoggedCheckpointStore, url: str, prefix: str) -> None:
        self.store = store
        self.url = url
        self.prefix = prefix
        self._pid: int | None = None
        self._before: dict[str, Any] = {}

    @property
    def has_server(self) -> bool:
        return bool(self.url)

    def client(self) -> redis.asyncio.Redis:
        """A plain client for the baseline: one connection per run, up to what a careful user would open."""
        pool = redis.asyncio.BlockingConnectionPool.from_url(self.url, max_connections=_CONNECTIONS_MAX, timeout=60)
        return redis.asyncio.Redis.from_pool(pool)

    def server_cpu_s(self) -> float:
        """CPU seconds of the server so far; 0 where there is none, or none that can be seen from here."""
        return cpu_s(self._pid) if self._pid is not None else 0.0

    def begin(self) -> None:
        """Note where the server stands."""
        if self.has_server:
            self._before = self.info()
            pid = int(self._before["process_id"])
            name = Path(f"/proc/{pid}/comm")
            ours = name.is_file() and name.read_text().startswith(("valkey", "redis"))
            self._pid = pid if ours else None

    def info(self) -> dict[str, Any]:
        """Everything that INFO says."""
        with redis.Redis.from_url(self.url) as client:
            found: dict[str, Any] = client.info()
            return found

    def file_bytes(self) -> int:
        """Size of the server's append-only file; 0 where it keeps none."""
        return int(self.info().get("aof_current_size", 0)) if self.has_server else 0

    def facts(self) -> ServerFacts | None:
        """What the server was and did since `begin`."""
        if not self.has_server:
            return None
        now, before = self.info(), self._before
        with redis.Redis.from_url(self.url) as client:
            setting = client.config_get("appendfsync").get("appendfsync", "unknown") if now["aof_enabled"] else "off"
        kind = "valkey" if "valkey_version" in now else "redis"
        return ServerFacts(
            f"{kind} {now.get('valkey_version', now['redis_version'])}",
            setting,
            now["total_connections_received"] - before["total_connections_received"],
            now["rejected_connections"] - before["rejected_connections"],
        )

    async def clean_up(self) -> None:
        """Remove every key that was written."""
        if self.has_server:
            async with self.client() as client:
                async for key in client.scan_iter(f"{self.prefix}:*", count=1_000):
                    await client.unlink(key)


@asynccontextmanager
async def open_bench(probe: Probe) -> AsyncIterator[Bench]:
    """The store that the probe names: "memory", "embedded" (a server of ours, its data in the probe's directory) or a URL."""
    if probe.store == "memory":
        yield Bench(InMemoryCheckpointStore(), "", "")
        return
    from agentraft_ray.checkpoint.redis import RedisCheckpointStore  # noqa: PLC0415 - redis only where it is used

    prefix = f"bench-{secrets.token_hex(4)}"
    durability = probe.durability or "fsync"
    if probe.store == "embedded":
        store = RedisCheckpointStore.embedded(Path(probe.directory), prefix=prefix, durability=durability)
    else:
        store = RedisCheckpointStore(probe.store, prefix=prefix, durability=durability)
    await store.open()
    bench = Bench(store, store.url, prefix)
    bench.begin()
    try:
        yield bench
    finally:
        if probe.store != "embedded":
            await bench.clean_up()
        await store.close()
