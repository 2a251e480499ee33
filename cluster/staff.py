"""The actors of a deployment, for the program that launched it: who they are, starting them in order, ending them in reverse."""

from __future__ import annotations

import asyncio
import logging
import secrets
from functools import partial
from typing import Any

from agentraft_ray.actors import gateway, names, options
from agentraft_ray.actors.breaker_messages import BreakerSettings
from agentraft_ray.actors.coordinator import ShardSettings
from agentraft_ray.actors.messages import encode
from agentraft_ray.actors.peers import PeerLost
from agentraft_ray.actors.store_spec import StoreSpec
from agentraft_ray.actors.verifier import VerifierSettings
from agentraft_ray.actors.wiring import cluster_store
from agentraft_ray.actors.worker import WorkerSettings
from agentraft_ray.cluster.background import Background
from agentraft_ray.cluster.settings import ClusterSettings
from agentraft_ray.config import Limits
from agentraft_ray.errors import AgentRaftError, InvalidConfig
from agentraft_ray.pipeline import Step
from agentraft_ray.runtime.blueprint import Blueprint

__all__ = ["Staff", "shard_settings"]

_log = logging.getLogger("agentraft_ray")

_START_S = 120.0
_DRAIN_S = 15.0
_POLL_S = 0.1


def shard_settings(settings: ClusterSettings) -> ShardSettings:
    """What every coordinator of a deployment with these settings has in common."""
    limits = Limits(lease_ttl_s=settings.lease_ttl_s)
    words: dict[str, Any] = {"prefix": settings.prefix, "durability": settings.durability}
    spec = StoreSpec.embedded(settings.directory, **words) if settings.store == "embedded" else StoreSpec.server(settings.store, **words)
    key = settings.encryption_key
    return ShardSettings(
        settings.name,
        secrets.token_hex(4),
        0,
        settings.shards,
        spec,
        {"": [names.worker(settings.name, "", number) for number in range(settings.worker_count)]},
        [names.verifier(settings.name, number) for number in range(settings.verifiers)],
        settings.runs_max,
        key.get_secret_value() if key is not None else "",
        limits,
    )


class Staff:
    """Creates the actors of a deployment in this process, which owns them: they end with it."""

    def __init__(self, settings: ClusterSettings, shard: ShardSettings) -> None:
        self._settings = settings
        self._shard = shard
        self._groups = dict(shard.groups)
        self._handles: dict[str, Any] = {}  # in the order of their start; Ray ends an actor when the first handle on it is gone

    async def start(self, background: Background) -> None:
        """Start everything, from the store up; returns when all answer. Raises InvalidConfig for what cannot be placed."""
        del background
        shard, settings, name = self._shard, self._settings, self._settings.name
        key = shard.encryption_key.encode() or None
        spec = encode(shard.store)
        self._create("store", names.store(name), (spec,))
        documents = partial(cluster_store, shard.store, name)
        self._create("breaker", names.breaker(name), (encode(BreakerSettings(f"breakers:{name}")), documents))
        for worker in shard.groups[""]:
            self._create("worker", worker, (encode(WorkerSettings(spec, encryption_key=key)),), num_cpus=settings.worker_cpus)
        for verifier in shard.verifiers:
            self._create("verifier", verifier, (encode(VerifierSettings(spec, encryption_key=key)),), num_cpus=settings.verifier_cpus)
        for index in range(shard.shards):
            each = ShardSettings(**{field: getattr(shard, field) for field in shard.__struct_fields__} | {"index": index})
            self._create("coordinator", names.coordinator(name, index), (encode(each),))
        await self._all_answer(list(self._handles))

    async def make_groups(self, blueprint: Blueprint) -> None:
        """Start workers for the steps of a pipeline that ask for resources of their own, and make them known to the coordinators."""
        new: dict[str, list[str]] = {}
        for step in blueprint.pipeline.block:
            group = names.group_of(step.num_cpus, step.num_gpus, dict(step.resources or {}), step.isolate)
            if group not in self._groups:
                self._groups[group] = new[group] = self._make_group(group, step)
        if not new:
            return
        await self._all_answer([name for group in new.values() for name in group])
        for index in range(self._shard.shards):
            await gateway.RayPeer(names.coordinator(self._settings.name, index)).call("configure", new, [])

    def _make_group(self, group: str, step: Step) -> list[str]:
        settings = self._settings
        made = [names.worker(settings.name, group, number) for number in range(settings.group_workers)]
        slots = None if step.isolate is None and not step.num_cpus and not step.num_gpus and not step.resources else 1
        key = self._shard.encryption_key.encode() or None
        args = (encode(WorkerSettings(encode(self._shard.store), slots, encryption_key=key)),)
        for name in made:
            demands = {"num_cpus": step.num_cpus or 0.0, "num_gpus": step.num_gpus or 0.0, "resources": step.resources}
            self._create("worker", name, args, **demands)
        return made

    async def end(self) -> None:
        """Drain the coordinators, then end everything, from the top down to the store."""
        for index in range(self._shard.shards):
            peer = gateway.RayPeer(names.coordinator(self._settings.name, index))
            try:
                async with asyncio.timeout(_DRAIN_S):
                    left = await peer.call("shut_down")
                if left:
                    _log.warning("%d runs of coordinator %d did not end in good order; resume_all goes on with them", left, index)
            except (AgentRaftError, TimeoutError) as error:
                _log.warning("coordinator %d was not drained (%s); its runs go on with resume_all", index, error)
        for name in reversed(self._handles):
            await asyncio.to_thread(gateway.stop, name)
        self._handles.clear()

    def _create(self, role: str, name: str, args: tuple[Any, ...], **demands: Any) -> None:
        self._handles[name] = options.create(role, name, args, **demands)

    async def _all_answer(self, wanted: list[str]) -> None:
        missing = dict.fromkeys(wanted, "it is not placed yet")
        try:
            async with asyncio.timeout(_START_S):
                while missing:
                    for name in list(missing):
                        try:
                            await gateway.RayPeer(name).call("ping")
                            del missing[name]
                        except PeerLost as error:
                            missing[name] = str(error)
                    await asyncio.sleep(_POLL_S if missing else 0)
        except TimeoutError:
            what = "; ".join(f"{name}: {why}" for name, why in list(missing.items())[:5])
            raise InvalidConfig(
                f"{len(missing)} of {len(wanted)} actors did not start within {_START_S:.0f} s ({what}). Ray may lack the resources "
                "that they claim: compare `ray status`, or lower workers=, num_cpus= and num_gpus="
            ) from None
