"""Spans of runs in one process: one connected trace, whatever a run goes through, that says what the log says and quotes nothing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from agentraft_ray import ErrorType, InMemoryCheckpointStore, Limits, MockVerifier, Pipeline, Step, StepContext, Task, wrap
from agentraft_ray.protocol.records import RunAdmitted, decode_record
from agentraft_ray.taxonomy import Cost, VerificationResult
from agentraft_ray.telemetry.context import current_trace, span_context_of, trace_text
from agentraft_ray.verifier import CallableVerifier
from agentraft_ray.verifier.base import VerifyInput
from tests.spans import Spans, recorded

QUICK = Limits(verifier_retry_delay_s=0.001, drain_s=0.5, inbox_poll_s=0.02)


@pytest.fixture
def spans() -> Iterator[Spans]:
    with recorded() as made:
        yield made


def say(name: str, **words: Any) -> Step:
    async def run(ctx: StepContext) -> str:
        return f"{name} {ctx.attempt} {ctx.lineage} secret"

    return Step(name, run, **words)


async def test_a_run_is_one_trace_of_run_steps_attempts_and_verdicts(spans: Spans) -> None:
    await wrap(Pipeline([say("a"), say("b")], "audit"), store="memory").run(Task("goal", id="r"))
    spans.check_one_trace()
    shape = [spans.path(span)[1:] for span in spans.all()]
    workflow = "invoke_workflow audit"
    assert shape == [
        [],
        [workflow],
        [workflow, "step a"],
        [workflow, "step a", "invoke_agent a"],
        [workflow, "step a", "invoke_agent a", "evaluate a"],
        [workflow, "step b"],
        [workflow, "step b", "invoke_agent b"],
        [workflow, "step b", "invoke_agent b", "evaluate b"],
    ]
    run, verdict = spans.one(workflow), spans.one("evaluate a")
    assert run.attributes["agentraft.run.id"] == "r"
    assert run.attributes["agentraft.run.outcome"] == "succeeded"
    assert run.attributes["agentraft.run.epoch"] == 1
    assert run.attributes["gen_ai.operation.name"] == "invoke_workflow"
    assert verdict.attributes["gen_ai.evaluation.name"] == "rules-l1"
    assert verdict.attributes["gen_ai.evaluation.score.label"] == "pass"


async def test_a_run_is_part_of_the_callers_trace_and_what_a_step_makes_is_part_of_its_attempt(spans: Spans) -> None:
    def sync(ctx: StepContext) -> str:
        with spans.tracer.start_as_current_span("chat model-a"):
            return "done"

    async def later(ctx: StepContext) -> str:
        with spans.tracer.start_as_current_span("chat model-b"):
            await asyncio.sleep(0)
        return "done"

    with spans.tracer.start_as_current_span("GET /audit"):
        await wrap(Pipeline([Step("sync", sync), Step("later", later)], "p"), store="memory").run(Task("goal"))
    spans.check_one_trace()
    above = ["GET /audit", "submit p", "invoke_workflow p"]
    assert spans.path(spans.one("chat model-a")) == [*above, "step sync", "invoke_agent sync", "chat model-a"]
    assert spans.path(spans.one("chat model-b")) == [*above, "step later", "invoke_agent later", "chat model-b"]


async def test_retries_are_attempts_of_one_step_and_say_what_was_wrong(spans: Spans) -> None:
    def flaky(ctx: StepContext) -> str:
        if ctx.attempt == 0:
            raise ValueError("secret")
        return f"done {ctx.attempt}"

    verifier = MockVerifier({"flaky": [ErrorType.NONE, ErrorType.GOAL_DRIFT, ErrorType.NONE]})
    result = await wrap(Pipeline([Step("flaky", flaky)]), store="memory", verifier=verifier).run(Task("goal"))
    assert result.success
    attempts = spans.named("invoke_agent flaky")
    assert [one.attributes["agentraft.attempt.number"] for one in attempts] == [0, 1, 2]
    assert [one.attributes["agentraft.result"] for one in attempts] == ["failed", "rejected", "committed"]
    assert [one.attributes.get("error.type") for one in attempts] == ["raised", "GOAL_DRIFT", None]
    assert [one.status.is_ok for one in attempts] == [False, False, True]
    assert [one.attributes["agentraft.attempt.hinted"] for one in attempts] == [False, True, True]
    assert spans.one("step flaky").status.is_ok
    spans.check_one_trace()


async def test_a_rollback_ends_what_it_removes_and_the_new_span_of_a_step_is_linked_to_the_old_one(spans: Spans) -> None:
    seen: list[str] = []

    async def judge(request: VerifyInput) -> VerificationResult:
        seen.append(request.step.name)
        if request.step.name == "c" and seen.count("c") == 1:
            return VerificationResult.fail(ErrorType.CONTRADICTION, blame="a")
        if request.step.name == "a" and seen.count("a") == 2:
            return VerificationResult.fail(ErrorType.HALLUCINATION)
        return VerificationResult.ok()

    result = await wrap(Pipeline([say("a"), say("b"), say("c")], "p"), store="memory", verifier=CallableVerifier(judge)).run(Task("goal"))
    assert result.success
    spans.check_one_trace()
    first, second = spans.named("step a")
    assert (first.attributes["agentraft.step.lineage"], second.attributes["agentraft.step.lineage"]) == (0, 1)
    assert spans.links(second) == [("continues", "step a")]
    assert spans.named("step b")[1].links[0].context.span_id == spans.named("step b")[0].context.span_id
    assert spans.named("evaluate a")[1].attributes["agentraft.verdict.suspect"] is True
    (event,) = spans.one("invoke_workflow p").events
    assert event.name == "rolled_back"
    assert event.attributes["agentraft.steps.removed"] == ("a", "b")
    accuser = spans.named("step c")
    assert [one.attributes["agentraft.result"] for one in accuser] == ["removed", "committed"]


async def test_waiting_is_in_no_span_and_what_follows_is_linked_to_what_was_before(spans: Spans) -> None:
    coordinator = wrap(Pipeline([say("a"), say("b", needs_approval=True), say("c")], "p"), store="memory", limits=QUICK)
    parked = await coordinator.run(Task("goal", id="r"))
    assert parked.is_parked
    waited_from = max(span.end_time or 0 for span in spans.all())
    await coordinator.approve("r", "b")
    assert (await coordinator.resume("r")).success
    spans.check_one_trace()
    before, after = spans.named("invoke_workflow p")
    assert before.attributes["agentraft.run.waiting_for"] == ("approval",)
    assert (before.attributes["agentraft.run.epoch"], after.attributes["agentraft.run.epoch"]) == (1, 2)
    assert spans.links(after) == [("continues", "invoke_workflow p")]
    assert after.links[0].context.span_id == before.context.span_id
    assert before.end_time <= waited_from <= after.start_time
    assert [one.attributes["agentraft.result"] for one in spans.named("step b")] == ["waiting", "committed"]


async def test_a_fork_is_a_trace_of_its_own_linked_to_that_of_its_origin(spans: Spans) -> None:
    coordinator = wrap(Pipeline([say("a"), say("b")], "p"), store="memory")
    await coordinator.run(Task("goal", id="r"))
    await coordinator.resume(await coordinator.fork("r", "b", new_id="r2"))
    fork, origin = spans.one("fork p"), spans.one("submit p")
    assert fork.context.trace_id != origin.context.trace_id
    assert spans.links(fork) == [("forked", "submit p")]
    (_, again) = spans.named("invoke_workflow p")
    assert spans.path(again) == ["fork p", "invoke_workflow p"]


async def test_running_a_finished_run_again_makes_no_span(spans: Spans) -> None:
    coordinator = wrap(Pipeline([say("a")]), store="memory")
    await coordinator.run(Task("goal", id="r"))
    made = len(spans.all())
    assert (await coordinator.run(Task("goal", id="r"))).success
    assert len(spans.all()) == made


async def test_spans_quote_nothing_that_users_or_models_wrote(spans: Spans) -> None:
    async def judge(request: VerifyInput) -> VerificationResult:
        if request.attempt == 0:
            return VerificationResult.fail(ErrorType.GOAL_DRIFT, hint="secret", reasoning="secret", evidence=("secret",))
        return VerificationResult.ok(reasoning="secret", cost=Cost(12, 0.5, 0.1), verifier="llm-openai:gpt-4o-mini")

    step = say("a", goal="secret")
    await wrap(Pipeline([step]), store="memory", verifier=CallableVerifier(judge)).run(Task("secret", {"secret": "secret"}))
    assert spans.all()
    for span in spans.all():
        assert "secret" not in span.to_json()
    passed = spans.named("evaluate a")[1].attributes
    assert passed["gen_ai.provider.name"] == "openai"
    assert passed["gen_ai.request.model"] == "gpt-4o-mini"
    assert passed["agentraft.cost.tokens"] == 12
    assert passed["agentraft.cost.usd"] == 0.5


async def test_a_run_that_the_sampler_leaves_out_makes_no_span_at_all() -> None:
    with recorded(sampler=ParentBased(ALWAYS_OFF)) as spans:
        result = await wrap(Pipeline([say("a")]), store="memory").run(Task("goal"))
    assert result.success
    assert spans.all() == []


async def test_without_a_provider_no_log_holds_a_trace() -> None:
    store = InMemoryCheckpointStore()
    await wrap(Pipeline([say("a")]), store=store).run(Task("goal", id="r"))
    first = decode_record((await store.read("r", 0, 1))[0])
    assert isinstance(first, RunAdmitted)
    assert first.trace == ""
    assert current_trace() == ""


def test_a_run_without_tracing_does_not_load_opentelemetry() -> None:
    script = (
        "import sys, asyncio\nfrom agentraft_ray import wrap, Pipeline, Step, Task\n"
        "result = wrap(Pipeline([Step('a', lambda ctx: 'done')]), store='memory').run_sync(Task('goal'))\n"
        "print(result.success, any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["True", "False"]


@pytest.mark.parametrize("text", ["", "00-zz", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "99-" + "1" * 32 + "-" + "1" * 16 + "-01"])
def test_what_is_no_trace_context_is_none(text: str) -> None:
    assert span_context_of(text) is None


def test_a_trace_context_survives_as_text_with_its_state() -> None:
    state = trace.TraceState.from_header(["vendor=a1,other=b2"])
    context = trace.SpanContext(0x1234, 0x5678, True, trace.TraceFlags(1), state)
    text = trace_text(context)
    assert text == "00-00000000000000000000000000001234-0000000000005678-01,vendor=a1,other=b2"
    assert span_context_of(text) == context
