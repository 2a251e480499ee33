"""How a process of a cluster reaches the others over Ray; apart from the actors, so that those work without it."""

from __future__ import annotations

from agentraft_ray.actors import names
from agentraft_ray.actors.gateway import RayPeer
from agentraft_ray.actors.remote_store import ClusterStore
from agentraft_ray.actors.store_spec import StoreSpec

__all__ = ["cluster_store"]


def cluster_store(spec: StoreSpec, deployment: str) -> ClusterStore:
    """The store of a deployment: read from its server, written by its store actor. Nothing is connected before the first call."""
    return ClusterStore(spec, RayPeer(names.store(deployment)))
