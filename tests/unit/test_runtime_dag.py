"""Graphs of steps, what steps see of each other, votes among samples, and rollback by blame."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import Any

import pydantic

from agentraft_ray import (
    AheadBy,
    ErrorType,
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
    Verifier,
    VerifyInput,
    wrap,
)

QUICK = Limits(verifier_retry_delay_s=0.001, drain_s=0.5, inbox_poll_s=0.02)


async def run(steps: Any, **options: Any) -> RunResult:
    pipeline = steps if isinstance(steps, Pipeline) else Pipeline(steps)
    async with asyncio.timeout(20):
        return await wrap(pipeline, limits=QUICK, **options).run(Task("t"))


# --- graphs ------------------------------------------------------------------------------------------------------------------


async def test_steps_that_do_not_need_each_other_overlap() -> None:
    meet = asyncio.Barrier(3)

    async def together(ctx: StepContext) -> str:
        await asyncio.wait_for(meet.wait(), 5)
        return ctx.step_name

    steps = [Step(name, together, after=()) for name in "abc"] + [
        Step("end", lambda ctx: sorted(ctx.outputs.values()), after=("a", "b", "c"))
    ]
    assert (await run(steps)).output == ["a", "b", "c"]


async def test_sync_steps_overlap_in_threads() -> None:
    meet = threading.Barrier(3)

    def together(ctx: StepContext) -> int:
        return meet.wait(5) + 1

    result = await run([Step(name, together, after=()) for name in "abc"])
    assert sorted(one.output for one in result.steps) == [1, 2, 3]


async def test_a_diamond_with_several_sinks_commits_every_step_once() -> None:
    calls: list[str] = []

    def note(ctx: StepContext) -> list[str]:
        calls.append(ctx.step_name)
        return [ctx.step_name, *ctx.outputs]

    steps = [
        Step("top", note),
        Step("left", note, after="top"),
        Step("right", note, after="top"),
        Step("join", note, after=("left", "right")),
        Step("sink", note, after="left"),
    ]
    result = await run(steps)
    assert result.summary()["verified"] == "5/5"
    assert sorted(calls) == sorted(step.name for step in steps)
    seen = {one.name: one.output for one in result.steps}
    above = {"top": [], "left": ["top"], "right": ["top"], "join": ["top", "left", "right"], "sink": ["top", "left"]}
    assert seen == {name: [name, *ancestors] for name, ancestors in above.items()}
    assert result.output == ["sink", "top", "left"], "the output is that of the step listed last"


async def test_outputs_hold_all_committed_ancestors_and_nothing_else() -> None:
    def look(ctx: StepContext) -> Any:
        outputs = ctx.outputs
        assert "nobody" not in outputs
        assert outputs.get("nobody", 7) == 7
        return {"names": list(outputs), "n": len(outputs), "same": outputs == dict(outputs)}

    result = await run([Step("a", look), Step("b", look), Step("c", look), Step("aside", look, after=())])
    assert result.steps[2].output == {"names": ["a", "b"], "n": 2, "same": True}
    assert result.steps[3].output == {"names": [], "n": 0, "same": True}


async def test_outputs_are_isolated_copies() -> None:
    kept: list[Any] = []

    def make(ctx: StepContext) -> dict[str, list[int]]:
        kept.append({"rows": [1]})
        return kept[0]

    def spoil(ctx: StepContext) -> str:
        kept[0]["rows"].append(98)
        ctx.outputs["make"]["rows"].append(99)
        ctx.task.inputs["rows"].append(100)
        return "spoilt"

    def read(ctx: StepContext) -> Any:
        return [ctx.outputs["make"]["rows"], ctx.task.inputs["rows"]]

    inputs = {"rows": [7]}
    coordinator = wrap(Pipeline([make, spoil, read]))
    result = await coordinator.run(Task("t", inputs))
    assert result.output == [[1], [7]]
    assert inputs == {"rows": [7]}
    result.steps[0].output["rows"].append(101)
    assert result.steps[0].output == {"rows": [1]}


async def test_what_others_see_is_what_was_stored() -> None:
    result = await run([Step("a", lambda ctx: (1, 2)), Step("b", lambda ctx: type(ctx.outputs["a"]).__name__)])
    assert result.output == "list"


@dataclass
class Row:
    name: str
    count: int


class Table(pydantic.BaseModel):
    rows: list[int]


async def test_outputs_have_the_type_that_the_step_declares() -> None:
    seen: list[Any] = []

    def make_row(ctx: StepContext) -> Row:
        return Row("a", 1)

    async def make_table(ctx: StepContext) -> Table:
        return Table(rows=[ctx.outputs["make_row"].count])

    class Look(Verifier):
        async def verify(self, request: VerifyInput) -> VerificationResult:
            seen.append(request.output)
            return VerificationResult.ok()

    result = await run([make_row, make_table], verifier=Look())
    assert seen == [Row("a", 1), Table(rows=[1])]
    assert result.output == Table(rows=[1])
    assert result.steps[0].output == Row("a", 1)


async def test_an_output_that_does_not_fit_its_declared_type_fails_the_attempt() -> None:
    def lies(ctx: StepContext) -> Row:
        return {"name": "a", "count": "many"}  # type: ignore[return-value]

    result = await run([lies], max_retries=0)
    assert not result.success
    assert result.status == "failed", result.error
    assert "'lies'" in (result.error or "")


async def test_a_repeated_block_runs_as_a_chain() -> None:
    started = time.monotonic()
    pipeline = Pipeline.repeat(Step("count", lambda ctx: ctx.outputs[f"count[{len(ctx.outputs) - 1}]"] + 1 if ctx.outputs else 1), 50)
    result = await run(pipeline)
    assert (result.output, result.steps[49].name, result.summary()["verified"]) == (50, "count[49]", "50/50")
    assert time.monotonic() - started < 5


async def test_five_thousand_steps_run_quickly() -> None:
    async def count(ctx: StepContext) -> int:
        return len(ctx.outputs)

    started = time.monotonic()
    result = await run(Pipeline.repeat(Step("count", count), 5_000))
    assert (result.success, result.output, len(result.steps)) == (True, 4_999, 5_000)
    assert time.monotonic() - started < 10


async def test_a_result_of_a_very_long_run_reads_its_steps_from_the_log() -> None:
    async def count(ctx: StepContext) -> int:
        return len(ctx.outputs)

    limits = Limits(result_steps_max=10)
    result = await wrap(Pipeline.repeat(Step("count", count), 30), limits=limits).run(Task("t"))
    assert [one.output for one in result.steps] == list(range(30))
    assert result.steps[-1].attempts == 1
    assert [one.name for one in result.steps[:2]] == ["count[0]", "count[1]"]


# --- samples -----------------------------------------------------------------------------------------------------------------


async def test_samples_vote_and_the_winner_is_verified_and_committed_once() -> None:
    answers = ["right", "wrong", "right", "right", "right"]
    judged: list[Any] = []

    async def answer(ctx: StepContext) -> str:
        return answers[ctx.sample]

    verifier = MockVerifier(fn=lambda request: judged.append(request.output))
    result = await run([Step("vote", answer, samples=AheadBy(2))], verifier=verifier)
    assert result.output == "right"
    assert judged == ["right"]
    assert result.steps[0].attempts == 1


async def test_samples_that_raise_or_do_not_encode_are_discarded() -> None:
    async def answer(ctx: StepContext) -> Any:
        if ctx.sample == 0:
            raise ValueError
        return {1, 2} if ctx.sample == 1 else "fine"

    assert (await run([Step("vote", answer, samples=AheadBy(2, samples_max=8))])).output == "fine"


async def test_samples_that_never_agree_fail_the_attempt() -> None:
    async def answer(ctx: StepContext) -> int:
        return ctx.sample

    result = await run([Step("vote", answer, samples=AheadBy(2, samples_max=6), max_retries=0)])
    assert "6 samples" in (result.error or "")


# --- deep rollback -----------------------------------------------------------------------------------------------------------


class Accuser(Verifier):
    """`accuser` is rejected once and blames `suspect`; the suspect falls at the second look if it says "bad"."""

    def __init__(self, suspect: str, accuser: str, *, falls: bool = True) -> None:
        self.suspect, self.accuser, self.falls = suspect, accuser, falls
        self.looks: list[str] = []

    async def verify(self, request: VerifyInput) -> VerificationResult:
        name = request.step.name
        self.looks.append(name)
        if name == self.accuser and dict(request.history).get(self.suspect) == "bad" and request.attempt == 0:
            return VerificationResult.fail(ErrorType.CONTRADICTION, blame=self.suspect)
        if name == self.suspect and self.looks.count(name) > 1 and request.output == "bad" and self.falls:
            return VerificationResult.fail(ErrorType.HALLUCINATION, hint="Only what was given.")
        return VerificationResult.ok()


def good_the_second_time(ctx: StepContext) -> str:
    return "good" if ctx.is_retry else "bad"


async def test_a_blamed_ancestor_that_falls_is_removed_with_its_dependents_and_nothing_else() -> None:
    calls: list[str] = []
    hints: list[str | None] = []
    keys: dict[str, set[tuple[str, str]]] = {}

    def note(ctx: StepContext) -> str:
        calls.append(ctx.step_name)
        keys.setdefault(ctx.step_name, set()).add((ctx.idempotency_key, ctx.attempt_key))
        return f"{ctx.step_name} {ctx.lineage} {ctx.attempt}"

    def suspect(ctx: StepContext) -> str:
        calls.append("suspect")
        hints.append(ctx.hint)
        keys.setdefault("suspect", set()).add((ctx.idempotency_key, ctx.attempt_key))
        return good_the_second_time(ctx)

    steps = [
        Step("root", note),
        Step("aside", note, after="root"),
        Step("suspect", suspect, after="root"),
        Step("middle", note, after="suspect"),
        Step("accuser", note, after=("middle", "aside")),
    ]
    verifier = Accuser("suspect", "accuser")
    events: list[Any] = []
    store = InMemoryCheckpointStore()
    async with asyncio.timeout(5):
        result = await wrap(Pipeline(steps), verifier=verifier, on_event=events.append, store=store).run(Task("t"))
    assert result.success, result.error
    assert {name: calls.count(name) for name in calls} == {"root": 1, "aside": 1, "suspect": 2, "middle": 2, "accuser": 2}
    assert hints == [None, "Only what was given."]
    assert len(keys["suspect"]) == 2, "another lineage is another effect"
    assert {one.name: one.attempts for one in result.steps} == {"root": 1, "aside": 1, "suspect": 2, "middle": 2, "accuser": 2}
    back = next(event for event in events if event.type is EventType.STEP_ROLLBACK and event.step_name == "suspect")
    assert "middle" in back.detail
    assert "aside" not in back.detail
    assert result.rollbacks == 2


async def test_a_blamed_ancestor_that_stands_is_cleared_and_the_accuser_tries_again() -> None:
    calls: list[str] = []
    verifier = Accuser("suspect", "accuser", falls=False)
    events: list[Any] = []

    def note(ctx: StepContext) -> str:
        calls.append(ctx.step_name)
        return "bad" if ctx.step_name == "suspect" else f"text {ctx.attempt}"

    steps = [Step("suspect", note), Step("accuser", note)]
    result = await run(steps, verifier=verifier, on_event=events.append)
    assert result.success, result.error
    assert calls == ["suspect", "accuser", "accuser"]
    assert [event.step_name for event in events if event.type is EventType.SUSPECT_CLEARED] == ["suspect"]


async def test_no_deep_rollback_where_its_depth_is_zero_or_the_suspect_is_too_far() -> None:
    for depth, steps in ((0, 2), (1, 3)):
        calls: list[str] = []

        def note(ctx: StepContext, calls: list[str] = calls) -> str:
            calls.append(ctx.step_name)
            return "bad" if ctx.step_name == "0" else f"{ctx.step_name} {ctx.attempt}"

        verifier = Accuser("0", str(steps - 1))
        result = await run([Step(str(n), note) for n in range(steps)], verifier=verifier, max_rollback_depth=depth)
        assert result.success
        assert calls.count("0") == 1


async def test_blame_outside_the_ancestors_is_ignored() -> None:
    for blame in ("later", "aside", "nobody", "judge"):
        verifier = MockVerifier({"judge": [VerificationResult.fail(ErrorType.CONTRADICTION, blame=blame), ErrorType.NONE]})
        steps = [
            Step("aside", lambda ctx: 1, after=()),
            Step("judge", lambda ctx: ctx.attempt, after=()),
            Step("later", lambda ctx: 1, after="judge"),
        ]
        result = await run(steps, verifier=verifier)
        assert result.success, (blame, result.error)
        assert [one.attempts for one in result.steps] == [1, 2, 1]


async def test_a_step_out_of_retries_may_go_back_to_the_step_before_it() -> None:
    def second(ctx: StepContext) -> str:
        return f"on {ctx.outputs['first']} {ctx.lineage}.{ctx.attempt}"

    class Judge(Verifier):
        looks = 0

        async def verify(self, request: VerifyInput) -> VerificationResult:
            if request.step.name == "first":
                self.looks += 1
                return VerificationResult.fail(ErrorType.INCOMPLETE) if self.looks == 2 else VerificationResult.ok()
            bad = "bad" in request.output
            return VerificationResult.fail(ErrorType.CONTRADICTION) if bad else VerificationResult.ok()

    steps = [Step("first", good_the_second_time), Step("second", second)]
    stuck = await run(steps, verifier=Judge(), max_retries=1)
    assert not stuck.success
    result = await run(steps, verifier=Judge(), max_retries=1, back_when_exhausted=True)
    assert result.success, result.error
    assert "good" in result.output


async def test_keys_stay_over_retries_and_change_with_the_lineage() -> None:
    keys: list[tuple[str, str]] = []

    def write(ctx: StepContext) -> str:
        keys.append((ctx.idempotency_key, ctx.attempt_key))
        return f"try {ctx.attempt}"

    await run([write], verifier=MockVerifier({"write": [ErrorType.GOAL_DRIFT, ErrorType.NONE]}))
    (first, first_attempt), (second, second_attempt) = keys
    assert first == second
    assert first_attempt != second_attempt


async def test_rollbacks_of_a_run_are_bounded() -> None:
    """A verifier that always blames and always fells the suspect ends in a failed run, not in a loop."""

    class Furious(Verifier):
        def __init__(self) -> None:
            self.looks: dict[str, int] = {}

        async def verify(self, request: VerifyInput) -> VerificationResult:
            name = request.step.name
            self.looks[name] = self.looks.get(name, 0) + 1
            if name == "second":
                return VerificationResult.fail(ErrorType.CONTRADICTION, blame="first")
            return VerificationResult.fail(ErrorType.HALLUCINATION) if self.looks[name] % 2 == 0 else VerificationResult.ok()

    count = iter(range(10_000))
    result = await run([Step("first", lambda ctx: next(count)), Step("second", lambda ctx: next(count))], verifier=Furious())
    assert not result.success
    assert "MaxRetriesExceeded" in (result.error or "")
