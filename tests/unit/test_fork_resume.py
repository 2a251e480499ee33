"""Runs that go on: after a cancelled task, in another coordinator, with a changed pipeline, and as forks."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from agentraft_ray import (
    AgentRaftConfig,
    Budget,
    Coordinator,
    Cost,
    ErrorType,
    InMemoryCheckpointStore,
    Limits,
    MockVerifier,
    Pipeline,
    RetryPolicy,
    RulesVerifier,
    RunResult,
    Step,
    StepContext,
    Task,
    wrap,
)
from agentraft_ray.checkpoint.base import Answer, AppendEntry, Command
from agentraft_ray.errors import FingerprintMismatch, RunExpired, RunIdConflict, RunNotFound, StoreUnavailable
from agentraft_ray.protocol.plan import plan_of

QUICK = Limits(inbox_poll_s=0.01, drain_s=0.5, lease_ttl_s=2.0)


class Chain:
    """Three counted steps over one store; `block` makes the second one wait."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.store = InMemoryCheckpointStore()
        self.begun = asyncio.Event()
        self.block = True

    async def step(self, ctx: StepContext) -> str:
        self.calls.append(ctx.step_name)
        if ctx.step_name == "b" and self.block:
            self.begun.set()
            await asyncio.sleep(60)
        return f"{ctx.step_name} after {list(ctx.outputs)}"

    def coordinator(self, names: str = "abc", **options: Any) -> Coordinator:
        options = {"limits": QUICK, "store": self.store} | options
        return wrap(Pipeline([Step(name, self.step) for name in names]), **options)

    async def cancelled(self, coordinator: Coordinator, run_id: str = "r") -> None:
        work = asyncio.create_task(coordinator.run(Task("t", id=run_id)))
        async with asyncio.timeout(5):
            await self.begun.wait()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work


# --- resume ------------------------------------------------------------------------------------------------------------------


async def test_a_cancelled_run_is_drained_and_resumes_where_its_log_ends() -> None:
    chain = Chain()
    coordinator = chain.coordinator()
    await chain.cancelled(coordinator)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    drained = await coordinator.result("r")
    assert (drained.status, drained.waiting_for, drained.verified_count) == ("waiting", ("drained",), 1)
    chain.block = False
    result = await chain.coordinator().resume("r")
    assert (result.success, result.output) == (True, "c after ['a', 'b']")
    assert chain.calls == ["a", "b", "b", "c"]
    assert result.steps[0].output == "a after []"


async def test_run_goes_on_with_a_run_that_exists() -> None:
    chain = Chain()
    coordinator = chain.coordinator()
    await chain.cancelled(coordinator)
    chain.block = False
    assert (await coordinator.run(Task("t", id="r"))).success
    assert chain.calls == ["a", "b", "b", "c"]


async def test_a_finished_run_gives_its_result_again_without_running_anything() -> None:
    chain = Chain()
    chain.block = False
    first = await chain.coordinator().run(Task("t", id="r"))
    again = await chain.coordinator().run(Task("t", id="r"))
    assert (again.success, again.output, again.summary()["verified"]) == (True, first.output, "3/3")
    assert (await chain.coordinator().resume("r")).output == first.output
    assert chain.calls == ["a", "b", "c"]


async def test_a_failed_run_stays_failed() -> None:
    chain = Chain()
    chain.block = False
    bad = chain.coordinator(verifier=MockVerifier({"b": ErrorType.GOAL_DRIFT}), max_retries=0)
    first = await bad.run(Task("t", id="r"))
    assert not first.success
    again = await bad.resume("r")
    assert (again.success, again.error) == (False, first.error)
    assert chain.calls == ["a", "b"]


async def test_a_run_id_stands_for_one_task_and_pipeline() -> None:
    chain = Chain()
    chain.block = False
    await chain.coordinator().run(Task("t", id="r"))
    for coordinator, task in (
        (chain.coordinator(), Task("another goal", id="r")),
        (chain.coordinator(), Task("t", {"x": 1}, id="r")),
        (chain.coordinator("ab"), Task("t", id="r")),
    ):
        with pytest.raises(RunIdConflict, match="'r'"):
            await coordinator.run(task)
    assert chain.calls == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"names": "abcd"}, "'d' is new"),
        ({"names": "ab"}, "'c' is gone"),
        ({"names": "acb"}, "differs"),
        ({"max_retries": 1}, "differs"),
        ({"verifier": RulesVerifier(min_length=3)}, "policies"),
        ({"budget": Budget(attempts=9)}, "policies"),
    ],
)
async def test_a_resume_with_a_changed_pipeline_names_what_changed(options: dict[str, Any], changed: str) -> None:
    chain = Chain()
    await chain.cancelled(chain.coordinator())
    with pytest.raises(FingerprintMismatch, match=changed):
        await chain.coordinator(**options).resume("r")
    assert chain.calls == ["a", "b"]


async def test_a_changed_function_is_not_a_changed_pipeline_but_a_changed_version_is() -> None:
    store = InMemoryCheckpointStore()
    waits = wrap(Pipeline([Step("a", lambda ctx: 1), Step("b", lambda ctx: 2, needs_approval=True)]), store=store)
    await waits.run(Task("t", id="r"))
    with pytest.raises(FingerprintMismatch, match="'a' differs"):
        await wrap(Pipeline([Step("a", lambda ctx: 1, version="2"), Step("b", lambda ctx: 2, needs_approval=True)]), store=store).resume(
            "r"
        )
    same = wrap(Pipeline([Step("a", lambda ctx: 99), Step("b", lambda ctx: 98, needs_approval=True)]), store=store)
    assert (await same.resume("r")).status == "waiting"


async def test_limits_given_as_whole_numbers_are_the_same_limits_in_another_process() -> None:
    store = InMemoryCheckpointStore()
    step = Step("a", lambda ctx: 1, timeout_s=5, needs_approval=True)
    config = AgentRaftConfig(retry=RetryPolicy(base_delay=1, max_delay=2))
    coordinator = wrap(Pipeline([step]), store=store, config=config, budget=Budget(seconds=60, usd=1, reserve=Cost(usd=0)))
    await coordinator.run(Task("t", id="r"))
    plan_of.cache_clear()  # as in a process that has not wrapped this pipeline
    assert (await coordinator.result("r")).status == "waiting"
    assert (await coordinator.resume("r")).status == "waiting"


async def test_unknown_and_expired_runs() -> None:
    chain = Chain()
    chain.block = False
    coordinator = chain.coordinator()
    for ask in (coordinator.resume, coordinator.result, coordinator.cancel):
        with pytest.raises(RunNotFound, match="'r'"):
            await ask("r")
    await coordinator.run(Task("t", id="r"))
    await chain.store.delete_run("r")
    with pytest.raises(RunExpired):
        await coordinator.run(Task("t", id="r"))
    for ask in (coordinator.resume, coordinator.result):
        with pytest.raises(RunExpired):
            await ask("r")


# --- two at once -------------------------------------------------------------------------------------------------------------


async def both(one: Any, other: Any) -> tuple[RunResult, RunResult]:
    async with asyncio.timeout(10):
        first, second = await asyncio.gather(one, other)
    return first, second


async def test_the_same_task_twice_at_once_in_one_coordinator_runs_once() -> None:
    chain = Chain()
    chain.block = False
    coordinator = chain.coordinator()
    first, second = await both(coordinator.run(Task("t", id="r")), coordinator.run(Task("t", id="r")))
    assert first.output == second.output == "c after ['a', 'b']"
    assert chain.calls == ["a", "b", "c"]


async def test_a_second_coordinator_waits_for_the_first() -> None:
    chain = Chain()
    slow = asyncio.create_task(chain.coordinator().run(Task("t", id="r")))
    await chain.begun.wait()
    other = asyncio.create_task(chain.coordinator().run(Task("t", id="r")))
    done, _ = await asyncio.wait([other], timeout=0.1)
    assert not done
    assert chain.calls == ["a", "b"]
    slow.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await slow
    chain.block = False
    async with asyncio.timeout(5):
        assert (await other).success
    assert chain.calls == ["a", "b", "b", "c"]


async def test_submit_twice_is_one_run() -> None:
    chain = Chain()
    chain.block = False
    async with chain.coordinator() as coordinator:
        first, second = await coordinator.submit(Task("t", id="r")), await coordinator.submit(Task("t", id="r"))
        await both(first.result(), second.result())
    assert chain.calls == ["a", "b", "c"]


async def test_a_run_claimed_again_and_again_without_progress_is_parked_as_poisoned() -> None:
    chain = Chain()
    limits = Limits(inbox_poll_s=0.01, drain_s=0.05)
    for _ in range(QUICK.claims_max):
        chain.begun.clear()
        coordinator = chain.coordinator("bc", limits=limits)
        work = asyncio.create_task(coordinator.run(Task("t", id="r")))
        await chain.begun.wait()
        environment = await coordinator._open()
        chain.store.table.release_lease(environment.owner.id)  # as if its process were gone
        driver = coordinator._lives.drivers["r"]
        driver._appending = True  # a dead process appends nothing any more, not even that it was drained
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
    result = await chain.coordinator("bc").resume("r")
    assert result.status == "waiting"
    assert "poisoned" in (result.error or "")
    assert chain.calls == ["b"] * QUICK.claims_max
    chain.block = False
    assert (await chain.coordinator("bc").resume("r")).success, "a person who resumes it gives it another chance"


# --- forks -------------------------------------------------------------------------------------------------------------------


async def test_a_fork_reuses_what_was_committed_before_its_step() -> None:
    chain = Chain()
    chain.block = False
    coordinator = chain.coordinator()
    first = await coordinator.run(Task("t", id="r"))
    fork = await coordinator.fork("r", "c")
    result = await coordinator.resume(fork)
    assert (result.success, result.output, result.summary()["verified"]) == (True, first.output, "3/3")
    assert chain.calls == ["a", "b", "c", "c"]
    assert (await coordinator.result("r")).success, "the first run is as it was"


async def test_a_failed_run_forked_at_the_failing_step_succeeds_with_a_fixed_function() -> None:
    store = InMemoryCheckpointStore()
    calls: list[str] = []

    def pipeline(fixed: bool) -> Pipeline:
        def first(ctx: StepContext) -> str:
            calls.append("first")
            return "made once"

        def second(ctx: StepContext) -> str:
            calls.append("second")
            if not fixed:
                raise ValueError("a mistake in the program")
            return f"on {ctx.outputs['first']}"

        return Pipeline([first, second])

    broken = wrap(pipeline(False), store=store, max_retries=1)
    assert not (await broken.run(Task("t", id="r"))).success
    fixed = wrap(pipeline(True), store=store, max_retries=1)
    fork = await fixed.fork("r", "second", new_id="r-fixed")
    assert fork == "r-fixed"
    result = await fixed.resume(fork)
    assert (result.success, result.output, result.steps[1].attempts) == (True, "on made once", 1)
    assert calls == ["first", "second", "second", "second"]


async def test_a_fork_may_have_other_retries_and_budgets_and_later_steps() -> None:
    chain = Chain()
    chain.block = False
    stuck = await chain.coordinator(budget=Budget(attempts=2)).run(Task("t", id="r"))
    assert "BudgetExhausted" in (stuck.error or "")
    wider = chain.coordinator(budget=Budget(attempts=9), max_retries=1)
    assert (await wider.resume(await wider.fork("r", "c"))).success
    longer = chain.coordinator("abcd")
    result = await longer.resume(await longer.fork("r", "c"))
    assert result.output == "d after ['a', 'b', 'c']"
    assert chain.calls == ["a", "b", "c", "c", "d"]


async def test_a_fork_of_a_fork() -> None:
    chain = Chain()
    chain.block = False
    coordinator = chain.coordinator()
    await coordinator.run(Task("t", id="r"))
    once = await coordinator.fork("r", "b")
    assert (await coordinator.resume(once)).success
    twice = await coordinator.fork(once, "c")
    assert (await coordinator.resume(twice)).success
    assert chain.calls == ["a", "b", "c", "b", "c", "c"]
    assert (await chain.coordinator().resume(twice)).success


async def test_a_fork_is_resumed_by_another_coordinator() -> None:
    chain = Chain()
    chain.block = False
    await chain.coordinator().run(Task("t", id="r"))
    fork = await chain.coordinator().fork("r", "b")
    async with asyncio.timeout(5):
        assert (await chain.coordinator().resume(fork)).success


async def test_a_fork_copies_blobs() -> None:
    store = InMemoryCheckpointStore()
    big = "x" * 200_000
    coordinator = wrap(Pipeline([Step("big", lambda ctx: big), Step("size", lambda ctx: len(ctx.outputs["big"]))]), store=store)
    await coordinator.run(Task("t", id="r"))
    fork = await coordinator.fork("r", "size")
    await store.delete_run("r")
    result = await coordinator.resume(fork)
    assert result.output == 200_000
    assert result.steps[0].output == big


async def test_a_fork_in_a_graph_keeps_the_ancestors() -> None:
    store = InMemoryCheckpointStore()
    calls: list[str] = []

    def note(ctx: StepContext) -> str:
        calls.append(ctx.step_name)
        return ctx.step_name

    steps = [Step("a", note, after=()), Step("b", note, after=()), Step("c", note, after=("a", "b")), Step("d", note, after="c")]
    coordinator = wrap(Pipeline(steps), store=store)
    await coordinator.run(Task("t", id="r"))
    assert (await coordinator.resume(await coordinator.fork("r", "d"))).success
    assert sorted(calls) == ["a", "b", "c", "d", "d"]


async def test_a_fork_where_it_cannot_be() -> None:
    chain = Chain()
    chain.block = False
    coordinator = chain.coordinator()
    with pytest.raises(RunNotFound):
        await coordinator.fork("nobody", "a")
    await coordinator.run(Task("t", id="r"))
    with pytest.raises(FingerprintMismatch, match="no step 'z'"):
        await coordinator.fork("r", "z")
    with pytest.raises(RunIdConflict):
        await coordinator.fork("r", "a", new_id="r")
    for other in (chain.coordinator("xbc"), chain.coordinator(verifier=RulesVerifier(min_length=2))):
        with pytest.raises(FingerprintMismatch):
            await other.fork("r", "c", new_id="refused")
    with pytest.raises(RunNotFound):
        await coordinator.result("refused")


async def test_a_fork_at_the_first_step_runs_everything_again() -> None:
    chain = Chain()
    chain.block = False
    coordinator = chain.coordinator()
    await coordinator.run(Task("t", id="r"))
    assert (await coordinator.resume(await coordinator.fork("r", "a"))).success
    assert chain.calls == ["a", "b", "c"] * 2


# --- a store that fails ------------------------------------------------------------------------------------------------------


class FailingStore(InMemoryCheckpointStore):
    """Refuses what `broken` names."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: set[str] = set()

    def _check(self, name: str) -> None:
        if name in self.broken:
            raise StoreUnavailable(f"{name}: the store does not answer", url="memory", waited_s=0.0)

    async def renew_lease(self, owner: str, ttl_s: float) -> None:
        self._check("renew_lease")
        await super().renew_lease(owner, ttl_s)

    async def append(self, entry: AppendEntry) -> Answer:
        self._check("append")
        return await super().append(entry)

    async def inbox(self, run_id: str) -> list[Command]:
        self._check("inbox")
        return await super().inbox(run_id)


async def test_a_lease_that_cannot_be_had_fails_the_run_as_a_value_and_the_next_one_goes_on() -> None:
    chain = Chain()
    chain.block = False
    chain.store = store = FailingStore()
    coordinator = chain.coordinator()
    store.broken = {"renew_lease"}
    async with asyncio.timeout(5):
        results = await asyncio.gather(*(coordinator.run(Task("t", id=f"r{n}")) for n in range(3)))
    assert {result.error_kind for result in results} == {"StoreUnavailable"}
    assert chain.calls == []
    store.broken = set()
    async with asyncio.timeout(5):
        assert (await coordinator.run(Task("t", id="r0"))).success


async def test_a_lease_that_is_late_starts_nothing_and_does_not_wait_for_ever() -> None:
    store = FailingStore()
    calls: list[str] = []

    async def first(ctx: StepContext) -> str:
        calls.append("first")
        store.broken = {"renew_lease"}
        await asyncio.sleep(0.3)
        return "done"

    pipeline = Pipeline([first, Step("second", lambda ctx: calls.append("second") or "done")])
    coordinator = wrap(pipeline, store=store, limits=Limits(lease_ttl_s=0.4, inbox_poll_s=0.01))
    async with asyncio.timeout(5):
        result = await coordinator.run(Task("t", id="r"))
    assert (result.error_kind, result.verified_count, calls) == ("StoreUnavailable", 1, ["first"])
    assert asyncio.all_tasks() == {asyncio.current_task()}
    store.broken = set()
    assert (await coordinator.resume("r")).success
    assert calls == ["first", "second"]


async def test_a_submitted_run_that_waits_for_a_person_waits_through_an_outage_of_the_store() -> None:
    store = FailingStore()
    pipeline = Pipeline([Step("asked", lambda ctx: 1, needs_approval=True)])
    async with wrap(pipeline, store=store, limits=QUICK) as coordinator, asyncio.timeout(5):
        handle = await coordinator.submit(Task("t", id="r"))
        while (await handle.status()).status != "waiting":
            await asyncio.sleep(0.005)
        store.broken = {"inbox"}
        waiting = asyncio.create_task(handle.result())
        done, _ = await asyncio.wait([waiting], timeout=5 * QUICK.inbox_poll_s)
        assert not done
        store.broken = set()
        await coordinator.approve("r", "asked")
        assert (await waiting).success


async def test_keys_stay_over_a_resume() -> None:
    store = InMemoryCheckpointStore()
    keys: list[tuple[str, str]] = []
    begun = asyncio.Event()

    async def step(ctx: StepContext) -> str:
        keys.append((ctx.idempotency_key, ctx.attempt_key))
        begun.set()
        await asyncio.sleep(60 if len(keys) == 1 else 0)
        return "done"

    work = asyncio.create_task(wrap(Pipeline([step]), store=store, limits=QUICK).run(Task("t", id="r")))
    await begun.wait()
    work.cancel()
    await asyncio.wait([work])
    assert (await wrap(Pipeline([step]), store=store, limits=QUICK).resume("r")).success
    assert keys[0] == keys[1]


async def test_outputs_that_left_memory_are_read_back() -> None:
    limits = Limits(cached_outputs_bytes_max=1)

    def work(ctx: StepContext) -> list[str]:
        return [ctx.step_name, *(output[0] for output in ctx.outputs.values())]

    async def later(ctx: StepContext) -> list[str]:
        return work(ctx)

    result = await wrap(Pipeline([Step(name, work if name in "ac" else later) for name in "abcd"]), limits=limits).run(Task("t"))
    assert result.output == ["d", "a", "b", "c"]
    assert result.steps[0].output == ["a"]
