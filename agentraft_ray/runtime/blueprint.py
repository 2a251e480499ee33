"""What `wrap` makes of a pipeline and its settings: all that any process needs to host its runs, but no store and no clock."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from agentraft_ray.breaker import BreakerPolicy, CircuitBreaker
from agentraft_ray.checkpoint.codec import output_type
from agentraft_ray.config import Budget, FreshCalibration, Limits, OnOpen, RetryPolicy
from agentraft_ray.errors import InvalidConfig, InvalidPipeline
from agentraft_ray.pipeline import Criticality, Pipeline
from agentraft_ray.protocol.plan import BudgetSpec, Plan, PlanSpec, Policies, StepSpec, fingerprint_of, plan_of
from agentraft_ray.verifier.base import Verifier

__all__ = ["ROLLBACK_DEPTH", "Blueprint", "RunSettings", "blueprint_of", "plan_of_pipeline"]

ROLLBACK_DEPTH = 3
_warned: set[str] = set()
_HOW_TO_MEASURE = (
    "measure it with `python -m agentraft_ray.verifier.calibration CASES --out FILE`, and pass"
    " LLMVerifier(calibration=Calibration.load(FILE))"
)


@dataclass(frozen=True)
class RunSettings:
    """The settings of `wrap` that are plain data, hence the same in every process; it says what each of them means."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    failure_threshold: int = 5
    cooldown_seconds: float = 30.0
    rollback_on_failure: bool = True
    on_open: OnOpen = "fail"
    budget: Budget | None = None
    require_model: bool = False
    require_calibration: FreshCalibration | None = None
    max_rollback_depth: int = ROLLBACK_DEPTH
    back_when_exhausted: bool = False
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Blueprint:
    """A pipeline with its verifier and policies. `plain` is the seed's breaker where the user passed one, `calibrated` what the
    calibrations of models must be that judge HIGH steps."""

    pipeline: Pipeline
    plan: Plan
    verifier: Verifier
    limits: Limits
    policy: BreakerPolicy
    plain: CircuitBreaker | None = None
    calibrated: FreshCalibration | None = None

    def uncalibrated(self, criticality: Criticality, now: float) -> str | None:
        """Why the verifier's word does not count about a step of this criticality at `now`; None where it does."""
        if self.calibrated is None or criticality is not Criticality.HIGH:
            return None
        return _lack(self.verifier, self.calibrated, now)

    @cached_property
    def output_types(self) -> list[Any]:
        """The type that each step of the block declares for its output, or None."""
        return [output_type(step.fn) for step in self.pipeline.block]


def blueprint_of(pipeline: Pipeline, verifier: Verifier, settings: RunSettings, plain: CircuitBreaker | None = None) -> Blueprint:
    """Put a pipeline, its verifier and the settings together. Raises InvalidConfig, InvalidPipeline."""
    _check_models(pipeline, verifier, settings.require_model or settings.require_calibration is not None)
    _check_calibrations(pipeline, verifier, settings.require_calibration)
    policy = BreakerPolicy(failure_threshold=settings.failure_threshold, cooldown_s=settings.cooldown_seconds)
    plan = plan_of_pipeline(pipeline, verifier, settings)
    return Blueprint(pipeline, plan, verifier, settings.limits, policy, plain, settings.require_calibration)


def plan_of_pipeline(pipeline: Pipeline, verifier: Verifier, settings: RunSettings) -> Plan:
    """The plan that a pipeline and its settings make: what the protocol sees of them."""
    retry, budget, limits = settings.retry, settings.budget, settings.limits
    if settings.max_rollback_depth < 0:
        raise InvalidConfig(f"max_rollback_depth={settings.max_rollback_depth} must not be negative; 0 switches deep rollback off")
    if settings.on_open not in {"park", "fail"}:
        raise InvalidConfig(f"on_open={settings.on_open!r} is unknown; use 'park' or 'fail'")
    steps = []
    for position, step in enumerate(pipeline.block):
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
        settings.rollback_on_failure,
        settings.max_rollback_depth,
        limits.rollbacks_max,
        settings.back_when_exhausted,
        settings.on_open,
        True,
        None if budget is None else _budget_spec(budget),
        limits.worker_losses_max,
        limits.claims_max,
        limits.verifier_faults_max,
        limits.verifier_retry_delay_s,
        limits.verifier_timeout_s,
        limits.inline_bytes_max,
        host_times_steps=True,
        verifier_hold_s=limits.verifier_hold_s,
    )
    try:
        spec = PlanSpec(pipeline.name, tuple(steps), pipeline.repeats, policies)
        fingerprint_of(spec)  # here, where what cannot be stored is the caller's mistake
        return plan_of(spec)
    except UnicodeEncodeError as error:
        raise InvalidPipeline(f"pipeline {pipeline.name!r}: its name, a goal or a version holds a lone surrogate: {error}") from None


def _budget_spec(budget: Budget) -> BudgetSpec:
    reserve = (budget.reserve.tokens, budget.reserve.usd, budget.reserve.seconds)
    return BudgetSpec(budget.attempts, budget.tokens, budget.usd, budget.seconds, reserve)


def _check_calibrations(pipeline: Pipeline, verifier: Verifier, wanted: FreshCalibration | None) -> None:
    high = [step.name for step in pipeline.block if step.criticality is Criticality.HIGH]
    lack = _lack(verifier, wanted, time.time()) if wanted is not None and high else None
    if lack is not None:
        raise InvalidConfig(f"HIGH steps ({', '.join(high[:5])}) are to be judged by calibrated models only: {lack}")


def _lack(verifier: Verifier, wanted: FreshCalibration, now: float) -> str | None:
    """What the calibrations of a verifier lack, in words that say what to do."""
    for calibration in verifier.calibrations(Criticality.HIGH):
        flaw = f"{verifier.name} has a model without one" if calibration is None else calibration.flaw(wanted, now)
        if flaw is not None:
            who = "" if calibration is None else f"the calibration of {calibration.verifier} "
            return f"{who}{flaw}; {_HOW_TO_MEASURE}"
    return None


def _check_models(pipeline: Pipeline, verifier: Verifier, require_model: bool) -> None:
    high = [step.name for step in pipeline.block if step.criticality is Criticality.HIGH]
    if not high or verifier.uses_model(Criticality.HIGH):
        return
    what = f"HIGH steps ({', '.join(high[:5])}) are judged by rules alone: no model verifier is configured"
    if require_model:
        raise InvalidConfig(f"{what}; pass verifier=TieredVerifier(l2=...) or set a provider's key")
    if "high" not in _warned:
        _warned.add("high")
        warnings.warn(f"{what}; their certificates say so", stacklevel=4)
