"""`wrap`: from a pipeline and settings to a coordinator. The only place that reads environment variables and puts the parts together."""

from __future__ import annotations

import os
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from agentraft_ray.breaker import BreakerPolicy, CircuitBreaker
from agentraft_ray.checkpoint.base import CheckpointStore, RunStore
from agentraft_ray.checkpoint.codec import output_type
from agentraft_ray.checkpoint.logged import LoggedCheckpointStore
from agentraft_ray.checkpoint.memory import InMemoryCheckpointStore
from agentraft_ray.checkpoint.seal import EncryptingSeal, PlainSeal, Seal
from agentraft_ray.config import AgentRaftConfig, Budget, Limits, OnOpen, RetryPolicy
from agentraft_ray.errors import InvalidConfig, InvalidPipeline
from agentraft_ray.events import Event
from agentraft_ray.pipeline import Criticality, Pipeline
from agentraft_ray.protocol.plan import BudgetSpec, Plan, PlanSpec, Policies, StepSpec, fingerprint_of, plan_of
from agentraft_ray.runtime.blueprint import Blueprint
from agentraft_ray.runtime.coordinator import Coordinator
from agentraft_ray.runtime.environment import Breakers, Environment, Mirror
from agentraft_ray.runtime.logs import RunLogs, checkpoints_of_log
from agentraft_ray.runtime.owner import Owner
from agentraft_ray.runtime.steps import StepThreads
from agentraft_ray.verifier.base import Verifier
from agentraft_ray.verifier.rules import RulesVerifier
from agentraft_ray.verifier.tiered import TieredVerifier

__all__ = ["plan_of_pipeline", "wrap"]

LoggedCheckpointStore.log_view = staticmethod(checkpoints_of_log)

_ROLLBACK_DEPTH = 3
_warned: set[str] = set()


class _Unset:
    """A keyword that was not given, so that one given together with `config` can be told apart."""

    def __repr__(self) -> str:
        return "default"


_UNSET: Any = _Unset()


def wrap(
    pipeline: Pipeline,
    *,
    verifier: Verifier | None = None,
    store: CheckpointStore | str | Path | None = None,
    max_retries: int = _UNSET,
    failure_threshold: int = _UNSET,
    cooldown_seconds: float = _UNSET,
    rollback_on_failure: bool = _UNSET,
    on_event: Callable[[Event], Awaitable[None] | None] | None = None,
    config: AgentRaftConfig | None = None,
    durability: str | None = None,
    on_open: OnOpen = "fail",
    budget: Budget | None = None,
    require_model: bool = False,
    max_rollback_depth: int = _ROLLBACK_DEPTH,
    back_when_exhausted: bool = False,
    encryption_key: bytes | str | None = None,
    limits: Limits | None = None,
) -> Coordinator:
    """Put the reliability layer under a pipeline.

    Args:
        verifier: judges every output. Default: rules, then the LLM found in the environment, else rules only.
        store: a store, "memory", "embedded" (a real server of our own, in `.agentraft`), or a server's URL. Default: `REDIS_URL`
            if it is set, else memory.
        max_retries: retries per step (default 2, advised at most 3); `Step(max_retries=)` wins.
        failure_threshold: rejections in a row, from at least 3 runs, that open a step's breaker (default 5).
        cooldown_seconds: how long it stays open (default 30).
        rollback_on_failure: go back to a checkpoint before a retry, through several steps where a verdict blames an earlier one.
        on_event: called with every `Event`; may be async.
        config: all of that in one value; a keyword given as well wins over its field.
        durability: "fsync" (default of durable stores), "replicated(n)", "memory" or "trust-server".
        on_open: what a run does at an open breaker: "fail", as in the seed, or "park" until it closes.
        budget: limits of one run over all its attempts, crashes and resumes.
        require_model: refuse (InvalidConfig) to judge HIGH steps by rules alone, instead of warning once.
        max_rollback_depth: how many steps back a verdict may send the run; 0 = never.
        back_when_exhausted: let a step out of retries go back to the step before it, if that falls when it is judged again.
        encryption_key: 32 bytes (or base64); records and blobs are then encrypted with AES-GCM.

    Raises:
        InvalidConfig: settings that cannot be, or contradict each other. VerifierUnavailable: a forced provider is missing.

    >>> from agentraft_ray import Pipeline, Step, Task
    >>> coordinator = wrap(Pipeline([Step("greet", lambda ctx: f"Hello, {ctx.task.goal}.")]), store="memory")
    >>> coordinator.run_sync(Task("world")).output
    'Hello, world.'
    """
    if not isinstance(pipeline, Pipeline):
        raise InvalidConfig(f"wrap takes a Pipeline, not {type(pipeline).__name__}; write wrap(Pipeline([...]))")
    _check_kinds(verifier, on_event, config)
    settings = config or AgentRaftConfig()
    retry = settings.retry if max_retries is _UNSET else replace(settings.retry, max_retries=max_retries)
    back = settings.rollback_on_failure if rollback_on_failure is _UNSET else rollback_on_failure
    bounds = limits or settings.limits
    judge = verifier or settings.verifier or _default_verifier()
    _check_models(pipeline, judge, require_model)
    _check_placement(pipeline)
    policy = BreakerPolicy(
        failure_threshold=5 if failure_threshold is _UNSET else failure_threshold,
        cooldown_s=30.0 if cooldown_seconds is _UNSET else cooldown_seconds,
    )
    plain = _plain_breaker(settings.breaker, failure_threshold, cooldown_seconds)
    seal: Seal = PlainSeal() if encryption_key is None else EncryptingSeal(encryption_key)
    plan = plan_of_pipeline(
        pipeline,
        judge,
        retry=retry,
        budget=budget,
        limits=bounds,
        rollback_on_failure=back,
        max_rollback_depth=max_rollback_depth,
        back_when_exhausted=back_when_exhausted,
        on_open=on_open,
    )
    run_store, mirror = _open_store(store if store is not None else settings.store, durability, bounds)
    if isinstance(run_store, LoggedCheckpointStore):
        run_store.own_log_view = partial(checkpoints_of_log, seal=seal)
    blueprint = Blueprint(pipeline, plan, judge, bounds, policy, plain)
    breakers = Breakers(policy, plain)

    def environment() -> Environment:
        logs, threads = RunLogs(run_store, seal), StepThreads(bounds.step_threads_max)
        return Environment(blueprint, run_store, seal, logs, breakers, threads, Owner(run_store, bounds.lease_ttl_s), mirror)

    owns_store = not isinstance(store if store is not None else settings.store, RunStore)
    return Coordinator(environment, on_event or settings.on_event, owns_store=owns_store)


def plan_of_pipeline(
    pipeline: Pipeline,
    verifier: Verifier,
    *,
    retry: RetryPolicy,
    budget: Budget | None,
    limits: Limits,
    rollback_on_failure: bool,
    max_rollback_depth: int,
    back_when_exhausted: bool,
    on_open: OnOpen,
) -> Plan:
    """The plan that a pipeline and its settings make: what the protocol sees of them."""
    if max_rollback_depth < 0:
        raise InvalidConfig(f"max_rollback_depth={max_rollback_depth} must not be negative; 0 switches deep rollback off")
    if on_open not in {"park", "fail"}:
        raise InvalidConfig(f"on_open={on_open!r} is unknown; use 'park' or 'fail'")
    steps = []
    for position, step in enumerate(pipeline.block):
        if step.isolate is not None:
            raise InvalidConfig(f"step {step.name!r}: isolate={step.isolate!r} needs worker processes; run it on a cluster")
        parents = pipeline.parents(position) if pipeline.repeats == 1 else ((position - 1,) if position else ())
        wanted = output_type(step.fn)
        steps.append(
            StepSpec(
                step.name,
                parents,
                step.goal or "",
                step.criticality.value,
                retry.max_retries if step.max_retries is None else step.max_retries,
                step.max_errors,
                step.timeout_s,
                step.needs_approval,
                step.approve_before,
                step.samples.k if step.samples else 0,
                step.samples.samples_max if step.samples else 0,
                step.version,
                "" if wanted is None else getattr(wanted, "__qualname__", str(wanted)),
            )
        )
    policies = Policies(
        verifier.identity,
        retry.base_delay,
        retry.max_delay,
        rollback_on_failure,
        max_rollback_depth,
        limits.rollbacks_max,
        back_when_exhausted,
        on_open,
        True,
        None if budget is None else BudgetSpec(budget.attempts, budget.tokens, budget.usd, budget.seconds, budget.reserve),
        limits.worker_losses_max,
        limits.claims_max,
        limits.verifier_faults_max,
        limits.verifier_retry_delay_s,
        limits.verifier_timeout_s,
        limits.inline_bytes_max,
        host_times_steps=True,
    )
    try:
        spec = PlanSpec(pipeline.name, tuple(steps), pipeline.repeats, policies)
        fingerprint_of(spec)  # here, where what cannot be stored is the caller's mistake
        return plan_of(spec)
    except UnicodeEncodeError as error:
        raise InvalidPipeline(f"pipeline {pipeline.name!r}: its name, a goal or a version holds a lone surrogate: {error}") from None


def _default_verifier() -> Verifier:
    from agentraft_ray.verifier.detection import detect  # noqa: PLC0415 - providers are looked for only where nobody chose one

    return TieredVerifier(l1=RulesVerifier(), l2=detect(os.environ))


def _check_kinds(verifier: object, on_event: object, config: object) -> None:
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


def _check_models(pipeline: Pipeline, verifier: Verifier, require_model: bool) -> None:
    high = [step.name for step in pipeline.block if step.criticality is Criticality.HIGH]
    if not high or verifier.uses_model(Criticality.HIGH):
        return
    what = f"HIGH steps ({', '.join(high[:5])}) are judged by rules alone: no model verifier is configured"
    if require_model:
        raise InvalidConfig(f"{what}; pass verifier=TieredVerifier(l2=...) or set a provider's key")
    if "high" not in _warned:
        _warned.add("high")
        warnings.warn(f"{what}; their certificates say so", stacklevel=3)


def _check_placement(pipeline: Pipeline) -> None:
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
