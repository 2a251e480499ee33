"""The coordinator that `wrap(pipeline, cluster=...)` gives: the same calls as in one process, for runs that go on on the cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from agentraft_ray.errors import StoreError
from agentraft_ray.events import Event
from agentraft_ray.identity import check_run_id
from agentraft_ray.pipeline import Task
from agentraft_ray.result import RunResult
from agentraft_ray.runtime.blueprint import Blueprint
from agentraft_ray.runtime.coordinator import Coordinator, RunHandle
from agentraft_ray.runtime.environment import Environment
from agentraft_ray.runtime.hooks import EventHook, EventSink

if TYPE_CHECKING:
    from agentraft_ray.cluster.cluster import Cluster

__all__ = ["ClusterCoordinator"]


class ClusterCoordinator(Coordinator):
    """Runs one pipeline on a cluster. What only looks at a log, or decides about a run, is inherited and goes to the store."""

    def __init__(
        self, cluster: Cluster, blueprint: Blueprint, make_environment: Callable[[], Environment], on_event: EventHook | None
    ) -> None:
        super().__init__(make_environment, on_event)
        self.cluster = cluster
        self.blueprint = blueprint
        self._following: set[asyncio.Task[RunResult]] = set()

    def twin(self) -> ClusterCoordinator:
        """Another one of the same pipeline, without a hook, for use on another event loop at the same time."""
        return ClusterCoordinator(self.cluster, self.blueprint, self._make_environment, None)

    async def run(self, task: Task, *, run_id: str | None = None) -> RunResult:
        """See `Coordinator.run`. The run goes on on the cluster when this is cancelled, or this program ends."""
        return await self._follow(task, run_id or task.id, self._on_event)

    def run_sync(self, task: Task, *, run_id: str | None = None) -> RunResult:
        """`run` for programs without an event loop."""
        return self.cluster.background.run(self._follow_here(task, run_id or task.id, self._on_event))

    async def submit(self, task: Task, *, run_id: str | None = None) -> RunHandle:
        """Start a run; returns when its admission is durable. Any process of the cluster can pick it up by its run id."""
        run_id = check_run_id(run_id or task.id)
        background = self.cluster.background
        sink = _sink(self._on_event)
        follower = await background.wait(self.cluster.begin(self.blueprint, run_id, task, _sink(_relay(sink))))
        work = asyncio.get_running_loop().create_task(_flushed(background.wait(self.cluster.end(follower)), sink))
        self._following.add(work)
        work.add_done_callback(self._following.discard)
        return RunHandle(self, run_id, work, created=follower.following.accepted.result().created)

    async def stream(self, task: Task, *, run_id: str | None = None) -> AsyncIterator[Event]:
        """Run `task` and yield its events as they happen, RUN_START first. The run goes on when the loop is left early."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Event | None] = asyncio.Queue()

        def put(event: Event | None) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, event)

        work = asyncio.create_task(self._follow(task, run_id or task.id, self._both(put)))
        work.add_done_callback(lambda _: put(None))
        try:
            while (event := await queue.get()) is not None:
                yield event
            await work
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    async def resume(self, run_id: str) -> RunResult:
        """Go on with a run where its log ends, until it has finished or waits. Raises RunNotFound, RunExpired, FingerprintMismatch."""
        check_run_id(run_id)
        await (await self._ready()).refuse_changed(run_id)
        cluster = self.cluster
        sink = _sink(self._on_event)
        return await _flushed(cluster.background.wait(cluster.go_on(self.blueprint, run_id, _sink(_relay(sink)))), sink)

    async def cancel(self, run_id: str, *, by: str = "") -> None:
        """End a run, whatever it does."""
        await super().cancel(run_id, by=by)
        await self.cluster.background.wait(self.cluster.look(run_id))

    async def close(self) -> None:
        """Stop following. The runs go on on the cluster, until that is closed."""
        following = list(self._following)
        for work in following:
            work.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        lives, self._lives = self._lives, None
        if lives is not None:
            await lives.environment.store.close()

    async def _decide(self, run_id: str, kind: str, step: str, by: str, note: str) -> None:
        await super()._decide(run_id, kind, step, by, note)
        await self.cluster.background.wait(self.cluster.look(run_id))

    async def _follow(self, task: Task, run_id: str, hook: EventHook | None) -> RunResult:
        """From the caller's loop, on which its hook is called too."""
        sink = _sink(hook)
        return await _flushed(self.cluster.background.wait(self._follow_here(task, run_id, _relay(sink))), sink)

    async def _follow_here(self, task: Task, run_id: str, hook: EventHook | None) -> RunResult:
        """On the cluster's loop."""
        check_run_id(run_id)
        cluster = self.cluster
        try:
            follower = await cluster.begin(self.blueprint, run_id, task, _sink(hook), until_waiting=True)
            return await cluster.end(follower)
        except StoreError as error:
            return cluster.failed(self.blueprint, run_id, error)


async def _flushed(work: Awaitable[RunResult], sink: EventSink | None) -> RunResult:
    """The result, once the hook has dealt with every event before it."""
    result = await work
    if sink is not None:
        await sink.flush()
    return result


def _relay(sink: EventSink | None) -> EventHook | None:
    """A hook for the cluster's loop that hands every event to a sink of the running one."""
    if sink is None:
        return None
    loop, put = asyncio.get_running_loop(), sink.put

    def relay(event: Event) -> None:
        loop.call_soon_threadsafe(put, event)

    return relay


def _sink(hook: EventHook | None) -> EventSink | None:
    return None if hook is None else EventSink(hook)
