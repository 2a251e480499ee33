"""The workers for steps with resources of their own: made when a pipeline asks for them, and more or fewer of them as there is work."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from agentraft_ray.actors import names
from agentraft_ray.cluster.scaling import Demand, GroupSize, resize
from agentraft_ray.errors import InvalidConfig
from agentraft_ray.pipeline import Step

__all__ = ["Groups", "Hands"]

_log = logging.getLogger("agentraft_ray")
_EVERY_S = 1.0

Figures = Mapping[str, float | int | str]


class Hands(Protocol):
    """What is done to actors; `cluster.staff` does it on Ray."""

    async def hire(self, name: str, step: Step) -> None:
        """Start a worker for steps like this one; it may take its time to come."""

    async def dismiss(self, name: str) -> None:
        """End a worker that has nothing to do."""

    async def answers(self, name: str) -> bool:
        """Whether a worker is there."""

    async def figures(self, name: str) -> Figures | None:
        """What a worker or coordinator counts; None if it does not answer."""

    async def tell(self, groups: Mapping[str, list[str]]) -> None:
        """Have every coordinator know these workers, and no others."""


@dataclass
class _Group:
    step: Step
    size: GroupSize
    here: list[str]  # coordinators know them
    coming: set[str] = field(default_factory=set)
    leaving: set[str] = field(default_factory=set)  # coordinators do not know them any more; they finish what they have


class Groups:
    """The groups of one deployment. `plain` = the workers for steps that ask for nothing, which are fixed.

    A group has `count_min` workers at first, and up to `count_max` while requests wait for one.
    """

    def __init__(
        self,
        deployment: str,
        plain: list[str],
        coordinators: list[str],
        hands: Hands,
        *,
        count_min: int,
        count_max: int,
        idle_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._deployment = deployment
        self._plain = plain
        self._coordinators = coordinators
        self._hands = hands
        self._count_min, self._count_max = count_min, count_max
        self._idle_s = idle_s
        self._clock, self._sleep = clock, sleep
        self._groups: dict[str, _Group] = {}
        self._turn = asyncio.Lock()

    @property
    def workers(self) -> dict[str, list[str]]:
        """The workers that coordinators are to know, by group."""
        return {"": self._plain} | {name: list(group.here) for name, group in self._groups.items()}

    async def make(self, steps: list[Step], has_started: Callable[[Step, list[str]], Awaitable[None]]) -> None:
        """Start the groups that these steps need and that are not there; `has_started` returns when the first workers of one have.

        Raises what `has_started` raises; the group is not made then.
        """
        async with self._turn:
            new: dict[str, Step] = {}
            for step in steps:
                group = names.group_of(step.num_cpus, step.num_gpus, dict(step.resources or {}), step.isolate)
                if group and group not in self._groups:
                    new.setdefault(group, step)
            for group, step in new.items():
                await self._make(group, step, has_started)
            if new:
                await self._hands.tell(self.workers)

    async def _make(self, group: str, step: Step, has_started: Callable[[Step, list[str]], Awaitable[None]]) -> None:
        made = [self._name(group, number) for number in range(self._count_min)]
        for name in made:
            await self._hands.hire(name, step)
        try:
            await has_started(step, made)
        except InvalidConfig:
            for name in made:
                await self._hands.dismiss(name)
            raise
        self._groups[group] = _Group(step, GroupSize(len(made), self._count_min, self._count_max), made)

    async def run(self) -> None:
        """Follow the demand until cancelled."""
        while True:
            await self._sleep(_EVERY_S)
            if self._count_max > self._count_min and self._groups:
                await self.look()

    async def look(self) -> None:
        """One round: who has come, who is done, and how many there should be."""
        async with self._turn:
            before = self.workers
            waiting = [await self._hands.figures(name) for name in self._coordinators]
            for name, group in self._groups.items():
                await self._arrivals(group)
                await self._departures(group)
                await self._resize(name, group, sum(int(one.get(f"waiting:{name}", 0)) for one in waiting if one is not None))
            if self.workers != before:
                await self._hands.tell(self.workers)

    async def _arrivals(self, group: _Group) -> None:
        for name in sorted(group.coming):
            if await self._hands.answers(name):
                group.coming.discard(name)
                group.here.append(name)

    async def _departures(self, group: _Group) -> None:
        for name in sorted(group.leaving):
            figures = await self._hands.figures(name)
            if figures is None or _has_work(figures):
                continue
            group.leaving.discard(name)
            await self._hands.dismiss(name)

    async def _resize(self, name: str, group: _Group, waiting: int) -> None:
        busy = sum([_has_work(await self._hands.figures(worker)) for worker in group.here])
        size = resize(group.size, Demand(max(0, waiting - len(group.coming)), busy), self._clock(), self._idle_s)
        more = size.count - group.size.count
        group.size = size
        if more > 0:
            _log.info("%d requests wait for workers %r; %d more are started", waiting, name, more)
            await self._grow(name, group, more)
        elif more < 0:
            _log.info("%d of the workers %r have had nothing to do for %.0f s and end", -more, name, self._idle_s)
            await self._shrink(group, -more)

    async def _grow(self, name: str, group: _Group, more: int) -> None:
        back = sorted(group.leaving)[:more]
        group.leaving.difference_update(back)
        group.here += back
        number = 0
        while more > len(back):
            worker = self._name(name, number)
            if worker not in group.here and worker not in group.coming and worker not in group.leaving:
                group.coming.add(worker)
                await self._hands.hire(worker, group.step)
                more -= 1
            number += 1

    async def _shrink(self, group: _Group, fewer: int) -> None:
        for name in sorted(group.coming, reverse=True)[:fewer]:
            group.coming.discard(name)
            await self._hands.dismiss(name)
            fewer -= 1
        for _ in range(fewer):
            group.leaving.add(group.here.pop())

    def _name(self, group: str, number: int) -> str:
        return names.worker(self._deployment, group, number)


def _has_work(figures: Figures | None) -> bool:
    return figures is not None and float(figures.get("running", 0)) + float(figures.get("queued", 0)) > 0
