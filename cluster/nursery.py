"""Where the actors of a deployment live: the supervisor's hands, on Ray. Holds the handles, with which the actors end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from agentraft_ray.actors import gateway, options
from agentraft_ray.actors.children import ChildSpec
from agentraft_ray.actors.messages import Pong, decode
from agentraft_ray.actors.peers import PeerLost

__all__ = ["Place", "RayNursery"]

_CALL_S = 5.0


@dataclass(frozen=True)
class Place:
    """What an actor is created with. `args` makes its constructor's arguments; the others are its demands on Ray."""

    role: str
    args: Callable[[], tuple[Any, ...]]
    num_cpus: float = 0.0
    num_gpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)
    node_id: str | None = None
    observing: bytes | None = None


class RayNursery:
    """See `actors.supervisor.Nursery`. Ray ends an actor when the handle from its creation is gone, so those are kept here."""

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self._handles: dict[str, Any] = {}
        self._peers: dict[str, gateway.RayPeer] = {}

    async def ping(self, name: str) -> Pong | None:
        """See `Nursery.ping`."""
        found = await self._call(name, "ping")
        return None if found is None else decode(found, Pong)

    async def is_gone(self, name: str) -> bool:
        """See `Nursery.is_gone`."""
        return await asyncio.to_thread(gateway.is_dead, name)

    async def stats(self, name: str) -> Mapping[str, float | int | str] | None:
        """See `Nursery.stats`."""
        found: Mapping[str, float | int | str] | None = await self._call(name, "stats")
        return found

    async def drain(self, name: str) -> None:
        """See `Nursery.drain`."""
        await self._call(name, "drain")

    async def kill(self, name: str, restart: bool) -> None:
        """See `Nursery.kill`."""
        await asyncio.to_thread(gateway.stop, name, restart=restart)

    async def create(self, spec: ChildSpec) -> None:
        """See `Nursery.create`."""
        if not await self.is_gone(spec.name):
            return
        place = self.places[spec.name]
        demands: dict[str, Any] = {"num_cpus": place.num_cpus, "num_gpus": place.num_gpus, "resources": place.resources}
        create = partial(options.create, **demands, node_id=place.node_id, observing=place.observing)
        self._handles[spec.name] = await asyncio.to_thread(create, place.role, spec.name, place.args())

    def forget(self, name: str) -> None:
        """Drop the handle of an actor, which ends with it."""
        self.places.pop(name, None)
        self._handles.pop(name, None)
        self._peers.pop(name, None)

    async def _call(self, name: str, method: str) -> Any:
        peer = self._peers.get(name) or self._peers.setdefault(name, gateway.RayPeer(name))
        try:
            async with asyncio.timeout(_CALL_S):
                return await peer.call(method)
        except (PeerLost, TimeoutError):
            return None
