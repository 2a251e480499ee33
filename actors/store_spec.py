"""Which store a cluster uses, as plain data that every process of it gets, and the store object that a process makes of it. No I/O.

Readers of an embedded server join it as its users, like the writer: so the server outlives a store actor that restarts, it stops
when the last process of the cluster has gone and not before, and whoever finds it dead first starts it again on the same data
(`EmbeddedServer` sees to it that only one does). The kernel drops what a killed process held.
"""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from typing import Any, Literal

import msgspec

from agentraft_ray.checkpoint.connect import redact
from agentraft_ray.checkpoint.embedded import default_directory
from agentraft_ray.checkpoint.redis import RedisCheckpointStore
from agentraft_ray.config import Limits
from agentraft_ray.errors import InvalidConfig

__all__ = ["StoreSpec", "limits_of", "open_store", "plain_limits"]

_READER_CONNECTIONS = 8  # a cluster has many readers, and a server its limit


class StoreSpec(msgspec.Struct, frozen=True):
    """Where the logs are: an embedded server's data directory (absolute, on `machine`) or a server's URL. `limits` = what differs
    from the defaults of `Limits`. Made by `embedded` and `server`."""

    kind: Literal["embedded", "server"]
    place: str
    prefix: str = "agentraft"
    durability: str = "fsync"
    limits: dict[str, int | float] | None = None
    machine: str = ""

    @classmethod
    def embedded(cls, directory: Path | str | None = None, *, limits: Limits | None = None, **words: Any) -> StoreSpec:
        """The server of a data directory on this machine; default as in `EmbeddedServer`."""
        place = Path(directory if directory is not None else default_directory()).resolve()
        return cls("embedded", str(place), limits=plain_limits(limits), machine=_this_machine(), **words)

    @classmethod
    def server(cls, url: str, *, limits: Limits | None = None, **words: Any) -> StoreSpec:
        """A server that every machine of the cluster reaches under `url`."""
        return cls("server", url, limits=plain_limits(limits), **words)

    def __repr__(self) -> str:
        return f"StoreSpec({self.kind} {redact(self.place) if self.kind == 'server' else self.place})"


def plain_limits(limits: Limits | None) -> dict[str, int | float] | None:
    """Limits as plain data: what differs from the defaults."""
    if limits is None:
        return None
    usual = Limits()
    pairs = ((one.name, getattr(limits, one.name)) for one in dataclasses.fields(limits))
    return {name: value for name, value in pairs if value != getattr(usual, name)}


def limits_of(spec: StoreSpec) -> Limits:
    """The limits that the store is to keep. Raises InvalidConfig for one that does not exist here."""
    try:
        return Limits(**(spec.limits or {}))  # type: ignore[arg-type]  # an int where it takes one: they come from `plain_limits`
    except TypeError as error:
        raise InvalidConfig(f"the store's limits {sorted(spec.limits or {})} are not all known here: {error}; use one version") from None


def open_store(spec: StoreSpec, *, reader: bool = False) -> RedisCheckpointStore:
    """The store of `spec` for this process; it connects at its first call. `reader`: for a process that writes to inboxes at most.

    Raises InvalidConfig, also for an embedded store of another machine: a server started here would be another, empty one.
    """
    words: dict[str, Any] = {"prefix": spec.prefix, "durability": spec.durability, "limits": limits_of(spec)}
    if reader:
        words["max_connections"] = _READER_CONNECTIONS
    if spec.kind == "server":
        return RedisCheckpointStore(spec.place, **words)
    if spec.machine != _this_machine():
        raise InvalidConfig(
            f"the embedded store {spec.place} is on machine {spec.machine!r} and cannot be used from {_this_machine()!r}; "
            "give a cluster of several machines the URL of a server: store='redis://host:6379'"
        )
    return RedisCheckpointStore.embedded(spec.place, **words)


def _this_machine() -> str:
    return socket.gethostname()
