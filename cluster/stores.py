"""The store that the settings name, for commands and servers that work on it in their own process."""

from __future__ import annotations

import os
from typing import Any

from agentraft_ray.actors.store_spec import StoreSpec, open_store
from agentraft_ray.checkpoint.redis import RedisCheckpointStore
from agentraft_ray.checkpoint.seal import EncryptingSeal, PlainSeal, Seal
from agentraft_ray.cluster.settings import ClusterSettings
from agentraft_ray.cluster.sources import Setting, explain, made
from agentraft_ray.config import Limits

__all__ = ["explain_here", "limits_of", "seal_of", "settings_here", "store_of"]


def settings_here(**arguments: Any) -> ClusterSettings:
    """The settings for work in this process: as everywhere, but where no store is named REDIS_URL names it, as it does for `wrap`.

    Raises InvalidConfig.
    """
    return made(ClusterSettings, **_with_store(arguments))


def explain_here(**arguments: Any) -> list[Setting]:
    """Those settings with where each comes from."""
    with_store = _with_store(arguments)
    found = explain(ClusterSettings, **with_store)
    if with_store == arguments:
        return found
    return [one._replace(source="environment REDIS_URL") if one.name == "store" else one for one in found]


def store_of(settings: ClusterSettings) -> RedisCheckpointStore:
    """A store object for this process; it connects, and starts an embedded server, at its first call. Raises InvalidConfig."""
    words: dict[str, Any] = {"prefix": settings.prefix, "durability": settings.durability, "limits": limits_of(settings)}
    if settings.store == "embedded":
        return open_store(StoreSpec.embedded(settings.directory, **words))
    return open_store(StoreSpec.server(settings.store, **words))


def seal_of(settings: ClusterSettings) -> Seal:
    """What opens the logs of that store. Raises InvalidConfig for a key that is none."""
    key = settings.encryption_key
    return PlainSeal() if key is None else EncryptingSeal(key.get_secret_value())


def limits_of(settings: ClusterSettings) -> Limits:
    """The limits that follow from the settings."""
    return Limits(lease_ttl_s=settings.lease_ttl_s)


def _with_store(arguments: dict[str, Any]) -> dict[str, Any]:
    url = os.environ.get("REDIS_URL")
    if not url or "store" in arguments:
        return arguments
    named = next(one for one in explain(ClusterSettings, **arguments) if one.name == "store")
    return {**arguments, "store": url} if named.source == "default" else arguments
