"""A coordinator with its workers, verifiers, breaker and store, in one process: what a run goes through, and what its client is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentraft_ray import AheadBy, Budget, RetryPolicy, Step, Task
from agentraft_ray.checkpoint.seal import PlainSeal
from agentraft_ray.errors import ErrorType
from agentraft_ray.pipeline import StepContext
from agentraft_ray.runtime.logs import RunLogs
from agentraft_ray.taxonomy import Cost, VerificationResult
from agentraft_ray.verifier import CallableVerifier
from agentraft_ray.verifier.base import VerifyInput
from tests.actors.conftest import Start
from tests.actors.local_cluster import QUICK, LocalCluster, until

pytestmark = pytest.mark.server


def say(name: str, **words: Any) -> Step:
    async def run(ctx: StepContext) -> str:
        await asyncio.sleep(0)
        return f"This is {name} of {ctx.task.goal}."

    return Step(name, run, **words)


async def test_a_run_of_ten_steps_ends_with_its_last_output(cluster: LocalCluster) -> None:
    client = await cluster.client()
    blueprint = client.host([say(f"s{n}") for n in range(10)])
    result = await client.run(blueprint, "run")
    assert result.success
    assert result.output == "This is s9 of goal."
    assert result.verified_count == 10
    assert [step.name for step in result.steps] == [f"s{n}" for n in range(10)]
    assert len(cluster.tally.ran) == 10
    await cluster.check("run")


async def test_independent_steps_run_at_the_same_time_and_join(cluster: LocalCluster) -> None:
    both = asyncio.Barrier(2)

    async def left(ctx: StepContext) -> str:
        await both.wait()
        return "The left half."

    async def right(ctx: StepContext) -> str:
        await both.wait()
        return "The right half."

    async def join(ctx: StepContext) -> str:
        return ctx.outputs["left"] + " " + ctx.outputs["right"] + " " + ctx.outputs["first"]

    client = await cluster.client()
    steps = [
        say("first"),
        Step("left", left, after="first"),
        Step("right", right, after="first"),
        Step("join", join, after=("left", "right")),
    ]
    result = await client.run(client.host(steps), "run")
    assert result.output == "The left half. The right half. This is first of goal."
    await cluster.check("run")


async def test_samples_vote_and_the_winner_is_committed(cluster: LocalCluster) -> None:
    async def vote(ctx: StepContext) -> str:
        return "It is blue." if ctx.sample != 1 else "It is red."

    client = await cluster.client()
    result = await client.run(client.host([Step("vote", vote, samples=AheadBy(2))]), "run")
    assert result.output == "It is blue."
    assert cluster.tally.count("vote") == 4
    await cluster.check("run")


async def test_a_rejected_output_is_tried_again_with_a_hint(cluster: LocalCluster) -> None:
    hints: list[str | None] = []

    async def draft(ctx: StepContext) -> str:
        hints.append(ctx.hint)
        return "A good draft." if ctx.hint else "A bad draft."

    def judge(request: VerifyInput) -> VerificationResult:
        if "bad" in request.output:
            return VerificationResult.fail(ErrorType.INCOMPLETE, hint="Make it good.", verifier="judge")
        return VerificationResult.ok(verifier="judge")

    client = await cluster.client()
    result = await client.run(client.host([Step("draft", draft)], CallableVerifier(judge)), "run")
    assert result.output == "A good draft."
    assert hints[0] is None
    assert hints[1] is not None
    assert "Make it good." in hints[1]
    await cluster.check("run")


async def test_blame_rolls_back_through_steps_and_runs_them_in_a_new_lineage(cluster: LocalCluster) -> None:
    async def source(ctx: StepContext) -> str:
        return "A wrong source." if ctx.lineage == 0 else "A right source."

    async def copy(ctx: StepContext) -> str:
        return ctx.outputs["source"].replace("source", "copy")

    async def final(ctx: StepContext) -> str:
        return ctx.outputs["copy"].replace("copy", "final text")

    seen = {"final": 0}

    def judge(request: VerifyInput) -> VerificationResult:
        if "wrong final" in request.output:
            seen["final"] += 1
            return VerificationResult.fail(ErrorType.HALLUCINATION, hint="The source is wrong.", verifier="judge", blame="source")
        if seen["final"] and "wrong source" in request.output:
            return VerificationResult.fail(ErrorType.HALLUCINATION, hint="It is wrong.", verifier="judge")
        return VerificationResult.ok(verifier="judge")

    client = await cluster.client()
    result = await client.run(
        client.host([Step("source", source), Step("copy", copy), Step("final", final)], CallableVerifier(judge)), "run"
    )
    assert result.output == "A right final text."
    assert {one.lineage for one in cluster.tally.ran if one.step == "copy"} == {0, 1}
    await cluster.check("run")


async def test_a_budget_ends_a_run_that_would_overspend(cluster: LocalCluster) -> None:
    async def spend(ctx: StepContext) -> str:
        ctx.spend(tokens=60)
        return f"Spent on {ctx.step_name}."

    client = await cluster.client()
    steps = [Step(f"s{n}", spend) for n in range(4)]
    result = await client.run(client.host(steps, budget=Budget(tokens=100, reserve=Cost(40, 0.0, 0.0))), "run")
    assert result.error_kind == "BudgetExhausted"
    assert len(cluster.tally.ran) == 2
    await cluster.check("run", outcome="failed")


async def test_a_step_that_overruns_its_time_is_tried_again(cluster: LocalCluster) -> None:
    async def slow(ctx: StepContext) -> str:
        if ctx.attempt == 0:
            await asyncio.sleep(60)
        return "It is done."

    client = await cluster.client()
    result = await client.run(client.host([Step("slow", slow, timeout_s=0.03)], retry=RetryPolicy(1)), "run")
    assert result.success
    assert [one.is_over for one in cluster.tally.ran] == [True, True]
    await cluster.check("run")


@pytest.mark.parametrize("look", [True, False])
async def test_an_approval_lets_a_run_go_on_and_its_client_hears_the_end(cluster: LocalCluster, look: bool) -> None:
    client = await cluster.client()
    blueprint = client.host([say("draft", needs_approval=True), say("send")])
    waiting = await client.run(blueprint, "run", until_waiting=True)
    assert waiting.status == "waiting"
    assert waiting.waiting_for == ("approval:draft",)
    follower = await client.submit(blueprint, "run")
    await client.decide("run", "approve", "draft", look=look)
    assert (await client.result(follower)).success
    assert cluster.tally.count("draft") == 1
    await cluster.check("run")


async def test_a_denial_throws_the_output_away_and_its_note_is_the_hint(cluster: LocalCluster) -> None:
    hints: list[str | None] = []

    async def draft(ctx: StepContext) -> str:
        hints.append(ctx.hint)
        return f"Draft number {ctx.attempt}."

    client = await cluster.client()
    blueprint = client.host([Step("draft", draft, needs_approval=True)])
    await client.run(blueprint, "run", until_waiting=True)
    await client.decide("run", "deny", "draft", note="Say it shorter.")
    await until(lambda: len(hints) == 2, "the second attempt")
    again = await client.run(blueprint, "run", until_waiting=True)
    assert again.status == "waiting"
    assert "Say it shorter." in (hints[1] or "")
    await client.decide("run", "approve", "draft")
    assert (await client.run(blueprint, "run")).output == "Draft number 1."
    await cluster.check("run")


async def test_a_step_that_needs_leave_to_run_waits_for_it(cluster: LocalCluster) -> None:
    client = await cluster.client()
    blueprint = client.host([say("delete", approve_before=True)])
    waiting = await client.run(blueprint, "run", until_waiting=True)
    assert waiting.waiting_for == ("approval:delete before it runs",)
    assert not cluster.tally.ran
    await client.decide("run", "approve", "delete")
    assert (await client.run(blueprint, "run")).success
    await cluster.check("run")


async def test_a_running_run_is_cancelled_and_its_step_with_it(cluster: LocalCluster) -> None:
    async def endless(ctx: StepContext) -> str:
        await asyncio.sleep(60)
        return "never"

    client = await cluster.client()
    follower = await client.submit(client.host([Step("endless", endless)]), "run")
    await until(lambda: cluster.tally.ran, "the step")
    await client.cancel("run")
    assert (await client.result(follower)).status == "cancelled"
    await until(lambda: cluster.tally.ran[0].is_over, "the step's end")
    await cluster.check("run", outcome="cancelled")


async def test_a_waiting_run_is_cancelled_by_the_poll_alone(cluster: LocalCluster) -> None:
    client = await cluster.client()
    blueprint = client.host([say("draft", needs_approval=True)])
    await client.run(blueprint, "run", until_waiting=True)
    follower = await client.submit(blueprint, "run")
    await client.cancel("run", look=False)
    assert (await client.result(follower)).status == "cancelled"
    await cluster.check("run", outcome="cancelled")


async def test_outputs_that_are_too_long_to_travel_are_read_from_the_store(cluster: LocalCluster) -> None:
    long = "word " * 40_000

    async def make(ctx: StepContext) -> str:
        return long

    async def middle(ctx: StepContext) -> str:
        return f"The middle saw {len(ctx.outputs['make'])} characters."

    async def far(ctx: StepContext) -> str:
        return f"The end saw {len(ctx.outputs['make'])} characters."

    async def last(ctx: StepContext) -> str:
        return str(ctx.outputs["make"])

    client = await cluster.client()
    result = await client.run(client.host([Step("make", make), Step("middle", middle), Step("far", far), Step("last", last)]), "run")
    assert result.output == long
    assert result.steps[2].output == "The end saw 200000 characters."
    again = await client.run(client.host([Step("make", make), Step("middle", middle)]), "other")
    assert again.output == "The middle saw 200000 characters."
    await cluster.check("run", "other")


async def test_an_output_over_the_limit_fails_its_step(cluster: LocalCluster) -> None:
    async def huge(ctx: StepContext) -> bytes:
        return bytes(9 * 1024 * 1024)

    client = await cluster.client()
    result = await client.run(client.host([Step("huge", huge)]), "run")
    assert result.error_kind == "MaxRetriesExceeded"
    assert "bytes" in (result.error or "") or "PayloadTooLarge" in repr(result.error)
    await cluster.check("run", outcome="failed")


async def test_a_task_with_long_inputs_reaches_its_steps(cluster: LocalCluster) -> None:
    async def read(ctx: StepContext) -> str:
        return f"It has {len(ctx.task.inputs['text'])} characters."

    client = await cluster.client()
    result = await client.run(client.host([Step("read", read)]), "run", inputs={"text": "x" * 100_000})
    assert result.output == "It has 100000 characters."
    await cluster.check("run")


async def test_a_fork_goes_on_from_what_it_shares(cluster: LocalCluster) -> None:
    client = await cluster.client()
    blueprint = client.host([say("a"), say("b"), say("c")])
    assert (await client.run(blueprint, "run")).success
    await RunLogs(client.store, PlainSeal()).fork("run", "c", "fork", blueprint.plan, "a program")
    await client.link("fork").call("resume", ["fork"])
    result = await client.run(blueprint, "fork", None, until_waiting=True)
    assert result.success
    assert cluster.tally.count("a") == 1
    assert cluster.tally.count("c") == 2
    await cluster.check("run", "fork")


async def test_a_verifier_that_faults_parks_the_run_and_is_asked_again(start: Start) -> None:
    cluster = await start()
    faults = {"left": 4}

    def judge(request: VerifyInput) -> VerificationResult:
        if faults["left"]:
            faults["left"] -= 1
            return VerificationResult.fault("no answer", verifier="judge")
        return VerificationResult.ok(verifier="judge")

    client = await cluster.client()
    blueprint = client.host([say("draft")], CallableVerifier(judge))
    waiting = await client.run(blueprint, "run", until_waiting=True)
    assert waiting.waiting_for[0].startswith("verifier:")
    assert (await client.run(blueprint, "run")).success
    assert cluster.tally.count("draft") == 1
    await cluster.check("run")


async def test_an_open_breaker_parks_many_runs_and_all_of_them_finish(start: Start) -> None:
    cluster = await start()
    broken = {"is": True}

    async def flaky(ctx: StepContext) -> str:
        if broken["is"]:
            raise RuntimeError("the provider is down")
        return f"{ctx.step_name} is done."

    client = await cluster.client()
    blueprints = [
        client.host([Step("one", flaky, max_errors=100), Step("two", flaky, max_errors=100)], failure_threshold=5, cooldown_seconds=0.1),
        client.host([Step("other", flaky, max_errors=100)], failure_threshold=5, cooldown_seconds=0.1),
        client.host([Step("third", flaky, max_errors=100)], failure_threshold=5, cooldown_seconds=0.1),
    ]
    followers = [await client.submit(blueprints[n % 3], f"run{n}") for n in range(30)]
    await until(lambda: len(cluster.tally.ran) >= 15, "the breaker's opening")
    await asyncio.sleep(0.15)
    opened = len(cluster.tally.ran)
    await asyncio.sleep(0.15)
    assert len(cluster.tally.ran) - opened < 12, "an open breaker lets only probes through"
    broken["is"] = False
    assert all([(await client.result(one)).success for one in followers])
    await cluster.check(*[f"run{n}" for n in range(30)])


async def test_a_full_shard_lets_submissions_wait_and_others_through(start: Start) -> None:
    cluster = await start(runs_max=3)
    gate = asyncio.Event()
    most = 0

    async def wait(ctx: StepContext) -> str:
        nonlocal most
        most = max(most, cluster.actor(cluster.coordinators[0]).intake.held)
        await gate.wait()
        return "It is over."

    client = await cluster.client()
    blueprint = client.host([Step("wait", wait)])
    tasks = [asyncio.create_task(client.run(blueprint, f"run{n}")) for n in range(12)]
    await until(lambda: len(cluster.tally.ran) == 3, "three steps")
    other = await cluster.client()
    followed = await other.submit(blueprint, cluster.tally.ran[0].run_id, None)
    gate.set()
    assert all(result.success for result in await asyncio.gather(*tasks))
    assert (await other.result(followed)).success
    assert most <= 3
    await cluster.check(*[f"run{n}" for n in range(12)])


async def test_nothing_is_left_of_runs_that_have_finished(start: Start) -> None:
    now = {"s": 0.0}
    cluster = await start(pace=replace(QUICK, clock=lambda: now["s"]))
    client = await cluster.client()
    blueprint = client.host([say("a")], budget=Budget(seconds=1_000))
    followers = []
    for n in range(2_000):
        follower = client.follower(blueprint, f"run{n}", Task("goal", id=f"run{n}"))
        client.link(follower.run_id).follow(follower.following)
        followers.append(follower)
    for one in followers:
        assert (await client.result(one)).success
    actor = cluster.actor(cluster.coordinators[0])
    shard, intake = actor.shard, actor.intake
    assert not shard.runs
    assert not shard.appends
    assert not shard._calls
    assert not shard._asked
    await until(lambda: len(shard._timers) < 300, "timers of runs that are over")
    assert not intake.arriving
    assert not intake.foreign
    assert not intake.known._logs
    await until(lambda: not intake._tasks, "the intake's tasks")
    assert actor.judges.open == 0
    assert all(pool.open == 0 for pool in actor.pools.values())
    await until(lambda: actor.desk.waiting == 0, "the last confirmation")
    now["s"] = 61.0
    await until(lambda: len(actor.desk) == 0, "the desk forgets")
    assert not client.links[0]._following
