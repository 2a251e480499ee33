"""What a shard decides by itself and what it takes from the breaker actor: cascades, probes, restarts, lost messages. No waiting."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentraft_ray.actors.breaker_messages import Answer, BreakerSettings, Report
from agentraft_ray.actors.breaker_shard import Leave, Pace, ShardBreakers
from agentraft_ray.actors.messages import decode
from agentraft_ray.breaker import BreakerPolicy, BreakerState, Permit
from agentraft_ray.protocol.messages import PermitDenied, PermitGranted
from tests.actors.breaker_cluster import POLICY, SCOPE, ActorPeer, Cluster, command

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
Event = PermitGranted | PermitDenied


class Shard:
    """A shard whose messages travel when the test says so. Its clock is not the actor's."""

    def __init__(
        self, cluster: Cluster, name: str, *, ahead_s: float = 0.0, policy: BreakerPolicy = POLICY, pace: Pace | None = None
    ) -> None:
        self.cluster, self.name, self.ahead_s = cluster, name, ahead_s
        self.peer = ActorPeer(cluster)
        self.wakes = self.attempts = 0
        self.breakers = ShardBreakers(policy, name, self._wake, pace)

    def _wake(self) -> None:
        self.wakes += 1

    @property
    def now_s(self) -> float:
        return self.cluster.clock.now_s + self.ahead_s

    def ask(self, run: str = "run", scope: str = SCOPE) -> Event | None:
        self.attempts += 1
        return self.breakers.acquire(command(self.attempts, scope, self.name), run, self.now_s)

    def leave(self, run: str = "run", scope: str = SCOPE) -> object:
        answer = self.ask(run, scope)
        assert isinstance(answer, PermitGranted)
        return answer.permit

    def end(self, permit: object, outcome: str) -> None:
        self.breakers.settle(permit, outcome, self.now_s)

    def fail(self, count: int = 1, scope: str = SCOPE) -> None:
        for permit in [self.leave(f"run{n}", scope) for n in range(count)]:
            self.end(permit, "failure")

    @property
    def state(self) -> BreakerState:
        return self.breakers.state(SCOPE, self.now_s)

    async def report(self) -> Report | None:
        """Send the report that is due, if one is; what it said."""
        due_s = self.breakers.next_report_at(self.now_s)
        if due_s is None or due_s > self.now_s:
            return None
        data = self.breakers.take_report(self.now_s)
        self.breakers.reported(await self.peer.call("report", data), self.now_s)
        return decode(data, Report)

    async def question(self) -> list[Event]:
        data = self.breakers.take_questions()
        return [] if data is None else self.breakers.answered(await self.peer.call("acquire", data), self.now_s)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


async def shards(cluster: Cluster, count: int = 2) -> list[Shard]:
    made = [Shard(cluster, f"shard{n}", ahead_s=1000.0 * n) for n in range(count)]
    for shard in made:
        assert await shard.report() is not None
    return made


async def test_a_closed_scope_is_decided_here_and_successes_alone_are_told_later_and_clipped(cluster: Cluster) -> None:
    (shard,) = await shards(cluster, 1)
    for _ in range(500):
        permit = shard.leave()
        assert isinstance(permit, Leave)
        shard.end(permit, "success")
    assert shard.wakes == 2  # the first leave, the first success
    assert await shard.report() is None
    assert shard.breakers.next_report_at(shard.now_s) == shard.now_s + 0.1
    cluster.clock.now_s += 0.1
    sent = await shard.report()
    assert sent is not None
    assert [len(one.outcomes) for one in sent.scopes] == [POLICY.window]
    assert sent.scopes[0].outcomes[-1][0] == "shard0/500"
    assert shard.breakers.next_report_at(shard.now_s) is None


async def test_a_failure_is_told_at_once_with_the_successes_before_it_in_their_order(cluster: Cluster) -> None:
    (shard,) = await shards(cluster, 1)
    for outcome in ("success", "failure", "success", "failure"):
        shard.end(shard.leave(), outcome)
    sent = await shard.report()
    assert sent is not None
    assert [failed for _, _, failed in sent.scopes[0].outcomes] == [False, True, False, True]


async def test_a_cascade_over_two_shards_opens_the_scope_in_both_within_the_attempts_in_flight(cluster: Cluster) -> None:
    one, two = await shards(cluster)
    flying = [(shard, shard.leave(f"run{n}")) for n in range(2) for shard in (one, two)]
    for shard, permit in flying:
        shard.end(permit, "failure")
    assert (one.state, two.state) == (CLOSED, CLOSED)  # two failures each: neither knows of the other's
    await one.report()
    await two.report()
    assert two.state is OPEN
    assert isinstance(one.ask(), PermitGranted)  # it ends in an hour; what two saw is heard within a second
    cluster.clock.now_s = one.breakers.next_report_at(one.now_s) or 0.0
    assert cluster.clock.now_s <= 1001.0
    await one.report()
    assert one.state is OPEN
    for shard in (one, two):
        assert all(isinstance(shard.ask(f"run{n}"), PermitDenied) for n in range(1000))
        other = shard.ask(scope="report/review")
        assert isinstance(other, PermitGranted)
    denied = two.ask()
    assert isinstance(denied, PermitDenied)
    assert 0 < denied.retry_at - two.now_s <= 10.0  # by the shard's own clock


async def test_a_scope_opens_here_at_once_while_the_actor_is_down_and_its_word_holds_when_it_comes(cluster: Cluster) -> None:
    one, two = await shards(cluster)
    for _ in range(4):
        two.end(two.leave(), "success")
    one.fail(3)
    assert one.state is OPEN
    assert isinstance(one.ask(), PermitDenied)
    data = one.breakers.take_report(one.now_s)
    cluster.restart()
    one.breakers.reported(await one.peer.call("report", data), one.now_s)
    assert one.state is OPEN
    await two.report()
    cluster.clock.now_s += 0.1
    await two.report()
    assert two.state is OPEN


async def test_an_older_word_does_not_close_what_was_opened_here_but_one_that_has_heard_why_does(cluster: Cluster) -> None:
    lenient = BreakerPolicy(failure_threshold=3, runs_min=2)
    shard, other = (Shard(cluster, name, policy=lenient) for name in ("one", "two"))
    for each in (shard, other):
        await each.report()
    shard.end(shard.leave("a"), "failure")
    data = shard.breakers.take_report(shard.now_s)
    reply = await shard.peer.call("report", data)
    for run in ("a", "b"):
        shard.end(shard.leave(run), "failure")
    assert shard.state is OPEN
    shard.breakers.reported(reply, shard.now_s)
    assert shard.state is OPEN
    other.end(other.leave("c"), "success")  # heard between the failures: for the cluster they are not in a row
    cluster.clock.now_s += 0.1
    await other.report()
    await shard.report()
    assert shard.state is CLOSED
    assert isinstance(shard.ask(), PermitGranted)


async def test_after_the_cooldown_one_question_goes_out_and_the_others_come_back_within_two_seconds(cluster: Cluster) -> None:
    one, two = await shards(cluster)
    one.fail(3)
    await one.report()
    cluster.clock.now_s += 1.0
    two.end(two.leave(), "success")
    cluster.clock.now_s += 0.1
    await two.report()
    cluster.clock.now_s += 10.0
    answers = [shard.ask(f"run{n}") for n in range(50) for shard in (one, two)]
    assert answers.count(None) == 2
    delays = [one.now_s + 1000.0 * (n % 2) for n in range(100)]
    waits = [answer.retry_at - now_s for answer, now_s in zip(answers, delays, strict=True) if isinstance(answer, PermitDenied)]
    assert len(waits) == 98
    assert all(1.0 <= wait_s <= 2.0 for wait_s in waits)
    assert len({round(wait_s, 6) for wait_s in waits}) > 40
    (granted,) = await one.question()
    (denied,) = await two.question()
    assert isinstance(granted, PermitGranted)
    assert isinstance(granted.permit, Permit)
    assert isinstance(denied, PermitDenied)
    assert 1.0 <= denied.retry_at - two.now_s <= 2.0
    assert two.ask() is not None  # who the probe is, is known: no second question before it is given up
    one.end(granted.permit, "success")
    assert await one.report() is not None
    assert (one.state, two.state) == (CLOSED, HALF_OPEN)
    cluster.clock.now_s += 0.5
    await two.report()
    assert two.state is CLOSED


async def test_a_question_about_a_scope_that_is_closed_by_now_is_answered_with_leave(cluster: Cluster) -> None:
    one, two = await shards(cluster)
    one.fail(3)
    two.fail(3)
    await one.report()
    await two.report()
    cluster.clock.now_s += 10.0
    assert one.ask() is None
    assert two.ask() is None
    (granted,) = await one.question()
    assert isinstance(granted, PermitGranted)
    one.end(granted.permit, "success")
    await one.report()
    (leave,) = await two.question()
    assert isinstance(leave, PermitGranted)
    assert isinstance(leave.permit, Leave)
    assert two.state is CLOSED


async def test_a_failed_probe_opens_the_scope_for_another_cooldown_everywhere(cluster: Cluster) -> None:
    one, two = await shards(cluster)
    for shard in (one, two):
        shard.fail(3)
        await shard.report()
    cluster.clock.now_s += 10.0
    assert one.ask() is None
    (granted,) = await one.question()
    assert isinstance(granted, PermitGranted)
    one.end(granted.permit, "failure")
    await one.report()
    await two.report()
    for shard in (one, two):
        denied = shard.ask()
        assert isinstance(denied, PermitDenied)
        assert denied.retry_at == shard.now_s + 10.0


async def test_the_probe_under_way_outlives_the_actor_and_a_lost_one_is_given_up(cluster: Cluster) -> None:
    one, two = await shards(cluster)
    for shard in (one, two):
        shard.fail(3)
        await shard.report()
    cluster.clock.now_s += 10.0
    assert one.ask() is None
    data = one.breakers.take_questions()
    await one.peer.call("acquire", data)  # issued, but the reply is lost with the actor
    cluster.restart()
    assert two.ask() is None
    assert isinstance((await two.question())[0], PermitDenied)
    (granted,) = one.breakers.answered(await one.peer.call("acquire", data), one.now_s)
    assert isinstance(granted, PermitGranted)  # the same question again, the same probe
    cluster.restart()
    cluster.clock.now_s += 20.0
    assert two.ask() is None
    (following,) = await two.question()
    assert isinstance(following, PermitGranted)
    one.end(granted.permit, "success")
    await one.report()
    assert one.state is HALF_OPEN
    two.end(following.permit, "success")
    await two.report()
    assert two.state is CLOSED


async def test_a_shard_that_was_cut_off_catches_up_with_its_first_report(cluster: Cluster) -> None:
    one, two = await shards(cluster)
    early = two.leave()
    one.fail(3)
    await one.report()
    cluster.clock.now_s += 10.0
    assert one.ask() is None
    (granted,) = await one.question()
    assert isinstance(granted, PermitGranted)
    one.end(granted.permit, "success")
    await one.report()
    two.fail(2)  # all this while it knew nothing
    two.end(early, "failure")
    assert two.state is OPEN
    await two.report()
    assert two.state is CLOSED  # failures of a generation that is over have opened nothing
    assert two.leave() == Leave(SCOPE, one.leave().generation, "shard1/4", "run")  # type: ignore[attr-defined]
    cluster.restart()
    one.fail(3)
    await one.report()
    cluster.clock.now_s += 0.1
    two.end(two.leave(), "success")
    cluster.clock.now_s += 0.1
    await two.report()
    assert two.state is OPEN


async def test_while_a_scope_is_open_the_shard_asks_for_news_without_anything_to_tell(cluster: Cluster) -> None:
    (shard,) = await shards(cluster, 1)
    assert shard.breakers.next_report_at(shard.now_s) is None
    shard.fail(3)
    await shard.report()
    assert shard.breakers.next_report_at(shard.now_s) == shard.now_s + 1.0
    cluster.clock.now_s += 10.0
    sent = await shard.report()
    assert sent is not None
    assert sent.watched == (SCOPE,)
    assert shard.breakers.next_report_at(shard.now_s) == shard.now_s + 0.5


async def test_an_actor_that_cannot_be_asked_is_asked_again_later(cluster: Cluster) -> None:
    (shard,) = await shards(cluster, 1)
    shard.fail(3)
    cluster.clock.now_s += 10.0
    assert shard.ask() is None
    assert shard.breakers.take_questions() is not None
    assert shard.breakers.take_questions() is None
    (event,) = shard.breakers.give_up(shard.now_s)
    assert isinstance(event, PermitDenied)
    assert isinstance(shard.ask(), PermitDenied)
    cluster.clock.now_s += 1.0
    assert shard.ask() is None


async def test_buffers_are_bounded_while_the_actor_is_away(cluster: Cluster) -> None:
    policy = BreakerPolicy(failure_threshold=3, runs_min=9, scopes_max=4)
    shard = Shard(cluster, "one", policy=policy, pace=Pace(report_outcomes_max=100))
    for n in range(2000):
        shard.end(shard.leave("run", scope=f"scope{n % 8}"), "success" if n % 3 else "failure")
    total, sent = 0, await shard.report()
    while sent is not None and sent.scopes:
        assert sum(len(one.outcomes) for one in sent.scopes) <= 100 + 4 * policy.window
        total += sum(len(one.outcomes) for one in sent.scopes)
        sent = await shard.report()
    assert 0 < total <= 4 * 4 * policy.window


async def test_a_clock_that_goes_back_delays_by_one_cooldown_at_most(cluster: Cluster) -> None:
    (shard,) = await shards(cluster, 1)
    shard.fail(3)
    shard.ahead_s -= 500.0
    denied = shard.ask()
    assert isinstance(denied, PermitDenied)
    assert denied.retry_at <= shard.now_s + 10.0
    assert shard.breakers.next_report_at(shard.now_s) is not None


# --- laws over random interleavings ----------------------------------------------------------------------------------------

_SCOPES = ("x", "y")
_SELDOM = st.sampled_from([False, False, False, True])
_LAW_POLICY = BreakerPolicy(failure_threshold=1, runs_min=1, cooldown_s=5.0, probe_ttl_s=4.0, permit_ttl_s=16.0)


class ClusterLaws(RuleBasedStateMachine):
    """Three shards, an actor that is killed, replies that are late or lost. The model knows every probe that ever left the actor."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.cluster = self.runner.run(self._made())
        self.shards = [Shard(self.cluster, f"shard{n}", ahead_s=50.0 * n, policy=_LAW_POLICY) for n in range(3)]
        self.held: list[tuple[Shard, object]] = []
        self.probes: dict[int, Permit] = {}
        self.over: set[int] = set()
        self.replies: dict[tuple[str, str], bytes] = {}  # (shard, method) -> what is on its way back

    async def _made(self) -> Cluster:
        return Cluster(BreakerSettings(write_every_s=1e6))

    def teardown(self) -> None:
        try:
            self.everything_closes_in_the_end()
        finally:
            self.runner.close()

    def sent(self, shard: Shard, method: str, data: bytes) -> bytes:
        reply: bytes = self.runner.run(shard.peer.call(method, data))
        if method == "report":
            self.over |= {one.permit.number for one in decode(data, Report).settled}
            return reply
        for _, permit in decode(reply, Answer).answers:
            if permit is not None:
                self.probes[permit.number] = permit
        return reply

    @rule(shard=st.integers(0, 2), run=st.sampled_from("ab"), scope=st.sampled_from(_SCOPES))
    def ask(self, shard: int, run: str, scope: str) -> None:
        asker = self.shards[shard]
        self.take(asker, asker.ask(run, scope))

    def take(self, shard: Shard, event: Event | None) -> None:
        if isinstance(event, PermitGranted):
            self.held.append((shard, event.permit))
        elif isinstance(event, PermitDenied):
            assert event.retry_at > shard.now_s

    @rule(data=st.data(), outcome=st.sampled_from(["failure", "failure", "success", "released"]), keep=st.booleans())
    def settle(self, data: st.DataObject, outcome: str, keep: bool) -> None:
        if self.held:
            index = data.draw(st.integers(0, len(self.held) - 1))
            shard, permit = self.held[index] if keep else self.held.pop(index)
            shard.end(permit, outcome)

    @rule(shard=st.integers(0, 2), is_lost=_SELDOM, is_late=_SELDOM)
    def report(self, shard: int, is_lost: bool, is_late: bool) -> None:
        self.exchange(self.shards[shard], "report", is_lost, is_late)

    @rule(shard=st.integers(0, 2), scope=st.sampled_from(_SCOPES), is_lost=_SELDOM, is_late=_SELDOM)
    def question(self, shard: int, scope: str, is_lost: bool, is_late: bool) -> None:
        self.ask(shard, "a", scope)
        self.exchange(self.shards[shard], "acquire", is_lost, is_late)

    def exchange(self, shard: Shard, method: str, is_lost: bool, is_late: bool) -> None:
        """Send what is due, or again what is under way; the reply comes now, later, or never."""
        breakers, key = shard.breakers, (shard.name, method)
        reply = self.replies.pop(key, None)
        if reply is None:
            if method == "report":
                data = breakers.report_in_flight or breakers.take_report(shard.now_s)
            else:
                data = breakers.questions_in_flight or breakers.take_questions() or b""
            if not data:
                return
            reply = self.sent(shard, method, data)
        if is_lost:
            return
        if is_late:
            self.replies[key] = reply
        elif method == "report":
            breakers.reported(reply, shard.now_s)
        else:
            for event in breakers.answered(reply, shard.now_s):
                self.take(shard, event)

    @rule(shard=st.integers(0, 2), scope=st.sampled_from(_SCOPES))
    def cascade(self, shard: int, scope: str) -> None:
        event = self.shards[shard].ask("a", scope)
        if isinstance(event, PermitGranted):
            self.shards[shard].end(event.permit, "failure")
            self.exchange(self.shards[shard], "report", False, False)

    @rule(passed_s=st.sampled_from([0.1, 1.0, 4.0, 5.0, 5.0]))
    def wait(self, passed_s: float) -> None:
        self.cluster.clock.now_s += passed_s

    @rule()
    def kill(self) -> None:
        before = self.tripped()
        self.runner.run(self._restart())
        assert before == self.tripped(), "a restart forgot a trip"

    async def _restart(self) -> None:
        self.cluster.restart()

    def tripped(self) -> list[object]:
        reader = Shard(self.cluster, "reader", policy=_LAW_POLICY)
        for scope in _SCOPES:
            reader.breakers._open.add(scope)
            reader.breakers._meet(scope)
        self.runner.run(reader.report())
        states = [reader.breakers.state(scope, reader.now_s) for scope in _SCOPES]
        return [*states, *(reader.breakers._scopes[scope].ask_at_s for scope in _SCOPES)]

    @invariant()
    def no_scope_has_two_probes(self) -> None:
        now_s = self.cluster.clock.now_s
        live = [one.scope for number, one in self.probes.items() if number not in self.over and now_s < one.expires_at_s]
        assert len(live) == len(set(live))

    @invariant()
    def leave_is_given_only_where_the_shard_thinks_that_the_scope_is_closed(self) -> None:
        for shard in self.shards:
            for name, found in shard.breakers._scopes.items():
                assert (found.open_until_s is not None) == (name in shard.breakers._open)

    def everything_closes_in_the_end(self) -> None:
        for _ in range(60):
            for shard, permit in self.held:
                shard.end(permit, "success")
            self.held.clear()
            for shard in self.shards:
                self.exchange(shard, "acquire", False, False)
                self.exchange(shard, "report", False, False)
                for scope in _SCOPES:
                    self.take(shard, shard.ask("run", scope))
            if all(shard.breakers.state(scope, shard.now_s) is CLOSED for shard in self.shards for scope in _SCOPES):
                return
            self.cluster.clock.now_s += 2.0
        raise AssertionError("a scope stays open though nothing fails any more")


TestClusterLaws = ClusterLaws.TestCase
TestClusterLaws.settings = settings(max_examples=40, stateful_step_count=40)
