"""An actor answers its control calls from another thread, whatever its work loop does."""

from __future__ import annotations

import asyncio
import threading
import time

from agentraft_ray.actors.control import Controlled, Figures
from agentraft_ray.actors.messages import Pong, decode


class Worker(Controlled):
    def __init__(self) -> None:
        super().__init__()
        self.drained_in: list[int] = []

    async def work(self) -> None:
        self.at_work()

    async def block(self, until: threading.Event) -> None:
        self.at_work()
        until.wait(20)

    def _begin_drain(self) -> None:
        self.drained_in.append(threading.get_ident())

    def _figures(self) -> Figures:
        return {"steps": 3}


async def pinged(actor: Controlled) -> Pong:
    return decode(await actor.ping(), Pong)


async def test_a_ping_answers_while_the_work_loop_is_blocked_and_says_how_late_it_is() -> None:
    actor, release = Worker(), threading.Event()
    assert (await pinged(actor)).lag_s == 0.0
    thread = threading.Thread(target=lambda: asyncio.run(actor.block(release)))
    thread.start()
    deadline = time.monotonic() + 10
    while (await pinged(actor)).lag_s < 0.2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    release.set()
    thread.join()


async def test_a_work_loop_that_ticks_has_no_lag_and_every_life_its_own_name() -> None:
    actor = Worker()
    await actor.work()
    await asyncio.sleep(0)
    assert (await pinged(actor)).lag_s < 0.5
    assert (await pinged(actor)).incarnation == actor.incarnation != Worker().incarnation


async def test_draining_begins_once_and_on_the_work_loop() -> None:
    actor = Worker()
    assert not actor.is_draining
    await asyncio.to_thread(lambda: asyncio.run(actor.drain()))
    await asyncio.to_thread(lambda: asyncio.run(actor.drain()))
    assert actor.is_draining
    async with asyncio.timeout(10):
        while not actor.drained_in:
            await asyncio.sleep(0)
    assert actor.drained_in == [threading.get_ident()]
    figures = await actor.stats()
    assert (figures["draining"], figures["steps"], figures["incarnation"]) == (1, 3, actor.incarnation)


def test_an_actor_made_outside_a_loop_takes_that_of_its_first_work() -> None:
    actor = Worker()

    async def life() -> float:
        await actor.work()
        return (await pinged(actor)).lag_s

    assert asyncio.run(life()) < 0.5
    asyncio.run(actor.drain())
    assert actor.is_draining
