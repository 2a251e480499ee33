"""The same trials through the live system: coordinators, workers and verifiers of a cluster, instead of the core alone.

Agents and verifier draw what `TrialHost` draws, in whatever process they run, so the same seed must come to the same counts. Only
what may depend on real time is left out: verifiers that do not answer, and blame (a suspect that is judged again is a request like
any other, whose draw would be the same again).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import msgspec

from agentraft_ray.checkpoint.codec import encode_output
from agentraft_ray.errors import ErrorType, InvalidConfig
from agentraft_ray.identity import digest
from agentraft_ray.pipeline import Pipeline, Step, StepContext, Task
from agentraft_ray.result import RunResult
from agentraft_ray.taxonomy import Cost, VerificationResult
from agentraft_ray.verifier.base import Verifier, VerifyInput
from benchmarks.faults.counts import Counts, counts_of
from benchmarks.faults.experiments import CoreTrials, as_trials
from benchmarks.faults.journal import identity_of
from benchmarks.faults.model import OUTPUT_TEXTS, TRUTH, Kind, TrialModel
from benchmarks.faults.scenario import FaultConfig, Scenario
from benchmarks.faults.spread import Job, Spread
from benchmarks.faults.trial import CAUGHT, PARKED, SILENT, SUCCESS, TrialResult, verdict_of
from benchmarks.faults.twin import Twin

__all__ = ["SimulatedPanel", "on_actors", "pipeline_of", "task_of"]

_AT_A_TIME = 256  # runs under way on the cluster
_NEVER = 1_000_000_000  # rejections in a row that would open a breaker: trials are to be independent


def task_of(scenario: Scenario, seed: int, trial: int) -> Task:
    """The task of one trial: it carries all that its agents and verifiers need to draw."""
    settings = msgspec.json.encode(scenario.settings(), order="sorted").decode()
    run_id = f"{identity_of(CoreTrials(scenario), seed)}-{trial}"
    return Task("simulated", {"scenario": settings, "seed": str(seed), "trial": trial}, id=run_id)


@lru_cache(maxsize=64)
def _model(settings: str, seed: str) -> TrialModel:
    plain = msgspec.json.decode(settings)
    fault = plain.pop("fault")
    fault["error_dist"] = {ErrorType(kind): share for kind, share in fault["error_dist"].items()}
    return TrialModel(Scenario(fault=FaultConfig(**fault), **plain), int(seed))


def _model_of(inputs: Mapping[str, Any]) -> tuple[TrialModel, int]:
    return _model(inputs["scenario"], inputs["seed"]), int(inputs["trial"])


async def _act(ctx: StepContext) -> str:
    """An agent: its output says what it is, as in the log of a simulated trial."""
    model, trial = _model_of(ctx.task.inputs)
    return OUTPUT_TEXTS[model.output(trial, _step_of(ctx.step_name), ctx.attempt)][ctx.attempt]


def _step_of(name: str) -> int:
    return int(name.rpartition("-")[2])


class SimulatedPanel(Verifier):
    """The panel of a scenario as a verifier. Tokens of a verdict = how many of the panel were asked."""

    @property
    def name(self) -> str:
        return "simulated-panel"

    async def verify(self, request: VerifyInput) -> VerificationResult:
        model, trial = _model_of(request.task.inputs)
        kind = TRUTH[digest(encode_output(request.output))]
        verdict = verdict_of(model, model.place(trial, _step_of(request.step.name), request.attempt), kind >= Kind.WRONG)
        cost = Cost(int(verdict.cost.seconds))
        if verdict.passed:
            return VerificationResult.ok(verifier=self.name, cost=cost)
        return VerificationResult.fail(verdict.error_type, verifier=self.name, cost=cost)


@lru_cache(maxsize=64)
def pipeline_of(steps: int) -> Pipeline:
    """A chain of simulated agents."""
    return Pipeline([Step(f"step-{number}", _act) for number in range(steps)], name=f"simulated-{steps}")


def _result_of(result: RunResult) -> TrialResult:
    """What a run on the cluster came to, as `TrialHost` would tell it."""
    generations = sum(step.attempts for step in result.steps)
    if result.success:
        is_right = all(TRUTH[digest(encode_output(step.output))] is Kind.RIGHT for step in result.steps)
        outcome = SUCCESS if is_right else SILENT
    else:
        outcome = PARKED if result.status == "waiting" else CAUGHT
    return TrialResult(outcome, generations, result.cost.tokens, 0, 0)


MapRuns = Callable[[Scenario, Iterable[Task]], Iterable[RunResult]]
"""Runs tasks of a scenario's pipeline under its panel, in any order."""


def through(map_runs: MapRuns) -> Spread:
    """Make batches by sending their trials through a live system."""

    def spread(jobs: Iterable[Job]) -> Iterator[tuple[Job, Counts]]:
        for job in jobs:
            yield job, _perform(job, map_runs)

    return spread


def _perform(job: Job, map_runs: MapRuns) -> Counts:
    if not isinstance(job.experiment, CoreTrials):
        raise InvalidConfig(f"--actors runs single trials; a {job.experiment.name} is none: leave its report out")
    scenario = job.experiment.scenario
    if scenario.fault.upstream or scenario.verifier_fault:
        raise InvalidConfig("--actors cannot follow upstream faults and verifier faults draw by draw; leave their reports out")
    tasks = {task.id: trial for trial in range(job.start, job.stop) for task in [task_of(scenario, job.seed, trial)]}
    results: dict[int, TrialResult] = {}
    for result in map_runs(scenario, (task_of(scenario, job.seed, trial) for trial in tasks.values())):
        results[tasks[result.run_id]] = _result_of(result)
    right = Twin(scenario, job.seed).right_unprotected(job.start, job.stop)
    return counts_of(as_trials(results[trial] for trial in range(job.start, job.stop)), right)


@contextmanager
def on_actors(address: str | None = None) -> Iterator[Spread]:
    """Send trials through a deployment of its own on the Ray cluster at `address` or RAY_ADDRESS, else on one that is started here."""
    cluster_class = importlib.import_module("agentraft_ray.cluster").Cluster
    with cluster_class.launch(address=address, name="faults", log_to_driver=False) as cluster:

        def map_runs(scenario: Scenario, tasks: Iterable[Task]) -> Iterable[RunResult]:
            found: Iterable[RunResult] = cluster.map(
                pipeline_of(scenario.n_steps),
                tasks,
                at_a_time=_AT_A_TIME,
                verifier=SimulatedPanel(),
                max_retries=scenario.max_retries,
                failure_threshold=_NEVER,
                max_rollback_depth=0,
            )
            return found

        yield through(map_runs)
