"""How one actor calls another one, as seen by the caller: a port, and the one way in which a call can fail. Ray is behind it."""

from __future__ import annotations

from typing import Any, Protocol

from agentraft_ray.errors import AgentRaftError

__all__ = ["Peer", "PeerLost"]


class PeerLost(AgentRaftError):
    """The actor died, was replaced, or cannot be reached: whether it did what it was asked is unknown. Fields: peer."""


class Peer(Protocol):
    """Another actor, by its name. It is found again by itself after it was restarted."""

    name: str

    async def call(self, method: str, *args: Any) -> Any:
        """What `method` returns. Raises PeerLost."""
