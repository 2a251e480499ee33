"""Trials with a real verifier: agents that return text of a known kind, run and judged by the whole runtime in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agentraft_ray.api import wrap
from agentraft_ray.errors import ErrorType, InvalidConfig
from agentraft_ray.pipeline import Pipeline, Step, StepContext
from agentraft_ray.result import RunResult
from agentraft_ray.runtime.coordinator import Coordinator
from agentraft_ray.verifier.base import Verifier
from benchmarks.faults.corpus import goal_of, task_of, text_of
from benchmarks.faults.counts import Counts, added
from benchmarks.faults.model import Kind, TrialModel
from benchmarks.faults.scenario import Scenario
from benchmarks.faults.twin import Twin

__all__ = ["live_counts"]

_AT_A_TIME = 8  # runs, so about as many calls of a provider
_NEVER = 1_000_000_000  # rejections in a row that would open a breaker: the trials are to be independent


async def live_counts(
    scenario: Scenario, verifier: Verifier, *, seed: int, trials: int, progress: Callable[[int, int], None] | None = None
) -> Counts:
    """The counts of trials that a real verifier judges; the faults of the agents are those of simulated trials of the seed.

    Of the scenario the settings of the agents and of the protocol count. Raises InvalidConfig for upstream faults: which text hides
    a flaw that a real verifier could not see, nobody can say.
    """
    if scenario.fault.upstream:
        raise InvalidConfig("upstream faults are hidden from the verifier by decree, which a real one does not obey; leave out upstream")
    model = TrialModel(scenario, seed)
    right = Twin(scenario, seed).right_unprotected(0, trials)
    room = asyncio.Semaphore(_AT_A_TIME)
    parts: list[Counts] = []
    async with _coordinator(model, verifier) as coordinator:

        async def run(trial: int) -> None:
            async with room:
                result = await coordinator.run(task_of(model.key, trial, f"live-{trial}"))
            parts.append(_counts(model, trial, bool(right[trial]), result))
            if progress is not None:
                progress(len(parts), trials)

        await asyncio.gather(*map(run, range(trials)))
    return added(parts)


def _coordinator(model: TrialModel, verifier: Verifier) -> Coordinator:
    scenario = model.scenario
    steps = [Step(f"step-{number}", _agent(model, number), goal=goal_of(number)) for number in range(scenario.n_steps)]
    pipeline = Pipeline(steps, name="faulty-agents")
    return wrap(pipeline, verifier=verifier, store="memory", max_retries=scenario.max_retries, failure_threshold=_NEVER)


def _agent(model: TrialModel, step: int) -> Callable[[StepContext], str]:
    def answer(ctx: StepContext) -> str:
        trial = int(ctx.task.inputs["trial"])
        kind = model.output(trial, step, ctx.attempt)
        attempt = 0 if kind is Kind.STUCK else ctx.attempt
        wrong = ErrorType.NONE if kind is Kind.RIGHT else model.error_class(model.place(trial, step, attempt))
        return text_of(model.key, trial, step, attempt, wrong)

    return answer


def _counts(model: TrialModel, trial: int, was_right: bool, result: RunResult) -> Counts:
    """What a run came to; what it shipped is compared with the right texts."""
    is_right = result.success and all(
        step.output in {text_of(model.key, trial, index, attempt, ErrorType.NONE) for attempt in range(step.attempts)}
        for index, step in enumerate(result.steps)
    )
    generations = sum(step.attempts for step in result.steps)
    return {
        "trials": 1,
        "success": int(is_right),
        "silent_corruption": int(result.success and not is_right),
        "caught_failure": int(not result.success),
        "parked": int(result.status == "waiting"),
        "baseline_success": int(was_right),
        "rescued": int(is_right and not was_right),
        "harmed": int(was_right and not is_right),
        "generations": generations,
        "generations_sq": generations**2,
        "verdicts": generations,
        "verdicts_sq": generations**2,
        "generations_x_verdicts": generations**2,
        "tokens": result.cost.tokens,
    }
