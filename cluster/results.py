"""The results of a pipeline mapped over tasks, as they come: for a ``for`` loop and an ``async for`` loop alike."""

from __future__ import annotations

import asyncio
import queue
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentraft_ray.actors.client_messages import Outcome
from agentraft_ray.cluster.following import Follower
from agentraft_ray.errors import AgentRaftError, InvalidConfig
from agentraft_ray.pipeline import Task
from agentraft_ray.result import RunResult
from agentraft_ray.runtime.blueprint import Blueprint

if TYPE_CHECKING:
    from agentraft_ray.cluster.cluster import Cluster

__all__ = ["Progress", "Results"]

_POLL_S = 0.2  # how often a blocked caller looks up, so that Ctrl-C is heard
_LINE_S = 0.5


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a `map` has come. `total` is None where nobody knows how many tasks there are; `steps` = committed ones."""

    done: int
    failed: int
    under_way: int
    total: int | None
    steps: int
    seconds: float


class Results:
    """Iterate once. Results come in the order in which runs end; what a run could not be taken in for is a result as well."""

    def __init__(
        self,
        cluster: Cluster,
        blueprint: Blueprint,
        tasks: Iterable[Task] | AsyncIterable[Task],
        at_a_time: int,
        progress: bool | Callable[[Progress], None],
    ) -> None:
        if at_a_time < 1:
            raise InvalidConfig(f"at_a_time={at_a_time} must be at least 1")
        self._cluster = cluster
        self._blueprint = blueprint
        self._tasks = tasks
        self._at_a_time = at_a_time
        self._total = len(tasks) if isinstance(tasks, Sized) else None
        self._report = _line if progress is True else progress or None
        self._reported_at = 0.0
        self._started = time.monotonic()
        self._under_way = self._done = self._failed = self._steps = 0
        self._ended: queue.SimpleQueue[RunResult] = queue.SimpleQueue()
        self._wake: Callable[[], None] | None = None

    def __iter__(self) -> Iterator[RunResult]:
        if not isinstance(self._tasks, Iterable):
            raise InvalidConfig("these tasks come from an async iterable; write `async for result in cluster.map(...)`")
        tasks = iter(self._tasks)
        more = True
        while more or self._under_way:
            while more and self._under_way < self._at_a_time:
                task = next(tasks, None)
                if task is None:
                    more = False
                else:
                    self._start(task)
            if self._under_way:
                try:
                    yield self._count(self._ended.get(timeout=_POLL_S))
                except queue.Empty:
                    self._tell()
        self._tell(last=True)

    async def __aiter__(self) -> AsyncIterator[RunResult]:
        loop = asyncio.get_running_loop()
        news = asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(news.set)

        self._wake = wake
        tasks = aiter(self._tasks) if isinstance(self._tasks, AsyncIterable) else _each(self._tasks)
        more = True
        while more or self._under_way:
            while more and self._under_way < self._at_a_time:
                task = await anext(tasks, None)
                if task is None:
                    more = False
                else:
                    self._start(task)
            while not self._ended.empty():
                yield self._count(self._ended.get_nowait())
            if self._under_way and self._ended.empty() and (not more or self._under_way >= self._at_a_time):
                await news.wait()
                news.clear()
        self._tell(last=True)

    def _start(self, task: Task) -> None:
        if not isinstance(task, Task):
            raise InvalidConfig(f"map takes tasks, not {task!r:.100}; wrap it: Task('what to do', inputs={{...}})")
        self._under_way += 1
        self._cluster.background.call(lambda: self._follow(task))

    def _follow(self, task: Task) -> None:
        """On the cluster's loop."""
        try:
            follower = self._cluster.follower(self._blueprint, task.id, task)
        except AgentRaftError as error:
            self._end(self._cluster.failed(self._blueprint, str(task.id), error))
            return
        follower.following.ended.add_done_callback(lambda ended: self._take(follower, ended))
        self._cluster.follow(follower)

    def _take(self, follower: Follower, ended: asyncio.Future[Outcome]) -> None:
        if ended.cancelled():
            return
        error = ended.exception()
        if error is None:
            self._end(follower.result_from(ended.result()))
        else:
            told = error if isinstance(error, AgentRaftError) else AgentRaftError(f"{type(error).__name__}: {error}")
            self._end(self._cluster.failed(self._blueprint, follower.run_id, told))

    def _end(self, result: RunResult) -> None:
        self._ended.put(result)
        if self._wake is not None:
            self._wake()

    def _count(self, result: RunResult) -> RunResult:
        self._under_way -= 1
        self._done += 1
        self._failed += not result.success
        self._steps += result.verified_count
        self._tell()
        return result

    def _tell(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if self._report is not None and (last or now - self._reported_at >= _LINE_S):
            self._reported_at = now
            self._report(Progress(self._done, self._failed, self._under_way, self._total, self._steps, now - self._started))
            if last and self._report is _line:
                sys.stderr.write("\n")


def _line(progress: Progress) -> None:
    total = "" if progress.total is None else f"/{progress.total:,}"
    failed = f", {progress.failed:,} did not succeed" if progress.failed else ""
    rate = progress.steps / progress.seconds if progress.seconds else 0.0
    text = f"{progress.done:,}{total} runs{failed}, {progress.under_way:,} under way, {rate:,.0f} steps/s, {progress.seconds:.0f} s"
    sys.stderr.write(f"\r{text:<100}")
    sys.stderr.flush()


async def _each(tasks: Iterable[Any]) -> AsyncIterator[Any]:
    for task in tasks:
        yield task
