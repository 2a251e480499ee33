"""The shard's tasks around its breakers, with a real breaker actor behind a peer that can be cut off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from agentraft_ray.actors.breaker_client import ClusterBreakers
from agentraft_ray.actors.breaker_messages import BreakerSettings
from agentraft_ray.actors.breaker_shard import Pace
from agentraft_ray.breaker import BreakerPolicy, BreakerState, Permit
from agentraft_ray.protocol.messages import PermitDenied, PermitGranted
from tests.actors.breaker_cluster import SCOPE, ActorPeer, Cluster, command

POLICY = BreakerPolicy(failure_threshold=3, runs_min=1, cooldown_s=0.2, probe_ttl_s=5.0)
PACE = Pace(report_s=0.02, poll_s=0.05, poll_half_open_s=0.02, retry_s=0.05)


class Shard:
    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name, self.attempts = name, 0
        self.peer = ActorPeer(cluster)
        self.events: list[PermitGranted | PermitDenied] = []
        self.breakers = ClusterBreakers(self.peer, POLICY, name, self.events.append, pace=PACE)

    def ask(self) -> PermitGranted | PermitDenied | None:
        self.attempts += 1
        return self.breakers.acquire(command(self.attempts, owner=self.name), f"run{self.attempts}", time.time())

    def end(self, outcome: str, count: int = 1) -> None:
        answers = [self.ask() for _ in range(count)]
        for answer in answers:
            assert isinstance(answer, PermitGranted)
            self.breakers.settle(answer.permit, outcome)

    @property
    def state(self) -> BreakerState:
        return self.breakers.shard.state(SCOPE, time.time())


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster(BreakerSettings(write_every_s=0.02))
    made.clock = time.time  # type: ignore[assignment]
    made.restart()
    return made


@pytest.fixture
async def shards(cluster: Cluster) -> AsyncIterator[tuple[Shard, Shard]]:
    made = Shard(cluster, "one"), Shard(cluster, "two")
    for shard in made:
        shard.breakers.start()
    yield made
    for shard in made:
        await shard.breakers.close()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


async def test_a_scope_opens_in_both_shards_and_closes_in_both_after_one_probe(shards: tuple[Shard, Shard]) -> None:
    one, two = shards
    one.end("failure", 2)
    two.end("failure", 2)
    await until(lambda: one.ask() and one.state is two.state is not BreakerState.CLOSED)  # an idle shard hears of it when it works again
    await until(lambda: one.state is two.state is BreakerState.HALF_OPEN)
    assert (one.ask(), two.ask()) == (None, None)
    await until(lambda: one.events and two.events)
    granted = [event.permit for event in one.events + two.events if isinstance(event, PermitGranted)]
    assert len(granted) == 1
    assert isinstance(granted[0], Permit)
    (one if isinstance(one.events[0], PermitGranted) else two).breakers.settle(granted[0], "success")
    await until(lambda: one.state is two.state is BreakerState.CLOSED)
    one.end("success")


async def test_a_lost_reply_makes_no_outcome_count_twice(shards: tuple[Shard, Shard]) -> None:
    one, two = shards
    one.peer.lose_replies = 3
    one.end("failure", 2)
    await until(lambda: one.peer.lose_replies == 0)
    await until(lambda: one.breakers.shard.report_in_flight is None and not one.breakers.shard.has_news)
    two.end("success")
    await until(lambda: not two.breakers.shard.has_news)
    assert one.state is BreakerState.CLOSED


async def test_an_actor_that_is_away_delays_nobody_and_hears_everything_when_it_is_back(
    cluster: Cluster, shards: tuple[Shard, Shard], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = shards
    await until(lambda: one.breakers.shard._version == 0 and not one.breakers.shard._is_urgent)
    one.peer.is_cut_off = True
    one.end("failure", 3)
    assert one.state is not BreakerState.CLOSED
    await until(lambda: one.state is BreakerState.HALF_OPEN)
    assert one.ask() is None
    assert two.state is BreakerState.CLOSED
    cluster.restart()
    one.peer.is_cut_off = False
    await until(lambda: one.events)
    await until(lambda: two.ask() is None or two.state is not BreakerState.CLOSED)
    assert sum("cannot be reached" in record.message for record in caplog.records) == 1


async def test_closing_tells_the_last_outcomes(cluster: Cluster) -> None:
    shard = Shard(cluster, "one")
    shard.breakers.start()
    shard.end("failure", 2)
    shard.end("success")
    await shard.breakers.close()
    assert (await cluster.actor.stats())["outcomes"] == 3
