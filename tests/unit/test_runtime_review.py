"""What users' code may hand in, how time and threads are counted, what outlives an outage, and that no setting is ignored."""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentraft_ray import (
    AgentRaftError,
    Checkpoint,
    CheckpointStore,
    Cost,
    ErrorType,
    Event,
    EventType,
    InMemoryCheckpointStore,
    Limits,
    MockVerifier,
    Pipeline,
    RulesVerifier,
    RunResult,
    Step,
    StepContext,
    Task,
    VerificationResult,
    Verifier,
    VerifyInput,
    wrap,
)
from agentraft_ray.checkpoint.base import Command
from agentraft_ray.errors import InvalidConfig, InvalidPipeline, LogRewound, OutputNotEncodable, StoreUnavailable
from agentraft_ray.taxonomy import VerdictKind

QUICK = Limits(verifier_retry_delay_s=0.001, drain_s=0.5, inbox_poll_s=0.01)


class Judge(Verifier):
    """Answers whatever a function of the request does."""

    def __init__(self, answer: Callable[[VerifyInput], Any]) -> None:
        self._answer = answer

    async def verify(self, request: VerifyInput) -> Any:
        return self._answer(request)


async def run_and_read_again(step: Callable[[StepContext], Any], verifier: Verifier | None = None) -> RunResult:
    """The result of a run, whose log was read by another coordinator afterwards."""
    store = InMemoryCheckpointStore()
    pipeline = Pipeline([Step("a", step, max_retries=0), Step("b", lambda ctx: "x", needs_approval=True)])
    result = await wrap(pipeline, store=store, verifier=verifier, limits=QUICK).run(Task("t", id="r"))
    again = await wrap(pipeline, store=store, verifier=verifier, limits=QUICK).result("r")
    assert (again.status, again.error, again.cost) == (result.status, result.error, result.cost)
    return result


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


# --- what users' code hands in -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spent", [{"tokens": 1.5}, {"tokens": -5}, {"usd": float("nan")}, {"usd": float("inf")}, {"tokens": 2**70}])
async def test_a_step_that_books_what_nothing_can_cost_fails(spent: dict[str, Any]) -> None:
    result = await run_and_read_again(lambda ctx: ctx.spend(**spent))
    assert (result.status, result.steps[0].status, result.cost.tokens) == ("failed", "failed", 0)


@pytest.mark.parametrize("spent", [{"tokens": np.int64(5)}, {"tokens": np.int8(5), "usd": np.float32(0.5)}, {"tokens": 5, "usd": None}])
async def test_a_step_may_book_the_numbers_of_other_libraries(spent: dict[str, Any]) -> None:
    result = await run_and_read_again(lambda ctx: ctx.spend(**spent) or "done")
    assert (result.verified_count, result.cost.tokens) == (1, 5)


def raises(error: BaseException) -> Callable[[StepContext], Any]:
    def step(ctx: StepContext) -> Any:
        raise error

    return step


class Mute(Exception):
    """An exception that cannot even be printed."""

    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize("error", [ValueError("bad \udcff name"), Mute(), KeyError("\ud800")], ids=lambda error: type(error).__name__)
async def test_errors_of_any_text_fail_the_step_and_nothing_else(error: BaseException) -> None:
    assert (await run_and_read_again(raises(error))).status == "failed"

    def fault(request: VerifyInput) -> Any:
        raise error

    assert (await run_and_read_again(lambda ctx: "x", Judge(fault))).error_kind == "VerifierUnavailable"


@pytest.mark.parametrize("confidence", [np.float64(0.5), np.float32(0.5), np.int64(1), 1])
async def test_verdicts_of_other_libraries_numbers_pass(confidence: Any) -> None:
    cost = Cost(np.int64(2), np.float64(0.0), np.float32(0.5))  # type: ignore[arg-type]
    verifier = Judge(lambda request: VerificationResult.ok(confidence=confidence, cost=cost))
    result = await run_and_read_again(lambda ctx: "x", verifier)
    assert (result.verified_count, result.cost.tokens) == (1, 4)
    assert type(result.steps[0].verification.confidence) is float  # type: ignore[union-attr]


@pytest.mark.parametrize("cost", [Cost(1.5, 0.0, 0.0), Cost(-1), Cost(0, float("nan")), "dear"])  # type: ignore[arg-type]
async def test_a_verdict_that_costs_what_nothing_can_cost_is_a_fault(cost: Any) -> None:
    result = await run_and_read_again(lambda ctx: "x", Judge(lambda request: VerificationResult.ok(cost=cost)))
    assert result.error_kind == "VerifierUnavailable"


async def test_a_verdict_with_surrogates_counts_and_is_stored_as_text() -> None:
    bad = VerificationResult.fail(ErrorType.INCOMPLETE, hint="\udcff?", reasoning="\ud800", evidence=("\udcff",), verifier="\udcff")
    result = await run_and_read_again(lambda ctx: "x", Judge(lambda request: bad))
    assert (result.status, result.error_fields["error_type"]) == ("failed", ErrorType.INCOMPLETE)


async def test_texts_of_verdicts_are_cut_as_the_limits_say() -> None:
    hints: list[str | None] = []
    events: list[Event] = []

    def step(ctx: StepContext) -> int:
        hints.append(ctx.hint)
        return ctx.attempt

    bad = VerificationResult.fail(ErrorType.INCOMPLETE, hint="h" * 500, reasoning="r" * 500, evidence=("e" * 500,) * 9)
    limits = Limits(hint_chars_max=10, evidence_max=1, evidence_chars_max=5)
    verifier = Judge(lambda request: bad)
    await wrap(Pipeline([Step("a", step)]), verifier=verifier, max_retries=1, limits=limits, on_event=events.append).run(Task("t"))
    assert hints == [None, "h" * 10]
    assert [len(event.detail) for event in events if event.type is EventType.STEP_FAILED] == [10, 10]


@pytest.mark.parametrize("task", [Task("g\udcff"), Task("g", {"a": "\udcff"}), Task("g", id="\udcff")])
async def test_a_task_that_is_no_text_is_the_callers_mistake(task: Task) -> None:
    with pytest.raises(OutputNotEncodable):
        await wrap(Pipeline([lambda ctx: 1])).run(task, run_id="r")


@pytest.mark.parametrize("options", [{"name": "a\udcff"}, {"goal": "\udcff"}, {"version": "\udcff"}])
def test_a_pipeline_that_is_no_text_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidPipeline):
        wrap(Pipeline([Step(**({"name": "a", "fn": lambda ctx: 1} | options))]))


async def test_notes_of_any_text_reach_the_log() -> None:
    coordinator = wrap(Pipeline([Step("a", lambda ctx: ctx.attempt, needs_approval=True)]), limits=QUICK)
    await coordinator.run(Task("t", id="r"))
    await coordinator.deny("r", "a", by="\udcff", note="bad \ud800")
    assert (await coordinator.resume("r")).waiting_for == ("approval:a",)
    await coordinator.cancel("r", by="\udcff")
    assert (await coordinator.result("r")).status == "cancelled"


ANY_TEXT = st.text(st.characters(codec=None), max_size=8)
ANY_NUMBER = st.one_of(
    st.integers(),
    st.floats(),
    st.integers(-3, 300).map(np.int64),
    st.floats(width=32).map(np.float32),
    st.floats().map(np.float64),
    st.booleans(),
    st.none(),
)
ANY_SCALAR = st.one_of(ANY_TEXT, ANY_NUMBER, st.binary(max_size=4), st.just(object()), st.just(np.str_("x")))
ANY_VALUE = st.recursive(
    ANY_SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.one_of(ANY_TEXT, st.integers()), inner, max_size=3),
    max_leaves=5,
)
ANY_COST = st.one_of(st.builds(Cost, ANY_NUMBER, ANY_NUMBER, ANY_NUMBER), st.just(Cost()), ANY_SCALAR)
ANY_VERDICT = st.one_of(
    ANY_VALUE,
    st.builds(
        VerificationResult,
        st.booleans() | ANY_SCALAR,
        st.sampled_from(ErrorType) | ANY_SCALAR,
        st.floats(0, 1) | ANY_NUMBER,
        ANY_SCALAR,
        ANY_TEXT | ANY_SCALAR,
        ANY_TEXT | ANY_SCALAR,
        st.sampled_from(VerdictKind) | st.none() | ANY_SCALAR,
        st.lists(ANY_SCALAR, max_size=2).map(tuple) | ANY_SCALAR,
        ANY_SCALAR,
        ANY_COST,
        ANY_TEXT | ANY_SCALAR,
        ANY_TEXT | ANY_SCALAR,
    ),
    st.builds(VerificationResult.ok, reasoning=ANY_TEXT, verifier=ANY_TEXT, cost=ANY_COST),
    st.builds(VerificationResult.fail, st.sampled_from(ErrorType), hint=ANY_TEXT, reasoning=ANY_TEXT, cost=ANY_COST),
)


@settings(max_examples=120)
@given(output=ANY_VALUE, tokens=ANY_NUMBER, usd=ANY_NUMBER, error=st.none() | ANY_TEXT, verdict=st.none() | ANY_VERDICT)
def test_whatever_steps_and_verifiers_do_a_run_returns_and_its_log_can_be_read(
    output: Any, tokens: Any, usd: Any, error: str | None, verdict: Any
) -> None:
    async def step(ctx: StepContext) -> Any:
        ctx.spend(usd=0.25)
        if error is None:
            return output
        ctx.spend(tokens=tokens, usd=usd)
        raise ValueError(error)

    verifier = RulesVerifier() if verdict is None else Judge(lambda request: verdict)
    assert isinstance(asyncio.run(run_and_read_again(step, verifier)), RunResult)


# --- time, threads and the bill ----------------------------------------------------------------------------------------------


async def test_what_a_step_booked_before_its_time_was_over_is_charged() -> None:
    async def dear(ctx: StepContext) -> None:
        ctx.spend(tokens=600)
        await asyncio.sleep(60)

    result = await wrap(Pipeline([Step("dear", dear, timeout_s=0.03)]), max_retries=1, limits=QUICK).run(Task("t"))
    assert (result.error_kind, result.cost.tokens) == ("MaxRetriesExceeded", 1200)
    assert result.cost.seconds >= 0.06


async def test_what_a_step_books_after_its_time_is_charged_as_late() -> None:
    release = asyncio.Event()

    async def stubborn(ctx: StepContext) -> str:
        if ctx.is_retry:
            release.set()
            await asyncio.sleep(0.05)
            return "done"
        ctx.spend(tokens=100)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await release.wait()
        ctx.spend(tokens=11)
        return "late"

    pipeline = Pipeline([Step("stubborn", stubborn, timeout_s=0.2), Step("end", lambda ctx: "end")])
    result = await wrap(pipeline, limits=QUICK).run(Task("t"))
    assert (result.success, result.cost.tokens) == (True, 111)


async def test_what_a_step_booked_before_its_run_was_drained_is_charged() -> None:
    begun = asyncio.Event()
    store = InMemoryCheckpointStore()

    async def dear(ctx: StepContext) -> None:
        ctx.spend(tokens=600)
        begun.set()
        await asyncio.sleep(60)

    coordinator = wrap(Pipeline([dear]), store=store, limits=QUICK)
    work = asyncio.create_task(coordinator.run(Task("t", id="r")))
    await begun.wait()
    work.cancel()
    await asyncio.wait([work])
    found = await coordinator.result("r")
    assert (found.waiting_for, found.cost.tokens) == (("drained",), 600)


async def test_waiting_for_a_thread_costs_a_step_none_of_its_time() -> None:
    step = Step("a", lambda ctx: time.sleep(0.06) or "done", timeout_s=0.2, max_retries=0)
    coordinator = wrap(Pipeline([step]), limits=Limits(step_threads_max=1))
    results = await asyncio.gather(*(coordinator.run(Task("t")) for _ in range(6)))
    assert [result.success for result in results] == [True] * 6


async def test_threads_that_hang_keep_their_room_and_are_named(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    most = 0

    def hang(ctx: StepContext) -> str:
        nonlocal most
        most = max(most, sum(thread.name.startswith("agentraft-step") for thread in threading.enumerate()))
        release.wait(30)
        return "done"

    limits = Limits(step_threads_max=2, inbox_poll_s=0.01, drain_s=0.5)
    coordinator = wrap(Pipeline([Step("hang", hang, timeout_s=0.03, max_retries=5)]), limits=limits)
    with caplog.at_level(logging.WARNING, "agentraft_ray"):
        work = asyncio.create_task(coordinator.run(Task("t")))
        await until(lambda: "hang in steps that were given up (hang)" in caplog.text)
        release.set()
        async with asyncio.timeout(5):
            assert (await work).success, "with the threads came room for the next attempt"
    assert most <= 2


# --- between the lives of a run ----------------------------------------------------------------------------------------------


class Outage(InMemoryCheckpointStore):
    """Answers nothing while it is `down`."""

    down = False
    refused = 0

    def _check(self) -> None:
        if self.down:
            self.refused += 1
            raise StoreUnavailable("no answer", url="memory", waited_s=0.0)

    async def inbox(self, run_id: str) -> list[Command]:
        self._check()
        return await super().inbox(run_id)

    async def meta(self, run_id: str) -> Any:
        self._check()
        return await super().meta(run_id)


async def test_a_submitted_run_outlives_an_outage_while_it_waits() -> None:
    store = Outage()
    async with wrap(Pipeline([Step("a", lambda ctx: 1, needs_approval=True)]), store=store, limits=QUICK) as coordinator:
        handle = await coordinator.submit(Task("t", id="r"))
        await until(lambda: store.table.runs["r"].status == "parked")
        store.down = True
        await until(lambda: store.refused > 3)
        store.down = False
        await handle.approve("a")
        async with asyncio.timeout(5):
            assert (await handle.result()).success


async def test_a_submitted_run_asks_its_verifier_again_after_a_while() -> None:
    answers = iter([VerificationResult.fault("503")] * 4)
    verifier = Judge(lambda request: next(answers, VerificationResult.ok()))
    limits = Limits(verifier_retry_delay_s=0.001, verifier_park_retry_s=0.02, inbox_poll_s=0.005)
    async with wrap(Pipeline([lambda ctx: 1]), verifier=verifier, limits=limits) as coordinator, asyncio.timeout(5):
        assert (await (await coordinator.submit(Task("t"))).result()).success


class Rewound:
    """A run that waits for approval, of which the store then loses the tail that was acknowledged."""

    def __init__(self) -> None:
        self.store = InMemoryCheckpointStore()
        self.calls: list[str] = []
        self.before: list[Any] = []
        pipeline = Pipeline([self.first, Step("asked", lambda ctx: "x", needs_approval=True)])
        self.coordinator = wrap(pipeline, store=self.store, limits=QUICK, on_event=self.see)

    def first(self, ctx: StepContext) -> str:
        self.calls.append("first")
        return "done"

    def see(self, event: Event) -> None:
        if event.type is EventType.STEP_START and not self.before:
            self.before.append(copy.deepcopy(self.store.table.runs["r"]))

    def lose_the_tail(self) -> None:
        self.store.table.runs["r"] = copy.deepcopy(self.before[0])


async def test_a_log_that_lost_its_tail_between_two_lives_parks_the_run() -> None:
    scene = Rewound()
    await scene.coordinator.run(Task("t", id="r"))
    scene.lose_the_tail()
    found = await scene.coordinator.resume("r")
    assert (found.error_kind, scene.calls) == ("LogRewound", ["first"])
    again = await scene.coordinator.resume("r")
    assert (again.waiting_for, scene.calls) == (("approval:asked",), ["first", "first"]), "a person who resumes it accepts the loss"


async def test_a_submitted_run_whose_log_lost_its_tail_is_given_back() -> None:
    scene = Rewound()
    async with scene.coordinator as coordinator, asyncio.timeout(5):
        handle = await coordinator.submit(Task("t", id="r"))
        await until(lambda: scene.store.table.runs["r"].status == "parked")
        await handle.approve("asked")  # so that it has news to look at, and finds another log
        inbox = dict(scene.store.table.runs["r"].inbox)
        scene.lose_the_tail()
        scene.store.table.runs["r"].inbox = inbox
        assert (await handle.result()).error_kind == "LogRewound"
        assert scene.calls == ["first"]


async def test_another_log_of_the_same_length_or_longer_is_a_rewind_too() -> None:
    for more in (0, 1):
        scene = Rewound()
        await scene.coordinator.run(Task("t", id="r"))
        scene.lose_the_tail()
        for _ in range(more + 1):
            elsewhere = wrap(Pipeline([scene.first, Step("asked", lambda ctx: "y", needs_approval=True)]), store=scene.store, limits=QUICK)
            scene.store.table.leases.clear()
            await elsewhere.resume("r")
        assert (await scene.coordinator.resume("r")).error_kind == "LogRewound"


async def test_a_log_that_vanished_is_a_rewind_and_no_unknown_run() -> None:
    scene = Rewound()
    await scene.coordinator.run(Task("t", id="r"))
    scene.store.table.runs.clear()
    assert (await scene.coordinator.resume("r")).error_kind == "LogRewound"
    again = await scene.coordinator.run(Task("t", id="r"))
    assert (again.error_kind, scene.calls) == ("LogRewound", ["first"]), "what was lost is not silently made anew"


async def test_a_waiter_that_gives_up_takes_nothing_from_the_run_it_waited_for() -> None:
    scene = Rewound()
    first = asyncio.create_task(scene.coordinator.run(Task("t", id="r")))
    waiter = asyncio.create_task(scene.coordinator.run(Task("t", id="r")))
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.wait([first, waiter])
    scene.lose_the_tail()
    assert (await scene.coordinator.resume("r")).error_kind == "LogRewound"


async def test_waiting_for_a_run_of_another_coordinator_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    gate = asyncio.Event()

    async def slow(ctx: StepContext) -> str:
        await gate.wait()
        return "done"

    store = InMemoryCheckpointStore()
    here, there = (wrap(Pipeline([slow]), store=store, limits=QUICK) for _ in range(2))
    with caplog.at_level(logging.INFO, "agentraft_ray"):
        first = asyncio.create_task(here.run(Task("t", id="r")))
        await until(lambda: "r" in store.table.runs and store.table.runs["r"].token.owner)
        second = asyncio.create_task(there.run(Task("t", id="r")))
        await until(lambda: "works on it" in caplog.text)
        await asyncio.sleep(0.05)
        gate.set()
        assert (await first).output == (await second).output == "done"
    assert caplog.text.count("works on it") == 1


class BadLease(InMemoryCheckpointStore):
    """Its lease breaks with an error that no store should raise."""

    broken = False

    async def renew_lease(self, owner: str, ttl_s: float) -> None:
        if self.broken:
            raise ZeroDivisionError("a bug in the store")
        await super().renew_lease(owner, ttl_s)


async def test_a_lease_that_breaks_in_any_way_is_late_and_renewed_when_it_can_be() -> None:
    store = BadLease()

    async def first(ctx: StepContext) -> str:
        store.broken = True
        await asyncio.sleep(0.15)
        store.broken = ctx.task.goal == "stays broken"
        return "done"

    coordinator = wrap(Pipeline([first, Step("b", lambda ctx: 1)]), store=store, limits=Limits(lease_ttl_s=0.2))
    async with asyncio.timeout(5):
        assert (await coordinator.run(Task("heals"))).success
        result = await coordinator.run(Task("stays broken"))
    assert (result.error_kind, result.verified_count) == ("StoreError", 1)


# --- nothing blocks the event loop -------------------------------------------------------------------------------------------


class NeverBlocks(InMemoryCheckpointStore):
    """Lets nobody read on the event loop's time."""

    def read_blocking(self, run_id: str, index: int) -> bytes | None:
        assert threading.current_thread() is not threading.main_thread()
        return super().read_blocking(run_id, index)

    def blob_blocking(self, run_id: str, name: bytes) -> bytes | None:
        assert threading.current_thread() is not threading.main_thread()
        return super().blob_blocking(run_id, name)


class OwnStore(CheckpointStore):
    def __init__(self) -> None:
        self.saved: list[Checkpoint] = []

    async def save(self, checkpoint: Checkpoint) -> None:
        self.saved.append(checkpoint)

    async def history(self, task_id: str) -> list[Checkpoint]:
        return self.saved

    async def rollback_to(self, task_id: str, step_index: int) -> None:
        self.saved = [one for one in self.saved if one.step_index <= step_index]

    async def clear(self, task_id: str) -> None:
        self.saved = []


@pytest.mark.parametrize("size", [10, 100_000])
async def test_parents_suspects_and_results_are_read_without_blocking_the_loop(size: int) -> None:
    looks: list[str] = []

    async def judge(request: VerifyInput) -> Any:
        looks.append(request.step.name)
        assert all(len(output) >= size for _, output in request.history)
        if request.step.name == "b" and looks.count("b") == 1:
            return VerificationResult.fail(ErrorType.CONTRADICTION, blame="a")
        return VerificationResult.ok()

    class Async(Verifier):
        async def verify(self, request: VerifyInput) -> Any:
            return await judge(request)

    async def step(ctx: StepContext) -> str:
        assert all(len(output) >= size for output in ctx.outputs.values())
        return f"{ctx.attempt}{ctx.step_name * size}"

    store = NeverBlocks()
    limits = Limits(cached_outputs_bytes_max=0, verifier_retry_delay_s=0.001)
    steps = [Step(name, step, after=after) for name, after in (("a", ()), ("x", ()), ("b", ("a", "x")))]
    coordinator = wrap(Pipeline(steps), store=store, verifier=Async(), limits=limits)
    result = await coordinator.run(Task("t", id="r"))
    assert result.success, result.error
    assert (await coordinator.result("r")).output == "1" + "b" * size
    assert (await wrap(Pipeline(steps), store=store, verifier=Async()).resume("r")).output == "1" + "b" * size


async def test_a_mirror_that_hangs_holds_nothing_up_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    class Hanging(OwnStore):
        async def save(self, checkpoint: Checkpoint) -> None:
            await asyncio.sleep(60)

    async with asyncio.timeout(5):
        assert (await wrap(Pipeline([lambda ctx: 1]), store=Hanging(), limits=Limits(mirror_wait_s=0.02)).run(Task("t"))).success
    assert "failed to mirror" in caplog.text


# --- events and status -------------------------------------------------------------------------------------------------------


async def test_events_are_read_again_from_any_id() -> None:
    live: list[Event] = []
    verifier = MockVerifier({"b": [ErrorType.GOAL_DRIFT, ErrorType.NONE]})
    coordinator = wrap(Pipeline([Step("a", lambda ctx: 1), Step("b", lambda ctx: ctx.attempt)]), verifier=verifier, on_event=live.append)
    await coordinator.run(Task("t", id="r"))
    logged = [event async for event in coordinator.events("r")]
    assert logged == [event for event in live if event.id]
    for k, known in enumerate(logged):
        assert [event async for event in coordinator.events("r", known.id)] == logged[k + 1 :]
    for bad in ("other:0:0", "r:0", "r:x:0", "r:-1:0", ""):
        with pytest.raises(InvalidConfig):
            [event async for event in coordinator.events("r", bad)]
    with pytest.raises(LogRewound):
        [event async for event in coordinator.events("r", "r:99:0")]


async def test_a_finished_run_tells_its_events_again() -> None:
    seen: list[Event] = []
    coordinator = wrap(Pipeline([lambda ctx: 1]), on_event=seen.append)
    task = Task("t", id="r")
    await coordinator.run(task)
    first, seen[:] = [event for event in seen if event.id], []
    assert [event async for event in coordinator.stream(task)] == first == seen
    assert (first[0].type, first[-1].type) == (EventType.RUN_START, EventType.RUN_SUCCESS)


async def test_a_run_starts_once_and_every_later_life_says_where_it_goes_on() -> None:
    store, seen = InMemoryCheckpointStore(), []
    pipeline = Pipeline([Step("a", lambda ctx: 1), Step("b", lambda ctx: 1, needs_approval=True)])
    async with wrap(pipeline, store=store, limits=QUICK, on_event=seen.append) as coordinator:
        handle = await coordinator.submit(Task("t", id="r"))
        await until(lambda: store.table.runs["r"].status == "parked")
        await handle.approve("b")
        await handle.result()
    told = [(event.type.value, event.id, event.detail) for event in seen if event.type.value.startswith("run_")]
    told = [one for one in told if one[0] != "run_parked"]
    assert [one[0] for one in told] == ["run_start", "run_claimed", "run_success"]
    assert (told[0][1], told[1][2]) == ("r:0:0", "resumed from checkpoint 1 of 2")


async def test_a_resumed_run_starts_live_only_so_that_ids_stay_unique() -> None:
    store, seen = InMemoryCheckpointStore(), []
    pipeline = Pipeline([Step("a", lambda ctx: 1), Step("b", lambda ctx: 1, needs_approval=True)])
    task = Task("t", id="r")
    coordinator = wrap(pipeline, store=store, limits=QUICK, on_event=seen.append)
    await coordinator.run(task)
    await coordinator.approve("r", "b")
    await coordinator.run(task)
    ids = [event.id for event in seen if event.id]
    assert len(ids) == len(set(ids))
    assert ids == [event.id async for event in coordinator.events("r")]
    starts = [event for event in seen if event.type is EventType.RUN_START]
    assert [(event.id, event.detail) for event in starts] == [("r:0:0", ""), (None, "resumed from checkpoint 1 of 2")]
    assert seen[seen.index(starts[1]) + 1].type is EventType.RUN_CLAIMED


async def test_a_run_that_works_is_running_and_waits_for_nothing() -> None:
    async def slow(ctx: StepContext) -> None:
        await asyncio.sleep(60)

    async with wrap(Pipeline([slow]), limits=QUICK) as coordinator:
        handle = await coordinator.submit(Task("t", id="r"))
        status = await handle.status()
        assert (status.status, status.error, status.waiting_for, status.is_parked) == ("running", None, (), False)


# --- decisions ---------------------------------------------------------------------------------------------------------------


async def test_deciding_about_a_finished_run_is_refused() -> None:
    coordinator = wrap(Pipeline([Step("a", lambda ctx: 1, needs_approval=True)]), limits=QUICK)
    await coordinator.run(Task("t", id="r"))
    await coordinator.cancel("r")
    for decide in (coordinator.approve, coordinator.deny):
        with pytest.raises(AgentRaftError, match="has finished"):
            await decide("r", "a")
    await coordinator.cancel("r")


async def test_a_run_is_cancelled_without_the_pipeline_it_was_admitted_with() -> None:
    store = InMemoryCheckpointStore()
    calls: list[str] = []
    events: list[Event] = []
    asked = Step("a", lambda ctx: calls.append("a"), approve_before=True)
    await wrap(Pipeline([asked]), store=store).run(Task("t", id="r"))
    await wrap(Pipeline([Step("z", lambda ctx: calls.append("z"))]), store=store, on_event=events.append).cancel("r", by="ann")
    found = await wrap(Pipeline([Step("z", lambda ctx: 1)]), store=store).result("r")
    assert (found.status, calls) == ("cancelled", [])
    assert [event.type for event in events] == [EventType.COMMAND_TAKEN, EventType.RUN_FAILED]


# --- settings ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["fsync", "replicated(2)", "trust-server"])
def test_a_store_of_ones_own_promises_no_durability(durability: str) -> None:
    with pytest.raises(InvalidConfig, match="OwnStore"):
        wrap(Pipeline([lambda ctx: 1]), store=OwnStore(), durability=durability)


def test_placement_says_nothing_in_one_process_and_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentraft_ray.api._warned", set())
    pipeline = Pipeline([Step("a", lambda ctx: 1, num_gpus=1)])
    with pytest.warns(UserWarning, match="num_gpus"):
        wrap(pipeline)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrap(pipeline)


async def test_the_seeds_calls_read_an_encrypted_log() -> None:
    pytest.importorskip("cryptography")
    store, other = InMemoryCheckpointStore(), InMemoryCheckpointStore()
    await wrap(Pipeline([Step("a", lambda ctx: "A" * 70_000)]), store=store, encryption_key=b"k" * 32).run(Task("t", id="r"))
    await wrap(Pipeline([Step("a", lambda ctx: "B")]), store=other, encryption_key=b"q" * 32).run(Task("t", id="r"))
    assert await store.outputs("r") == {"a": "A" * 70_000}
    assert await other.outputs("r") == {"a": "B"}


# --- closing -----------------------------------------------------------------------------------------------------------------


async def test_close_drains_runs_in_flight_before_it_lets_go_of_the_store() -> None:
    begun = asyncio.Event()

    async def slow(ctx: StepContext) -> None:
        begun.set()
        await asyncio.sleep(60)

    coordinator = wrap(Pipeline([slow]), limits=QUICK)
    streamed: list[Event] = []

    async def stream() -> None:
        streamed.extend([event async for event in coordinator.stream(Task("t"))])

    work, streaming = asyncio.create_task(coordinator.run(Task("t", id="r"))), asyncio.create_task(stream())
    await begun.wait()
    async with asyncio.timeout(3):
        await coordinator.close()
        result = await work
        await streaming
    assert (result.status, result.waiting_for) == ("waiting", ("drained",))
    assert streamed[-1].type is EventType.RUN_PARKED
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_close_ends_the_waiting_for_another_coordinators_run() -> None:
    async def slow(ctx: StepContext) -> None:
        await asyncio.sleep(60)

    store = InMemoryCheckpointStore()
    here, there = (wrap(Pipeline([slow]), store=store, limits=QUICK) for _ in range(2))
    first = asyncio.create_task(here.run(Task("t", id="r")))
    await until(lambda: "r" in store.table.runs and store.table.runs["r"].token.owner)
    second = asyncio.create_task(there.run(Task("t", id="r")))
    await asyncio.sleep(0.03)
    async with asyncio.timeout(3):
        await there.close()
        assert (await second).status == "waiting"
        await here.close()
        assert (await first).waiting_for == ("drained",)


async def test_run_sync_inside_a_loop_makes_no_coroutine_that_nobody_awaits() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InvalidConfig, match="await coordinator.run"):
            wrap(Pipeline([lambda ctx: 1])).run_sync(Task("t"))
