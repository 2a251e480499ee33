"""Properties over random graphs and random verdicts: who sees what, how often a step runs, what a resume repeats."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agentraft_ray import (
    AheadBy,
    Budget,
    Coordinator,
    ErrorType,
    InMemoryCheckpointStore,
    Limits,
    MockVerifier,
    Pipeline,
    RunResult,
    Step,
    StepContext,
    Task,
    VerificationResult,
    Verifier,
    VerifyInput,
    wrap,
)
from agentraft_ray.checkpoint.seal import PlainSeal
from agentraft_ray.runtime.logs import RunLogs

QUICK = Limits(verifier_retry_delay_s=0.001, inbox_poll_s=0.01, drain_s=0.5)
BAD = [one for one in ErrorType if one is not ErrorType.NONE]


@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """Parents of each step, earlier ones only."""
    size = draw(st.integers(1, 7))
    return [tuple(sorted(draw(st.sets(st.integers(0, n - 1), max_size=3)))) if n else () for n in range(size)]


def ancestors(graph: list[tuple[int, ...]], step: int) -> set[int]:
    return set(graph[step]).union(*(ancestors(graph, parent) for parent in graph[step]))


def pipeline(graph: list[tuple[int, ...]], calls: Counter[str]) -> Pipeline:
    async def work(ctx: StepContext) -> Any:
        calls[ctx.step_name] += 1
        await asyncio.sleep(0)
        return {"saw": sorted(ctx.outputs), "try": ctx.attempt, "lineage": ctx.lineage}

    return Pipeline([Step(f"s{n}", work, after=[f"s{parent}" for parent in parents]) for n, parents in enumerate(graph)])


async def run_to_the_end(coordinator: Coordinator, **options: Any) -> RunResult:
    async with asyncio.timeout(20):
        return await coordinator.run(Task("t", id="r"), **options)


@given(graphs())
@settings(max_examples=30)
def test_every_step_runs_once_and_sees_exactly_its_ancestors(graph: list[tuple[int, ...]]) -> None:
    calls: Counter[str] = Counter()
    result = asyncio.run(run_to_the_end(wrap(pipeline(graph, calls), limits=QUICK)))
    assert result.success, result.error
    assert set(calls.values()) == {1}
    for step, one in enumerate(result.steps):
        assert one.output["saw"] == sorted(f"s{ancestor}" for ancestor in ancestors(graph, step))


@given(graphs(), st.data())
@settings(max_examples=30)
def test_attempts_are_those_that_the_verdicts_ask_for(graph: list[tuple[int, ...]], data: st.DataObject) -> None:
    rejections = [data.draw(st.integers(0, 3)) for _ in graph]
    script = {f"s{n}": [*(data.draw(st.sampled_from(BAD)) for _ in range(count)), ErrorType.NONE] for n, count in enumerate(rejections)}
    calls: Counter[str] = Counter()
    result = asyncio.run(run_to_the_end(wrap(pipeline(graph, calls), verifier=MockVerifier(script), max_retries=2, limits=QUICK)))
    assert result.success is all(count <= 2 for count in rejections)
    if result.success:
        assert [one.attempts for one in result.steps] == [count + 1 for count in rejections]
        assert result.rollbacks == sum(rejections)
    else:
        assert result.error_kind == "MaxRetriesExceeded"
        assert result.error_fields["attempts"] == 3
    assert all(calls[f"s{n}"] <= min(count, 2) + 1 for n, count in enumerate(rejections))


@given(graphs(), st.integers(1, 20))
@settings(max_examples=30)
def test_a_run_cancelled_anywhere_resumes_without_repeating_a_commit(graph: list[tuple[int, ...]], turns: int) -> None:
    calls: Counter[str] = Counter()

    async def scene() -> None:
        store = InMemoryCheckpointStore()
        work = asyncio.create_task(wrap(pipeline(graph, calls), store=store, limits=QUICK).run(Task("t", id="r")))
        for _ in range(turns):
            await asyncio.sleep(0)
        work.cancel()
        await asyncio.wait([work])
        before = await store.meta("r")
        committed: list[str] = []
        if before is not None:
            state = await RunLogs(store, PlainSeal()).fold("r")
            committed = [f"s{n}" for n in range(len(graph)) if state.is_committed(n)]
        so_far = Counter(calls)
        result = await run_to_the_end(wrap(pipeline(graph, calls), store=store, limits=QUICK))
        assert result.success, result.error
        assert all(calls[name] == so_far[name] for name in committed)
        assert all(count <= 2 for count in calls.values())

    asyncio.run(scene())


@given(graphs(), st.integers(0, 12))
@settings(max_examples=30)
def test_a_budget_of_attempts_is_never_overshot(graph: list[tuple[int, ...]], attempts: int) -> None:
    calls: Counter[str] = Counter()
    verifier = MockVerifier({f"s{n}": [ErrorType.GOAL_DRIFT, ErrorType.NONE] for n in range(len(graph))})
    result = asyncio.run(run_to_the_end(wrap(pipeline(graph, calls), verifier=verifier, budget=Budget(attempts=attempts), limits=QUICK)))
    assert calls.total() <= attempts
    assert result.success is (attempts >= 2 * len(graph))
    assert result.success or result.error_kind == "BudgetExhausted"


class Moody(Verifier):
    """Verdicts drawn from a seed: passes, rejections with and without blame, abstentions, faults; also about suspects."""

    def __init__(self, seed: int, size: int) -> None:
        self._random = random.Random(seed)
        self._size = size

    async def verify(self, request: VerifyInput) -> VerificationResult:
        await asyncio.sleep(0)
        dice = self._random.random()
        if dice < 0.55:
            return VerificationResult.ok()
        if dice < 0.6:
            return VerificationResult.abstain()
        if dice < 0.7:
            raise OSError("no route to the verifier")
        blame = f"s{self._random.randrange(self._size)}" if dice < 0.9 else None
        return VerificationResult.fail(self._random.choice(BAD), blame=blame)

    async def second_opinion(self, request: VerifyInput, previous: str) -> VerificationResult | None:
        return await self.verify(request) if self._random.random() < 0.7 else None


@given(graphs(), st.integers(0, 2**32), st.booleans(), st.sampled_from([None, AheadBy(2, 6)]))
@settings(max_examples=40)
def test_whatever_the_verdicts_a_run_ends_or_waits_and_its_log_folds(
    graph: list[tuple[int, ...]], seed: int, back: bool, samples: AheadBy | None
) -> None:
    async def scene() -> None:
        store = InMemoryCheckpointStore()
        steps = [replace(step, samples=samples) for step in pipeline(graph, Counter()).steps]
        coordinator = wrap(
            Pipeline(steps), store=store, verifier=Moody(seed, len(graph)), max_retries=3, back_when_exhausted=back, limits=QUICK
        )
        result = await run_to_the_end(coordinator)
        for _ in range(6):
            if result.status != "waiting":
                break
            for reason in result.waiting_for:
                if reason.startswith("approval:"):
                    await coordinator.approve("r", reason.removeprefix("approval:").split(" ")[0])
            async with asyncio.timeout(20):
                result = await coordinator.resume("r")
        state = await RunLogs(store, PlainSeal()).fold("r")
        assert result.status in {"succeeded", "failed", "waiting"}, result.error
        assert (state.finished is None) is (result.status == "waiting")
        assert result.verified_count == sum(state.is_committed(step) for step in range(len(graph)))
        assert state.rollbacks <= QUICK.rollbacks_max
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scene())
