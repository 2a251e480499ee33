"""Actors that die, calls that are lost, owners that stop answering: every run still ends once, and no committed step runs again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentraft_ray import Event, EventType, Step
from agentraft_ray.actors import names
from agentraft_ray.checkpoint.seal import PlainSeal
from agentraft_ray.pipeline import StepContext
from agentraft_ray.protocol.records import AttemptFailed, OwnerClaimed
from agentraft_ray.runtime.hooks import told_of
from agentraft_ray.runtime.logs import RunLogs
from agentraft_ray.taxonomy import VerificationResult
from agentraft_ray.verifier import CallableVerifier
from agentraft_ray.verifier.base import VerifyInput
from tests.actors.conftest import Start
from tests.actors.local_cluster import LIMITS, Client, LocalCluster, until

pytestmark = pytest.mark.server

SHARD = names.coordinator("local", 0)
STORE = names.store("local")
WORKER = names.worker("local", "", 0)
VERIFIER = names.verifier("local", 0)


class Gates:
    """Steps that wait until they are let through, each at most once."""

    def __init__(self) -> None:
        self.open: dict[str, asyncio.Event] = {}

    def of(self, name: str) -> asyncio.Event:
        return self.open.setdefault(name, asyncio.Event())

    def step(self, name: str, **words: Any) -> Step:
        async def run(ctx: StepContext) -> str:
            await self.of(name).wait()
            return f"This is {name}."

        return Step(name, run, **words)


def quick(name: str) -> Step:
    async def run(ctx: StepContext) -> str:
        await asyncio.sleep(0)
        return f"This is {name}."

    return Step(name, run)


async def logged_events(cluster: LocalCluster, client: Client, run_id: str) -> list[tuple[int, int]]:
    """(position, n) of all that the log tells, by reading it."""
    found = []
    async for state, record in RunLogs(client.store, PlainSeal()).replay(run_id):
        found += [(one.position, one.n) for one in told_of(state, record)]
    return found


def assert_whole(events: list[Event], logged: list[tuple[int, int]], run_id: str) -> None:
    """Every event that the log tells came once and in order; RUN_START first, RUN_SUCCESS last."""
    places = []
    for event in events:
        if event.position >= 0:
            run, position, n = event.id.rsplit(":", 2)
            assert run == run_id
            places.append((int(position), int(n)))
    assert places == logged
    assert events[0].type is EventType.RUN_START
    assert events[-1].type is EventType.RUN_SUCCESS


async def test_events_come_once_and_in_order_and_starts_are_live(cluster: LocalCluster) -> None:
    client = await cluster.client()
    blueprint = client.host([quick(f"s{n}") for n in range(5)])
    assert (await client.run(blueprint, "run", listens=True)).success
    events = client.events["run"]
    assert_whole(events, await logged_events(cluster, client, "run"), "run")
    assert [one.type for one in events].count(EventType.STEP_START) == 5


async def test_a_killed_coordinator_goes_on_and_no_event_is_missed_or_doubled(cluster: LocalCluster) -> None:
    client, gates = await cluster.client(), Gates()
    blueprint = client.host([quick("a"), quick("b"), gates.step("c"), quick("d"), gates.step("e"), quick("f")])
    follower = await client.submit(blueprint, "run", listens=True)
    result = asyncio.create_task(client.result(follower))
    for held in ("c", "e"):
        await until(lambda held=held: cluster.tally.count(held) >= 1, held)  # type: ignore[misc]
        cluster.kill(SHARD)
        await until(lambda held=held: cluster.tally.count(held) >= 2, f"{held} again")  # type: ignore[misc]
        gates.of(held).set()
    assert (await result).success
    assert_whole(client.events["run"], await logged_events(cluster, client, "run"), "run")
    assert cluster.tally.count("a") == 1
    await cluster.check("run")


async def test_a_restarted_coordinator_goes_on_at_once_and_without_its_client(start: Start) -> None:
    cluster = await start(limits=replace(LIMITS, lease_ttl_s=600.0))
    client, gates = await cluster.client(), Gates()
    blueprint = client.host([quick("a"), gates.step("b")])
    await client.submit(blueprint, "run")
    await until(lambda: cluster.tally.count("b") == 1, "b")
    await client.links[0].close()
    cluster.kill(SHARD)
    await until(lambda: cluster.tally.count("b") == 2, "b again: the lease of the last life is revoked")
    gates.of("b").set()
    other = await cluster.client()
    assert (await other.run(blueprint, "run", None)).success
    await cluster.check("run")


async def test_a_coordinator_that_comes_back_knows_the_workers_that_came_after_it(cluster: LocalCluster) -> None:
    client, gates = await cluster.client(), Gates()
    blueprint = client.host([quick("a"), gates.step("b", resources={"spot": 1}), quick("c")])
    group = names.group_of(None, None, {"spot": 1}, None)
    await client.links[0].call("configure", {group: [WORKER]}, [])
    follower = await client.submit(blueprint, "run")
    await until(lambda: cluster.tally.count("b") == 1, "b")
    cluster.kill(SHARD)
    await until(lambda: cluster.tally.count("b") == 2, "b again, in a worker that the first life was told of")
    gates.of("b").set()
    assert (await client.result(follower)).success
    await cluster.check("run")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["append", "admit"])
@pytest.mark.parametrize("number", [1, 2, 4])
async def test_a_coordinator_that_dies_around_a_write_loses_nothing(cluster: LocalCluster, method: str, when: str, number: int) -> None:
    client = await cluster.client()
    blueprint = client.host([quick("a"), quick("b"), quick("c")])
    seen = {"calls": 0}

    def kill() -> None:
        seen["calls"] += 1
        if seen["calls"] == number or (method == "admit" and seen["calls"] == 1):
            cluster.kill(SHARD)
        else:
            cluster.faults.kill_at.append((STORE, method, when, kill))

    cluster.faults.kill_at.append((STORE, method, when, kill))
    assert (await client.run(blueprint, "run", listens=True)).success
    assert_whole(client.events["run"], await logged_events(cluster, client, "run"), "run")
    assert seen["calls"]
    await cluster.check("run")


@pytest.mark.parametrize("method", ["submit", "collect", "register"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_a_client_says_and_hears_may_be_lost(cluster: LocalCluster, method: str, when: str) -> None:
    client = await cluster.client()
    blueprint = client.host([quick("a"), quick("b")])
    losses = cluster.faults.lose_before if when == "before" else cluster.faults.lose_after
    losses[SHARD, method] = 2
    assert (await client.run(blueprint, "run", listens=True)).success
    assert_whole(client.events["run"], await logged_events(cluster, client, "run"), "run")
    assert cluster.tally.count("a") == 1
    await cluster.check("run")


@pytest.mark.parametrize("method", ["submit", "collect"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_coordinator_may_die_while_it_answers_a_client(cluster: LocalCluster, method: str, when: str) -> None:
    client = await cluster.client()
    blueprint = client.host([quick("a"), quick("b")])
    cluster.faults.kill_at.append((SHARD, method, when, lambda: cluster.kill(SHARD)))
    assert (await client.run(blueprint, "run", listens=True)).success
    assert_whole(client.events["run"], await logged_events(cluster, client, "run"), "run")
    await cluster.check("run")


async def test_a_step_whose_worker_dies_runs_elsewhere_for_free(cluster: LocalCluster) -> None:
    client, gates = await cluster.client(), Gates()
    follower = await client.submit(client.host([gates.step("a", max_retries=0)]), "run")
    for losses in (1, 2, 3):
        await until(lambda losses=losses: len(cluster.tally.ran) == losses, "the step")  # type: ignore[misc]
        cluster.kill(cluster.tally.ran[-1].life)
    await until(lambda: len(cluster.tally.ran) == 4, "the third re-dispatch")
    gates.of("a").set()
    result = await client.result(follower)
    assert result.success
    assert result.steps[0].attempts == 1
    await cluster.check("run")


async def test_a_step_that_loses_too_many_workers_has_failed(cluster: LocalCluster) -> None:
    client, gates = await cluster.client(), Gates()
    follower = await client.submit(client.host([gates.step("a", max_retries=0)]), "run")
    for losses in (1, 2, 3, 4):
        await until(lambda losses=losses: len(cluster.tally.ran) == losses, "the step")  # type: ignore[misc]
        cluster.kill(cluster.tally.ran[-1].life)
    result = await client.result(follower)
    assert result.error_kind == "MaxRetriesExceeded"
    assert len(cluster.tally.ran) == 4
    causes = [record.cause for record, _ in await cluster.records("run") if isinstance(record, AttemptFailed)]
    assert len(causes) == 1
    await cluster.check("run", outcome="failed")


async def test_a_verifier_that_dies_is_asked_again(cluster: LocalCluster) -> None:
    asked: list[str] = []
    gate = asyncio.Event()

    async def judge(request: VerifyInput) -> VerificationResult:
        asked.append(request.step.name)
        await gate.wait()
        return VerificationResult.ok(verifier="judge")

    client = await cluster.client()
    follower = await client.submit(client.host([quick("a")], CallableVerifier(judge)), "run")
    await until(lambda: asked, "the verdict")
    cluster.kill(VERIFIER)
    await until(lambda: len(asked) == 2, "the verdict, once more")
    gate.set()
    assert (await client.result(follower)).success
    assert cluster.tally.count("a") == 1
    await cluster.check("run")


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_store_actor_that_dies_writes_each_record_once(cluster: LocalCluster, when: str) -> None:
    client = await cluster.client()
    blueprint = client.host([quick(f"s{n}") for n in range(6)])
    kills = {"left": 4}

    def kill() -> None:
        cluster.kill(STORE)
        kills["left"] -= 1
        if kills["left"]:
            cluster.faults.kill_at.append((STORE, "append", when, kill))

    cluster.faults.kill_at.append((STORE, "append", when, kill))
    assert (await client.run(blueprint, "run", listens=True)).success
    assert kills["left"] == 0
    assert cluster.tally.count("s0") == 1
    assert [one for one in await cluster.records("run") if isinstance(one[0], OwnerClaimed)][1:] == []
    assert_whole(client.events["run"], await logged_events(cluster, client, "run"), "run")
    await cluster.check("run")


async def test_a_breaker_that_dies_stops_nothing(cluster: LocalCluster) -> None:
    client, gates = await cluster.client(), Gates()
    follower = await client.submit(client.host([quick("a"), gates.step("b"), quick("c")]), "run")
    await until(lambda: cluster.tally.count("b"), "b")
    cluster.kill(names.breaker("local"))
    gates.of("b").set()
    assert (await client.result(follower)).success
    await cluster.check("run")


async def test_another_shard_takes_over_from_one_that_stops_answering(start: Start) -> None:
    cluster = await start(shards=2, limits=replace(LIMITS, lease_ttl_s=0.4))
    client, gates = await cluster.client(), Gates()
    blueprint = client.host([quick("a"), gates.step("b"), quick("c")])
    runs = [f"run{n}" for n in range(8)]
    followers = [await client.submit(blueprint, run_id, listens=True) for run_id in runs]
    frozen = cluster.shard_of(runs[0])
    its_runs = [run_id for run_id in runs if cluster.shard_of(run_id) == frozen]
    await until(lambda: cluster.tally.count("b") == len(runs), "b everywhere")
    zombie = cluster.freeze(frozen)
    await until(lambda: all(cluster.tally.count("b", run_id) == 2 for run_id in its_runs), "the other shard takes over")
    gates.of("b").set()
    for run_id in its_runs:
        while (await cluster.state(run_id)).finished is None:
            await asyncio.sleep(0.01)
    before = {run_id: await cluster.records(run_id) for run_id in its_runs}
    cluster.thaw(zombie)
    for follower in followers:
        assert (await client.result(follower)).success
    for run_id in its_runs:
        assert await cluster.records(run_id) == before[run_id], "a zombie changes nothing"
        assert_whole(client.events[run_id], await logged_events(cluster, client, run_id), run_id)
    await cluster.check(*runs, strict=False)


async def test_a_coordinator_that_was_replaced_while_it_hung_ends_itself(start: Start) -> None:
    cluster = await start(limits=replace(LIMITS, lease_ttl_s=0.4))
    client, gates = await cluster.client(), Gates()
    blueprint = client.host([quick("a"), gates.step("b"), quick("c")])
    follower = await client.submit(blueprint, "run", listens=True)
    await until(lambda: cluster.tally.count("b") == 1, "b")
    zombie = cluster.freeze(SHARD)
    cluster.replaced(SHARD)
    await until(lambda: cluster.tally.count("b") == 2, "the successor goes on")
    cluster.thaw(zombie)
    await until(lambda: cluster.left == [SHARD], "the zombie's end")
    gates.of("b").set()
    assert (await client.result(follower)).success
    assert_whole(client.events["run"], await logged_events(cluster, client, "run"), "run")
    await cluster.check("run", strict=False)


async def test_runs_that_were_taken_over_are_not_lost_with_the_shard_that_took_them(start: Start) -> None:
    cluster = await start(shards=2, limits=replace(LIMITS, lease_ttl_s=0.4))
    client, gates = await cluster.client(), Gates()
    blueprint = client.host([quick("a"), gates.step("b")])
    follower = await client.submit(blueprint, "run")
    await until(lambda: cluster.tally.count("b") == 1, "b")
    first = cluster.shard_of("run")
    second = next(name for name in cluster.coordinators if name != first)
    await client.close()
    zombie = cluster.freeze(first)
    await until(lambda: cluster.tally.count("b") == 2, "the other shard takes over")
    cluster.thaw(zombie)
    cluster.kill(second)
    await until(lambda: cluster.tally.count("b") == 3, "the run goes on")
    gates.of("b").set()
    assert follower.run_id == "run"
    while (await cluster.state("run")).finished is None:
        await asyncio.sleep(0.01)
    await cluster.check("run", strict=False)


async def test_what_waits_at_a_worker_for_a_dead_coordinator_does_not_begin_after_others_have_committed_it(start: Start) -> None:
    cluster = await start(workers=2, slots=1)
    client, gates = await cluster.client(), Gates()
    held = client.host([gates.step("hold")])
    short = client.host([quick("a"), quick("b")])
    runs = [f"run{number}" for number in range(12)]
    followers = [await client.submit(held, "holder")]
    await until(lambda: cluster.tally.count("hold") == 1, "one of the two workers is held")
    followers += [await client.submit(short, run_id) for run_id in runs]
    await until(lambda: cluster.tally.count("b") >= 1, "the other one works")
    cluster.kill(SHARD)
    await until(lambda: cluster.tally.count("hold") == 2, "the holder runs again")
    gates.of("hold").set()
    for follower in followers:
        assert (await client.result(follower)).success
    await cluster.check("holder", *runs)
