"""People decide: approvals of outputs and of running, denials, cancelling; from this coordinator or another one on the same store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentraft_ray import (
    AgentRaftConfig,
    AgentRaftError,
    CircuitBreaker,
    Coordinator,
    ErrorType,
    EventType,
    InMemoryCheckpointStore,
    Limits,
    MockVerifier,
    Pipeline,
    RetryPolicy,
    Step,
    StepContext,
    Task,
    VerificationResult,
    wrap,
)
from agentraft_ray.errors import ApprovalDenied, RunCancelled, RunNotFound, RunWaiting

QUICK = Limits(inbox_poll_s=0.01, drain_s=0.5, lease_ttl_s=2.0)


class Scene:
    """A pipeline whose middle step needs a person, two coordinators on one store, and a tally of calls."""

    def __init__(self, **options: Any) -> None:
        self.calls: list[str] = []
        self.hints: list[str | None] = []
        self.store = InMemoryCheckpointStore()
        self.options = options
        self.here = self.coordinator()
        self.elsewhere = self.coordinator()

    def coordinator(self, **options: Any) -> Coordinator:
        def note(ctx: StepContext) -> str:
            self.calls.append(ctx.step_name)
            self.hints.append(ctx.hint)
            return f"{ctx.step_name} {ctx.attempt}"

        pipeline = Pipeline([Step("first", note), Step("asked", note, **self.options), Step("last", note)])
        return wrap(pipeline, store=self.store, limits=QUICK, **options)


async def test_a_step_that_needs_approval_parks_the_run_until_someone_approves() -> None:
    scene = Scene(needs_approval=True)
    waiting = await scene.here.run(Task("t", id="r"))
    assert (waiting.status, waiting.waiting_for, waiting.success) == ("waiting", ("approval:asked",), False)
    assert (waiting.error or "").startswith("RunWaiting")
    assert waiting.summary()["verified"] == "1/3"
    assert waiting.steps[1].status == "waiting"
    with pytest.raises(RunWaiting):
        waiting.raise_for_error()
    await scene.elsewhere.approve("r", "asked", by="ann")
    done = await scene.elsewhere.resume("r")
    assert (done.success, done.output) == (True, "last 0")
    assert scene.calls == ["first", "asked", "last"], "what was approved was not made again"


async def test_a_denied_output_is_thrown_away_and_the_note_becomes_the_hint() -> None:
    scene = Scene(needs_approval=True)
    await scene.here.run(Task("t", id="r"))
    await scene.elsewhere.deny("r", "asked", by="ann", note="Say it shorter.")
    again = await scene.here.resume("r")
    assert (again.status, again.rollbacks) == ("waiting", 1)
    assert scene.calls == ["first", "asked", "asked"]
    assert scene.hints[-1] == "Say it shorter."
    await scene.here.approve("r", "asked")
    assert (await scene.here.resume("r")).success


async def test_approve_before_gates_the_running() -> None:
    scene = Scene(approve_before=True)
    waiting = await scene.here.run(Task("t", id="r"))
    assert waiting.status == "waiting"
    assert scene.calls == ["first"]
    await scene.elsewhere.approve("r", "asked")
    assert (await scene.here.resume("r")).success
    assert scene.calls == ["first", "asked", "last"]


async def test_a_step_that_may_not_run_ends_the_run() -> None:
    scene = Scene(approve_before=True)
    await scene.here.run(Task("t", id="r"))
    await scene.elsewhere.deny("r", "asked", note="too dear")
    result = await scene.here.resume("r")
    assert result.status == "failed"
    with pytest.raises(ApprovalDenied, match="too dear"):
        result.raise_for_error()
    assert scene.calls == ["first"]


async def test_both_gates_on_one_step() -> None:
    scene = Scene(approve_before=True, needs_approval=True)
    await scene.here.run(Task("t", id="r"))
    await scene.here.approve("r", "asked")
    assert (await scene.here.resume("r")).waiting_for == ("approval:asked",)
    await scene.here.approve("r", "asked")
    assert (await scene.here.resume("r")).success


async def test_an_approval_of_an_output_that_changed_meanwhile_has_no_effect() -> None:
    from agentraft_ray.runtime.commands import approval_command

    scene = Scene(needs_approval=True)
    await scene.here.run(Task("t", id="r"))
    environment = await scene.elsewhere._open()
    stale = approval_command(await environment.logs.fold("r"), "approve", "asked", "ann", "")
    await scene.here.deny("r", "asked")
    await scene.here.resume("r")
    await scene.store.push_command("r", stale)
    still = await scene.here.resume("r")
    assert still.status == "waiting"
    assert "last" not in scene.calls
    assert await scene.store.inbox("r") == [], "a command without effect leaves the inbox too"


async def test_deciding_where_nothing_waits_is_refused() -> None:
    scene = Scene(needs_approval=True)
    with pytest.raises(RunNotFound):
        await scene.here.approve("r", "asked")
    await scene.here.run(Task("t", id="r"))
    with pytest.raises(AgentRaftError, match="waits for no approval"):
        await scene.here.approve("r", "first")
    with pytest.raises(AgentRaftError, match="no step"):
        await scene.here.approve("r", "nobody")


async def test_a_resume_without_a_decision_waits_on() -> None:
    scene = Scene(needs_approval=True)
    await scene.here.run(Task("t", id="r"))
    for _ in range(6):
        assert (await scene.here.resume("r")).waiting_for == ("approval:asked",)
    assert scene.calls == ["first", "asked"]


async def test_a_submitted_run_goes_on_by_itself_when_approved_elsewhere() -> None:
    scene = Scene(needs_approval=True)
    async with scene.here, asyncio.timeout(5):
        handle = await scene.here.submit(Task("t", id="r"))
        while (status := await handle.status()).status != "waiting":
            assert (status.status, status.error) == ("running", None)
            await asyncio.sleep(0.005)
        await scene.elsewhere.approve("r", "asked")
        assert (await handle.result()).success
        assert handle.run_id == "r"


async def test_another_coordinator_goes_on_with_a_parked_run_while_the_first_one_lives() -> None:
    """A parked run is at nobody's work, so the first coordinator's lease, alive for other runs, holds nobody up."""
    scene = Scene(needs_approval=True)
    release = asyncio.Event()
    async with asyncio.timeout(5):
        await scene.here.run(Task("t", id="r"))
        holding = asyncio.create_task(_hold(scene.here, release))
        await asyncio.sleep(0)
        await scene.elsewhere.approve("r", "asked")
        assert (await scene.elsewhere.resume("r")).success
        release.set()
        await holding


async def _hold(coordinator: Coordinator, release: asyncio.Event) -> None:
    environment = await coordinator._open()
    async with environment.owner:
        await release.wait()


# --- cancel ------------------------------------------------------------------------------------------------------------------


async def test_a_parked_run_is_cancelled_from_anywhere() -> None:
    scene = Scene(needs_approval=True)
    await scene.here.run(Task("t", id="r"))
    async with asyncio.timeout(5):
        await scene.elsewhere.cancel("r", by="ann")
    result = await scene.here.result("r")
    assert result.status == "cancelled"
    with pytest.raises(RunCancelled, match="ann"):
        result.raise_for_error()
    assert scene.calls == ["first", "asked"]


@pytest.mark.parametrize("from_elsewhere", [False, True])
async def test_a_running_run_is_cancelled(from_elsewhere: bool) -> None:
    store = InMemoryCheckpointStore()
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def long(ctx: StepContext) -> str:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()
        return "never"

    def coordinator() -> Coordinator:
        return wrap(Pipeline([Step("long", long), Step("next", lambda ctx: 1)]), store=store, limits=QUICK)

    here = coordinator()
    async with asyncio.timeout(5):
        work = asyncio.create_task(here.run(Task("t", id="r")))
        await begun.wait()
        await (coordinator() if from_elsewhere else here).cancel("r")
        result = await work
    assert result.status == "cancelled"
    assert stopped.is_set()


async def test_cancelling_a_drained_run_starts_nothing() -> None:
    store = InMemoryCheckpointStore()
    calls: list[int] = []
    begun = asyncio.Event()

    async def long(ctx: StepContext) -> str:
        calls.append(1)
        begun.set()
        await asyncio.sleep(60)
        return "never"

    coordinator = wrap(Pipeline([long]), store=store, limits=QUICK)
    work = asyncio.create_task(coordinator.run(Task("t", id="r")))
    await begun.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    async with asyncio.timeout(5):
        await coordinator.cancel("r")
    assert (await coordinator.result("r")).status == "cancelled"
    assert calls == [1]


async def test_cancelling_a_finished_or_unknown_run() -> None:
    coordinator = wrap(Pipeline([Step("a", lambda ctx: 1)]), store=InMemoryCheckpointStore())
    with pytest.raises(RunNotFound):
        await coordinator.cancel("r")
    await coordinator.run(Task("t", id="r"))
    await coordinator.cancel("r")
    assert (await coordinator.result("r")).success


async def test_commands_are_announced() -> None:
    events: list[Any] = []
    scene = Scene(needs_approval=True)
    here = scene.coordinator(on_event=events.append)
    await here.run(Task("t", id="r"))
    assert events[-1].type is EventType.RUN_PARKED
    await here.approve("r", "asked", by="ann")
    await here.resume("r")
    assert EventType.COMMAND_TAKEN in [event.type for event in events]
    assert events[-1].type is EventType.RUN_SUCCESS


async def test_a_rejected_output_never_reaches_a_person() -> None:
    store = InMemoryCheckpointStore()
    verifier = MockVerifier({"asked": [ErrorType.GOAL_DRIFT, ErrorType.NONE]})
    coordinator = wrap(Pipeline([Step("asked", lambda ctx: ctx.attempt, needs_approval=True)]), store=store, verifier=verifier)
    waiting = await coordinator.run(Task("t", id="r"))
    assert (waiting.status, waiting.rollbacks) == ("waiting", 1)
    await coordinator.approve("r", "asked")
    assert (await coordinator.resume("r")).output == 1


async def test_two_steps_that_wait_side_by_side_are_decided_one_by_one() -> None:
    store = InMemoryCheckpointStore()
    steps = [Step(name, lambda ctx: ctx.step_name, after=(), needs_approval=True) for name in ("left", "right")]
    coordinator = wrap(Pipeline([*steps, Step("end", lambda ctx: "end", after=("left", "right"))]), store=store, limits=QUICK)
    first = await coordinator.run(Task("t", id="r"))
    assert first.waiting_for == ("approval:left", "approval:right")
    await coordinator.approve("r", "right")
    assert (await coordinator.resume("r")).waiting_for == ("approval:left",)
    await coordinator.approve("r", "left")
    assert (await coordinator.resume("r")).success


async def test_one_branch_works_on_while_another_waits_for_a_person() -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def long(ctx: StepContext) -> str:
        begun.set()
        await gate.wait()
        return "done"

    store = InMemoryCheckpointStore()
    steps = [Step("asked", lambda ctx: "x", after=(), needs_approval=True), Step("long", long, after=())]
    coordinator = wrap(Pipeline(steps), store=store, limits=QUICK)
    async with asyncio.timeout(5):
        work = asyncio.create_task(coordinator.run(Task("t", id="r")))
        await begun.wait()
        while True:
            try:
                await coordinator.approve("r", "asked")
                break
            except AgentRaftError:
                await asyncio.sleep(0.005)
        gate.set()
        assert (await work).success, "approved while it worked on, it never parked"


async def test_what_was_approved_is_approved_anew_after_a_rollback() -> None:
    store = InMemoryCheckpointStore()
    looks: list[str] = []

    def judge(request: Any) -> Any:
        looks.append(request.step.name)
        if request.step.name == "last" and looks.count("last") == 1:
            return VerificationResult.fail(ErrorType.CONTRADICTION, blame="asked")
        return ErrorType.HALLUCINATION if request.step.name == "asked" and looks.count("asked") == 2 else ErrorType.NONE

    pipeline = Pipeline(
        [Step("asked", lambda ctx: f"try {ctx.attempt}", needs_approval=True), Step("last", lambda ctx: ctx.outputs["asked"])]
    )
    coordinator = wrap(pipeline, store=store, verifier=MockVerifier(fn=judge), limits=QUICK)
    await coordinator.run(Task("t", id="r"))
    await coordinator.approve("r", "asked")
    again = await coordinator.resume("r")
    assert again.waiting_for == ("approval:asked",)
    await coordinator.approve("r", "asked")
    assert (await coordinator.resume("r")).output == "try 1"


async def test_denials_use_up_the_retries() -> None:
    scene = Scene(needs_approval=True, max_retries=1)
    result = await scene.here.run(Task("t", id="r"))
    for _ in range(2):
        await scene.here.deny("r", "asked", by="ann")
        result = await scene.here.resume("r")
    assert (result.error_kind, result.error_fields["attempts"]) == ("MaxRetriesExceeded", 2)


async def test_a_run_that_waits_for_its_delay_or_a_breaker_is_cancelled_at_once() -> None:
    slow = AgentRaftConfig(retry=RetryPolicy(base_delay=60, max_delay=60), verifier=MockVerifier(default=ErrorType.GOAL_DRIFT))
    breaker = AgentRaftConfig(
        breaker=CircuitBreaker(failure_threshold=1, cooldown_seconds=60), verifier=MockVerifier(default=ErrorType.GOAL_DRIFT)
    )
    for config in (slow, breaker):
        failed = asyncio.Event()
        coordinator = wrap(
            Pipeline([Step("a", lambda ctx: ctx.attempt)]),
            config=config,
            on_open="park",
            limits=QUICK,
            on_event=lambda event, failed=failed: failed.set() if event.type is EventType.STEP_FAILED else None,
        )
        async with asyncio.timeout(5):
            work = asyncio.create_task(coordinator.run(Task("t", id="r")))
            await failed.wait()
            await coordinator.cancel("r")
            assert (await work).status == "cancelled"
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_notes_are_bounded() -> None:
    scene = Scene(needs_approval=True)
    await scene.here.run(Task("t", id="r"))
    await scene.here.deny("r", "asked", note="x" * 100_000)
    await scene.here.resume("r")
    assert len(scene.hints[-1] or "") <= 2_000
    assert max(len(record) for record in await scene.store.read("r")) < 10_000


async def test_a_submitted_run_that_nobody_claimed_yet_is_taken_by_whoever_resumes_it() -> None:
    scene = Scene()
    environment = await scene.here._open()
    from agentraft_ray.runtime.logs import task_record

    await environment.logs.admit("r", task_record(Task("t"), QUICK), environment.plan)
    assert (await scene.here.result("r")).status == "running"
    assert (await scene.elsewhere.resume("r")).success
