"""What the actors of a cluster are called, and which shard a run belongs to.

A name encodes deployment, role and number; it never proves that its bearer owns anything.
"""

from __future__ import annotations

import re
import zlib

from agentraft_ray.errors import InvalidConfig

__all__ = ["NAMESPACE", "breaker", "check_deployment", "coordinator", "engine", "group_of", "shard_of", "store", "verifier", "worker"]

NAMESPACE = "agentraft"
_DEPLOYMENT = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_deployment(name: str) -> str:
    """Return the name of a deployment. Raises InvalidConfig for one that cannot be part of an actor's name."""
    if not _DEPLOYMENT.fullmatch(name):
        raise InvalidConfig(f"cluster name {name!r} is not allowed: use 1 to 64 of A-Z a-z 0-9 _ -")
    return name


def store(deployment: str) -> str:
    return f"{deployment}/store"


def breaker(deployment: str) -> str:
    return f"{deployment}/breaker"


def coordinator(deployment: str, shard: int) -> str:
    return f"{deployment}/coordinator/{shard}"


def verifier(deployment: str, number: int) -> str:
    return f"{deployment}/verifier/{number}"


def engine(deployment: str, key: str, number: int) -> str:
    return f"{deployment}/engine/{key}/{number}"


def worker(deployment: str, group: str, number: int) -> str:
    return f"{deployment}/worker/{group}/{number}"


def group_of(num_cpus: float | None, num_gpus: float | None, resources: dict[str, float] | None, isolate: str | None) -> str:
    """The name of the group of workers that steps with these demands share; "" for none."""
    parts = [f"cpu{num_cpus:g}"] if num_cpus else []
    parts += [f"gpu{num_gpus:g}"] if num_gpus else []
    parts += [f"{name}{amount:g}" for name, amount in sorted((resources or {}).items())]
    parts += [isolate] if isolate else []
    return "+".join(parts)


def shard_of(run_id: str, shards: int) -> int:
    """The number of the coordinator that a run belongs to."""
    return zlib.crc32(run_id.encode()) % shards
