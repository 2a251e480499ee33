"""A program's link to a shard: submissions are made again where they must be, and every notice is taken once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agentraft_ray.actors.client_messages import SHARD_FULL, Accepted, Collected, Outcome, Submission, Submitted
from agentraft_ray.actors.messages import decode, encode
from agentraft_ray.actors.peers import PeerLost
from agentraft_ray.cluster.links import Following, Link
from agentraft_ray.errors import StoreUnavailable
from tests.actors.local_cluster import until


class Shard:
    """What a shard says, as a test has it."""

    name = "shard"

    def __init__(self) -> None:
        self.session = "one"
        self.submitted: list[str] = []
        self.notices: list[Any] = []
        self.start = 0
        self.accept: Callable[[Submission], Accepted] = lambda one: Accepted(one.run_id, True)
        self.is_gone = False

    async def call(self, method: str, *args: Any) -> Any:
        await asyncio.sleep(0)
        if self.is_gone:
            raise PeerLost("gone", peer=self.name)
        if method == "submit":
            asked = decode(args[1], list[Submission])
            self.submitted += [one.run_id for one in asked]
            return encode(Submitted(self.session, [self.accept(one) for one in asked]))
        assert method == "collect"
        await asyncio.sleep(0.002)
        return encode(Collected(self.session, self.start, self.notices))


def following(run_id: str) -> Following:
    return Following(Submission(run_id, b"", None), asyncio.get_running_loop().create_future())


def link_to(shard: Shard, **words: Any) -> Link:
    return Link("client", shard, lambda _: b"", pauses_s=(0.001,), **words)


async def test_what_was_taken_in_before_the_first_answer_of_another_session_is_submitted_again() -> None:
    shard = Shard()
    link, run = link_to(shard), following("run")
    link.follow(run)
    await run.accepted
    shard.session = "two"
    await until(lambda: len(shard.submitted) == 2, "it is submitted again")
    shard.notices = [Outcome("run", "succeeded")]
    assert (await run.ended).status == "succeeded"
    await link.close()


async def test_a_notice_that_comes_twice_is_taken_once() -> None:
    shard, heard = Shard(), []
    link, run = link_to(shard), following("run")
    run.on_waiting = heard.append
    link.follow(run)
    shard.notices = [Outcome("run", "waiting")]
    await until(lambda: heard, "the notice")
    await asyncio.sleep(0.02)
    assert len(heard) == 1
    await link.close()


async def test_a_full_shard_is_asked_again() -> None:
    shard = Shard()
    full = {"times": 3}

    def accept(one: Submission) -> Accepted:
        full["times"] -= 1
        return Accepted(one.run_id, True) if full["times"] < 0 else Accepted(one.run_id, False, SHARD_FULL)

    shard.accept = accept
    link, run = link_to(shard), following("run")
    link.follow(run)
    assert (await run.accepted).created
    assert len(shard.submitted) == 4
    await link.close()


async def test_one_of_two_that_follow_a_run_may_leave() -> None:
    shard = Shard()
    link, one, other = link_to(shard), following("run"), following("run")
    link.follow(one)
    link.follow(other)
    await one.accepted
    link.forget(one)
    shard.notices = [Outcome("run", "succeeded")]
    assert (await other.ended).status == "succeeded"
    assert not one.ended.done()
    await link.close()


async def test_a_shard_that_stays_away_fails_its_runs() -> None:
    shard = Shard()
    shard.is_gone = True
    link, run = link_to(shard, lost_s_max=0.01), following("run")
    link.follow(run)
    with pytest.raises(StoreUnavailable, match="resumed on another cluster"):
        await run.accepted
    await link.close()


async def test_a_link_that_had_nothing_to_follow_listens_again() -> None:
    shard = Shard()
    link = link_to(shard)
    for run_id in ("one", "two", "three"):
        run = following(run_id)
        link.follow(run)
        await run.accepted
        shard.notices = [*shard.notices, Outcome(run_id, "succeeded")]
        assert (await run.ended).status == "succeeded"
    await link.close()
