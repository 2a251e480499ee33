"""The breakers: the seed's plain one, the scoped one by example, and its laws under random use."""

from __future__ import annotations

import json
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentraft_ray.breaker import (
    BreakerPolicy,
    BreakerState,
    CircuitBreaker,
    Denied,
    Outcome,
    Permit,
    RetryPolicy,
    ScopedBreakers,
    Standing,
)
from agentraft_ray.errors import CircuitBreakerOpen, InvalidConfig

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
SCOPE = "report/draft"


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


# --- the seed's breaker ----------------------------------------------------------------------------------------------------


def test_the_plain_breaker_opens_at_the_threshold_and_says_when_to_come_back() -> None:
    clock = Clock()
    breaker = CircuitBreaker(failure_threshold=3, cooldown_seconds=30.0, clock=clock)
    for _ in range(2):
        breaker.record_failure()
    assert (breaker.state, breaker.consecutive_failures) == (CLOSED, 2)
    breaker.check()
    breaker.record_failure()
    clock.now_s += 10
    with pytest.raises(CircuitBreakerOpen) as caught:
        breaker.check()
    assert breaker.state is OPEN
    assert caught.value.retry_after_s == pytest.approx(20.0)


def test_a_success_resets_the_count_of_the_plain_breaker() -> None:
    breaker = CircuitBreaker(failure_threshold=2)
    breaker.record_failure()
    breaker.record_success()
    breaker.record_failure()
    assert (breaker.state, breaker.consecutive_failures) == (CLOSED, 1)


@pytest.mark.parametrize("good", [True, False])
def test_the_plain_breaker_is_half_open_after_the_cooldown_and_one_outcome_decides(good: bool) -> None:
    clock = Clock()
    breaker = CircuitBreaker(failure_threshold=1, cooldown_seconds=5.0, clock=clock)
    breaker.record_failure()
    clock.now_s += 5
    assert breaker.state is HALF_OPEN
    breaker.check()
    (breaker.record_success if good else breaker.record_failure)()
    assert breaker.state is (CLOSED if good else OPEN)


def test_a_cooldown_of_zero_is_half_open_at_the_next_read() -> None:
    breaker = CircuitBreaker(failure_threshold=1, cooldown_seconds=0)
    breaker.record_failure()
    assert breaker.state is HALF_OPEN
    breaker.check()


@pytest.mark.parametrize("bad", [{"failure_threshold": 0}, {"cooldown_seconds": -1}])
def test_the_plain_breaker_refuses_limits_that_mean_nothing(bad: dict[str, int]) -> None:
    with pytest.raises(InvalidConfig, match=next(iter(bad))):
        CircuitBreaker(**bad)  # type: ignore[arg-type]


def test_the_retry_policy_is_importable_from_where_the_seed_had_it() -> None:
    assert [RetryPolicy(base_delay=1.0, max_delay=3.0).delay_for(n) for n in range(4)] == [0.0, 1.0, 2.0, 3.0]


# --- the scoped breaker ----------------------------------------------------------------------------------------------------


class Host:
    """Drives one scope by hand: attempts get ids of their own unless one is given."""

    def __init__(self, policy: BreakerPolicy | None = None) -> None:
        self.breakers = ScopedBreakers(policy)
        self.now_s = 1000.0
        self.attempts = 0

    def ask(self, run: str = "run", *, attempt: str | None = None, owner: str = "owner") -> Permit | Denied:
        self.attempts += 1
        return self.breakers.acquire(SCOPE, attempt or f"a{self.attempts}", owner, run, self.now_s)

    def permit(self, run: str = "run", *, attempt: str | None = None, owner: str = "owner") -> Permit:
        answer = self.ask(run, attempt=attempt, owner=owner)
        assert isinstance(answer, Permit)
        return answer

    def end(self, permit: Permit, outcome: Outcome) -> BreakerState | None:
        return self.breakers.settle(permit, outcome, self.now_s)

    def report(self, run: str, outcome: Outcome) -> BreakerState | None:
        return self.end(self.permit(run), outcome)

    def restart(self) -> None:
        plain = self.breakers.snapshot()
        self.breakers = ScopedBreakers(self.breakers.policy)
        self.breakers.restore(json.loads(json.dumps(plain)))

    def trip(self) -> None:
        moved = [self.report(f"run{n % 3}", "failure") for n in range(self.breakers.policy.failure_threshold)]
        assert moved[-1] is OPEN

    @property
    def state(self) -> BreakerState:
        return self.breakers.state(SCOPE, self.now_s)


def test_failures_in_a_row_from_three_runs_open_a_scope_at_the_threshold() -> None:
    host = Host()
    assert [host.report(run, "failure") for run in ("a", "b", "c", "a")] == [None] * 4
    assert host.report("b", "failure") is OPEN
    assert host.state is OPEN
    assert host.breakers.state("report/review", host.now_s) is CLOSED


def test_one_run_or_two_never_open_a_scope_alone_and_the_third_does() -> None:
    host = Host()
    for n in range(200):
        host.report(f"run{n % 2}", "failure")
    assert host.state is CLOSED
    assert host.report("third", "failure") is OPEN


def test_a_cascade_is_seen_through_interleaved_successes() -> None:
    host = Host()
    moved = [host.report(f"run{n % 7}", "failure" if n % 2 else "success") for n in range(host.breakers.policy.samples_min)]
    assert len(moved) == 20
    assert moved == [None] * 19 + [OPEN]


def test_a_low_failure_share_never_opens_a_scope() -> None:
    host = Host()
    for n in range(1000):
        host.report(f"run{n % 7}", "failure" if n % 5 < 2 else "success")
    assert host.state is CLOSED


@pytest.mark.parametrize(("share", "least", "most"), [(0.1, 5_000, 5_000), (0.3, 100, 1_500), (0.5, 15, 60), (0.8, 5, 15)])
def test_independent_rejections_open_a_scope_rarely_unless_they_are_many(share: float, least: int, most: int) -> None:
    """The figures in docs/architecture.md: outcomes until a scope opens, median of 21 seeded trials of up to 5,000."""

    def outcomes_until_open(seed: int) -> int:
        rng, host = random.Random(seed), Host()
        for n in range(1, 5_000):
            if host.report(f"run{rng.randrange(50)}", "failure" if rng.random() < share else "success") is OPEN:
                return n
        return 5_000

    assert least <= statistics.median(outcomes_until_open(seed) for seed in range(21)) <= most


def test_old_outcomes_leave_the_window() -> None:
    host = Host()
    for n in range(9):
        host.report(f"run{n % 2}", "failure")
    for n in range(host.breakers.policy.window):
        host.report(f"run{n % 7}", "success")
    for n in range(9):
        host.report("third" if n == 5 else "run0", "failure" if n % 3 else "success")
    assert host.state is CLOSED


def test_an_open_scope_denies_until_its_cooldown_is_over() -> None:
    host = Host()
    host.trip()
    assert host.ask() == Denied(SCOPE, host.now_s + 30.0)
    host.now_s += 29.9
    assert isinstance(host.ask(), Denied)
    host.now_s += 0.1
    assert host.state is HALF_OPEN
    assert host.permit().probe


def test_half_open_lets_one_probe_through_and_its_success_closes_the_scope() -> None:
    host = Host()
    host.trip()
    host.now_s += 30
    probe = host.permit(attempt="probe")
    assert host.permit(attempt="probe") == probe
    assert host.ask() == Denied(SCOPE, probe.expires_at_s)
    assert isinstance(host.ask(attempt="probe", owner="another owner"), Denied)
    assert host.end(probe, "success") is CLOSED
    assert not host.permit().probe


def test_a_failed_probe_starts_the_cooldown_anew() -> None:
    host = Host()
    host.trip()
    host.now_s += 31
    assert host.end(host.permit(), "failure") is OPEN
    assert host.ask() == Denied(SCOPE, host.now_s + 30)


def test_a_released_probe_frees_the_slot_at_once_and_decides_nothing() -> None:
    host = Host()
    host.trip()
    host.now_s += 30
    first = host.permit(attempt="same")
    assert host.end(first, "released") is None
    assert host.end(first, "success") is None
    second = host.permit(attempt="same")
    assert second.probe
    assert second.generation != first.generation
    assert host.end(first, "failure") is None
    assert host.state is HALF_OPEN


def test_a_lost_probe_frees_the_slot_and_its_late_outcome_is_ignored() -> None:
    host = Host()
    host.trip()
    host.now_s += 30
    lost = host.permit()
    host.now_s = lost.expires_at_s
    assert host.end(lost, "success") is None
    assert host.state is HALF_OPEN
    following = host.permit()
    assert host.end(lost, "success") is None
    assert host.end(following, "success") is CLOSED
    assert host.end(lost, "failure") is None
    assert host.state is CLOSED


def test_a_step_slower_than_the_probe_is_waited_for_is_heard_in_the_end() -> None:
    host = Host()
    host.trip()
    host.now_s += 30
    for _ in range(10):
        probe = host.permit()
        host.now_s += 700
        host.restart()
        if host.end(probe, "success") is CLOSED:
            return
    pytest.fail("the scope never closed")


def test_a_lost_probe_is_never_waited_for_longer_than_a_permit() -> None:
    host = Host()
    host.trip()
    host.now_s += 30
    for _ in range(100):
        probe = host.permit()
        assert probe.expires_at_s - host.now_s <= host.breakers.policy.permit_ttl_s
        host.now_s = probe.expires_at_s


def test_outcomes_of_permits_from_before_the_scope_opened_count_for_nothing() -> None:
    host = Host()
    early = [host.permit(f"run{n}") for n in range(4)]
    host.trip()
    assert host.breakers.snapshot()["scopes"][SCOPE]["granted"] == []
    assert host.breakers.snapshot()["scopes"][SCOPE]["generation"] > early[0].generation
    opened_at_s = host.now_s
    host.now_s += 10
    assert [host.end(early[0], "failure"), host.end(early[1], "success")] == [None, None]
    assert host.ask() == Denied(SCOPE, opened_at_s + 30)
    host.now_s += 20
    assert host.end(host.permit(), "success") is CLOSED
    assert host.end(early[2], "failure") is None


def test_an_attempt_counts_once_however_often_it_asks_and_reports() -> None:
    host = Host(BreakerPolicy(failure_threshold=3, runs_min=1))
    permit = host.permit(attempt="a")
    for _ in range(5):
        host.end(permit, "failure")
    for _ in range(5):
        host.end(host.permit(attempt="a"), "failure")
    assert host.state is CLOSED
    host.report("run", "failure")
    assert host.report("run", "failure") is OPEN


def test_a_released_permit_does_not_use_up_the_attempt() -> None:
    host = Host(BreakerPolicy(failure_threshold=1, runs_min=1))
    assert host.end(host.permit(attempt="a"), "released") is None
    assert host.end(host.permit(attempt="a"), "failure") is OPEN


def test_a_new_owner_of_an_attempt_voids_the_permit_of_the_old_one() -> None:
    host = Host(BreakerPolicy(failure_threshold=1, runs_min=1))
    old = host.permit(attempt="a", owner="old")
    new = host.permit(attempt="a", owner="new")
    assert host.end(old, "failure") is None
    assert host.end(new, "failure") is OPEN


def test_an_expired_permit_of_a_closed_scope_counts_for_nothing() -> None:
    host = Host(BreakerPolicy(failure_threshold=1, runs_min=1))
    permit = host.permit()
    host.now_s = permit.expires_at_s
    assert host.end(permit, "failure") is None
    assert host.state is CLOSED


def test_a_clock_that_goes_back_delays_by_one_cooldown_at_most() -> None:
    host = Host()
    host.trip()
    host.now_s -= 900
    assert host.ask() == Denied(SCOPE, host.now_s + 30)
    host.now_s += 30
    probe = host.permit()
    host.now_s -= 50
    host.ask()
    host.now_s += 30
    assert host.permit().generation != probe.generation


def test_scopes_are_bounded_and_the_open_ones_are_kept() -> None:
    host = Host(BreakerPolicy(scopes_max=3))
    early = host.permit()
    host.trip()
    for n in range(10):
        host.breakers.acquire(f"scope{n}", "a", "o", "r", host.now_s)
    assert host.state is OPEN
    assert len(host.breakers.snapshot()["scopes"]) == 3
    assert host.end(early, "failure") is None


def test_the_memory_of_counted_attempts_is_bounded() -> None:
    host = Host(BreakerPolicy(counted_max=10))
    for _ in range(100):
        host.report("run", "success")
    assert len(host.breakers.snapshot()["counted"]) == 10


def test_a_snapshot_of_another_version_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="version 99"):
        ScopedBreakers().restore({"version": 99})


@pytest.mark.parametrize(
    "bad",
    [
        {"failure_threshold": 0},
        {"runs_min": 0},
        {"cooldown_s": -1.0},
        {"failure_share": 0.0},
        {"failure_share": 1.5},
        {"probe_ttl_s": 0.0},
        {"probe_ttl_s": 7200.0},
    ],
)
def test_a_policy_refuses_numbers_that_mean_nothing(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidConfig, match=next(iter(bad))):
        BreakerPolicy(**bad)  # type: ignore[arg-type]


# --- leave that another host gave ------------------------------------------------------------------------------------------


def observe(breakers: ScopedBreakers, generation: int, attempt: str, run: str, failed: bool, now_s: float = 1000.0) -> BreakerState | None:
    return breakers.observe(SCOPE, generation, attempt, run, failed, now_s)


@given(outcomes=st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=60))
def test_outcomes_of_leave_given_elsewhere_open_a_scope_exactly_when_those_under_permits_do(outcomes: list[tuple[str, bool]]) -> None:
    host, remote = Host(), ScopedBreakers()
    generation = remote.first_generation
    for number, (run, failed) in enumerate(outcomes):
        asked = host.ask(run)
        moved = host.end(asked, "failure" if failed else "success") if isinstance(asked, Permit) else None
        assert observe(remote, generation, f"a{number}", run, failed) is moved
        assert remote.state(SCOPE, host.now_s) is host.state


def test_an_outcome_of_leave_given_elsewhere_counts_once_and_only_in_its_generation() -> None:
    breakers = ScopedBreakers(BreakerPolicy(failure_threshold=2, runs_min=1))
    now = breakers.standing(SCOPE, 1000.0)
    assert (now.state, now.generation) == (CLOSED, breakers.first_generation)
    assert [observe(breakers, now.generation, "a", "r", True) for _ in range(5)] == [None] * 5
    assert observe(breakers, now.generation + 1, "b", "r", True) is None
    assert observe(breakers, now.generation, "b", "r", True) is OPEN
    opened = breakers.standing(SCOPE, 1000.0)
    assert (opened.state, opened.retry_at_s) == (OPEN, 1030.0)
    assert observe(breakers, opened.generation, "c", "r", True) is None
    probe = breakers.acquire(SCOPE, "p", "o", "r", 1030.0)
    assert isinstance(probe, Permit)
    trying = breakers.standing(SCOPE, 1030.0)
    assert (trying.state, trying.retry_at_s) == (HALF_OPEN, probe.expires_at_s)
    assert observe(breakers, trying.generation, "c", "r", True, 1030.0) is None
    assert breakers.standing(SCOPE, probe.expires_at_s).retry_at_s == probe.expires_at_s
    assert breakers.settle(probe, "success", 1031.0) is CLOSED
    assert [observe(breakers, now.generation, f"late{n}", "r", True) for n in range(5)] == [None] * 5
    assert breakers.state(SCOPE, 1031.0) is CLOSED


def test_what_began_before_a_scope_was_forgotten_does_not_count_in_its_next_life() -> None:
    breakers = ScopedBreakers(BreakerPolicy(failure_threshold=1, runs_min=1, scopes_max=1))
    before = breakers.standing(SCOPE, 0.0)
    assert breakers.observe(SCOPE, before.generation, "a", "r", False, 0.0) is None
    other = breakers.standing("other", 0.0)
    breakers.observe("other", other.generation, "a", "r", False, 0.0)
    assert breakers.observe(SCOPE, before.generation, "b", "r", True, 0.0) is None
    assert breakers.standing(SCOPE, 0.0).generation > before.generation


def test_another_hosts_word_replaces_what_was_known_and_keeps_a_window_that_goes_on() -> None:
    here, there = (ScopedBreakers(BreakerPolicy(failure_threshold=3, runs_min=1)) for _ in range(2))
    observe(here, 0, "a", "r", True)
    here.adopt(SCOPE, there.standing(SCOPE, 1000.0), 1000.0)
    observe(here, 0, "b", "r", True)
    assert observe(here, 0, "c", "r", True) is OPEN
    for name in "abc":
        observe(there, 0, name, "r", True)
    there.settle(there.acquire(SCOPE, "p", "o", "r", 1030.0), "success", 1030.0)  # type: ignore[arg-type]
    closed = there.standing(SCOPE, 1030.0)
    here.adopt(SCOPE, closed, 1030.0)
    assert here.standing(SCOPE, 1030.0) == closed
    for host in (here, there):
        assert [observe(host, closed.generation, name, "r", True, 1031.0) for name in "xyz"] == [None, None, OPEN]
    here.adopt(SCOPE, Standing(90, OPEN, 1051.0), 1031.0)
    assert here.acquire(SCOPE, "q", "o", "r", 1031.0) == Denied(SCOPE, 1051.0)


def test_a_host_that_found_its_snapshot_late_keeps_what_has_opened_since_and_uses_no_generation_twice() -> None:
    policy = BreakerPolicy(failure_threshold=1, runs_min=1)
    earlier, later = ScopedBreakers(policy), ScopedBreakers(policy, after_generation=1_000)
    earlier.observe("old", 0, "a", "r", True, 0.0)
    earlier.observe("both", 0, "b", "r", False, 0.0)
    for scope, failed in (("new", True), ("both", True), ("old", False)):
        later.observe(scope, later.first_generation, "c", "r", failed, 1.0)
    later.recall(json.loads(json.dumps(earlier.snapshot())))
    assert [later.state(scope, 2.0) for scope in ("old", "new", "both")] == [OPEN, OPEN, OPEN]
    permit = later.acquire("new", "p", "o", "r", 31.0)
    assert isinstance(permit, Permit)
    assert permit.generation > 1_000


# --- laws under random use -------------------------------------------------------------------------------------------------


class BreakerLaws(RuleBasedStateMachine):
    """Random owners, losses, duplicates and restarts; the model knows only the permits that went out and what was settled."""

    def __init__(self) -> None:
        super().__init__()
        self.breakers = ScopedBreakers(BreakerPolicy(failure_threshold=2, runs_min=2, cooldown_s=5.0, probe_ttl_s=4.0, permit_ttl_s=16))
        self.now_s = 0.0
        self.attempts = 0
        self.permits: list[Permit] = []
        self.over: set[int] = set()  # numbers of permits that were settled or replaced

    @rule(scope=st.sampled_from("xy"), run=st.sampled_from("abc"), again=st.booleans(), owner=st.sampled_from(["o1", "o2"]))
    def acquire(self, scope: str, run: str, again: bool, owner: str) -> None:
        attempt = self.permits[-1].attempt_id if again and self.permits else f"n{self.attempts}"
        self.attempts += 1
        before = self.breakers.state(scope, self.now_s)
        answer = self.breakers.acquire(scope, attempt, owner, run, self.now_s)
        if isinstance(answer, Denied):
            assert before is not CLOSED
            assert answer.retry_at_s > self.now_s
            return
        assert before is not OPEN
        assert answer.probe == (before is HALF_OPEN)
        assert (answer.scope, answer.attempt_id, answer.owner) == (scope, attempt, owner)
        assert answer.expires_at_s > self.now_s
        if answer in self.permits:
            assert answer.number not in self.over
            return
        assert answer.number not in {known.number for known in self.permits}
        if answer.probe:
            live = [p for p in self.permits if p.probe and p.scope == scope and p.number not in self.over]
            assert all(p.expires_at_s <= self.now_s for p in live), "two live probes"
            assert answer.generation not in {p.generation for p in self.permits}, "two probes in one generation"
        self.permits.append(answer)

    @rule(data=st.data(), outcome=st.sampled_from(["failure", "failure", "success", "released"]))
    def settle(self, data: st.DataObject, outcome: Outcome) -> None:
        if not self.permits:
            return
        permit = data.draw(st.sampled_from(self.permits))
        before = self.breakers.snapshot()
        dead = permit.number in self.over or self.now_s >= permit.expires_at_s
        moved = self.breakers.settle(permit, outcome, self.now_s)
        if dead:
            after = self.breakers.snapshot()
            for one in (before, after):  # forgetting an expired permit is no change that anybody can see
                for plain in one["scopes"].values():
                    plain["granted"] = [kept for kept in plain["granted"] if kept[0]["number"] != permit.number]
            assert moved is None
            assert after == before, "a stale outcome changed something"
        self.over.add(permit.number)
        if moved is not None:
            assert moved is (OPEN if outcome == "failure" else CLOSED)
            assert self.breakers.state(permit.scope, self.now_s) is moved

    @rule(passed_s=st.sampled_from([0.5, 2.0, 5.0, 20.0]))
    def wait(self, passed_s: float) -> None:
        self.now_s += passed_s

    @rule()
    def restart(self) -> None:
        plain = json.loads(json.dumps(self.breakers.snapshot()))
        restarted = ScopedBreakers(self.breakers.policy)
        restarted.restore(plain)
        assert restarted.snapshot() == self.breakers.snapshot()
        self.breakers = restarted

    @invariant()
    def generations_and_numbers_only_grow(self) -> None:
        plain = self.breakers.snapshot()
        assert all(permit.generation <= plain["generations"] and permit.number <= plain["permits"] for permit in self.permits)


class OneRunAlone(RuleBasedStateMachine):
    """Whatever one or two runs do, a breaker that wants three stays closed."""

    def __init__(self) -> None:
        super().__init__()
        self.host = Host(BreakerPolicy(failure_threshold=1))

    @rule(
        run=st.sampled_from("ab"),
        outcome=st.sampled_from(["failure", "success", "released"]),
        passed_s=st.sampled_from([0, 10, 4000]),
    )
    def work(self, run: str, outcome: Outcome, passed_s: float) -> None:
        permit = self.host.permit(run)
        self.host.now_s += passed_s
        assert self.host.end(permit, outcome) is None


TestBreakerLaws = BreakerLaws.TestCase
TestBreakerLaws.settings = settings(max_examples=60, stateful_step_count=40)
TestOneRunAlone = OneRunAlone.TestCase
TestOneRunAlone.settings = settings(max_examples=15, stateful_step_count=60)
