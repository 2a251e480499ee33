"""The pool of a coordinator: who gets a request, and what becomes of it when its peer is lost, hangs, drains or is called off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from agentraft_ray.actors.messages import Loaded, Pong, Raised, Reply, Returned, Returning, Unloaded, Welcome, Work, decode, encode
from agentraft_ray.actors.peers import PeerLost
from agentraft_ray.actors.pools import Pool
from tests.actors.local_cluster import QUICK, until


def work(ticket: int) -> Work:
    return Work(ticket, b"definition", "run", 0, 0, 0, 0, None, None, None, ())


class Scripted:
    """A peer that notes what it gets, and answers when the test says so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.got: list[int] = []
        self.batches: list[list[int]] = []
        self.cancelled: list[int] = []
        self.ready: list[Any] = []
        self.on_work: Callable[[Work], Any] | None = None
        self.loads: Callable[[], Loaded] = lambda: Loaded(b"definition")
        self.loaded = 0
        self.is_dead = self.is_hung = False
        self._news = asyncio.Event()

    def answer(self, *replies: Any) -> None:
        self.ready += replies
        self._news.set()

    async def call(self, method: str, *args: Any) -> Any:
        if self.is_hung:
            await asyncio.Event().wait()
        if self.is_dead:
            raise PeerLost("dead", peer=self.name)
        if method == "ping":
            return encode(Pong("life", 1, 0.0))
        if method == "cancel":
            self.cancelled += args[1]
            return None
        if method == "load":
            self.loaded += 1
            return encode(self.loads())
        requests = decode(args[1], list[Work])
        self.batches.append([one.ticket for one in requests])
        self.got += self.batches[-1]
        if self.on_work is not None:
            self.ready += [reply for one in requests if (reply := self.on_work(one)) is not None]
        if not self.ready:
            self._news.clear()
            news = asyncio.create_task(self._news.wait())
            await asyncio.wait([news], timeout=0.05)
            news.cancel()
        if self.is_dead:
            raise PeerLost("dead", peer=self.name)
        replies, self.ready = self.ready, []
        return encode(replies)


class Seen:
    def __init__(self) -> None:
        self.replies: dict[int, Reply] = {}
        self.lost: list[int] = []

    def on_replies(self, replies: Sequence[Reply]) -> None:
        self.replies |= {reply.ticket: reply for reply in replies}

    def on_lost(self, requests: Sequence[Any]) -> None:
        self.lost += [one.ticket for one in requests]


@asynccontextmanager
async def pooled(*peers: Scripted, **pace: Any) -> AsyncIterator[tuple[Pool, Seen]]:
    seen = Seen()
    pool = Pool("client", peers, lambda _: b"data", seen.on_replies, seen.on_lost, pace=replace(QUICK, **pace))
    try:
        yield pool, seen
    finally:
        tasks = [task for lane in pool._lanes for task in lane._tasks]
        pool.close()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_request_alone_gets_a_peer_that_does_nothing_else() -> None:
    one, other = Scripted("one"), Scripted("other")
    async with pooled(one, other) as (pool, seen):
        pool.send(work(1))
        pool.send(work(2))
        await until(lambda: one.got and other.got, "both are at work")
        pool.send(work(3), alone=True)
        pool.send(work(4))
        await until(lambda: 4 in other.got, "the other one takes more")
        assert 3 not in one.got + other.got
        one.answer(Returned(one.got[0], b""))
        await until(lambda: 3 in one.got, "the free one takes it")
        pool.send(work(5))
        await until(lambda: 5 in other.got, "nobody else joins it there")
        one.answer(Returned(3, b""))
        await until(lambda: 3 in seen.replies, "its reply")
        pool.send(work(6))
        await until(lambda: 6 in one.got, "then it takes others again")


async def test_what_waits_is_called_off_and_what_was_sent_is_stopped() -> None:
    peer = Scripted("peer")
    async with pooled(peer) as (pool, seen):
        pool.send(work(1))
        assert pool.cancel(1)
        pool.send(work(2))
        await until(lambda: 2 in peer.got, "it is sent")
        assert not pool.cancel(2)
        await until(lambda: peer.cancelled == [2], "it is stopped")
        peer.answer(Raised(2, "raised", "called off"))
        await until(lambda: 2 in seen.replies, "it is answered all the same")
        assert 1 not in peer.got
        assert pool.open == 0


async def test_what_was_called_off_and_handed_back_runs_nowhere_else() -> None:
    one, other = Scripted("one"), Scripted("other")
    async with pooled(one, other) as (pool, seen):
        pool.send(work(1))
        await until(lambda: one.got + other.got, "it is sent")
        pool.cancel(1)
        (one if one.got else other).answer(Returning(1))
        await until(lambda: 1 in seen.replies, "whoever waits for it is told")
        assert len(one.got + other.got) == 1
        assert pool.open == 0


async def test_a_peer_that_is_not_named_any_more_gets_nothing_new_and_what_is_open_there_comes_back() -> None:
    one, other = Scripted("one"), Scripted("other")
    async with pooled(one, other) as (pool, seen):
        pool.send(work(1))
        pool.send(work(2))
        await until(lambda: one.got and other.got, "both are at work")
        pool.replace_peers([other])
        assert pool.peers == ["other"]
        pool.send(work(3))
        await until(lambda: 3 in other.got, "the other one gets what is new")
        one.answer(Returned(one.got[0], b"done"))
        await until(lambda: one.got[0] in seen.replies, "its reply")
        assert len(pool._lanes) == 1
        pool.replace_peers([one, other])
        pool.send(work(4))
        await until(lambda: 4 in one.got, "it is a peer again")


async def test_what_was_open_at_a_peer_that_dies_while_it_is_leaving_is_lost_once() -> None:
    one, other = Scripted("one"), Scripted("other")
    async with pooled(one, other) as (pool, seen):
        pool.send(work(1))
        pool.send(work(2))
        await until(lambda: one.got and other.got, "both are at work")
        pool.replace_peers([other])
        one.is_dead = True
        await until(lambda: seen.lost == one.got, "it is lost")
        assert [lane.peer.name for lane in pool._lanes] == ["other"]


async def test_a_peer_that_hands_requests_back_is_left_alone_for_a_while() -> None:
    draining = Scripted("draining")
    draining.on_work = lambda one: Returning(one.ticket)
    async with pooled(draining, rest_s=0.05) as (pool, seen):
        pool.send(work(1))
        await asyncio.sleep(0.2)
        assert 2 <= len(draining.got) <= 6
        draining.on_work = lambda one: Returned(one.ticket, b"")
        await until(lambda: 1 in seen.replies, "it is done in the end")


async def test_a_definition_that_a_peer_does_not_know_is_loaded_and_the_request_sent_again() -> None:
    peer = Scripted("peer")
    peer.on_work = lambda one: Returned(one.ticket, b"") if peer.loaded else Unloaded(one.ticket)
    async with pooled(peer) as (pool, seen):
        pool.send(work(1))
        await until(lambda: 1 in seen.replies, "its reply")
        assert peer.got == [1, 1]


async def test_a_peer_that_cannot_load_is_free_for_others_afterwards() -> None:
    peer = Scripted("peer")
    peer.on_work = lambda one: Unloaded(one.ticket)
    peer.loads = lambda: Loaded(b"", "InvalidPipeline", "no such module")
    async with pooled(peer) as (pool, seen):
        pool.send(work(1), alone=True)
        await until(lambda: 1 in seen.replies, "its refusal")
        assert isinstance(seen.replies[1], Raised)
        peer.on_work = lambda one: Returned(one.ticket, b"")
        pool.send(work(2))
        await until(lambda: 2 in seen.replies, "the next one is not refused for ever")


async def test_a_peer_that_hangs_is_given_up_and_what_it_had_is_lost() -> None:
    peer = Scripted("peer")
    async with pooled(peer, stall_s=0.02, ping_s=0.02) as (pool, seen):
        pool.send(work(1))
        await until(lambda: 1 in peer.got, "it is sent")
        peer.is_hung = True
        pool.send(work(2))
        await until(lambda: sorted(seen.lost) == [1, 2], "both are lost")
        pool.send(work(3))
        peer.is_hung = False
        await until(lambda: 3 in peer.got, "it is asked again when it answers")


async def test_a_slow_peer_that_answers_pings_keeps_its_requests() -> None:
    peer = Scripted("peer")
    async with pooled(peer, stall_s=0.01) as (pool, seen):
        pool.send(work(1))
        await asyncio.sleep(0.1)
        assert not seen.lost
        peer.answer(Returned(1, b""))
        await until(lambda: 1 in seen.replies, "its reply")


async def test_what_died_between_two_exchanges_is_lost_and_what_is_on_its_way_is_not() -> None:
    peer = Scripted("peer")
    async with pooled(peer) as (pool, seen):
        pool.send(work(1))
        await until(lambda: 1 in peer.got, "it is sent")
        await until(lambda: len(peer.batches) > 1, "it is polled for")
        pool.send(work(2))
        await until(lambda: 2 in peer.got, "the next one is on its way")
        peer.answer(Welcome("another life"))
        await until(lambda: seen.lost, "the peer has begun a new life")
        assert seen.lost == [1]
        peer.answer(Returned(2, b""))
        await until(lambda: 2 in seen.replies, "its reply")


async def test_what_was_lost_before_its_exchange_began_is_not_sent() -> None:
    peer = Scripted("peer")
    async with pooled(peer) as (pool, seen):
        lane = pool._lanes[0]
        lane.push([work(1)])
        lane._lost(PeerLost("gone", peer="peer"))
        await until(lambda: lane.is_up, "it is back")
        assert peer.got == []
        assert seen.lost == [1]
        assert lane._in_flight == 0


async def test_nothing_new_is_sent_while_the_pool_is_held() -> None:
    peer = Scripted("peer")
    async with pooled(peer) as (pool, _):
        pool.hold(True)
        pool.send(work(1))
        await asyncio.sleep(0.02)
        assert not peer.got
        pool.hold(False)
        await until(lambda: peer.got == [1], "it is sent")
