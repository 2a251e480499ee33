"""The supervisor: decisions as a table and under random use, and its loop over a scripted nursery with a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentraft_ray.actors.children import Child, ChildSpec, Create, Drain, Kill, RestartLedger, Seen, decide
from agentraft_ray.actors.messages import Pong
from agentraft_ray.actors.supervisor import Supervisor, SupervisorEvent
from agentraft_ray.errors import AgentRaftError, InvalidConfig

SPEC = ChildSpec("w", "worker", restarts_max=2, period_s=60.0, hung_s=10.0, start_s=30.0, overdue_threads_max=4, drain_s=20.0)
ALIVE = Child(0.0, answered_at_s=100.0, incarnation="a")


def pong(incarnation: str = "a", lag_s: float = 0.0) -> Pong:
    return Pong(incarnation, 1, lag_s)


@pytest.mark.parametrize(
    ("child", "seen", "now_s", "expected"),
    [
        (ALIVE, Seen(pong()), 101.0, ()),
        (ALIVE, Seen(), 109.0, ()),
        (ALIVE, Seen(), 110.0, (Kill("no answer for 10 s", restart=True),)),
        (ALIVE, Seen(pong(lag_s=11.0)), 101.0, (Kill("its work loop is blocked for 11 s", restart=True),)),
        (ALIVE, Seen(is_gone=True), 101.0, (Create("it was gone for good"),)),
        (ALIVE, Seen(pong("b")), 101.0, ()),
        (ALIVE, Seen(pong(), figures={"overdue_threads": 4}), 101.0, ()),
        (ALIVE, Seen(pong(), figures={"overdue_threads": 5}), 101.0, (Drain("5 threads overran their time"),)),
        (Child(0.0), Seen(), 29.0, ()),
        (Child(0.0), Seen(), 30.0, (Kill("no answer for 30 s", restart=True),)),
        (Child(0.0, stopped_until_s=50.0), Seen(is_gone=True), 49.0, ()),
        (Child(0.0, stopped_until_s=50.0), Seen(is_gone=True), 50.0, (Create("its back-off is over"),)),
    ],
)
def test_what_is_to_be_done_about_a_child(child: Child, seen: Seen, now_s: float, expected: tuple[object, ...]) -> None:
    assert decide(SPEC, child, seen, now_s)[1] == expected


def test_a_crash_loop_is_stopped_and_made_anew_after_a_back_off_that_grows() -> None:
    child, now_s, waits = ALIVE, 100.0, []
    for _ in range(9):
        decisions: tuple[object, ...] = ()
        while decisions == ():
            now_s += 1.0
            child, decisions = decide(SPEC, child, Seen(pong(f"life {now_s}")), now_s)
        assert decisions == (Kill("it restarts over and over", restart=False),)
        assert child.stopped_until_s is not None
        waits.append(child.stopped_until_s - now_s)
        now_s = child.stopped_until_s
        child, decisions = decide(SPEC, child, Seen(is_gone=True), now_s)
        assert decisions == (Create("its back-off is over"),)
    assert waits == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]


def test_a_child_that_has_run_well_for_long_begins_with_the_short_back_off_again() -> None:
    child = Child(0.0, loops=5)
    for now_s in range(0, 400, 5):
        child, _ = decide(SPEC, child, Seen(pong()), float(now_s))
    assert child.loops == 0


def test_one_restart_is_counted_once_however_it_was_seen() -> None:
    child, decisions = decide(SPEC, ALIVE, Seen(), 110.0)
    assert decisions
    for now_s in (111.0, 112.0, 113.0):
        child, decisions = decide(SPEC, child, Seen(), now_s)
        assert decisions == ()
    child, decisions = decide(SPEC, child, Seen(pong("b")), 114.0)
    assert (decisions, len(child.ledger.times_s)) == ((), 1)


@pytest.mark.parametrize(("figures", "now_s", "is_killed"), [
    ({"running": 1, "queued": 0}, 110.0, False),
    ({"running": 0, "queued": 1}, 110.0, False),
    ({"running": 0, "queued": 0}, 110.0, True),
    ({"running": 9, "queued": 9}, 121.0, True),
    (None, 110.0, False),
])  # fmt: skip
def test_a_child_with_overdue_threads_finishes_what_it_has_and_is_replaced_without_being_counted(
    figures: Mapping[str, int] | None, now_s: float, is_killed: bool
) -> None:
    child, _ = decide(SPEC, ALIVE, Seen(pong(), figures={"overdue_threads": 5, "running": 3}), 101.0)
    after, decisions = decide(SPEC, child, Seen(pong(), figures=figures), now_s)
    assert decisions == ((Kill("it is replaced", restart=True),) if is_killed else ())
    assert after.ledger.times_s == ()


@given(times=st.lists(st.floats(0, 1000), max_size=40).map(sorted), restarts_max=st.integers(0, 5), period_s=st.floats(0.1, 200))
def test_the_ledger_is_exceeded_exactly_when_more_restarts_lie_in_one_period(
    times: list[float], restarts_max: int, period_s: float
) -> None:
    ledger = RestartLedger()
    for index, now_s in enumerate(times):
        ledger = ledger.add(now_s, period_s, restarts_max)
        recent = [one for one in times[: index + 1] if now_s - period_s <= one]
        assert ledger.is_exceeded(now_s, period_s, restarts_max) == (len(recent) > restarts_max)
        assert len(ledger.times_s) <= restarts_max + 1


_SEEN = st.one_of(
    st.builds(Seen, st.builds(Pong, st.sampled_from("abc"), st.just(1), st.sampled_from([0.0, 99.0]))),
    st.just(Seen()),
    st.just(Seen(is_gone=True)),
)


@given(looks=st.lists(st.tuples(_SEEN, st.sampled_from([0.5, 3.0, 11.0, 31.0])), max_size=80))
def test_whatever_is_seen_restarts_stay_within_the_intensity(looks: list[tuple[Seen, float]]) -> None:
    child, now_s, since_stop = Child(0.0), 0.0, list[float]()
    for seen, passed_s in looks:
        now_s += passed_s
        was_stopped = child.stopped_until_s is not None
        child, decisions = decide(SPEC, child, seen, now_s)
        assert len(decisions) <= 1
        for decision in decisions:
            if (isinstance(decision, Kill) and decision.restart) or (isinstance(decision, Create) and not was_stopped):
                since_stop.append(now_s)
        if was_stopped:
            since_stop.clear()
        assert sum(now_s - SPEC.period_s <= one for one in since_stop) <= SPEC.restarts_max
        if child.stopped_until_s is not None:
            assert child.stopped_until_s - now_s <= SPEC.back_off_max_s


@pytest.mark.parametrize("bad", [{"restarts_max": -1}, {"hung_s": 0.0}, {"back_off_max_s": 1.0}])
def test_a_spec_refuses_numbers_that_mean_nothing(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidConfig, match=next(iter(bad))):
        ChildSpec("w", "worker", **bad)  # type: ignore[arg-type]


# --- the loop --------------------------------------------------------------------------------------------------------------


class Nursery:
    """Children by script: name -> incarnation, or None while it is silent; not there = gone. Time passes only in `sleep`."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.alive: dict[str, str | None] = {}
        self.figures: dict[str, float | int | str] = {}
        self.calls: list[tuple[str, str]] = []
        self.lives = 0
        self.refuses: set[str] = set()
        self.crashes: set[str] = set()

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, wait_s: float) -> None:
        self.now_s += wait_s
        for name in self.crashes & set(self.alive):
            self.live(name)
        await asyncio.sleep(0)

    def live(self, name: str) -> None:
        self.lives += 1
        self.alive[name] = f"life {self.lives}"

    def noted(self, verb: str, name: str) -> None:
        self.calls.append((verb, name))
        if verb in self.refuses:
            raise AgentRaftError(f"cannot {verb}")

    async def ping(self, name: str) -> Pong | None:
        incarnation = self.alive.get(name)
        return None if incarnation is None else pong(incarnation)

    async def is_gone(self, name: str) -> bool:
        return name not in self.alive

    async def stats(self, name: str) -> Mapping[str, float | int | str] | None:
        return self.figures

    async def drain(self, name: str) -> None:
        self.noted("drain", name)

    async def kill(self, name: str, restart: bool) -> None:
        self.noted("restart" if restart else "kill", name)
        self.alive.pop(name, None)
        if restart:
            self.live(name)

    async def create(self, spec: ChildSpec) -> None:
        self.noted("create", spec.name)
        self.live(spec.name)


class Home:
    def __init__(self, *specs: ChildSpec) -> None:
        self.nursery = Nursery()
        self.events: list[SupervisorEvent] = []
        self.supervisor = Supervisor(
            self.nursery, specs, self.events.append, every_s=1.0, clock=self.nursery.clock, sleep=self.nursery.sleep
        )

    async def rounds(self, count: int) -> None:
        for _ in range(count):
            await self.nursery.sleep(1.0)
            await self.supervisor.look()

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


async def test_children_start_from_left_to_right_and_stop_from_right_to_left() -> None:
    home = Home(ChildSpec("c", "worker", 2), ChildSpec("a", "store", 0), ChildSpec("b", "breaker", 1))
    await home.supervisor.start()
    assert [name for verb, name in home.nursery.calls if verb == "create"] == ["a", "b", "c"]
    assert home.kinds() == ["created", "started"] * 3
    await home.supervisor.stop()
    assert [name for verb, name in home.nursery.calls if verb == "kill"] == ["c", "b", "a"]
    assert home.nursery.alive == {}


async def test_a_restart_by_ray_is_noticed_and_only_counted() -> None:
    home = Home(SPEC)
    await home.supervisor.start()
    home.nursery.live("w")
    await home.rounds(3)
    assert home.kinds() == ["created", "started", "restarted"]
    assert home.events[-1].restarts == 1
    assert [verb for verb, _ in home.nursery.calls] == ["create"]


async def test_a_silent_child_is_killed_once_and_a_new_one_takes_its_place() -> None:
    home = Home(SPEC)
    await home.supervisor.start()
    home.nursery.alive["w"] = None
    await home.rounds(20)
    assert home.kinds() == ["created", "started", "killed", "restarted"]
    assert home.nursery.calls.count(("restart", "w")) == 1


async def test_a_crash_loop_is_stopped_and_tried_again_later_while_the_others_run_on() -> None:
    home = Home(SPEC, ChildSpec("other", "worker"))
    await home.supervisor.start()
    home.nursery.crashes = {"w"}
    await home.rounds(60)
    stops = [event for event in home.events if event.kind == "stopped"]
    assert 3 <= len(stops) <= 5
    assert {event.name for event in stops} == {"w"}
    home.nursery.crashes = set()
    await home.rounds(60)
    assert home.supervisor.child("w").incarnation == home.nursery.alive["w"]
    assert [event.kind for event in home.events if event.name == "other"] == ["created", "started"]


async def test_what_ray_gave_up_is_made_anew() -> None:
    home = Home(SPEC)
    await home.supervisor.start()
    del home.nursery.alive["w"]
    await home.rounds(2)
    assert home.kinds() == ["created", "started", "created", "restarted"]


async def test_a_child_that_never_comes_ends_in_a_back_off_not_in_a_storm() -> None:
    home = Home(SPEC)
    home.nursery.refuses = {"create"}
    await home.supervisor.start()
    await home.rounds(100)
    assert home.nursery.calls.count(("create", "w")) <= 20
    home.nursery.refuses = set()
    await home.rounds(200)
    assert home.nursery.alive


async def test_a_kill_that_could_not_be_carried_out_is_tried_again() -> None:
    home = Home(SPEC)
    await home.supervisor.start()
    home.nursery.alive["w"] = None
    home.nursery.refuses = {"restart"}
    await home.rounds(15)
    assert "failed" in home.kinds()
    home.nursery.refuses = set()
    await home.rounds(2)
    assert home.nursery.alive["w"] is not None
    assert home.events[-1].restarts == 1


async def test_a_worker_with_overdue_threads_is_drained_and_replaced() -> None:
    home = Home(SPEC)
    await home.supervisor.start()
    home.nursery.figures = {"overdue_threads": 5, "running": 1}
    await home.rounds(3)
    assert home.kinds()[2:] == ["draining"]
    home.nursery.figures = {"overdue_threads": 5, "running": 0}
    await home.rounds(1)
    home.nursery.figures = {}
    await home.rounds(2)
    assert home.kinds()[2:] == ["draining", "killed", "started"]


async def test_the_loop_runs_until_it_is_cancelled() -> None:
    home = Home(SPEC)
    await home.supervisor.start()
    task = asyncio.create_task(home.supervisor.run())
    while home.nursery.now_s < 5.0:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


def test_two_children_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="share a name"):
        Home(ChildSpec("a", "x"), ChildSpec("a", "y"))
