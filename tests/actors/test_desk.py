"""The desk: every notice reaches its client, once it is confirmed it is gone, and so is a client that stays silent."""

from __future__ import annotations

import asyncio

from agentraft_ray.actors.client_messages import Attached
from agentraft_ray.actors.desk import Desk


def notice(number: int) -> Attached:
    return Attached("run", number)


async def test_a_notice_is_kept_until_it_is_confirmed() -> None:
    desk = Desk("life", hold_s=0.01)
    session = desk.welcome("a")
    desk.put("a", notice(1))
    desk.put("a", notice(2))
    first = await desk.collect("a", "", 0)
    assert (first.session, first.start, first.notices) == (session, 0, [notice(1), notice(2)])
    again = await desk.collect("a", session, 1)
    assert (again.start, again.notices) == (1, [notice(2)])
    assert (await desk.collect("a", session, 2)).notices == []
    assert desk.waiting == 0


async def test_what_another_session_has_seen_confirms_nothing() -> None:
    desk = Desk("life", hold_s=0.01)
    desk.welcome("a")
    desk.put("a", notice(1))
    assert (await desk.collect("a", "another life.1", 7)).notices == [notice(1)]


async def test_one_question_of_a_client_waits_at_a_time() -> None:
    desk = Desk("life", hold_s=60)
    older = asyncio.create_task(desk.collect("a", "", 0))
    await asyncio.sleep(0)
    newer = asyncio.create_task(desk.collect("a", "", 0))
    assert (await older).notices == []
    desk.put("a", notice(1))
    assert (await newer).notices == [notice(1)]


async def test_a_silent_client_is_forgotten_and_finds_itself_in_another_session() -> None:
    now = {"s": 0.0}
    desk = Desk("life", hold_s=0.01, silent_s_max=60, clock=lambda: now["s"])
    session = desk.welcome("a")
    now["s"] = 59.0
    desk.welcome("b")
    desk.forget_silent()
    assert len(desk) == 2
    now["s"] = 61.0
    desk.put("a", notice(1))
    desk.forget_silent()
    assert len(desk) == 1
    desk.put("a", notice(2))
    later = await desk.collect("a", session, 0)
    assert later.session != session
    assert later.notices == []
