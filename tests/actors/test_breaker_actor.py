"""The breaker actor: reports in, states out, one probe, and a memory that outlives its process."""

from __future__ import annotations

import asyncio

import pytest

from agentraft_ray.actors.breaker import BreakerActor
from agentraft_ray.actors.breaker_messages import Answer, BreakerSettings, Reported, ScopeWord, Settled
from agentraft_ray.actors.messages import decode, encode
from agentraft_ray.breaker import BreakerPolicy, BreakerState, Permit
from tests.actors.breaker_cluster import SCOPE, Cluster, asked, failures, report

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


async def told(cluster: Cluster, batch: bytes) -> Reported:
    return decode(await cluster.actor.report(batch), Reported)


async def word(cluster: Cluster, scope: str = SCOPE, client: str = "reader") -> ScopeWord:
    reply = await told(cluster, report(0, client=client, watched=(scope,)))
    return next(one for one in reply.words if one.scope == scope)


async def ask(cluster: Cluster, attempt: str) -> tuple[ScopeWord, Permit | None]:
    reply: Answer = decode(await cluster.actor.acquire(asked(attempt)), Answer)
    return reply.answers[0]


async def trip(cluster: Cluster) -> None:
    await told(cluster, report(1, *failures(3), client="tripper"))
    assert (await word(cluster)).state is OPEN


async def probe(cluster: Cluster, attempt: str = "probe") -> Permit:
    _, permit = await ask(cluster, attempt)
    assert permit is not None
    return permit


async def settle(cluster: Cluster, permit: Permit, outcome: str, number: int = 2) -> Reported:
    return await told(cluster, report(number, settled=(Settled(permit, outcome),)))  # type: ignore[arg-type]


async def test_failures_of_two_shards_open_a_scope_together_and_each_is_told(cluster: Cluster) -> None:
    first = await told(cluster, report(1, *failures(2)))
    assert [one.state for one in first.words] == [CLOSED]
    second = await told(cluster, report(1, *failures(1, "b"), client="other"))
    assert [(one.scope, one.state, one.retry_in_s) for one in second.words] == [(SCOPE, OPEN, 10.0)]
    news = await told(cluster, report(2, incarnation=first.incarnation, version=first.version))
    assert [one.state for one in news.words] == [OPEN]
    later = await told(cluster, report(3, incarnation=news.incarnation, version=news.version))
    assert later.words == ()


async def test_a_report_that_comes_twice_counts_once(cluster: Cluster) -> None:
    for _ in range(5):
        await told(cluster, report(1, *failures(2)))
    await told(cluster, report(2, *failures(2)))
    assert (await word(cluster)).state is CLOSED
    await told(cluster, report(3, ("b", "run", True)))
    assert (await word(cluster)).state is OPEN


async def test_outcomes_of_another_generation_count_for_nothing(cluster: Cluster) -> None:
    await told(cluster, report(1, *failures(9), generation=7))
    assert (await word(cluster)).state is CLOSED
    await told(cluster, report(2, *failures(3)))
    cluster.clock.now_s += 10
    closed = await settle(cluster, await probe(cluster), "success", 3)
    assert closed.words[0].state is CLOSED
    await told(cluster, report(4, *failures(9, "late"), generation=0))
    assert (await word(cluster)).state is CLOSED


async def test_scopes_of_different_policies_never_mix(cluster: Cluster) -> None:
    other = BreakerPolicy(failure_threshold=2, runs_min=1)
    await told(cluster, report(1, *failures(2)))
    reply = await told(cluster, report(1, *failures(2), policy=other))
    assert [(one.scope, one.state) for one in reply.words] == [(SCOPE, OPEN)]
    assert (await word(cluster)).state is CLOSED
    await told(cluster, report(1, *failures(3), scope="report/review", client="third"))
    assert (await word(cluster)).state is CLOSED


async def test_one_probe_at_a_time_which_expires_by_the_clock_of_the_actor(cluster: Cluster) -> None:
    assert (await ask(cluster, "a"))[0].state is CLOSED
    await trip(cluster)
    assert (await ask(cluster, "a")) == (ScopeWord(SCOPE, 1, OPEN, 10.0), None)
    cluster.clock.now_s += 10
    permit = await probe(cluster, "a")
    assert await probe(cluster, "a") == permit
    denied, none = await ask(cluster, "b")
    assert (denied.state, denied.retry_in_s, none) == (HALF_OPEN, 20.0, None)
    cluster.clock.now_s += 20
    following = await probe(cluster, "b")
    assert (await settle(cluster, permit, "success", 2)).words[0].state is HALF_OPEN
    assert (await settle(cluster, following, "success", 3)).words[0].state is CLOSED


async def test_a_released_probe_is_news_for_everybody_else(cluster: Cluster) -> None:
    await trip(cluster)
    cluster.clock.now_s += 10
    permit = await probe(cluster)
    before = await told(cluster, report(1, client="other"))
    await settle(cluster, permit, "released")
    news = await told(cluster, report(2, client="other", incarnation=before.incarnation, version=before.version))
    assert [(one.state, one.retry_in_s) for one in news.words] == [(HALF_OPEN, 0.0)]


async def test_a_trip_a_probe_and_its_end_are_stored_before_anybody_hears_of_them(cluster: Cluster) -> None:
    await trip(cluster)
    cluster.restart()
    assert (await word(cluster)).state is OPEN
    cluster.clock.now_s += 10
    permit = await probe(cluster)
    cluster.restart()
    assert (await ask(cluster, "another"))[1] is None
    assert await probe(cluster) == permit
    assert (await settle(cluster, permit, "success")).words[0].state is CLOSED
    generation = (await word(cluster)).generation
    cluster.restart()
    assert await word(cluster) == ScopeWord(SCOPE, generation, CLOSED, 0.0)


async def test_a_restart_keeps_what_was_heard_and_a_report_sent_again_after_it_counts_once(cluster: Cluster) -> None:
    await told(cluster, report(1, *failures(2)))
    while not cluster.store.writes:
        await asyncio.sleep(0.005)
    cluster.restart()
    again = await told(cluster, report(1, *failures(2)))
    assert [one.state for one in again.words] == [CLOSED]
    reply = await told(cluster, report(2, ("b", "run", True), incarnation="an earlier life", version=99))
    assert [one.state for one in reply.words] == [OPEN]


async def test_successes_alone_are_written_once_for_many_reports(cluster: Cluster) -> None:
    for number in range(1, 50):
        await told(cluster, report(number, (f"a{number}", "run", False)))
    assert cluster.store.writes <= 1
    while not cluster.store.writes:
        await asyncio.sleep(0.005)
    assert (await cluster.actor.stats())["outcomes"] == 49


async def test_without_a_store_the_reply_still_comes_and_the_figures_say_so(cluster: Cluster) -> None:
    await told(cluster, report(1, ("x", "run", False)))
    cluster.store.is_lost = True
    await trip(cluster)
    figures = await cluster.actor.stats()
    assert figures["unwritten"] == 1
    assert int(figures["store_failures"]) >= 1
    cluster.store.is_lost = False
    while (await cluster.actor.stats())["unwritten"]:
        await asyncio.sleep(0.005)
    cluster.restart()
    assert (await word(cluster)).state is OPEN


async def test_an_actor_that_cannot_read_its_memory_overwrites_nothing_and_joins_it_later(cluster: Cluster) -> None:
    await told(cluster, report(1, *failures(3), scope="before"))
    cluster.restart()
    cluster.store.is_lost = True
    first = await told(cluster, report(1, client="other"))
    assert first.first_generation > 1_000
    assert (await cluster.actor.stats())["restored"] == 0
    await told(cluster, report(2, *failures(3), client="other", scope="since", generation=first.first_generation))
    cluster.store.is_lost = False
    while not (await cluster.actor.stats())["restored"]:
        await asyncio.sleep(0.005)
    assert [(await word(cluster, scope)).state for scope in ("before", "since")] == [OPEN, OPEN]
    cluster.restart()
    assert [(await word(cluster, scope)).state for scope in ("before", "since")] == [OPEN, OPEN]


@pytest.mark.parametrize("data", [b"", b"nonsense", encode({"version": 99})])
async def test_a_memory_that_cannot_be_read_does_not_keep_the_actor_from_working(cluster: Cluster, data: bytes) -> None:
    cluster.store.documents["breakers"] = data
    first = await told(cluster, report(1))
    reply = await told(cluster, report(2, *failures(3), generation=first.first_generation))
    assert reply.words[0].state is OPEN


async def test_a_memory_over_the_limit_keeps_at_least_what_has_opened() -> None:
    cluster = Cluster(BreakerSettings(document_bytes_max=1, write_every_s=0.02))
    await told(cluster, report(1, *failures(2), scope="closed"))
    await trip(cluster)
    cluster.restart()
    assert (await word(cluster)).state is OPEN
    await told(cluster, report(2, ("x", "run", True), scope="closed"))
    assert (await word(cluster, "closed")).state is CLOSED


async def test_policies_are_bounded_and_one_that_was_dropped_uses_no_generation_twice() -> None:
    cluster = Cluster(BreakerSettings(policies_max=1))
    await trip(cluster)
    await told(cluster, report(1, policy=BreakerPolicy()))
    again = await word(cluster)
    assert again.state is CLOSED
    assert again.generation > 1
    assert (await cluster.actor.stats())["policies"] == 1


async def test_draining_writes_what_is_not_written() -> None:
    cluster = Cluster(BreakerSettings(write_every_s=60.0))
    await told(cluster, report(1, *failures(2)))
    await cluster.actor.drain()
    while not cluster.store.writes:
        await asyncio.sleep(0.005)
    cluster.restart()
    assert (await told(cluster, report(2, ("b", "run", True)))).words[0].state is OPEN


async def test_without_any_store_the_breakers_work_from_memory() -> None:
    actor = BreakerActor(encode(BreakerSettings()))
    reply: Reported = decode(await actor.report(report(1, *failures(3))), Reported)
    assert reply.words[0].state is OPEN
    assert (await actor.stats())["unwritten"] == 0
