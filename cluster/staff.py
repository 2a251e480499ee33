"""The actors of a deployment, for the program that launched it: who they are, starting them, looking after them, ending them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from agentraft_ray.actors import gateway, names
from agentraft_ray.actors.breaker_messages import BreakerSettings
from agentraft_ray.actors.children import ChildSpec
from agentraft_ray.actors.coordinator import ShardSettings
from agentraft_ray.actors.messages import encode
from agentraft_ray.actors.observing import Observing
from agentraft_ray.actors.peers import PeerLost
from agentraft_ray.actors.ray_meter import RayMeter
from agentraft_ray.actors.store_spec import StoreSpec
from agentraft_ray.actors.supervisor import Supervisor, SupervisorEvent
from agentraft_ray.actors.verifier import VerifierSettings
from agentraft_ray.actors.vllm import VLLMSettings
from agentraft_ray.actors.wiring import cluster_store
from agentraft_ray.actors.worker import WorkerSettings
from agentraft_ray.cluster import ray_session
from agentraft_ray.cluster.engines import EngineStaff
from agentraft_ray.cluster.groups import Figures, Groups
from agentraft_ray.cluster.nursery import Place, RayNursery
from agentraft_ray.cluster.settings import ClusterSettings
from agentraft_ray.config import Limits
from agentraft_ray.errors import AgentRaftError, InvalidConfig
from agentraft_ray.pipeline import Step
from agentraft_ray.runtime.blueprint import Blueprint
from agentraft_ray.telemetry.metrics import RESTARTS
from agentraft_ray.verifier.engine.settings import EngineSettings

__all__ = ["Staff", "shard_settings"]

_log = logging.getLogger("agentraft_ray")

_DRAIN_S = 15.0
_POLL_S = 0.05
_GONE_S = 5.0
_OVERDUE_THREADS_MAX = 16
_ISOLATED_ENDS_AFTER_S = 2.0


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


def _observing(settings: ClusterSettings, role: str, name: str) -> bytes:
    return encode(Observing(settings.name, role, name, settings.metrics, settings.json_logs, settings.telemetry))


class Staff:
    """Creates and supervises the actors of a deployment in this process, which owns them: they end with it."""

    def __init__(self, settings: ClusterSettings, shard: ShardSettings) -> None:
        self._settings = settings
        self._shard = shard
        self._nursery = RayNursery()
        coordinators = [names.coordinator(settings.name, index) for index in range(shard.shards)]
        self._groups = Groups(
            settings.name, shard.groups[""], coordinators, self,
            count_min=settings.group_workers, count_max=settings.group_count_max, idle_s=settings.group_idle_s,
        )  # fmt: skip
        self._engines = EngineStaff(settings.name, shard.verifiers, self, count=settings.engines)
        self._supervisor = Supervisor(self._nursery, self._children(), self._report)
        self._is_ending = False
        self._telling: set[asyncio.Task[None]] = set()
        self._watches: list[asyncio.Task[None]] = []
        self._meter = RayMeter(settings.name) if settings.metrics else None

    async def start(self) -> None:
        """Start everything; returns when all answer. Raises InvalidConfig for what cannot be placed."""
        try:
            async with asyncio.timeout(self._settings.start_s):
                await self._supervisor.start()
        except TimeoutError:
            await self._refuse_missing(list(self._nursery.places))
        await self._refuse_missing(list(self._nursery.places))
        loop = asyncio.get_running_loop()
        runs = {"supervisor": self._supervisor.run(), "groups": self._groups.run(), "engines": self._engines.run()}
        self._watches = [loop.create_task(run, name=name) for name, run in runs.items()]

    async def make_groups(self, blueprint: Blueprint) -> None:
        """Start workers for the steps of a pipeline that ask for resources of their own, and make them known to the coordinators.

        Raises InvalidConfig where these do not start in time.
        """
        await self._groups.make(list(blueprint.pipeline.block), self._has_started)

    async def make_engines(self, blueprint: Blueprint) -> None:
        """Start the engines of the models that a pipeline's verifier asks; returns when they have. Raises InvalidConfig."""
        await self._engines.make(blueprint.verifier.engines())

    async def _has_started(self, step: Step, workers: list[str]) -> None:
        missing = ray_session.missing_resources(step)
        if missing:
            _log.warning("step %r asks for %s, which no node has now; waiting for one that does", step.name, missing)
        try:
            await self._refuse_missing(workers, wait_s=self._settings.start_s)
        except InvalidConfig as error:
            missing = ray_session.missing_resources(step)
            why = f"it asks for {missing}, which no node of this Ray cluster has; add one, or ask for less" if missing else str(error)
            raise InvalidConfig(f"no worker for step {step.name!r}: {why}") from None

    # --- what `Groups` has done ------------------------------------------------------------------------------------------------

    async def hire(self, name: str, step: Step) -> None:
        """See `Hands.hire`."""
        await self._supervisor.add(self._worker(name, step))

    async def dismiss(self, name: str) -> None:
        """See `Hands.dismiss`."""
        await self._supervisor.remove(name)
        self._nursery.forget(name)

    async def answers(self, name: str) -> bool:
        """See `Hands.answers`."""
        return await self._nursery.ping(name) is not None

    async def figures(self, name: str) -> Figures | None:
        """See `Hands.figures`."""
        return await self._nursery.stats(name)

    async def tell(self, groups: Mapping[str, list[str]]) -> None:
        """See `Hands.tell`."""
        await asyncio.gather(*(self._configure(index, groups) for index in range(self._shard.shards)))

    # --- what `EngineStaff` has done -------------------------------------------------------------------------------------------

    async def hire_engine(self, name: str, settings: EngineSettings) -> None:
        """See `EngineHands.hire_engine`."""
        args = (encode(VLLMSettings(settings)),)
        gpus = settings.tensor_parallel if ray_session.has_gpus(settings.tensor_parallel) else 0
        await self._supervisor.add(self._child(name, Place("vllm", lambda: args, self._settings.engine_cpus, gpus)))

    async def engine_state(self, name: str, wait_s: float) -> bytes | None:
        """See `EngineHands.engine_state`."""
        try:
            async with asyncio.timeout(wait_s + _POLL_S):
                found: bytes = await gateway.RayPeer(name).call("ready", wait_s)
        except (PeerLost, TimeoutError):
            return None
        return found

    async def _configure(self, index: int, groups: Mapping[str, list[str]]) -> None:
        with contextlib.suppress(PeerLost):  # one that is being restarted is told when it answers
            peer = gateway.RayPeer(names.coordinator(self._settings.name, index))
            await peer.call("configure", dict(groups), self._shard.verifiers)

    async def end(self) -> None:
        """Drain the coordinators, then end everything."""
        self._is_ending = True
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        await asyncio.gather(*(self._drain(index) for index in range(self._shard.shards)))
        pongs = await asyncio.gather(*(self._nursery.ping(name) for name in self._nursery.places))
        await asyncio.gather(*(self._end_engine(name) for name in self._engines.names))
        await self._supervisor.stop()
        if self._shard.store.kind == "embedded":  # its server ends with its last user, so these must be gone before we leave it
            await _until_gone([pong.pid for pong in pongs if pong is not None])

    async def _end_engine(self, name: str) -> None:
        with contextlib.suppress(AgentRaftError, TimeoutError):  # it ends with its actor anyway
            async with asyncio.timeout(_GONE_S):
                await gateway.RayPeer(name).call("shut_down")

    async def _drain(self, index: int) -> None:
        try:
            async with asyncio.timeout(_DRAIN_S):
                left = await gateway.RayPeer(names.coordinator(self._settings.name, index)).call("shut_down")
            if left:
                _log.warning("%d runs of coordinator %d did not end in good order; resume_all goes on with them", left, index)
        except (AgentRaftError, TimeoutError) as error:
            _log.warning("coordinator %d was not drained (%s); its runs go on with resume_all", index, error)

    # --- who there is ----------------------------------------------------------------------------------------------------------

    def _children(self) -> list[ChildSpec]:
        shard, settings, name = self._shard, self._settings, self._settings.name
        spec, key = encode(shard.store), shard.encryption_key.encode() or None
        documents = partial(cluster_store, shard.store, name)
        # They end with this program, and so with its node; on any other one they would end with that one too.
        here = ray_session.node_id() if settings.control_here else None
        breaker = (encode(BreakerSettings(f"breakers:{name}")), documents)
        children = [
            self._child(names.store(name), Place("store", lambda: (spec,), node_id=here)),
            self._child(names.breaker(name), Place("breaker", lambda: breaker, node_id=here)),
        ]
        children += [self._worker(worker, None) for worker in shard.groups[""]]
        judge = (
            encode(VerifierSettings(spec, encryption_key=key, breaker=names.breaker(name), deployment=name, engines=settings.engines)),
        )
        children += [self._child(one, Place("verifier", lambda: judge, settings.verifier_cpus)) for one in shard.verifiers]
        for index in range(shard.shards):
            args = partial(self._coordinator_args, index)
            children.append(self._child(names.coordinator(name, index), Place("coordinator", args, node_id=here)))
        return children

    def _child(self, name: str, place: Place) -> ChildSpec:
        settings = self._settings
        self._nursery.places[name] = replace(place, observing=_observing(settings, place.role, name))
        is_worker = place.role in {"worker", "verifier", "vllm"}
        return ChildSpec(
            name,
            place.role,
            restarts_max=settings.restarts_max,
            hung_s=settings.worker_hung_s if is_worker else settings.hung_s,
            overdue_threads_max=_OVERDUE_THREADS_MAX if place.role == "worker" else None,
        )

    def _worker(self, name: str, step: Step | None) -> ChildSpec:
        """A worker for any steps, or for those that demand what `step` does: these run one at a time."""
        shard, key = self._shard, self._shard.encryption_key.encode() or None
        ends_after_s = _ISOLATED_ENDS_AFTER_S if step is not None and step.isolate else None
        chosen = WorkerSettings(encode(shard.store), None if step is None else 1, encryption_key=key, ends_after_s=ends_after_s)
        args = (encode(chosen),)
        if step is None:
            return self._child(name, Place("worker", lambda: args, self._settings.worker_cpus))
        return self._child(name, Place("worker", lambda: args, step.num_cpus or 0.0, step.num_gpus or 0.0, dict(step.resources or {})))

    def _coordinator_args(self, index: int) -> tuple[bytes]:
        """With the groups that there are by now: one that is created anew knows them all."""
        return (encode(msgspec.structs.replace(self._shard, index=index, groups=self._groups.workers)),)

    def _report(self, event: SupervisorEvent) -> None:
        if event.role == "coordinator" and event.kind in {"started", "restarted"} and len(self._groups.workers) > 1:
            task = asyncio.get_running_loop().create_task(self._configure(int(event.name.rpartition("/")[2]), self._groups.workers))
            self._telling.add(task)  # Ray starts it anew with the settings of its first life
            task.add_done_callback(self._telling.discard)
        if event.kind == "restarted" and self._meter is not None:
            self._meter.add(RESTARTS, 1, event.role)
            self._meter.report()
        is_news = event.kind not in {"created", "started"} and not self._is_ending
        _log.log(logging.WARNING if is_news else logging.INFO, "%s was %s: %s", event.name, event.kind, event.why)

    async def _refuse_missing(self, wanted: list[str], wait_s: float = 0.0) -> None:
        """Raise InvalidConfig where an actor does not answer, after waiting for it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            missing = [name for name in wanted if await self._nursery.ping(name) is None]
            if not missing:
                return
            if loop.time() >= deadline:
                some = ", ".join(missing[:5])
                raise InvalidConfig(
                    f"{len(missing)} of {len(wanted)} actors did not start within {self._settings.start_s:g} s ({some}). Ray may lack the "
                    "CPUs, GPUs or resources that they claim: see `ray status`, and lower workers=, worker_cpus= or num_gpus="
                )
            await asyncio.sleep(_POLL_S)


async def _until_gone(pids: list[int]) -> None:
    """Wait for processes of this machine to end, a few seconds at most."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _GONE_S
    while loop.time() < deadline and await asyncio.to_thread(_any_alive, pids):  # noqa: ASYNC110 - nobody tells us
        await asyncio.sleep(_POLL_S)


def _any_alive(pids: list[int]) -> bool:
    return any(Path(f"/proc/{pid}").exists() for pid in pids)
