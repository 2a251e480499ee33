"""Which classes become Ray actors, and with which options: the one place that calls `ray.remote`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agentraft_ray.actors.names import NAMESPACE
from agentraft_ray.runtime.naming import import_object

__all__ = ["CLASSES", "create"]

CLASSES = {
    "store": "agentraft_ray.actors.checkpoint_store:CheckpointStoreActor",
    "breaker": "agentraft_ray.actors.breaker:BreakerActor",
    "coordinator": "agentraft_ray.actors.coordinator:CoordinatorActor",
    "worker": "agentraft_ray.actors.worker:WorkerActor",
    "verifier": "agentraft_ray.actors.verifier:VerifierActor",
    "vllm": "agentraft_ray.actors.vllm:VLLMVerifierActor",
}
"""Role -> class. All of them are plain classes; what follows from being an actor stands in this file alone."""

_CONTROL = ("ping", "cancel", "drain", "stats", "renew_lease", "release_lease", "revoke_lease")
_CONTROL_CALLS_MAX = 16
_WORK_CALLS_MAX = 10_000  # every caller holds a long poll or two; what is really worked on is bounded by the actors themselves


@cache
def _remote(role: str) -> Any:
    actor_class = import_object(CLASSES[role])
    for method in _CONTROL:
        if hasattr(actor_class, method):  # what `ray.method(concurrency_group=)` does, without Ray in the class itself
            getattr(actor_class, method).__ray_concurrency_group__ = "control"
    return ray.remote(concurrency_groups={"control": _CONTROL_CALLS_MAX})(actor_class)


def create(
    role: str,
    name: str,
    args: tuple[Any, ...],
    *,
    num_cpus: float = 0.0,
    num_gpus: float = 0.0,
    resources: Mapping[str, float] | None = None,
    node_id: str | None = None,
    detached: bool = False,
    observing: bytes | None = None,
) -> Any:
    """Start an actor; its handle, which must be kept: without `detached` the actor ends with it. `node_id`: on that node or nowhere.

    It comes back by itself when its process dies, with the same arguments and no memory.

    Calls are never repeated by Ray (`max_task_retries=0`): whether a lost call did its work is decided by the log.
    """
    options: dict[str, Any] = {
        "name": name,
        "namespace": NAMESPACE,
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "max_restarts": -1,
        "max_task_retries": 0,
        "max_concurrency": _WORK_CALLS_MAX,
    }
    if resources:
        options["resources"] = dict(resources)
    if node_id is not None:
        # Not soft=True: Ray 2.60 was seen to put half of such actors without CPUs elsewhere although the node was there.
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node_id, soft=False)
    if detached:
        options["lifetime"] = "detached"
    return _remote(role).options(**options).remote(*args, observing=observing)
