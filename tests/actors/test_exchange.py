"""The exchange: one waits per client, everything that is ready leaves, and a client that stays away is forgotten."""

from __future__ import annotations

import asyncio
from typing import Any

from agentraft_ray.actors.exchange import EARLY_CANCELS_MAX, Exchange, Outbox
from agentraft_ray.actors.messages import Returning


def exchange(forgotten: list[Any] | None = None, **options: Any) -> Exchange[str]:
    return Exchange((forgotten if forgotten is not None else []).extend, **options)


async def test_replies_leave_at_once_and_all_together() -> None:
    here = exchange(hold_s=60)
    outbox = here.of("a")
    outbox.put(Returning(1))
    outbox.put(Returning(2))
    assert [reply.ticket for reply in await here.take(outbox)] == [1, 2]
    waiting = asyncio.create_task(here.take(outbox))
    await asyncio.sleep(0)
    outbox.put(Returning(3))
    outbox.put(Returning(4))
    assert [reply.ticket for reply in await waiting] == [3, 4]


async def test_nothing_comes_back_when_the_time_is_over() -> None:
    here = exchange(hold_s=0.01)
    assert await here.take(here.of("a")) == []


async def test_a_newer_exchange_releases_the_older_one() -> None:
    here = exchange(hold_s=60)
    older = asyncio.create_task(here.take(here.of("a")))
    await asyncio.sleep(0)
    newer = asyncio.create_task(here.take(here.of("a")))
    assert await older == []
    here.of("b").put(Returning(9))
    known = here.known("a")
    assert known is not None
    known.put(Returning(1))
    assert [reply.ticket for reply in await newer] == [1]


async def test_an_exchange_that_is_cancelled_loses_no_reply() -> None:
    here = exchange(hold_s=60)
    outbox = here.of("a")
    waiting = asyncio.create_task(here.take(outbox))
    await asyncio.sleep(0)
    outbox.put(Returning(1))
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert not outbox.is_polled
    assert [reply.ticket for reply in await here.take(outbox)] == [1]


async def test_a_client_that_stays_away_is_forgotten_and_one_that_waits_is_not() -> None:
    now, forgotten = [0.0], []
    here = exchange(forgotten, hold_s=60, client_ttl_s=60, clock=lambda: now[0])
    here.of("gone").open[1] = "its request"
    patient = here.of("patient")
    patient.open[2] = "another"
    waiting = asyncio.create_task(here.take(patient))
    await asyncio.sleep(0)
    now[0] = 59.0
    here.sweep()
    assert here.clients == 2
    now[0] = 61.0
    here.sweep()
    assert (here.clients, forgotten, here.known("gone")) == (1, ["its request"], None)
    patient.put(Returning(2))
    await waiting
    now[0] = 122.0
    here.sweep()
    assert forgotten == ["its request", "another"]


async def test_clients_are_swept_by_themselves() -> None:
    forgotten: list[str] = []
    here = exchange(forgotten, client_ttl_s=0.02)
    here.of("gone").open[1] = "its request"
    async with asyncio.timeout(5):
        while not forgotten:
            await asyncio.sleep(0.01)
    assert here.clients == 0


def test_cancellations_that_come_early_are_remembered_within_bounds() -> None:
    outbox: Outbox[str] = Outbox("a")
    for ticket in range(EARLY_CANCELS_MAX + 10):
        outbox.note_early(ticket)
    assert not outbox.was_cancelled(0)
    assert outbox.was_cancelled(EARLY_CANCELS_MAX)
    assert not outbox.was_cancelled(EARLY_CANCELS_MAX)
