"""Groups of workers grow while steps wait for one and shrink when these were not needed: the rule, and how it is carried out."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentraft_ray import Step
from agentraft_ray.cluster.groups import Figures, Groups
from agentraft_ray.cluster.scaling import Demand, GroupSize, resize
from agentraft_ray.errors import InvalidConfig

IDLE_S = 10.0


def test_one_worker_more_for_each_request_that_waits_up_to_the_most() -> None:
    size = GroupSize(1, 1, 4)
    assert resize(size, Demand(2, 1), 0.0, IDLE_S).count == 3
    assert resize(size, Demand(99, 1), 0.0, IDLE_S).count == 4


def test_what_was_not_needed_for_a_while_goes_and_what_was_needed_once_meanwhile_stays() -> None:
    size = GroupSize(4, 1, 4)
    for now_s, busy in ((0.0, 1), (3.0, 3), (9.9, 0)):
        size = resize(size, Demand(0, busy), now_s, IDLE_S)
        assert size.count == 4
    assert resize(size, Demand(0, 0), 10.0, IDLE_S).count == 3


def test_the_wait_begins_anew_when_all_had_work() -> None:
    size = resize(GroupSize(2, 1, 4), Demand(0, 1), 0.0, IDLE_S)
    size = resize(size, Demand(0, 2), 5.0, IDLE_S)
    size = resize(size, Demand(0, 1), 6.0, IDLE_S)
    assert resize(size, Demand(0, 1), 15.0, IDLE_S).count == 2
    assert resize(size, Demand(0, 1), 16.0, IDLE_S).count == 1


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.floats(0.0, 20.0)), max_size=50))
def test_it_never_leaves_its_bounds_and_never_ends_what_is_busy(looks: list[tuple[int, int, float]]) -> None:
    size, now_s = GroupSize(2, 2, 5), 0.0
    for waiting, wanted, passed_s in looks:
        now_s += passed_s
        before, busy = size, min(wanted, size.count)
        size = resize(size, Demand(waiting, busy), now_s, IDLE_S)
        assert 2 <= size.count <= 5
        assert size.count >= min(before.count, busy)
        if waiting:
            assert size.count >= before.count


class Office:
    """Hands that note what they are told. `work` = requests at a worker; hired workers come when `comes` says so."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.work: dict[str, int] = {}
        self.waiting: dict[str, int] = {}
        self.told: dict[str, list[str]] = {}
        self.comes = True

    async def hire(self, name: str, step: Step) -> None:
        if self.comes:
            self.there.add(name)

    async def dismiss(self, name: str) -> None:
        assert not self.work.get(name), "it had work"
        self.there.discard(name)

    async def answers(self, name: str) -> bool:
        return name in self.there

    async def figures(self, name: str) -> Figures | None:
        if "coordinator" in name:
            return {f"waiting:{group}": count for group, count in self.waiting.items()}
        return {"running": self.work.get(name, 0), "queued": 0} if name in self.there else None

    async def tell(self, groups: Mapping[str, list[str]]) -> None:
        self.told = {group: list(workers) for group, workers in groups.items()}


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def started(step: Step, workers: list[str]) -> None:
    return None


def groups_of(office: Office, clock: Clock) -> Groups:
    return Groups("d", ["plain"], ["d/coordinator/0", "d/coordinator/1"], office, count_min=1, count_max=3, idle_s=IDLE_S, clock=clock)


STEP = Step("train", lambda ctx: 1, num_gpus=1)


async def made(office: Office, clock: Clock) -> tuple[Groups, str]:
    groups = groups_of(office, clock)
    await groups.make([Step("plain", lambda ctx: 1), STEP, STEP], started)
    [group] = set(groups.workers) - {""}
    assert office.told == {"": ["plain"], group: sorted(office.there)}
    assert len(office.there) == 1
    return groups, group


async def test_a_group_grows_while_steps_wait_and_coordinators_hear_of_workers_that_have_come() -> None:
    office, clock = Office(), Clock()
    groups, group = await made(office, clock)
    office.waiting[group], office.comes = 1, False  # at each of two coordinators
    await groups.look()
    await groups.look()
    assert office.told[group] == sorted(office.there), "nobody has come yet, and no more are asked for"
    office.comes, office.waiting[group] = True, 0
    office.there |= {office.told[group][0][:-1] + number for number in "12"}
    await groups.look()
    assert len(office.told[group]) == 3


async def test_it_shrinks_when_nobody_needs_it_but_nothing_that_runs_is_ended() -> None:
    office, clock = Office(), Clock()
    groups, group = await made(office, clock)
    office.waiting[group] = 5
    await groups.look()
    office.waiting[group] = 0
    await groups.look()
    first, _second, third = office.told[group]
    office.work[third] = 1  # the last one of the list is busy, and one is needed
    await groups.look()
    clock.now_s = IDLE_S
    await groups.look()
    assert office.told[group] == [first], "the busy one gets nothing new"
    await groups.look()
    assert office.there == {first, third}
    office.work[third] = 0
    await groups.look()
    assert office.there == {first}


async def test_one_that_is_leaving_comes_back_when_it_is_needed() -> None:
    office, clock = Office(), Clock()
    groups, group = await made(office, clock)
    office.waiting[group] = 1
    await groups.look()
    office.waiting[group] = 0
    await groups.look()
    workers = office.told[group]
    office.work[workers[-1]] = 1  # it is busy, but one worker is enough
    await groups.look()
    clock.now_s = IDLE_S
    await groups.look()
    assert office.told[group] == workers[:1]
    office.waiting[group] = 1
    await groups.look()
    assert workers[-1] in office.told[group]
    office.waiting[group] = 0
    await groups.look()
    assert set(office.told[group]) == set(workers)


async def test_a_group_that_does_not_start_is_not_made() -> None:
    office, clock = Office(), Clock()
    groups = groups_of(office, clock)

    async def refused(step: Step, workers: list[str]) -> None:
        raise InvalidConfig("no GPU")

    with pytest.raises(InvalidConfig, match="no GPU"):
        await groups.make([STEP], refused)
    assert office.there == set()
    assert groups.workers == {"": ["plain"]}
    await groups.make([STEP], started)
    assert len(groups.workers) == 2
