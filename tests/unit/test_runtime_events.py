"""What observers see, what budgets and breakers stop, and that a run leaves nothing behind."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from agentraft_ray import (
    AgentRaftConfig,
    AgentRaftError,
    BreakerState,
    Budget,
    Checkpoint,
    CheckpointStore,
    CircuitBreaker,
    Cost,
    ErrorType,
    Event,
    EventType,
    InMemoryCheckpointStore,
    Limits,
    MockVerifier,
    Pipeline,
    RunResult,
    Step,
    StepContext,
    Task,
    VerificationResult,
    wrap,
)
from agentraft_ray.errors import BudgetExhausted, CircuitBreakerOpen, InvalidConfig

QUICK = Limits(verifier_retry_delay_s=0.001, drain_s=0.5, inbox_poll_s=0.02)


async def run(steps: Any, task: Task | None = None, **options: Any) -> RunResult:
    pipeline = steps if isinstance(steps, Pipeline) else Pipeline(steps)
    async with asyncio.timeout(20):
        return await wrap(pipeline, **({"limits": QUICK} | options)).run(task or Task("t"))


def one(ctx: StepContext) -> str:
    return f"one {ctx.attempt}"


def two(ctx: StepContext) -> str:
    return f"two {ctx.attempt}"


# --- events ------------------------------------------------------------------------------------------------------------------


async def test_events_of_the_log_have_ids_in_its_order_and_live_ones_have_none() -> None:
    events: list[Event] = []
    verifier = MockVerifier({"two": [ErrorType.GOAL_DRIFT, ErrorType.NONE]})
    await run([one, two], Task("t", id="r"), verifier=verifier, on_event=events.append)
    live = {EventType.STEP_START, EventType.STEP_VERIFYING}
    assert all((event.id is None) == (event.type in live) for event in events)
    derived = [(event.position, event.n) for event in events if event.id]
    assert derived == sorted(set(derived))
    assert events[0].id == "r:0:0"
    assert all(event.to_dict()["run_id"] == "r" for event in events)


async def test_a_failed_run_ends_its_events_with_run_failed() -> None:
    events: list[Event] = []
    await run([Step("bad", lambda ctx: None, max_retries=0)], on_event=events.append)
    assert events[0].type is EventType.RUN_START
    assert events[-1].type is EventType.RUN_FAILED
    assert "'bad'" in events[-1].detail


async def test_async_hooks_are_awaited_in_order_before_run_returns() -> None:
    seen: list[EventType] = []

    async def hook(event: Event) -> None:
        await asyncio.sleep(0.01 if event.type is EventType.RUN_START else 0.0)
        seen.append(event.type)

    await run([one], on_event=hook)
    assert seen[0] is EventType.RUN_START
    assert seen[-1] is EventType.RUN_SUCCESS
    assert len(seen) == 5


@pytest.mark.parametrize("is_async", [True, False])
async def test_errors_in_a_hook_never_break_a_run(is_async: bool, caplog: pytest.LogCaptureFixture) -> None:
    def bad(event: Event) -> None:
        raise ValueError("the dashboard is down")

    async def bad_later(event: Event) -> None:
        raise ValueError("the dashboard is down")

    with caplog.at_level(logging.ERROR, "agentraft_ray"):
        assert (await run([one], on_event=bad_later if is_async else bad)).success
    assert "on_event" in caplog.text


async def test_a_hook_that_raises_what_ends_programs_never_breaks_a_run() -> None:
    def bad(event: Event) -> None:
        raise SystemExit(1)

    assert (await run([one], on_event=bad)).success


async def test_stream_yields_every_event_and_calls_the_hook_too() -> None:
    hooked: list[Event] = []
    coordinator = wrap(Pipeline([one, two]), on_event=hooked.append)
    streamed = [event async for event in coordinator.stream(Task("t"))]
    assert [event.type for event in streamed] == [event.type for event in hooked]
    assert (streamed[0].type, streamed[-1].type) == (EventType.RUN_START, EventType.RUN_SUCCESS)


async def test_leaving_a_stream_early_drains_the_run() -> None:
    async def forever(ctx: StepContext) -> str:
        await asyncio.sleep(60)
        return "never"

    coordinator = wrap(Pipeline([one, forever]), limits=QUICK)
    stream = coordinator.stream(Task("t", id="r"))
    async for event in stream:
        if event.type is EventType.STEP_START and event.step_name == "forever":
            break
    async with asyncio.timeout(5):
        await stream.aclose()
    found = await coordinator.result("r")
    assert (found.status, found.waiting_for, found.verified_count) == ("waiting", ("drained",), 1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_stream_raises_the_callers_mistakes() -> None:
    with pytest.raises(InvalidConfig):
        async for _ in wrap(Pipeline([one])).stream(Task("t", id="not allowed")):
            pass


# --- budgets -----------------------------------------------------------------------------------------------------------------


async def test_a_budget_of_attempts_counts_retries() -> None:
    calls: list[int] = []

    def work(ctx: StepContext) -> str:
        calls.append(1)
        return f"try {ctx.attempt}"

    result = await run([work], verifier=MockVerifier(default=ErrorType.GOAL_DRIFT), budget=Budget(attempts=2), max_retries=9)
    assert len(calls) == 2
    with pytest.raises(BudgetExhausted, match="2 attempts") as caught:
        result.raise_for_error()
    assert (caught.value.resource, caught.value.limit) == ("attempts", 2)


@pytest.mark.parametrize(
    ("spend", "budget", "resource"),
    [({"tokens": 60}, Budget(tokens=100), "tokens"), ({"usd": 0.6}, Budget(usd=1.0), "usd")],
)
async def test_what_steps_spend_counts_against_the_budget(spend: dict[str, Any], budget: Budget, resource: str) -> None:
    calls: list[int] = []

    def work(ctx: StepContext) -> int:
        calls.append(1)
        ctx.spend(**spend)
        return 1

    result = await run(Pipeline.repeat(Step("work", work), 5), budget=budget)
    assert (result.status, result.error_fields["resource"], len(calls)) == ("failed", resource, 2)


async def test_what_verdicts_cost_counts_against_the_budget() -> None:
    verdict = VerificationResult.ok(cost=Cost(tokens=60))
    result = await run(Pipeline.repeat(Step("work", one), 5), verifier=MockVerifier(fn=lambda request: verdict), budget=Budget(tokens=100))
    assert result.error_fields["resource"] == "tokens"
    assert result.cost.tokens == 120


async def test_a_budget_with_a_reserve_is_never_overshot() -> None:
    def work(ctx: StepContext) -> int:
        ctx.spend(tokens=60)
        return 1

    result = await run(Pipeline.repeat(Step("work", work), 5), budget=Budget(tokens=100, reserve=Cost(tokens=60)))
    assert (result.error_fields["resource"], result.cost.tokens) == ("tokens", 60)


async def test_an_unknown_price_keeps_its_reserve_charged_and_the_sum_unknown() -> None:
    def work(ctx: StepContext) -> int:
        ctx.spend(usd=None)
        return 1

    assert (await run([work])).cost.usd is None
    result = await run(Pipeline.repeat(Step("work", work), 5), budget=Budget(usd=1.0, reserve=Cost(usd=0.4)))
    assert (result.error_fields["resource"], result.verified_count) == ("usd", 2)


async def test_a_budget_of_seconds_ends_the_run_in_time() -> None:
    async def forever(ctx: StepContext) -> str:
        await asyncio.sleep(60)
        return "never"

    async with asyncio.timeout(5):
        result = await run([forever], budget=Budget(seconds=0.1))
    assert result.error_fields["resource"] == "seconds"
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_costs_are_summed_in_the_result() -> None:
    def work(ctx: StepContext) -> int:
        ctx.spend(tokens=5, usd=0.25)
        ctx.spend(tokens=5)
        return ctx.attempt

    verifier = MockVerifier({"work": [ErrorType.GOAL_DRIFT, ErrorType.NONE]})
    result = await run([work], verifier=verifier)
    assert (result.cost.tokens, result.cost.usd, result.steps[0].cost.tokens) == (20, 0.5, 10)


# --- breakers ----------------------------------------------------------------------------------------------------------------


async def test_the_seeds_breaker_opens_after_failures_in_a_row_and_fails_the_run() -> None:
    breaker = CircuitBreaker(failure_threshold=2, cooldown_seconds=60)
    config = AgentRaftConfig(breaker=breaker, verifier=MockVerifier(default=ErrorType.GOAL_DRIFT))
    events: list[Event] = []
    result = await run([one], config=config, max_retries=9, on_event=events.append)
    assert result.steps[0].attempts == 2
    assert breaker.state is BreakerState.OPEN
    assert (result.error or "").startswith("CircuitBreakerOpen")
    with pytest.raises(CircuitBreakerOpen) as caught:
        result.raise_for_error()
    assert 0 < caught.value.retry_after_s <= 60
    assert [event.type for event in events[-2:]] == [EventType.BREAKER_OPEN, EventType.RUN_FAILED]


async def test_the_seeds_breaker_closes_again_with_a_success() -> None:
    breaker = CircuitBreaker(failure_threshold=2, cooldown_seconds=0)
    config = AgentRaftConfig(breaker=breaker, verifier=MockVerifier({"one": [ErrorType.GOAL_DRIFT, ErrorType.GOAL_DRIFT, ErrorType.NONE]}))
    assert (await run([one], config=config)).success
    assert (breaker.state, breaker.consecutive_failures) == (BreakerState.CLOSED, 0)


async def test_a_steps_own_breaker_needs_three_runs() -> None:
    calls: list[str] = []

    def work(ctx: StepContext) -> str:
        calls.append(ctx.run_id)
        return f"try {ctx.attempt}"

    coordinator = wrap(
        Pipeline([work]), verifier=MockVerifier(default=ErrorType.GOAL_DRIFT), failure_threshold=3, max_retries=4, limits=QUICK
    )
    results = [await coordinator.run(Task("t", id=f"r{n}")) for n in range(4)]
    kinds = [result.error_kind for result in results]
    assert kinds == ["MaxRetriesExceeded", "MaxRetriesExceeded", "CircuitBreakerOpen", "CircuitBreakerOpen"]
    assert [calls.count(f"r{n}") for n in range(4)] == [5, 5, 1, 0]


async def test_runs_park_at_an_open_breaker_and_go_on_after_its_cooldown() -> None:
    breaker = CircuitBreaker(failure_threshold=1, cooldown_seconds=0.15)
    events: list[Event] = []
    verifier = MockVerifier({"one": [ErrorType.GOAL_DRIFT, ErrorType.NONE]})
    async with asyncio.timeout(5):
        result = await run([one], config=AgentRaftConfig(breaker=breaker, verifier=verifier), on_open="park", on_event=events.append)
    assert result.success
    assert EventType.RUN_PARKED in [event.type for event in events]
    assert breaker.state is BreakerState.CLOSED


# --- nothing is left behind --------------------------------------------------------------------------------------------------


async def test_a_run_leaves_no_thread_and_no_task() -> None:
    before = set(threading.enumerate())
    coordinator = wrap(Pipeline([one, two]))
    await asyncio.gather(*(coordinator.run(Task("t")) for _ in range(50)))
    assert asyncio.all_tasks() == {asyncio.current_task()}
    for thread in set(threading.enumerate()) - before:
        thread.join(1.0)
    assert set(threading.enumerate()) <= before


def test_one_coordinator_serves_one_event_loop_after_another() -> None:
    store = InMemoryCheckpointStore()
    coordinator = wrap(Pipeline([one, two]), store=store)

    async def twice() -> list[bool]:
        return [result.success for result in await asyncio.gather(coordinator.run(Task("t")), coordinator.run(Task("t")))]

    for _ in range(3):
        assert asyncio.run(twice()) == [True, True]
    task = Task("t", id="r")
    assert coordinator.run_sync(task).output == coordinator.run_sync(task).output == "two 0"


async def test_run_sync_inside_a_loop_says_what_to_do() -> None:
    with pytest.raises(AgentRaftError, match="await"):
        wrap(Pipeline([one])).run_sync(Task("t"))


async def test_close_drains_what_runs_in_the_background() -> None:
    begun = asyncio.Event()
    store = InMemoryCheckpointStore()

    async def forever(ctx: StepContext) -> str:
        begun.set()
        await asyncio.sleep(60)
        return "never"

    coordinator = wrap(Pipeline([forever]), store=store, limits=QUICK)
    await coordinator.submit(Task("t", id="r"))
    async with asyncio.timeout(5):
        await begun.wait()
        await coordinator.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert (await wrap(Pipeline([forever]), store=store).result("r")).waiting_for == ("drained",)


async def test_many_runs_at_once() -> None:
    coordinator = wrap(Pipeline([one, two]))
    results = await asyncio.gather(*(coordinator.run(Task("t")) for _ in range(300)))
    assert all(result.success for result in results)


# --- a user's own checkpoint store -------------------------------------------------------------------------------------------


class OwnStore(CheckpointStore):
    """What a user of the seed may have written."""

    def __init__(self) -> None:
        self.saved: list[Checkpoint] = []
        self.seen: list[str] = []
        self.broken = False

    async def save(self, checkpoint: Checkpoint) -> None:
        if self.broken:
            raise OSError("disk full")
        self.seen.append(checkpoint.step_name)
        self.saved.append(checkpoint)

    async def history(self, task_id: str) -> list[Checkpoint]:
        return [one for one in self.saved if one.task_id == task_id]

    async def rollback_to(self, task_id: str, step_index: int) -> None:
        self.seen.append(f"back to {step_index}")
        self.saved = [one for one in self.saved if one.task_id != task_id or one.step_index <= step_index]

    async def clear(self, task_id: str) -> None:
        self.saved = [one for one in self.saved if one.task_id != task_id]


async def test_a_users_own_store_mirrors_the_log() -> None:
    store, task = OwnStore(), Task("t")
    assert (await run([one, two], task, store=store)).success
    assert await store.outputs(task.id) == {"one": "one 0", "two": "two 0"}
    assert store.saved[0].verification["passed"] is True


async def test_a_users_own_store_follows_a_rollback() -> None:
    store, task = OwnStore(), Task("t")
    blame = VerificationResult.fail(ErrorType.CONTRADICTION, blame="one")
    looks: list[str] = []

    def judge(request: Any) -> Any:
        looks.append(request.step.name)
        if request.step.name == "two" and looks.count("two") == 1:
            return blame
        return ErrorType.HALLUCINATION if request.step.name == "one" and looks.count("one") == 2 else ErrorType.NONE

    assert (await run([one, two], task, store=store, verifier=MockVerifier(fn=judge))).success
    assert store.seen == ["one", "back to -1", "one", "two"]


async def test_a_users_own_store_that_fails_is_reported_and_not_obeyed(caplog: pytest.LogCaptureFixture) -> None:
    store = OwnStore()
    store.broken = True
    with caplog.at_level(logging.ERROR, "agentraft_ray"):
        assert (await run([one], store=store)).success
    assert "disk full" in caplog.text
