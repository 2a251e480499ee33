"""Spans across actors: client, coordinator, worker and verifier make one connected trace of a run, over retries, losses and owners."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from agentraft_ray import Step
from agentraft_ray.actors import names
from agentraft_ray.errors import ErrorType
from agentraft_ray.pipeline import StepContext
from agentraft_ray.taxonomy import VerificationResult
from agentraft_ray.verifier import CallableVerifier
from agentraft_ray.verifier.base import VerifyInput
from tests.actors.conftest import Start
from tests.actors.local_cluster import LocalCluster, until
from tests.spans import Spans, recorded

pytestmark = pytest.mark.server

RUN = "invoke_workflow pipeline"


@pytest.fixture
def spans() -> Iterator[Spans]:
    with recorded() as made:
        yield made


def say(name: str, spans: Spans, **words: Any) -> Step:
    """A step whose own code makes a span, as an instrumented client of a model does."""

    async def run(ctx: StepContext) -> str:
        with spans.tracer.start_as_current_span(f"chat {name}"):
            await asyncio.sleep(0)
            return f"{name} {ctx.attempt} {ctx.lineage}"

    return Step(name, run, **words)


def held(name: str, gate: asyncio.Event) -> Step:
    async def run(ctx: StepContext) -> str:
        await gate.wait()
        return f"This is {name}."

    return Step(name, run)


async def test_client_coordinator_worker_and_verifier_make_one_connected_trace(spans: Spans, cluster: LocalCluster) -> None:
    async def judge(request: VerifyInput) -> VerificationResult:
        with spans.tracer.start_as_current_span(f"chat judge of {request.step.name}"):
            await asyncio.sleep(0)
        if request.step.name == "b" and request.attempt == 0:
            return VerificationResult.fail(ErrorType.GOAL_DRIFT)
        return VerificationResult.ok()

    client = await cluster.client()
    blueprint = client.host([say("a", spans), say("b", spans)], CallableVerifier(judge))
    with spans.tracer.start_as_current_span("POST /v1/runs"):
        follower = await client.submit(blueprint, "run")
    assert (await client.result(follower)).success
    spans.check_one_trace()
    above = ["POST /v1/runs", "submit pipeline", RUN]
    attempt = [*above, "step a", "invoke_agent a"]
    assert spans.path(spans.one("chat a")) == [*attempt, "execute a", "chat a"]
    assert spans.path(spans.one("chat judge of a")) == [*attempt, "evaluate a", "judge a", "chat judge of a"]
    assert [one.attributes["agentraft.result"] for one in spans.named("invoke_agent b")] == ["rejected", "committed"]
    executions = spans.named("execute b")
    assert [one.attributes["agentraft.attempt.number"] for one in executions] == [0, 1]
    assert executions[0].parent.span_id == spans.named("invoke_agent b")[0].context.span_id
    assert executions[1].parent.span_id == spans.named("invoke_agent b")[1].context.span_id
    await cluster.check("run")


async def test_spans_of_many_runs_at_a_time_keep_apart(spans: Spans, cluster: LocalCluster) -> None:
    client = await cluster.client()
    blueprint = client.host([say("a", spans), say("b", spans)])
    results = await asyncio.gather(*(client.run(blueprint, f"run{number}") for number in range(20)))
    assert all(result.success for result in results)
    for own in ("chat a", "chat b", "execute a", "invoke_agent b", RUN):
        assert len({span.context.trace_id for span in spans.named(own)}) == 20
    for span in spans.named("execute a"):
        run_id = span.attributes["agentraft.run.id"]
        assert spans.path(span)[:2] == ["submit pipeline", RUN]
        (root,) = (one for one in spans.named("submit pipeline") if one.context.trace_id == span.context.trace_id)
        assert root.attributes["agentraft.run.id"] == run_id


async def test_a_lost_worker_is_an_event_of_the_attempt_that_goes_on_elsewhere(spans: Spans, cluster: LocalCluster) -> None:
    gate = asyncio.Event()
    client = await cluster.client()
    follower = await client.submit(client.host([held("a", gate)]), "run")
    await until(lambda: cluster.tally.count("a") == 1, "a")
    cluster.kill(cluster.tally.ran[0].life)
    await until(lambda: cluster.tally.count("a") == 2, "a again")
    gate.set()
    assert (await client.result(follower)).success
    attempt = spans.one("invoke_agent a")
    assert [event.name for event in attempt.events] == ["worker_lost"]
    assert attempt.attributes["agentraft.result"] == "committed"
    assert {span.parent.span_id for span in spans.named("execute a")} == {attempt.context.span_id}
    spans.check_one_trace()


async def test_a_run_that_another_owner_takes_over_stays_in_its_trace_linked_to_the_life_before(spans: Spans, start: Start) -> None:
    cluster, gate = await start(), asyncio.Event()
    client = await cluster.client()
    blueprint = client.host([say("a", spans), held("b", gate), say("c", spans)])
    follower = await client.submit(blueprint, "run")
    await until(lambda: cluster.tally.count("b") == 1, "b")
    cluster.kill(names.coordinator("local", 0))  # its open spans are lost with it
    await until(lambda: cluster.tally.count("b") == 2, "b again")
    gate.set()
    assert (await client.result(follower)).success
    (after,) = spans.named(RUN)
    assert after.attributes["agentraft.run.epoch"] == 2
    (link,) = after.links
    before = spans.one("step a").parent
    assert link.context.span_id == before.span_id, "the life before, whose span was never ended"
    assert {span.context.trace_id for span in spans.all()} == {after.context.trace_id}
    assert spans.path(after) == ["submit pipeline", RUN]
    assert spans.path(spans.one("chat c"))[:2] == ["submit pipeline", RUN]
    await cluster.check("run")


async def test_a_drained_run_ends_its_spans_and_the_next_owner_is_linked_to_them(spans: Spans, start: Start) -> None:
    cluster, gate = await start(), asyncio.Event()
    client = await cluster.client()
    blueprint = client.host([say("a", spans), held("b", gate)])
    await client.submit(blueprint, "run")
    await until(lambda: cluster.tally.count("b") == 1, "b")
    await cluster.actor(names.coordinator("local", 0)).shut_down()
    (before,) = spans.named(RUN)
    assert before.attributes["agentraft.run.waiting_for"] == ("drained",)
    gate.set()
    other = await start(cluster_id="c2")
    again = await other.client()
    again.definitions |= client.definitions
    assert (await again.run(blueprint, "run")).success
    after = spans.named(RUN)[1]
    assert spans.links(after) == [("continues", RUN)]
    assert after.links[0].context.span_id == before.context.span_id
    assert spans.path(after) == ["submit pipeline", RUN]


async def test_approval_on_a_cluster_leaves_the_wait_out_of_every_span(spans: Spans, cluster: LocalCluster) -> None:
    client = await cluster.client()
    blueprint = client.host([say("a", spans, needs_approval=True), say("b", spans)])
    assert (await client.run(blueprint, "run", until_waiting=True)).is_parked
    (before,) = spans.named(RUN)
    await client.decide("run", "approve", "a")
    assert (await client.run(blueprint, "run", goal=None)).success
    before, after = spans.named(RUN)
    assert spans.links(after) == [("continues", RUN)]
    assert before.end_time <= after.start_time
    assert [one.attributes["agentraft.result"] for one in spans.named("step a")] == ["waiting", "committed"]
    assert spans.links(spans.named("step a")[1]) == [("continues", "step a")]
    spans.check_one_trace()
