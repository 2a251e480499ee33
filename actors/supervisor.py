"""Keeps the actors of a cluster alive: looks at every child, does what `children.decide` says, and tells what happened. No Ray here."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, assert_never

from agentraft_ray.actors.children import Child, ChildSpec, Create, Decision, Drain, Kill, Seen, decide
from agentraft_ray.actors.messages import Pong
from agentraft_ray.errors import AgentRaftError, InvalidConfig

__all__ = ["EventKind", "Nursery", "Supervisor", "SupervisorEvent"]

EventKind = Literal["started", "restarted", "killed", "stopped", "created", "draining", "failed"]


@dataclass(frozen=True, slots=True)
class SupervisorEvent:
    """Something that happened to a child. `restarts` = how many are counted in its period now.

    "restarted": a new process answers under its name. "killed": it was ended, another one comes. "stopped": ended without another
    one, for a crash loop or because the supervisor stops. "failed": what was to be done could not be; it is tried again.
    """

    kind: EventKind
    name: str
    role: str
    at_s: float
    why: str = ""
    restarts: int = 0


class Nursery(Protocol):
    """Where the children live. Every call is bounded in time by itself and raises AgentRaftError if it cannot be carried out."""

    async def ping(self, name: str) -> Pong | None:
        """The child's pong; None if there was no answer in time, or it is not there."""

    async def is_gone(self, name: str) -> bool:
        """Whether nothing will ever answer under this name again unless it is created."""

    async def stats(self, name: str) -> Mapping[str, float | int | str] | None:
        """The child's figures, None if it did not answer."""

    async def drain(self, name: str) -> None:
        """Tell the child to take nothing new."""

    async def kill(self, name: str, restart: bool) -> None:
        """End its process; another one takes its place if `restart`. Nothing happens if it is gone already."""

    async def create(self, spec: ChildSpec) -> None:
        """Make the child, or find the living one of that name."""


class Supervisor:
    """One for one: a child that fails is restarted alone. `start`, then `run` until it is cancelled, then `stop`.

    `on_event` must not raise. `clock` and `sleep` are there for tests; the clock never goes back.
    """

    def __init__(
        self,
        nursery: Nursery,
        children: Iterable[ChildSpec],
        on_event: Callable[[SupervisorEvent], None],
        *,
        every_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._nursery = nursery
        self._specs = sorted(children, key=lambda spec: spec.order)
        names = [spec.name for spec in self._specs]
        if len(set(names)) < len(names):
            raise InvalidConfig(f"two children share a name: {sorted(name for name in names if names.count(name) > 1)}; names must differ")
        self._on_event = on_event
        self._every_s, self._clock, self._sleep = every_s, clock, sleep
        self._children: dict[str, Child] = {}

    async def start(self) -> None:
        """Create all children, left to right: those of one order together, the next ones when they answer or have had their time.

        One that does not come is left to `run`. Nothing is killed here.
        """
        for _, group in itertools.groupby(self._specs, key=lambda spec: spec.order):
            specs = list(group)
            for spec in specs:
                self._children[spec.name] = Child(self._clock())
            await asyncio.gather(*(self._create(spec, "the cluster starts") for spec in specs))
            await asyncio.gather(*(self._await_start(spec) for spec in specs))

    async def add(self, spec: ChildSpec) -> None:
        """Create one more child, and look after it from now on; one of that name that is here already is left as it is."""
        if spec.name not in self._children:
            self._specs = sorted([*self._specs, spec], key=lambda one: one.order)
            self._children[spec.name] = Child(self._clock())
            await self._create(spec, "it is wanted")

    async def remove(self, name: str) -> None:
        """End a child and look after it no more; nothing happens where there is none of that name."""
        spec = next((one for one in self._specs if one.name == name), None)
        if spec is not None:
            await self._done(spec, "kill", self._nursery.kill(name, False))
            self._specs.remove(spec)
            self._children.pop(name, None)

    async def run(self) -> None:
        """Look after the children until cancelled."""
        while True:
            await self.look()
            await self._sleep(self._every_s)

    async def look(self) -> None:
        """One round: look at all children at once, then act from left to right."""
        specs = [spec for spec in self._specs if spec.name in self._children]
        seen = await asyncio.gather(*(self._seen(spec) for spec in specs))
        for spec, one in zip(specs, seen, strict=True):
            now_s = self._clock()
            before = self._children[spec.name]
            child, decisions = decide(spec, before, one, now_s)
            self._children[spec.name] = child
            if one.pong is not None and child.stopped_until_s is None and child.incarnation == one.pong.incarnation != before.incarnation:
                self._tell("restarted" if before.incarnation or child.ledger.times_s else "started", spec, "it answers")
            for decision in decisions:
                if not await self._act(spec, decision):
                    self._children[spec.name] = before  # so that the next round comes to the same decision
            if child.stopped_until_s is not None and before.stopped_until_s is None and not decisions:
                self._tell("stopped", spec, f"it was lost over and over; made anew in {child.stopped_until_s - now_s:.0f} s")

    async def stop(self) -> None:
        """Drain and end all children, right to left; those of one order together."""
        for _, group in itertools.groupby(reversed(self._specs), key=lambda spec: spec.order):
            await asyncio.gather(*(self._stop(spec) for spec in group if spec.name in self._children))
        self._children.clear()

    def child(self, name: str) -> Child:
        """What is known of a child. Raises KeyError for one that was never started."""
        return self._children[name]

    async def _seen(self, spec: ChildSpec) -> Seen:
        child = self._children[spec.name]
        if child.stopped_until_s is not None:
            return Seen()
        try:
            pong = await self._nursery.ping(spec.name)
            if pong is None:
                return Seen(is_gone=await self._nursery.is_gone(spec.name))
            figures = await self._nursery.stats(spec.name) if spec.overdue_threads_max is not None else None
        except AgentRaftError:
            return Seen()
        return Seen(pong, figures=figures)

    async def _act(self, spec: ChildSpec, decision: Decision) -> bool:
        match decision:
            case Create(why):
                await self._create(spec, why)
                return True
            case Kill(why, restart):
                if not await self._done(spec, "kill", self._nursery.kill(spec.name, restart)):
                    return False
                self._tell("killed" if restart else "stopped", spec, why)
            case Drain(why):
                if not await self._done(spec, "drain", self._nursery.drain(spec.name)):
                    return False
                self._tell("draining", spec, why)
            case _:
                assert_never(decision)
        return True

    async def _create(self, spec: ChildSpec, why: str) -> None:
        # One that could not be created is seen to be gone in the next round: that counts as a restart, and so ends in a back-off.
        if await self._done(spec, "create", self._nursery.create(spec)):
            self._tell("created", spec, why)

    async def _await_start(self, spec: ChildSpec) -> None:
        until_s = self._clock() + spec.start_s
        while self._clock() < until_s:
            seen = await self._seen(spec)
            if seen.pong is not None:
                self._children[spec.name], _ = decide(spec, self._children[spec.name], Seen(seen.pong), self._clock())
                self._tell("started", spec, "it answers")
                return
            if seen.is_gone:
                return
            await self._sleep(min(self._every_s, spec.start_s))

    async def _stop(self, spec: ChildSpec) -> None:
        await self._done(spec, "drain", self._nursery.drain(spec.name))
        if await self._done(spec, "kill", self._nursery.kill(spec.name, False)):
            self._tell("stopped", spec, "the cluster stops")

    async def _done(self, spec: ChildSpec, verb: str, doing: Awaitable[None]) -> bool:
        try:
            await doing
        except AgentRaftError as failure:
            self._tell("failed", spec, f"cannot {verb} it: {failure}")
            return False
        return True

    def _tell(self, kind: EventKind, spec: ChildSpec, why: str) -> None:
        child = self._children[spec.name]
        self._on_event(SupervisorEvent(kind, spec.name, spec.role, self._clock(), why, len(child.ledger.times_s)))
