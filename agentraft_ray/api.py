"""`wrap`: from a pipeline and settings to a coordinator. The only place that reads environment variables and puts the parts together."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from agentraft_ray.breaker import CircuitBreaker
from agentraft_ray.checkpoint.base import CheckpointStore, RunStore
from agentraft_ray.checkpoint.logged import LoggedCheckpointStore
from agentraft_ray.checkpoint.memory import InMemoryCheckpointStore
from agentraft_ray.checkpoint.seal import EncryptingSeal, PlainSeal, Seal
from agentraft_ray.config import AgentRaftConfig, Budget, FreshCalibration, Limits, OnOpen
from agentraft_ray.errors import InvalidConfig, VerifierUnavailable
from agentraft_ray.events import Event
from agentraft_ray.pipeline import Pipeline
from agentraft_ray.runtime.blueprint import ROLLBACK_DEPTH, Blueprint, RunSettings, blueprint_of
from agentraft_ray.runtime.coordinator import Coordinator
from agentraft_ray.runtime.environment import Breakers, Environment, Mirror
from agentraft_ray.runtime.hooks import EventHook
from agentraft_ray.runtime.logs import RunLogs, checkpoints_of_log
from agentraft_ray.runtime.naming import import_object
from agentraft_ray.runtime.owner import Owner
from agentraft_ray.runtime.provider_guard import ProcessGuard
from agentraft_ray.runtime.steps import StepThreads
from agentraft_ray.telemetry.counting import counter_of
from agentraft_ray.verifier.base import Verifier
from agentraft_ray.verifier.providers.connections import guard_process
from agentraft_ray.verifier.rules import RulesVerifier
from agentraft_ray.verifier.tiered import TieredVerifier

__all__ = ["ClusterPort", "coordinator_of", "default_verifier", "wrap"]

LoggedCheckpointStore.log_view = staticmethod(checkpoints_of_log)

_log = logging.getLogger("agentraft_ray")
_warned: set[str] = set()


class _Unset:
    """A keyword that was not given, so that one given together with `config` can be told apart."""

    def __repr__(self) -> str:
        return "default"


_UNSET: Any = _Unset()


class ClusterPort(Protocol):
    """What `wrap(cluster=)` needs of a cluster."""

    def coordinator(
        self, pipeline: Pipeline | str, verifier: Verifier | str | None, settings: RunSettings, on_event: EventHook | None
    ) -> Coordinator:
        """A coordinator whose runs go on there; what was named by import path stays named by it."""


def wrap(
    pipeline: Pipeline | str,
    *,
    verifier: Verifier | str | None = None,
    store: CheckpointStore | str | Path | None = None,
    max_retries: int = _UNSET,
    failure_threshold: int = _UNSET,
    cooldown_seconds: float = _UNSET,
    rollback_on_failure: bool = _UNSET,
    on_event: Callable[[Event], Awaitable[None] | None] | None = None,
    config: AgentRaftConfig | None = None,
    durability: str | None = None,
    on_open: OnOpen | None = None,
    budget: Budget | None = None,
    require_model: bool = False,
    require_calibration: FreshCalibration | None = None,
    max_rollback_depth: int = ROLLBACK_DEPTH,
    back_when_exhausted: bool = False,
    encryption_key: bytes | str | None = None,
    limits: Limits | None = None,
    cluster: ClusterPort | None = None,
) -> Coordinator:
    """Put the reliability layer under a pipeline.

    Args:
        pipeline: a Pipeline, or the import path of one, ``"package.module:attribute"``.
        verifier: judges every output; may be an import path as well. Default: rules, then the LLM found in the environment,
            else rules only.
        store: a store, "memory", "embedded" (a real server of our own, in `.agentraft`), or a server's URL. Default: `REDIS_URL`
            if it is set, else memory.
        max_retries: retries per step (default 2, advised at most 3); `Step(max_retries=)` wins.
        failure_threshold: rejections in a row, from at least 3 runs, that open a step's breaker (default 5).
        cooldown_seconds: how long it stays open (default 30).
        rollback_on_failure: go back to a checkpoint before a retry, through several steps where a verdict blames an earlier one.
        on_event: called with every `Event`; may be async.
        config: all of that in one value; a keyword given as well wins over its field.
        durability: "fsync" (default of durable stores), "replicated(n)", "memory" or "trust-server".
        on_open: what a run does at an open breaker: "fail", as in the seed (default in one process), or "park" until it
            closes (default on a cluster).
        budget: limits of one run over all its attempts, crashes and resumes.
        require_model: refuse (InvalidConfig) to judge HIGH steps by rules alone, instead of warning once.
        require_calibration: refuse to judge HIGH steps by models without a calibration like this: InvalidConfig here, and no verdict
            (the run waits) where one becomes too old while runs go on.
        max_rollback_depth: how many steps back a verdict may send the run; 0 = never.
        back_when_exhausted: let a step out of retries go back to the step before it, if that falls when it is judged again.
        encryption_key: 32 bytes (or base64); records and blobs are then encrypted with AES-GCM.
        cluster: run there (an `agentraft_ray.cluster.Cluster`) instead of in this process; it has its own store and key.

    Raises:
        InvalidConfig: settings that cannot be, or contradict each other. VerifierUnavailable: a forced provider is missing.

    >>> from agentraft_ray import Pipeline, Step, Task
    >>> coordinator = wrap(Pipeline([Step("greet", lambda ctx: f"Hello, {ctx.task.goal}.")]), store="memory")
    >>> coordinator.run_sync(Task("world")).output
    'Hello, world.'
    """
    found = import_object(pipeline) if isinstance(pipeline, str) else pipeline
    judge = import_object(verifier) if isinstance(verifier, str) else verifier
    _check_kinds(found, judge, on_event, config)
    given = config or AgentRaftConfig()
    settings = RunSettings(
        retry=given.retry if max_retries is _UNSET else replace(given.retry, max_retries=max_retries),
        failure_threshold=5 if failure_threshold is _UNSET else failure_threshold,
        cooldown_seconds=30.0 if cooldown_seconds is _UNSET else cooldown_seconds,
        rollback_on_failure=given.rollback_on_failure if rollback_on_failure is _UNSET else rollback_on_failure,
        on_open=on_open or ("fail" if cluster is None else "park"),
        budget=budget,
        require_model=require_model,
        require_calibration=require_calibration,
        max_rollback_depth=max_rollback_depth,
        back_when_exhausted=back_when_exhausted,
        limits=limits or given.limits,
    )
    hook = on_event or given.on_event
    if cluster is not None:
        _refuse_on_cluster(store=store or given.store, durability=durability, encryption_key=encryption_key, breaker=given.breaker)
        return cluster.coordinator(pipeline, given.verifier if verifier is None else verifier, settings, hook)
    _check_placement(found)
    plain = _plain_breaker(given.breaker, failure_threshold, cooldown_seconds)
    blueprint = blueprint_of(found, _chosen(given.verifier if judge is None else judge), settings, plain)
    seal: Seal = PlainSeal() if encryption_key is None else EncryptingSeal(encryption_key)
    run_store, mirror = _open_store(store if store is not None else given.store, durability, settings.limits)
    owns_store = not isinstance(store if store is not None else given.store, RunStore)
    return coordinator_of(blueprint, run_store, seal, hook, mirror=mirror, owns_store=owns_store)


def coordinator_of(
    blueprint: Blueprint,
    store: RunStore,
    seal: Seal,
    on_event: EventHook | None = None,
    *,
    mirror: Mirror | None = None,
    owns_store: bool = False,
) -> Coordinator:
    """A coordinator in this process for a pipeline that was put together already; `owns_store`: it closes the store with itself."""
    if isinstance(store, LoggedCheckpointStore):
        store.own_log_view = partial(checkpoints_of_log, seal=seal)
    breakers = Breakers(blueprint.policy, blueprint.plain)

    def environment() -> Environment:
        guard_process(ProcessGuard())
        logs, threads = RunLogs(store, seal), StepThreads(blueprint.limits.step_threads_max)
        owner = Owner(store, blueprint.limits.lease_ttl_s)
        return Environment(blueprint, store, seal, logs, breakers, threads, owner, mirror, counter_of(blueprint.plan))

    return Coordinator(environment, on_event, owns_store=owns_store)


def _chosen(verifier: Verifier | None) -> Verifier:
    """The verifier to judge with. What it lacks in this process is said, and no more than that: it may be set before the first run."""
    if verifier is None:
        found = default_verifier()
        for line in found.missing():  # only of what was forced: what is merely found is installed
            raise VerifierUnavailable(line)
        return found
    for line in verifier.missing():
        _log.warning("%s", line)
    return verifier


def default_verifier() -> Verifier:
    """What judges where nobody chose a verifier: rules, then the model that the environment names."""
    from agentraft_ray.verifier.detection import detect  # noqa: PLC0415 - providers are looked for only where nobody chose one

    return TieredVerifier(l1=RulesVerifier(), l2=detect(os.environ))


def _refuse_on_cluster(**given: object) -> None:
    """Say where a setting belongs that one pipeline on a cluster cannot have for itself."""
    wrong = [name for name, value in given.items() if value is not None]
    if wrong:
        raise InvalidConfig(
            f"{', '.join(wrong)}= and cluster= do not go together: a cluster has one store, one key and breakers of its own; "
            "say it in Cluster.launch(...), and failure_threshold= and cooldown_seconds= here"
        )


def _check_kinds(pipeline: object, verifier: object, on_event: object, config: object) -> None:
    if not isinstance(pipeline, Pipeline):
        raise InvalidConfig(f"wrap takes a Pipeline, not {type(pipeline).__name__}; write wrap(Pipeline([...]))")
    if config is not None and not isinstance(config, AgentRaftConfig):
        raise InvalidConfig(f"config must be an AgentRaftConfig, not {type(config).__name__}")
    if verifier is not None and not isinstance(verifier, Verifier):
        raise InvalidConfig(f"verifier must be a Verifier, not {type(verifier).__name__}; CallableVerifier makes one of a function")
    if on_event is not None and not callable(on_event):
        raise InvalidConfig(f"on_event must be a function of an event, not {type(on_event).__name__}")


def _plain_breaker(given: CircuitBreaker | None, failure_threshold: int, cooldown_seconds: float) -> CircuitBreaker | None:
    """The seed's breaker of the config, or one like it where a keyword overrides a setting of it."""
    if given is None or (failure_threshold is _UNSET and cooldown_seconds is _UNSET):
        return given
    return CircuitBreaker(
        failure_threshold=given.failure_threshold if failure_threshold is _UNSET else failure_threshold,
        cooldown_seconds=given.cooldown_seconds if cooldown_seconds is _UNSET else cooldown_seconds,
    )


def _check_placement(pipeline: Pipeline) -> None:
    isolated = [step.name for step in pipeline.block if step.isolate is not None]
    if isolated:
        raise InvalidConfig(f"step {isolated[0]!r}: isolate= needs worker processes; run it on a cluster")
    placed = [step.name for step in pipeline.block if step.num_cpus or step.num_gpus or step.resources]
    if placed and "placement" not in _warned:
        _warned.add("placement")
        names = ", ".join(placed[:5])
        warnings.warn(f"num_cpus, num_gpus and resources ({names}) place steps on a cluster; in one process they say nothing", stacklevel=3)


def _open_store(store: CheckpointStore | str | Path | None, durability: str | None, limits: Limits) -> tuple[RunStore, Mirror | None]:
    if store is None:
        store = os.environ.get("REDIS_URL") or "memory"
    if isinstance(store, RunStore):
        if durability is not None and durability != store.durability:
            raise InvalidConfig(f"durability={durability!r} was asked of a store made with {store.durability!r}; say it there")
        return store, None
    if isinstance(store, CheckpointStore):
        if durability not in {None, "memory"}:
            raise InvalidConfig(
                f"durability={durability!r} was asked for, but {type(store).__name__} is a checkpoint store of your own: it mirrors a log "
                "that lies in memory. Pass store='embedded' or a server's URL for a durable log"
            )
        return InMemoryCheckpointStore(limits=limits), Mirror(store, limits.mirror_wait_s)
    if str(store) == "memory":
        if durability not in {None, "memory"}:
            raise InvalidConfig(f"durability={durability!r} needs a durable store: store='embedded' or a server's URL")
        return InMemoryCheckpointStore(limits=limits), None
    from agentraft_ray.checkpoint.redis import RedisCheckpointStore  # noqa: PLC0415 - redis only where it is used

    wanted = durability or "fsync"
    if str(store) == "embedded":
        return RedisCheckpointStore.embedded(durability=wanted, limits=limits), None
    if "://" in str(store):
        return RedisCheckpointStore(str(store), durability=wanted, limits=limits), None
    if isinstance(store, Path):
        return RedisCheckpointStore.embedded(store, durability=wanted, limits=limits), None
    raise InvalidConfig(f"store={store!r} is unknown; use a store, 'memory', 'embedded', a directory (Path) or a redis:// URL")
