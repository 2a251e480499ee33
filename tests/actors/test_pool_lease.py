"""A pool sends nothing while its coordinator's lease is late, whatever it was about to send when the process was stopped."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from agentraft_ray import Step
from agentraft_ray.actors.exchange import Outbox
from agentraft_ray.actors.messages import Loaded, Reply, Returned, Returning, Unloaded, Welcome, Work, decode, encode
from agentraft_ray.actors.pools import Pool
from tests.actors.hosted import Client, blueprint, worker
from tests.actors.local_cluster import until


class Worker:
    """A peer that answers everything at once; `unknown`: it must load the definition first, which takes until `loads` is set."""

    name = "worker"

    def __init__(self, *, unknown: bool = False) -> None:
        self.begun: list[int] = []
        self.loads = asyncio.Event()
        self.asked_to_load = False
        self._unknown = unknown

    async def call(self, method: str, *args: Any) -> Any:
        if method == "load":
            self.asked_to_load = True
            await self.loads.wait()
            self._unknown = False
            return encode(Loaded(b"it"))
        assert method == "exchange"
        replies: list[Reply] = []
        for work in decode(args[1], list[Work]):
            if self._unknown:
                replies.append(Unloaded(work.ticket))
            else:
                self.begun.append(work.ticket)
                replies.append(Returned(work.ticket, b""))
        return encode(replies)


class Lease:
    late = False


def pool(peer: Worker, lease: Lease) -> tuple[Pool, list[Reply]]:
    replies: list[Reply] = []
    return Pool("client", [peer], lambda _: b"its text", replies.extend, lambda _: None, is_late=lambda: lease.late), replies


def work(ticket: int) -> Work:
    return Work(ticket, b"it", "run", 0, 0, 0, 0, None, None, None, ())


async def test_what_was_queued_when_the_lease_became_late_waits_until_it_is_fresh() -> None:
    peer, lease = Worker(), Lease()
    made, replies = pool(peer, lease)
    made.send(work(1))
    lease.late = True  # the process is stopped here, before its loop comes to send
    for _ in range(20):
        await asyncio.sleep(0)
    assert peer.begun == []
    assert made.cancel(1), "it was never sent, and can be called off"
    made.send(work(2))
    lease.late = False
    made.hold(False)
    await until(lambda: bool(replies), "a reply")
    assert peer.begun == [2]
    made.close()


async def test_what_waited_for_its_definition_is_not_sent_by_a_late_coordinator() -> None:
    peer, lease = Worker(unknown=True), Lease()
    made, replies = pool(peer, lease)
    made.send(work(1))
    await until(lambda: peer.asked_to_load, "it is loaded")
    lease.late = True
    peer.loads.set()
    await until(lambda: len(made.queue) == 1, "it is back in the queue")
    assert peer.begun == []
    lease.late = False
    made.hold(False)
    await until(lambda: bool(replies), "a reply")
    assert peer.begun == [1]
    made.close()


async def test_a_message_that_was_under_way_while_its_sender_was_stopped_is_handed_back() -> None:
    here = Outbox[str]("client")
    assert not here.is_old("", time.monotonic() - 1e6, 2.0), "the clocks of two machines differ by anything; the first message is believed"
    assert not here.is_old(here.session, time.monotonic() - 1e6 - 1.0, 2.0)
    assert here.is_old(here.session, time.monotonic() - 1e6 - 3.0, 2.0)
    assert not here.is_old(here.session, time.monotonic() - 1e6, 2.0)
    assert not here.is_old(here.session, 0.0, 0.0), "a sender that does not mind"
    assert here.is_old("another", time.monotonic() - 1e6, 2.0), "it was sent to an outbox that is gone"


async def test_a_worker_does_not_begin_what_an_old_message_asks_for() -> None:
    of = blueprint([Step("a", lambda ctx: ctx.run_id)])
    here = Client(worker(of), of)
    await here.load()
    ask, now = here.work(), time.monotonic()
    await here.actor.exchange("client", encode([]), now, 2.0)
    replies = decode(await here.actor.exchange("client", encode([ask]), now - 3.0, 2.0), list[Reply | Welcome])
    assert replies[-1] == Returning(ask.ticket)


async def test_what_a_stopped_coordinator_had_sent_is_handed_back_when_others_have_gone_on_with_its_runs() -> None:
    """The worker has forgotten it by then: whether its message is old cannot be seen from what came before."""
    ran: list[str] = []
    of = blueprint([Step("a", lambda ctx: ran.append(ctx.run_id) or "done")])  # type: ignore[func-returns-value]
    here = Client(worker(of), of, "cluster/0:first-life")
    await here.load()
    assert (await here.ask(here.work(run_id="before"))).ticket == 1
    late = here.work(run_id="after")
    session, sent_at = here.session, time.monotonic() - 15.0
    await here.actor.disown("cluster/0:", "cluster/1:heir")
    replies = decode(await here.actor.exchange(here.name, encode([late]), sent_at, 2.0, session), list[Reply | Welcome])
    assert isinstance(replies[0], Welcome)
    assert replies[1:] == [Returning(late.ticket)]
    assert ran == ["before"]
    here.session = replies[0].session
    assert isinstance(await here.ask(here.work(run_id="its own still")), Returned)
