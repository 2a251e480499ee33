"""Ray itself, as a cluster needs it: start it here or join one, look at its resources, find a deployment's actors."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray._private import ray_constants, services
from ray.exceptions import RayError
from ray.util.state.exception import RayStateApiException

from agentraft_ray.actors import gateway, names
from agentraft_ray.actors.coordinator import ShardSettings
from agentraft_ray.actors.messages import decode
from agentraft_ray.actors.peers import Peer, PeerLost
from agentraft_ray.cluster.settings import ClusterSettings
from agentraft_ray.errors import AgentRaftError, InvalidConfig
from agentraft_ray.pipeline import Step

__all__ = [
    "actor_names",
    "check_room",
    "describe",
    "has_gpus",
    "is_running",
    "join",
    "join_named",
    "missing_resources",
    "node_id",
    "peer",
    "start_or_join",
    "stop",
]

_CONNECT_S = 5.0
_FREED_S = 5.0
_POLL_S = 0.1
_DESCRIBE_S = 20.0


def start_or_join(settings: ClusterSettings, address: str | None) -> bool:
    """Have a Ray to work with; whether it was joined or started here, so that leaving it is up to us. Raises InvalidConfig."""
    wanted = _wanted(address)
    if ray.is_initialized():
        return False
    if wanted:
        return join(wanted)
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    with _on_loopback():
        ray.init(
            address="local",
            num_cpus=settings.num_cpus,
            include_dashboard=settings.dashboard,
            log_to_driver=settings.log_to_driver,
            logging_level="error",
            namespace=names.NAMESPACE,
            _node_ip_address="127.0.0.1",
        )
    return True


def join(address: str | None) -> bool:
    """Join the Ray cluster at `address`, else the one that RAY_ADDRESS names or that runs on this machine. Raises InvalidConfig."""
    wanted = _wanted(address) or "auto"
    if ray.is_initialized():
        return False
    try:
        with _on_loopback() if _is_on_loopback_alone(wanted) else contextlib.nullcontext():
            ray.init(address=wanted, namespace=names.NAMESPACE, logging_level="warning")
    except (ConnectionError, RayError, RuntimeError, ValueError) as error:
        raise InvalidConfig(
            f"no Ray cluster can be joined at {wanted!r} ({error}); start one with `ray start --head`, name it by RAY_ADDRESS, "
            "or let Cluster.launch() start one here"
        ) from None
    return True


def stop() -> None:
    """Leave Ray; one that was started here ends."""
    ray.shutdown()


def node_id() -> str:
    """The Ray node that this program is on."""
    found: str = ray.get_runtime_context().get_node_id()
    return found


def peer(name: str) -> Peer:
    """An actor by its name."""
    return gateway.RayPeer(name)


def join_named() -> bool:
    """Join the Ray cluster that RAY_ADDRESS names, as a job does; whether that was done here. Raises InvalidConfig."""
    return False if _wanted(None) is None else join(None)


def is_running(deployment: str) -> bool:
    """Whether a deployment of this name runs on the Ray that this process uses, if it uses one."""
    return ray.is_initialized() and not gateway.is_dead(names.coordinator(deployment, 0))


def describe(deployment: str) -> ShardSettings:
    """The settings of a deployment that runs. Raises InvalidConfig where it does not."""
    try:
        handle = gateway.find(names.coordinator(deployment, 0))
        settings: ShardSettings = decode(ray.get(handle.describe.remote(), timeout=_DESCRIBE_S), ShardSettings)
    except (PeerLost, RayError) as error:
        known = ", ".join(sorted({name.partition("/")[0] for name in actor_names("")})) or "none"
        raise InvalidConfig(
            f"no cluster named {deployment!r} answers on this Ray cluster ({error}); running there: {known}. Cluster.launch() starts one"
        ) from None
    return settings


def actor_names(deployment: str) -> list[str]:
    """The names of a deployment's actors ("": of all deployments)."""
    try:
        listed: list[dict[str, Any]] = ray.util.list_named_actors(all_namespaces=True)
    except (RayError, RayStateApiException) as error:
        raise AgentRaftError(f"Ray does not list its actors: {error}") from None
    ours = [one["name"] for one in listed if one["namespace"] == names.NAMESPACE]
    return sorted(name for name in ours if not deployment or name.startswith(f"{deployment}/"))


def check_room(settings: ClusterSettings, shard: ShardSettings) -> None:
    """Raise InvalidConfig in plain words where a deployment cannot run here: a name that is taken, too few CPUs, a store out of reach."""
    taken = actor_names(settings.name)
    if taken:
        raise InvalidConfig(
            f"a cluster named {settings.name!r} runs here already ({len(taken)} actors); join it with Cluster.connect(), or give name="
        )
    wanted = settings.worker_count * settings.worker_cpus + settings.verifiers * settings.verifier_cpus
    there = ray.cluster_resources().get("CPU", 0.0)
    deadline = time.monotonic() + _FREED_S
    while (free := ray.available_resources().get("CPU", 0.0)) < wanted <= there and time.monotonic() < deadline:
        time.sleep(_POLL_S)  # Ray says late that something has ended
    if wanted > free:
        raise InvalidConfig(
            f"{settings.worker_count} workers of {settings.worker_cpus:g} CPUs and {settings.verifiers} verifiers of "
            f"{settings.verifier_cpus:g} need {wanted:g} CPUs; this Ray cluster has {there:g}, of which {free:g} are free. "
            "Set workers= or worker_cpus= lower, or add nodes"
        )
    addresses = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if shard.store.kind == "embedded" and len(addresses) > 1:
        raise InvalidConfig(
            f"the embedded store is on this machine, but the Ray cluster has {len(addresses)} machines; give the URL of a Redis or "
            "Valkey server that all of them reach: store='redis://...'"
        )


def _is_on_loopback_alone(wanted: str) -> bool:
    """Whether the Ray cluster at an address listens on loopback alone, as one does that a program has started for itself.

    Raises ConnectionError where nobody listens; Ray would try for half a minute.
    """
    with _on_loopback():
        found = services.canonicalize_bootstrap_address(wanted)
    if found is None:
        raise ConnectionError("none runs on this machine")
    host, _, port = found.rpartition(":")
    here = host in {"127.0.0.1", "localhost"}
    if here and _listens(services.get_node_ip_address(), port):
        return False
    if not _listens(host.strip("[]"), port):
        raise ConnectionError(f"nobody listens at {found}")
    return here


def _listens(host: str, port: str) -> bool:
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True


def missing_resources(step: Step) -> str:
    """What a step asks for that no single living node has at all, "" for nothing: "accelerator 1, GPU 2"."""
    wanted = {"CPU": step.num_cpus or 0.0, "GPU": step.num_gpus or 0.0, **(step.resources or {})}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(name, 0.0) >= amount for name, amount in wanted.items()) for node in nodes):
        return ""
    return ", ".join(f"{name} {amount:g}" for name, amount in wanted.items() if amount)


def has_gpus(count: int) -> bool:
    """Whether some living node has so many GPUs."""
    return any(node["Resources"].get("GPU", 0.0) >= count for node in ray.nodes() if node["Alive"])


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray turns the loopback address into the machine's, and then listens to everybody, unless this says that there is one node."""
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _wanted(address: str | None) -> str | None:
    """The address that was given here or by RAY_ADDRESS. Raises InvalidConfig for one that programs cannot work through."""
    wanted = address or os.environ.get("RAY_ADDRESS") or None
    if wanted is not None and wanted.startswith("ray://"):
        raise InvalidConfig(
            f"{wanted!r} is a Ray Client address: there a program is not part of the cluster, loses its connection with its calls, and "
            "cannot be called back. Submit the program as a job instead: ray job submit --working-dir . -- python your_program.py"
        )
    return wanted
