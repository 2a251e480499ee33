"""A cluster as a program sees it: start one or join one, run pipelines on it, look after its runs, and leave it in good order."""

from __future__ import annotations

import atexit
import secrets
import time
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from agentraft_ray.actors import names
from agentraft_ray.actors.client_messages import Submission
from agentraft_ray.actors.coordinator import ShardSettings
from agentraft_ray.actors.definitions import definition_of, document_name, load_blueprint
from agentraft_ray.actors.messages import decode, encode
from agentraft_ray.actors.peers import Peer
from agentraft_ray.actors.remote_store import ClusterStore
from agentraft_ray.api import wrap
from agentraft_ray.checkpoint.seal import EncryptingSeal, PlainSeal, Seal
from agentraft_ray.cluster import ray_session
from agentraft_ray.cluster.background import Background
from agentraft_ray.cluster.coordinator import ClusterCoordinator
from agentraft_ray.cluster.following import Follower
from agentraft_ray.cluster.links import Link
from agentraft_ray.cluster.results import Progress, Results
from agentraft_ray.cluster.run import ClusterRun
from agentraft_ray.cluster.settings import settings_of
from agentraft_ray.cluster.staff import Staff, shard_settings
from agentraft_ray.errors import AgentRaftError, FingerprintMismatch, InvalidConfig, StoreError
from agentraft_ray.identity import check_run_id
from agentraft_ray.pipeline import Pipeline, Task
from agentraft_ray.result import RunResult
from agentraft_ray.runtime.blueprint import Blueprint, RunSettings
from agentraft_ray.runtime.environment import Breakers, Environment
from agentraft_ray.runtime.hooks import EventHook, EventSink
from agentraft_ray.runtime.logs import RunLogs, task_record
from agentraft_ray.runtime.naming import import_object
from agentraft_ray.runtime.owner import Owner
from agentraft_ray.runtime.results import error_result
from agentraft_ray.runtime.steps import StepThreads
from agentraft_ray.telemetry.context import current_trace
from agentraft_ray.verifier.base import Verifier

__all__ = ["Cluster"]


class Cluster:
    """A deployment of AgentRaft on a Ray cluster. Made by `launch`, `connect` or `auto`; a context manager, sync or async.

    with Cluster.launch() as cluster:
        for result in cluster.map(pipeline, tasks):
            print(result.summary())

    Closing a cluster that was launched here drains it: every run that is under way is put aside in good order, and can be gone on
    with by `resume_all` on another one over the same store.
    """

    def __init__(self, shard: ShardSettings, staff: Staff | None, *, owns_ray: bool) -> None:
        """For `launch` and `connect`. `staff` = the actors that live and end with this object."""
        self.name = shard.deployment
        self.shards = shard.shards
        self.background = Background(f"agentraft {self.name}")
        self._shard = shard
        self._staff = staff
        self._owns_ray = owns_ray
        self._client = secrets.token_hex(8)
        self._is_closed = False
        self._seal: Seal = EncryptingSeal(shard.encryption_key) if shard.encryption_key else PlainSeal()
        self._store = self._new_store()
        self._definitions: dict[bytes, bytes] = {}
        self._twins: dict[bytes, ClusterCoordinator] = {}
        self._links = [
            Link(self._client, self._peer(names.coordinator(self.name, index)), self._definitions.__getitem__)
            for index in range(self.shards)
        ]

    # --- start and end ---------------------------------------------------------------------------------------------------------

    @classmethod
    def launch(cls, *, address: str | None = None, **settings: Any) -> Self:
        """Start a deployment: on the Ray cluster at `address`, on the one that this process or RAY_ADDRESS names, else on a Ray
        that is started here. With the default store everything is on this machine.

        `settings` are those of `ClusterSettings`. Raises InvalidConfig for settings that cannot be, a store that is not reachable
        from every node, more demand than resources, or a name that is taken; StoreError where the store cannot be opened.
        """
        chosen = settings_of(**settings)
        names.check_deployment(chosen.name)
        if chosen.telemetry:
            import_object(chosen.telemetry)  # here, where a wrong path is the caller's mistake
        owns_ray = ray_session.start_or_join(chosen, address)
        staff: Staff | None = None
        cluster: Self | None = None
        try:
            shard = shard_settings(chosen)
            ray_session.check_room(chosen, shard)
            staff = Staff(chosen, shard)
            cluster = cls(shard, staff, owns_ray=owns_ray)
            cluster.background.run(cluster._open())
            if chosen.resume_all:
                cluster.resume_all()
        except BaseException:
            if cluster is not None:
                cluster.close()
            elif owns_ray:
                ray_session.stop()
            raise
        atexit.register(cluster.close)  # Ray ends a program on SIGTERM as sys.exit does, so this drains the cluster then too
        return cluster

    @classmethod
    def connect(cls, address: str | None = None, name: str = "default") -> Self:
        """Join a deployment that runs on the Ray cluster at `address` (default: RAY_ADDRESS, else the one on this machine).

        Raises InvalidConfig where there is none of that name.
        """
        owns_ray = ray_session.join(address)
        try:
            shard = ray_session.describe(names.check_deployment(name))
            cluster = cls(shard, None, owns_ray=owns_ray)
            cluster.background.run(cluster._open())
        except BaseException:
            if owns_ray:
                ray_session.stop()
            raise
        return cluster

    @classmethod
    def auto(cls, **settings: Any) -> Self:
        """Join the deployment of this name where there is one, as on the cluster that RAY_ADDRESS names in a job; else launch it."""
        name = settings_of(**settings).name
        owns_ray = ray_session.join_named()
        try:
            cluster = cls.connect(name=name) if ray_session.is_running(name) else cls.launch(**settings)
        except BaseException:
            if owns_ray:
                ray_session.stop()
            raise
        cluster._owns_ray = cluster._owns_ray or owns_ray
        return cluster

    async def _open(self) -> None:
        await self._store.open()
        if self._staff is not None:
            await self._staff.start()

    def close(self) -> None:
        """Leave the cluster. One that was launched here is drained and ended, with its Ray if that was started here too."""
        if self._is_closed:
            return
        self._is_closed = True
        atexit.unregister(self.close)
        try:
            self.background.run(self._close(), timeout_s=60)
        finally:
            self.background.stop()
            if self._owns_ray:
                ray_session.stop()

    async def _close(self) -> None:
        for link in self._links:
            await link.close()
        for twin in self._twins.values():
            await twin.close()
        if self._staff is not None:
            await self._staff.end()
        await self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- running ---------------------------------------------------------------------------------------------------------------

    def coordinator(
        self, pipeline: Pipeline | str, verifier: Verifier | str | None, settings: RunSettings, on_event: EventHook | None
    ) -> ClusterCoordinator:
        """What `wrap(pipeline, cluster=cluster)` gives."""
        return self.background.run(self._hosted(encode(definition_of(pipeline, verifier, settings)), on_event))

    async def _hosted(self, definition: bytes, on_event: EventHook | None) -> ClusterCoordinator:
        blueprint = load_blueprint(definition)
        self._definitions[blueprint.plan.fingerprint] = definition
        if self._staff is not None:
            await self._staff.make_groups(blueprint)
            await self._staff.make_engines(blueprint)
        else:
            await self._refuse_groups(blueprint)

        def environment() -> Environment:
            """For what only reads logs or writes to inboxes; no step ever runs in it."""
            store, seal = self._new_store(), self._seal
            owner = Owner(store, blueprint.limits.lease_ttl_s)
            return Environment(blueprint, store, seal, RunLogs(store, seal), Breakers(blueprint.policy, None), StepThreads(1), owner)

        return ClusterCoordinator(self, blueprint, environment, on_event)

    async def _refuse_groups(self, blueprint: Blueprint) -> None:
        """Raise InvalidConfig for steps whose workers only the program that launched this deployment can start."""
        there: ShardSettings = decode(await self._links[0].call("describe"), ShardSettings)
        for step in blueprint.pipeline.block:
            if names.group_of(step.num_cpus, step.num_gpus, dict(step.resources or {}), step.isolate) not in there.groups:
                raise InvalidConfig(
                    f"step {step.name!r} asks for resources or isolation for which the cluster {self.name!r} has no workers; only the "
                    "program that launched it can start them: wrap the pipeline there once, or launch a cluster in this program"
                )

    def map(
        self,
        pipeline: Pipeline | str | ClusterCoordinator,
        tasks: Iterable[Task] | AsyncIterable[Task],
        *,
        at_a_time: int = 1_000,
        progress: bool | Callable[[Progress], None] = False,
        **settings: Any,
    ) -> Results:
        """Run a pipeline on many tasks; their results as they come, in a for loop or an async one.

        `at_a_time` tasks are under way, further ones are taken from `tasks` as these end. `progress`: a line on standard error, or
        a function of `Progress`. `settings` are those of `wrap`. A run that waits for a person is waited for. Tasks that carry ids
        of their own can be mapped again after a crash: what has finished is answered from its log, the rest goes on.
        """
        coordinator = pipeline if isinstance(pipeline, ClusterCoordinator) else self._wrapped(pipeline, settings)
        return Results(self, coordinator.blueprint, tasks, at_a_time, progress)

    def submit(
        self, pipeline: Pipeline | str | ClusterCoordinator, task: Task, *, run_id: str | None = None, **settings: Any
    ) -> ClusterRun:
        """Start a run; returns when it stands in the store. It goes on when this program ends."""
        coordinator = pipeline if isinstance(pipeline, ClusterCoordinator) else self._wrapped(pipeline, settings)
        run_id = run_id or task.id
        follower = self.background.run(self.begin(coordinator.blueprint, run_id, task, None))
        return ClusterRun(self, coordinator, run_id, follower)

    def handle(self, run_id: str) -> ClusterRun:
        """Pick up a run that was submitted, here or by another program. Raises RunNotFound, and FingerprintMismatch for a pipeline
        that travelled by value."""
        return ClusterRun(self, self.background.run(self._coordinator_of(run_id)), run_id)

    def resume_all(self) -> int:
        """Go on with every unfinished run of the store that nobody works on, whatever cluster it was begun on; how many.

        Runs whose pipelines travelled by value stay as they are (`stats` counts them as stuck) until somebody submits them again.
        """
        return sum(self.background.run(self._call_all("resume_all")))

    def stats(self) -> dict[str, dict[str, Any]]:
        """The figures of every actor that answers, by its name."""
        return self.background.run(self._stats())

    # --- on the cluster's loop -------------------------------------------------------------------------------------------------

    async def begin(
        self, blueprint: Blueprint, run_id: str, task: Task | None, sink: EventSink | None, *, until_waiting: bool = False
    ) -> Follower:
        """Submit a task (None: follow a run that exists); returns when that stands. Raises RunIdConflict, StoreError ..."""
        follower = self.follower(blueprint, run_id, task, sink, until_waiting=until_waiting)
        await follower.accepted(self._link(run_id))
        return follower

    def follower(
        self, blueprint: Blueprint, run_id: str, task: Task | None, sink: EventSink | None = None, *, until_waiting: bool = False
    ) -> Follower:
        """A follower that has not submitted yet. Raises InvalidConfig, OutputNotEncodable or PayloadTooLarge for what cannot be a run."""
        check_run_id(run_id)
        record = None if task is None else task_record(task, blueprint.limits)
        submission = Submission(run_id, blueprint.plan.fingerprint, record, sink is not None, current_trace())
        return Follower(blueprint, self._store, self._seal, submission, sink, until_waiting=until_waiting)

    def follow(self, follower: Follower) -> None:
        """Submit without waiting for the answer."""
        self._link(follower.run_id).follow(follower.following)

    async def accept(self, blueprint: Blueprint, run_id: str, task: Task) -> bool:
        """Submit a task and follow nothing; whether its run is a new one. Returns when it stands in the store."""
        follower = await self.begin(blueprint, run_id, task, None)
        self._link(run_id).forget(follower.following)
        return follower.following.accepted.result().created

    async def wake(self, run_id: str) -> None:
        """Have a run that waits, or that nobody drives, gone on with."""
        await self._link(run_id).call("resume", [run_id])

    async def end(self, follower: Follower) -> RunResult:
        """The result of a run that is followed."""
        return await follower.result(self._link(follower.run_id))

    async def go_on(self, blueprint: Blueprint, run_id: str, sink: EventSink | None) -> RunResult:
        """A new life of a run that waits; its result when it has finished or waits again."""
        await self._link(run_id).call("resume", [run_id])
        return await self.end(await self.begin(blueprint, run_id, None, sink, until_waiting=True))

    async def look(self, run_id: str) -> None:
        """Have commands that were put into a run's inbox taken now."""
        await self._link(run_id).call("look", [run_id])

    def failed(self, blueprint: Blueprint, run_id: str, error: AgentRaftError) -> RunResult:
        """The result of a run that the cluster could not take in: for now, where its store or a process is lost; else never."""
        result = error_result(run_id, error, blueprint.plan.size, time.perf_counter())
        return result if isinstance(error, StoreError) else replace(result, status="failed", waiting_for=())

    def on_its_loop(self, coordinator: ClusterCoordinator) -> ClusterCoordinator:
        """The twin of a coordinator that is only used on the cluster's loop, one for all runs of its pipeline."""
        return self._twins.setdefault(coordinator.blueprint.plan.fingerprint, coordinator.twin())

    def _wrapped(self, pipeline: Pipeline | str, settings: dict[str, Any]) -> ClusterCoordinator:
        made = wrap(pipeline, cluster=self, **settings)
        assert isinstance(made, ClusterCoordinator)
        return made

    async def _coordinator_of(self, run_id: str) -> ClusterCoordinator:
        plan = await RunLogs(self._store, self._seal).admitted_plan(run_id)
        known = self._definitions.get(plan.fingerprint) or await self._store.document(document_name(plan.fingerprint))
        if known is None:
            raise FingerprintMismatch(
                f"run {run_id}: its pipeline travelled by value; follow it from a program that has the pipeline", run_id=run_id
            )
        return await self._hosted(known, None)

    def _link(self, run_id: str) -> Link:
        return self._links[names.shard_of(run_id, self.shards)]

    def new_store(self) -> ClusterStore:
        """A store object for another event loop, which whoever asks for it opens and closes there."""
        return self._new_store()

    @property
    def seal(self) -> Seal:
        """What opens the logs of this deployment."""
        return self._seal

    def _new_store(self) -> ClusterStore:
        return ClusterStore(self._shard.store, self._peer(names.store(self.name)))

    def _peer(self, name: str) -> Peer:
        return ray_session.peer(name)

    async def _call_all(self, method: str) -> list[Any]:
        return [await link.call(method) for link in self._links]

    async def _stats(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for name in ray_session.actor_names(self.name):
            try:
                found[name] = await self._peer(name).call("stats")
            except AgentRaftError:
                continue
        return found
