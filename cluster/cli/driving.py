"""Driving runs in the process of a command: one store, one coordinator a pipeline, and an end in good order at Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from types import TracebackType
from typing import Self

from agentraft_ray.api import coordinator_of
from agentraft_ray.cluster.offers import Offer, keep, offer, offer_of_run
from agentraft_ray.cluster.settings import ClusterSettings
from agentraft_ray.cluster.stores import seal_of, store_of
from agentraft_ray.events import Event
from agentraft_ray.identity import check_run_id
from agentraft_ray.pipeline import Task
from agentraft_ray.result import RunResult
from agentraft_ray.runtime.blueprint import RunSettings
from agentraft_ray.runtime.coordinator import Coordinator

__all__ = ["Driving"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Driving:
    """An async context: inside, runs are driven; the first Ctrl-C or SIGTERM puts all of them aside, the second one ends the process."""

    def __init__(self, place: ClusterSettings, settings: RunSettings, hook: Callable[[Event], None] | None) -> None:
        self.is_interrupted = False
        self._store = store_of(place)
        self._seal = seal_of(place)
        self._settings = settings
        self._hook = hook
        self._coordinators: dict[bytes, Coordinator] = {}
        self._named: Offer | None = None
        self._ending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._interrupted)
        await self._store.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._ending is not None:
            await self._ending
        await self._drain()
        await self._store.close()
        for number in _SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)

    async def drive(self, what: Task | str, pipeline: str, verifier: str) -> RunResult:
        """Run a task with the named pipeline, or go on with the run of an id: with it, or with the one that the store knows."""
        if isinstance(what, Task):
            check_run_id(what.id)
            return await self._coordinator(await self._offer(pipeline, verifier)).run(what)
        check_run_id(what)
        found = await self._offer(pipeline, verifier) if pipeline else await offer_of_run(self._store, self._seal, what)
        return await self._coordinator(found).resume(what)

    async def _offer(self, pipeline: str, verifier: str) -> Offer:
        if self._named is None:
            self._named = offer(pipeline, verifier, self._settings)
            await keep(self._store, self._named)
        return self._named

    def _coordinator(self, found: Offer) -> Coordinator:
        known = self._coordinators.get(found.fingerprint)
        if known is None:
            known = self._coordinators[found.fingerprint] = coordinator_of(found.blueprint, self._store, self._seal, self._hook)
        return known

    def _interrupted(self) -> None:
        if self.is_interrupted:
            for number in _SIGNALS:
                asyncio.get_running_loop().remove_signal_handler(number)
            signal.raise_signal(signal.SIGINT)
        self.is_interrupted = True
        self._ending = asyncio.create_task(self._drain(), name="putting runs aside")

    async def _drain(self) -> None:
        await asyncio.gather(*(coordinator.close() for coordinator in self._coordinators.values()))
