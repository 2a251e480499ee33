"""The loop of a shard by itself: whose answer is whose, and what it holds."""

from __future__ import annotations

import time
from typing import Any

from agentraft_ray import Step
from agentraft_ray.actors.live import LiveRun
from agentraft_ray.actors.shard import Shard
from agentraft_ray.checkpoint.memory import InMemoryCheckpointStore
from agentraft_ray.checkpoint.seal import PlainSeal
from agentraft_ray.identity import OwnerToken
from agentraft_ray.protocol.messages import AcquirePermit, PermitGranted
from agentraft_ray.protocol.records import OwnerClaimed, RunAdmitted, encode_record
from agentraft_ray.protocol.state import RunState
from tests.actors.hosted import TASK, blueprint


class Requests:
    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, request: Any, *, alone: bool = False) -> None:
        self.sent.append(request)

    def cancel(self, ticket: int) -> bool:
        return False


class Breakers:
    """Asks the breaker about everything."""

    def __init__(self) -> None:
        self.asked: list[AcquirePermit] = []
        self.settled: list[tuple[object, str]] = []

    def acquire(self, command: AcquirePermit, run_id: str, now: float) -> None:
        self.asked.append(command)

    def settle(self, permit: object, outcome: str) -> None:
        self.settled.append((permit, outcome))


class Hosted:
    """A program without a definition."""

    def __init__(self) -> None:
        self.blueprint = blueprint([Step("a", lambda ctx: "x")])
        self.plan = self.blueprint.plan
        self.fingerprint = self.plan.fingerprint
        self.groups = ("",)
        self.breakers = Breakers()
        self.counter = None


def run(program: Hosted, run_id: str) -> LiveRun:
    state = RunState(run_id)
    token = OwnerToken(1, "owner")
    for record in (
        RunAdmitted(run_id, TASK, program.plan.spec, program.fingerprint, time.time()),
        OwnerClaimed(token.epoch, token.owner, time.time()),
    ):
        state.apply(record, encode_record(record))
    return LiveRun(program, state, {}, InMemoryCheckpointStore(), PlainSeal())  # type: ignore[arg-type]


def shard_of(workers: Requests) -> Shard:
    return Shard(time.time, PlainSeal(), lambda _: workers, Requests())


def test_two_runs_that_ask_the_breaker_under_the_same_number_get_an_answer_each() -> None:
    program, workers = Hosted(), Requests()
    shard = shard_of(workers)
    for run_id in ("one", "other"):
        shard.adopt(run(program, run_id))
    first, second = program.breakers.asked
    assert first.call == second.call
    shard.permitted(PermitGranted(first.call, "permit 1"))
    assert [work.run_id for work in workers.sent] == ["one"]
    shard.permitted(PermitGranted(second.call, "permit 2"))
    assert [work.run_id for work in workers.sent] == ["one", "other"]
    assert not shard._asked


def test_a_permit_for_a_run_that_is_gone_is_given_back() -> None:
    program, workers = Hosted(), Requests()
    shard = shard_of(workers)
    live = run(program, "run")
    shard.adopt(live)
    shard.drop(live)
    shard.permitted(PermitGranted(program.breakers.asked[0].call, "permit"))
    assert program.breakers.settled == [("permit", "released")]
    assert not workers.sent


def test_a_run_that_was_dropped_begins_nothing_when_its_worker_is_lost() -> None:
    program, workers = Hosted(), Requests()
    shard = shard_of(workers)
    live = run(program, "run")
    shard.adopt(live)
    shard.permitted(PermitGranted(program.breakers.asked[0].call, "permit"))
    assert len(workers.sent) == 1
    shard.drop(live)
    shard.lost(workers.sent[:1])
    assert len(workers.sent) == 1
    assert not shard._calls


def test_a_run_that_comes_while_the_shard_drains_is_put_aside() -> None:
    program, workers = Hosted(), Requests()
    shard = shard_of(workers)
    shard.drain()
    shard.adopt(run(program, "run"))
    assert not program.breakers.asked
    assert len(shard.appends) == 1
    assert shard.appends[0].state.parked == ("drained",)
