"""A failed run is a value: steps and verifiers that raise, hang or answer nonsense, and what the retries make of it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from agentraft_ray import (
    AgentRaftConfig,
    ErrorType,
    Limits,
    MaxRetriesExceeded,
    MockVerifier,
    Pipeline,
    RetryPolicy,
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
from agentraft_ray.errors import OutputNotEncodable, PayloadTooLarge
from agentraft_ray.taxonomy import VerdictKind

QUICK = Limits(verifier_retry_delay_s=0.001, drain_s=0.5, inbox_poll_s=0.02)


async def run(steps: Any, **options: Any) -> RunResult:
    pipeline = steps if isinstance(steps, Pipeline) else Pipeline(steps)
    return await wrap(pipeline, limits=QUICK, **options).run(Task("t"))


def nothing_is_left() -> bool:
    """No task now, and no thread but those that are on their very way out."""
    for thread in threading.enumerate():
        if thread.name.startswith("agentraft"):
            thread.join(1.0)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("agentraft")]
    return asyncio.all_tasks() == {asyncio.current_task()} and not threads


# --- the step raises ---------------------------------------------------------------------------------------------------------


async def raise_async(error: BaseException) -> Any:
    raise error


RAISED = [
    ValueError("no"),
    SystemExit(3),
    KeyError("k"),
    asyncio.CancelledError(),
    concurrent.futures.CancelledError(),
    StopAsyncIteration(),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_a_step_that_raises_fails_the_run_as_a_value(error: BaseException, is_async: bool) -> None:
    def in_a_thread(ctx: StepContext) -> Any:
        raise error

    async def on_the_loop(ctx: StepContext) -> Any:
        raise error

    async with asyncio.timeout(5):
        result = await run([Step("bad", on_the_loop if is_async else in_a_thread)], max_retries=1)
    assert result.error is not None
    assert result.error.startswith("MaxRetriesExceeded: step 'bad' failed 2 attempts")
    assert result.steps[0].attempts == 2
    assert nothing_is_left()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit(), StopIteration()], ids=lambda error: type(error).__name__)
async def test_what_a_thread_raises_never_ends_the_event_loop(error: BaseException) -> None:
    def bad(ctx: StepContext) -> Any:
        raise error

    result = await run([bad], max_retries=0)
    assert result.error is not None
    assert type(error).__name__ in result.error


async def test_a_step_that_recovers_is_told_that_the_attempt_before_stopped() -> None:
    hints: list[str | None] = []

    def flaky(ctx: StepContext) -> str:
        hints.append(ctx.hint)
        if not ctx.is_retry:
            raise OSError("the line is down")
        return "done"

    result = await run([flaky])
    assert (result.success, result.rollbacks, result.steps[0].attempts) == (True, 0, 2)
    assert hints[0] is None
    assert hints[1] is not None
    assert "error" in hints[1]


async def test_rejections_and_raises_share_the_retries_unless_max_errors_is_given() -> None:
    def mixed(ctx: StepContext) -> str:
        if ctx.attempt % 2:
            raise ValueError("odd attempts raise")
        return f"try {ctx.attempt}"

    verifier = MockVerifier(default=ErrorType.GOAL_DRIFT)
    assert (await run([mixed], verifier=verifier, max_retries=3)).steps[0].attempts == 4
    apart = await run([Step("mixed", mixed, max_retries=1, max_errors=5)], verifier=verifier)
    assert apart.steps[0].attempts == 3, "two rejections are the end, the raise between them has a budget of its own"


async def test_a_steps_own_max_retries_wins() -> None:
    def bad(ctx: StepContext) -> str:
        raise ValueError

    result = await run([Step("bad", bad, max_retries=0)], max_retries=5)
    assert result.steps[0].attempts == 1


async def test_max_retries_exceeded_tells_the_attempts_really_made() -> None:
    calls = []
    with pytest.raises(MaxRetriesExceeded) as caught:
        await wrap(Pipeline([Step("bad", lambda ctx: calls.append(1))]), max_retries=3).run_or_raise(Task("t"))
    assert caught.value.attempts == len(calls) == 4
    assert caught.value.error_type is ErrorType.INCOMPLETE


async def test_the_hint_of_a_retry_is_the_verifiers_own_or_that_of_the_class() -> None:
    hints: list[str | None] = []

    def write(ctx: StepContext) -> str:
        hints.append(ctx.hint)
        return f"try {ctx.attempt}"

    own = VerificationResult.fail(ErrorType.INCOMPLETE, hint="Name the author.")
    await run([write], verifier=MockVerifier({"write": [own, ErrorType.CONTRADICTION, ErrorType.NONE]}))
    assert hints[:2] == [None, "Name the author."]
    assert "earlier outputs" in (hints[2] or "")


async def test_retries_back_off_with_a_growing_delay() -> None:
    times: list[float] = []

    def bad(ctx: StepContext) -> str:
        times.append(time.monotonic())
        raise ValueError

    await run([bad], config=AgentRaftConfig(retry=RetryPolicy(max_retries=2, base_delay=0.04, max_delay=1.0)))
    first, second = times[1] - times[0], times[2] - times[1]
    assert first >= 0.02, "half of the delay at the least"
    assert second >= 0.04


async def test_a_failed_run_does_not_start_the_steps_after_it_and_cancels_those_beside_it() -> None:
    seen: list[str] = []
    stopped = asyncio.Event()

    async def slow(ctx: StepContext) -> str:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()
        return "never"

    async def bad(ctx: StepContext) -> str:
        await asyncio.sleep(0.01)
        raise ValueError

    steps = [
        Step("slow", slow, after=()),
        Step("bad", bad, after=(), max_retries=0),
        Step("end", lambda ctx: seen.append("end"), after=("slow", "bad")),
    ]
    async with asyncio.timeout(5):
        result = await run(steps)
    assert not result.success
    assert stopped.is_set()
    assert seen == []
    assert nothing_is_left()


# --- time --------------------------------------------------------------------------------------------------------------------


async def test_an_async_step_over_its_time_is_stopped_and_tried_again() -> None:
    stopped = 0

    async def slow(ctx: StepContext) -> str:
        nonlocal stopped
        if ctx.is_retry:
            return f"in time: {ctx.hint}"
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped += 1
            raise
        return "never"

    async with asyncio.timeout(5):
        result = await run([Step("slow", slow, timeout_s=0.05)])
    assert result.success
    assert "too long" in result.output
    assert stopped == 1


async def test_an_async_step_that_ignores_its_cancellation_holds_nobody_up() -> None:
    release = asyncio.Event()

    async def stubborn(ctx: StepContext) -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "late"

    async with asyncio.timeout(5):
        result = await run([Step("stubborn", stubborn, timeout_s=0.05, max_retries=0)])
    assert result.error is not None
    assert "0.05 s" in result.error
    release.set()


async def test_a_sync_step_that_hangs_is_given_up_in_time() -> None:
    release = threading.Event()
    started = time.monotonic()
    result = await run([Step("hang", lambda ctx: release.wait(60), timeout_s=0.05, max_retries=1)])
    assert time.monotonic() - started < 5
    assert result.error is not None
    assert "'hang'" in result.error
    assert result.steps[0].attempts == 2
    release.set()


async def test_hanging_steps_leave_room_for_others() -> None:
    release = threading.Event()

    def hangs_at_first(ctx: StepContext) -> str:
        if not ctx.is_retry:
            release.wait(60)
        return "done"

    step = Step("a", hangs_at_first, timeout_s=0.05)
    async with asyncio.timeout(5):
        assert (await wrap(Pipeline([step]), limits=Limits(step_threads_max=2)).run(Task("t"))).success
    release.set()


async def test_the_time_of_a_step_that_waits_for_a_thread_begins_with_it() -> None:
    def work(ctx: StepContext) -> str:
        time.sleep(0.06)
        return "done"

    steps = [Step(f"s{n}", work, after=(), timeout_s=0.15, max_retries=0) for n in range(5)]
    result = await wrap(Pipeline(steps), limits=Limits(step_threads_max=1)).run(Task("t"))
    assert result.success, result.error


def test_a_hanging_sync_step_does_not_keep_the_process_from_ending() -> None:
    program = (
        "import time\n"
        "from agentraft_ray import *\n"
        "r = wrap(Pipeline([Step('hang', lambda ctx: time.sleep(600), timeout_s=0.05, max_retries=0)])).run_sync(Task('t'))\n"
        "print(r.success)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "False"
    assert done.stderr == ""


# --- outputs that cannot be stored -------------------------------------------------------------------------------------------


async def test_an_output_that_does_not_encode_is_a_failure_that_names_its_field() -> None:
    result = await run([Step("bad", lambda ctx: {"rows": [1, {2, 3}]})], max_retries=0)
    assert result.error is not None
    assert "OutputNotEncodable" in result.error
    assert 'output["rows"][1]' in result.error


async def test_an_output_over_the_limit_fails_at_once_and_names_the_error() -> None:
    calls: list[int] = []

    def big(ctx: StepContext) -> str:
        calls.append(1)
        return "x" * 2_000

    limits = Limits(payload_bytes_max=1_000)
    result = await wrap(Pipeline([big]), limits=limits).run(Task("t"))
    assert result.error is not None
    assert "PayloadTooLarge" in result.error
    assert len(calls) == 1, "another attempt would end alike"


async def test_task_inputs_that_cannot_be_stored_are_the_callers_mistake() -> None:
    coordinator = wrap(Pipeline([Step("a", lambda ctx: 1)]), limits=Limits(payload_bytes_max=1_000))
    with pytest.raises(OutputNotEncodable, match="inputs"):
        await coordinator.run(Task("t", {"rows": {1, 2}}))
    with pytest.raises(PayloadTooLarge, match="inputs"):
        await coordinator.run(Task("t", {"text": "x" * 2_000}))


# --- the verifier fails ------------------------------------------------------------------------------------------------------


class Judge(Verifier):
    """Answers with whatever `answer` gives; counts its calls."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.calls = 0

    async def verify(self, request: VerifyInput) -> Any:
        self.calls += 1
        found = self.answer(request)
        return await found if asyncio.iscoroutine(found) else found


def raising(error: BaseException) -> Any:
    def answer(request: VerifyInput) -> Any:
        raise error

    return answer


NONSENSE = [
    lambda request: None,
    lambda request: True,
    lambda request: "PASS",
    lambda request: VerificationResult(True, ErrorType.GOAL_DRIFT),
    lambda request: VerificationResult(True, confidence=7.0),
    lambda request: VerificationResult(True, confidence=float("nan")),
    lambda request: VerificationResult(True, kind=VerdictKind.REJECT),
    lambda request: VerificationResult(False, kind=VerdictKind.PASS),
    lambda request: VerificationResult(True, confidence="high"),  # type: ignore[arg-type]
    lambda request: VerificationResult(True, verifier=5),  # type: ignore[arg-type]
    lambda request: VerificationResult(False, hint=5),  # type: ignore[arg-type]
    lambda request: VerificationResult(False, "NO_SUCH_CLASS"),  # type: ignore[arg-type]
    lambda request: VerificationResult(False, ErrorType.INCOMPLETE, evidence="text", blame=7),  # type: ignore[arg-type]
    raising(ValueError("broken")),
    raising(SystemExit(1)),
    raising(asyncio.CancelledError()),
    lambda request: raise_async(asyncio.CancelledError()),
]


@pytest.mark.parametrize("answer", NONSENSE)
async def test_a_verifier_that_fails_is_never_a_pass_nor_billed_to_the_agent(answer: Any) -> None:
    calls: list[int] = []
    judge = Judge(answer)
    async with asyncio.timeout(5):
        result = await run([Step("a", lambda ctx: calls.append(1) or "text")], verifier=judge)
    assert result.status == "waiting"
    assert result.error is not None
    assert result.error.startswith("VerifierUnavailable")
    assert "'a'" in result.error or ":a:" in result.error
    assert len(calls) == 1
    assert judge.calls == QUICK.verifier_faults_max
    assert nothing_is_left()


async def test_a_run_without_a_verifier_goes_on_when_there_is_one_without_running_the_step_again() -> None:
    calls: list[int] = []
    broken = True

    def answer(request: VerifyInput) -> VerificationResult:
        if broken:
            raise OSError("no route")
        return VerificationResult.ok()

    coordinator = wrap(Pipeline([Step("a", lambda ctx: calls.append(1) or "text")]), verifier=Judge(answer), limits=QUICK)
    first = await coordinator.run(Task("t", id="r"))
    assert first.waiting_for
    broken = False
    second = await coordinator.resume("r")
    assert (second.success, second.output, len(calls)) == (True, "text", 1)


async def test_a_verifier_that_hangs_is_asked_again_and_then_waited_for() -> None:
    judge = Judge(lambda request: asyncio.sleep(60))
    limits = Limits(verifier_retry_delay_s=0.001, verifier_timeout_s=0.05, verifier_faults_max=2)
    async with asyncio.timeout(5):
        result = await wrap(Pipeline([Step("a", lambda ctx: 1)]), verifier=judge, limits=limits).run(Task("t"))
    assert result.status == "waiting"
    assert judge.calls == 2
    assert nothing_is_left()


async def test_a_repeated_bad_output_goes_once_to_another_mechanism_and_is_then_rejected_unseen() -> None:
    opinions: list[str] = []

    class Two(Judge):
        async def second_opinion(self, request: VerifyInput, previous: str) -> VerificationResult:
            opinions.append(previous)
            return VerificationResult.fail(ErrorType.CONTRADICTION, verifier="other")

    judge = Two(lambda request: VerificationResult.fail(ErrorType.GOAL_DRIFT, verifier="first"))
    result = await run([Step("same", lambda ctx: "the same again")], verifier=judge, max_retries=3)
    assert (judge.calls, opinions) == (1, ["first"])
    assert result.steps[0].attempts == 4
    assert result.steps[0].verification is not None
    assert result.steps[0].verification.error_type is ErrorType.CONTRADICTION


async def test_a_second_opinion_can_save_an_output() -> None:
    class Lenient(Judge):
        async def second_opinion(self, request: VerifyInput, previous: str) -> VerificationResult:
            return VerificationResult.ok(verifier="other")

    judge = Lenient(lambda request: VerificationResult.fail(ErrorType.GOAL_DRIFT))
    result = await run([Step("same", lambda ctx: "the same again")], verifier=judge)
    assert (result.success, result.steps[0].attempts) == (True, 2)
    assert result.steps[0].verification is not None
    assert result.steps[0].verification.verifier == "other"


async def test_a_repeat_is_rejected_where_there_is_no_other_mechanism() -> None:
    judge = Judge(lambda request: VerificationResult.fail(ErrorType.INCOMPLETE))
    result = await run([Step("same", lambda ctx: "the same again")], verifier=judge)
    assert judge.calls == 1
    assert result.error_fields["error_type"] is ErrorType.INCOMPLETE


async def test_an_abstention_waits_for_a_person() -> None:
    judge = Judge(lambda request: VerificationResult.abstain("cannot tell"))
    coordinator = wrap(Pipeline([Step("a", lambda ctx: "text")]), verifier=judge, limits=QUICK)
    first = await coordinator.run(Task("t", id="r"))
    assert first.status == "waiting"
    assert any("abstained" in reason for reason in first.waiting_for)
    await coordinator.approve("r", "a", by="ann")
    second = await coordinator.resume("r")
    assert second.success
    assert second.steps[0].verification is not None
    assert second.steps[0].verification.kind is VerdictKind.ABSTAIN


async def test_verifiers_see_isolated_copies() -> None:
    def spoil(request: VerifyInput) -> VerificationResult:
        request.output["rows"].append("spoilt")
        for _, output in request.history:
            output["rows"].append("spoilt")
        return VerificationResult.ok()

    steps = [Step("a", lambda ctx: {"rows": [1]}), Step("b", lambda ctx: {"rows": ctx.outputs["a"]["rows"]})]
    result = await run(steps, verifier=Judge(spoil))
    assert [one.output for one in result.steps] == [{"rows": [1]}, {"rows": [1]}]


async def test_a_verifier_sees_task_step_output_attempt_and_history() -> None:
    seen: list[Any] = []

    def look(request: VerifyInput) -> VerificationResult:
        seen.append((request.task.goal, request.step.name, request.output, list(request.history), request.attempt))
        return VerificationResult.ok()

    await run([Step("a", lambda ctx: "A"), Step("b", lambda ctx: "B")], verifier=Judge(look))
    assert seen == [("t", "a", "A", [], 0), ("t", "b", "B", [("a", "A")], 0)]


async def test_long_verdict_texts_are_bounded() -> None:
    long = VerificationResult.fail(ErrorType.INCOMPLETE, hint="h" * 10_000, reasoning="r" * 10_000, evidence=("e" * 9_000,) * 90)
    judge = Judge(lambda request: long)
    result = await run([Step("a", lambda ctx: "text")], verifier=judge, max_retries=0)
    assert result.steps[0].verification is not None
    assert len(result.steps[0].verification.hint or "") == QUICK.hint_chars_max


async def test_rules_are_the_default() -> None:
    assert isinstance(RulesVerifier(), Verifier)
    assert (await run([Step("a", lambda ctx: None)], max_retries=0)).error_fields["error_type"] is ErrorType.INCOMPLETE
