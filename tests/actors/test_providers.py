"""Providers that are slow, limited, down or out of quota, on a cluster with two verifiers: the lane of a model is one for all of them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from agentraft_ray import Criticality, Step, TieredVerifier
from agentraft_ray.actors import names
from agentraft_ray.config import ProviderLimits
from agentraft_ray.pipeline import StepContext
from agentraft_ray.protocol.records import OutputProposed, RunParked, RunResumed
from agentraft_ray.testing.model_server import PASS, Asked, ModelServer, Reply
from agentraft_ray.verifier import CallableVerifier, LLMVerifier
from tests.actors.conftest import Start
from tests.actors.local_cluster import LIMITS, until

pytestmark = pytest.mark.server

LANE = ProviderLimits(failure_threshold=4, cooldown_s=1.0, concurrency_max=4, grace_s=0.2, busy_retry_s=0.1)
WAITS = replace(LIMITS, verifier_faults_max=1_000, verifier_park_retry_s=3600.0)


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer() as started:
        yield started


def judged_by(model: ModelServer, name: str, limits: ProviderLimits = LANE) -> TieredVerifier:
    return TieredVerifier(l2=LLMVerifier.openai(model=name, base_url=model.base_url("openai"), limits=limits))


def draft(**words: Any) -> Step:
    async def run(ctx: StepContext) -> str:
        return f"A draft about {ctx.task.goal}."

    return Step("draft", run, goal="Write a draft", criticality=Criticality.HIGH, **words)


def models(model: ModelServer) -> Counter[str]:
    return Counter(asked.model for asked in model.asked)


async def test_the_time_that_a_provider_names_holds_for_every_verifier_of_the_cluster(start: Start, model: ModelServer) -> None:
    model.script = lambda asked: Reply(status=429, headers={"Retry-After": "3600"})
    cluster = await start(verifiers=2, limits=WAITS)
    client = await cluster.client()
    blueprint = client.host([draft()], judged_by(model, "limited"))
    first = await client.run(blueprint, "run0", until_waiting=True)
    assert first.status == "waiting"
    assert first.resume_at is not None
    assert 3500 < first.resume_at - time.time() < 3700
    others = await asyncio.gather(*(client.run(blueprint, f"run{n}", until_waiting=True) for n in range(1, 30)))
    assert {result.status for result in others} == {"waiting"}
    assert len(model.asked) == 1  # by 30 runs and two verifiers
    for verifier in cluster.verifiers:
        assert (await cluster.actor(verifier).stats())["running"] == 0  # nobody's slot is held
    assert cluster.tally.count("draft") == 30  # none of them ran again
    records = [record for record, _ in await cluster.records("run7")]
    assert sum(isinstance(record, RunParked) for record in records) == 1
    assert any(isinstance(record, OutputProposed) for record in records)


async def test_parked_runs_go_on_when_the_time_has_come_and_one_request_tries_first(start: Start, model: ModelServer) -> None:
    gate, under_way, most = asyncio.Event(), [0], [0]

    async def script(asked: Asked) -> Reply:
        if len(model.asked) == 1:
            return Reply(status=429, headers={"Retry-After": "2"})
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        await gate.wait()
        under_way[0] -= 1
        return Reply(verdict=PASS)

    model.script = script
    cluster = await start(verifiers=2, limits=replace(WAITS, verifier_hold_s=0.0))
    client = await cluster.client()
    blueprint = client.host([draft()], judged_by(model, "limited"))
    runs = [await client.submit(blueprint, "run0")]
    await until(lambda: len(model.asked) == 1, "the limit is hit")
    await until(lambda: (cluster.actor(names.breaker(cluster.name))._figures()["scopes_open"]) == 1, "everybody knows")
    runs += [await client.submit(blueprint, f"run{n}") for n in range(1, 20)]
    await until(lambda: under_way[0] == 1, "one tries")
    await asyncio.sleep(0.3)
    assert most[0] == 1
    gate.set()
    for run in runs:
        assert (await client.result(run)).success
    assert len(model.asked) == 1 + 20
    await cluster.check(*(f"run{n}" for n in range(20)))
    assert not any(isinstance(record, RunResumed) for record, _ in await cluster.records("run3"))


async def test_a_provider_that_is_down_opens_its_breaker_once_and_the_other_one_goes_on(start: Start, model: ModelServer) -> None:
    is_down = [True]
    model.script = lambda asked: Reply(status=500) if asked.model == "ill" and is_down[0] else Reply(verdict=PASS)
    cluster = await start(verifiers=2, shards=2, limits=WAITS)
    client = await cluster.client()
    slow_to_close = replace(LANE, cooldown_s=3.0)
    ill = client.host([draft()], judged_by(model, "ill", slow_to_close), failure_threshold=10)
    well = client.host([draft()], judged_by(model, "well"))
    waiting = [await client.submit(ill, f"ill{n}") for n in range(20)]
    breaker = cluster.actor(names.breaker(cluster.name))
    await until(lambda: breaker._figures()["scopes_open"] == 1, "the breaker of the model opens")
    for n in range(20):
        assert (await client.run(well, f"well{n}")).success
    # As many as two verifiers had under way when the fourth failed, and later a probe at a time.
    assert models(model)["ill"] <= LANE.failure_threshold + 2 * LANE.concurrency_max + 3
    is_down[0] = False
    for run in waiting:
        result = await client.result(run)
        assert result.success
        assert result.rollbacks == 0
    assert cluster.tally.count("draft") == 40
    assert breaker._figures()["scopes_open"] == 0
    await cluster.check(*(f"ill{n}" for n in range(20)))


async def test_a_slow_provider_takes_no_room_from_other_verdicts(start: Start, model: ModelServer) -> None:
    gate = asyncio.Event()

    async def script(asked: Asked) -> Reply:
        if asked.model == "slow":
            await gate.wait()
        return Reply(verdict=PASS)

    async def check(request: object) -> bool:
        await asyncio.sleep(0)
        return True

    model.script = script
    cluster = await start(verifiers=1, verifier_slots=2, limits=WAITS)
    client = await cluster.client()
    slow = client.host([draft()], judged_by(model, "slow"))
    quick = client.host([draft()], judged_by(model, "quick"))
    local = client.host([draft()], CallableVerifier(check, name="local"))
    stuck = [await client.submit(slow, f"slow{n}") for n in range(30)]
    await until(lambda: models(model)["slow"] == LANE.concurrency_max, "the lane is full")
    for n in range(10):
        assert (await client.run(quick, f"quick{n}")).success
        assert (await client.run(local, f"local{n}")).success
    assert models(model)["slow"] == LANE.concurrency_max
    gate.set()
    for run in stuck:
        assert (await client.result(run)).success


async def test_a_lane_stays_shut_over_the_deaths_of_those_who_know_it(start: Start, model: ModelServer) -> None:
    model.script = lambda asked: Reply(status=429, headers={"Retry-After": "3600"})
    cluster = await start(verifiers=2, limits=WAITS)
    client = await cluster.client()
    blueprint = client.host([draft()], judged_by(model, "limited"))
    assert (await client.run(blueprint, "run0", until_waiting=True)).status == "waiting"
    cluster.kill(names.breaker(cluster.name))  # its memory is in the store
    for verifier in cluster.verifiers:
        cluster.kill(verifier)
    for n in range(1, 6):
        assert (await client.run(blueprint, f"run{n}", until_waiting=True)).status == "waiting"
    assert len(model.asked) == 1  # who knows nothing asks the breakers before the provider


async def test_a_verifier_that_dies_with_the_probe_does_not_shut_the_lane_for_ever(start: Start, model: ModelServer) -> None:
    gate = asyncio.Event()

    async def script(asked: Asked) -> Reply:
        if len(model.asked) == 1:
            return Reply(status=429, headers={"Retry-After": "1"})
        if len(model.asked) == 2:
            await gate.wait()
        return Reply(verdict=PASS)

    model.script = script
    lane = replace(LANE, probe_ttl_s=1.0)
    cluster = await start(verifiers=1, limits=replace(WAITS, verifier_hold_s=0.0))
    client = await cluster.client()
    blueprint = client.host([draft()], judged_by(model, "limited", lane))
    run = await client.submit(blueprint, "run")
    await until(lambda: len(model.asked) == 2, "the probe is under way")
    cluster.kill(cluster.verifiers[0])
    assert (await client.result(run)).success
    gate.set()
    assert cluster.tally.count("draft") == 1
