"""The coordinator: what users call to run pipelines in this process over a store, to look at runs, and to decide about them."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from agentraft_ray.breaker import Standing
from agentraft_ray.errors import AgentRaftError, DurabilityUnverified, InvalidConfig, StoreError
from agentraft_ray.events import Event
from agentraft_ray.identity import check_run_id
from agentraft_ray.pipeline import Task
from agentraft_ray.result import RunResult
from agentraft_ray.runtime.acknowledged import Acknowledged, AcknowledgedLogs
from agentraft_ray.runtime.commands import approval_command, cancel_command
from agentraft_ray.runtime.environment import Environment
from agentraft_ray.runtime.hooks import EventHook, EventSink
from agentraft_ray.runtime.lives import Lives
from agentraft_ray.runtime.logged_events import logged_events
from agentraft_ray.runtime.logs import task_record
from agentraft_ray.runtime.results import error_result

__all__ = ["Coordinator", "RunHandle"]


class Coordinator:
    """Runs one pipeline. Made by `wrap`; `run` is all that most users need.

    A coordinator may be used from one event loop after another. `close` (or ``async with``) drains whatever is under way.
    """

    def __init__(self, make_environment: Callable[[], Environment], on_event: EventHook | None = None, *, owns_store: bool = False) -> None:
        self._make_environment = make_environment
        self._on_event = on_event
        self._owns_store = owns_store
        self._lives: Lives | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = asyncio.Lock()
        self._background: dict[str, asyncio.Task[Any]] = {}
        self._known: AcknowledgedLogs | None = None

    # --- running -----------------------------------------------------------------------------------------------------------

    async def run(self, task: Task, *, run_id: str | None = None) -> RunResult:
        """Run `task` until it has finished or waits for something outside; never raises for a run that fails.

        The run id defaults to `task.id`. A run that exists goes on where its log ends; one that has finished returns its result, and
        its events are told again. While another coordinator works on it, this waits for as long as the lease of that one lives.
        Raises only for the caller's mistakes: a bad run id, inputs that are not plain data, an id that stands for another task.
        """
        return await self._run(task, run_id or task.id, self._on_event)

    def run_sync(self, task: Task, *, run_id: str | None = None) -> RunResult:
        """`run` for programs without an event loop. Raises InvalidConfig where one is running."""
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            raise InvalidConfig("run_sync was called inside a running event loop; write `await coordinator.run(task)` there")

        async def run_and_close() -> RunResult:
            async with self:
                return await self.run(task, run_id=run_id)

        return asyncio.run(run_and_close())

    async def run_or_raise(self, task: Task, *, run_id: str | None = None) -> Any:
        """The output of the run. Raises what made it fail: MaxRetriesExceeded, CircuitBreakerOpen, RunWaiting ..."""
        result = await self.run(task, run_id=run_id)
        result.raise_for_error()
        return result.output

    async def stream(self, task: Task, *, run_id: str | None = None) -> AsyncIterator[Event]:
        """Run `task` and yield its events as they happen, RUN_START first. Leaving the loop early drains the run."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        work = asyncio.create_task(self._run(task, run_id or task.id, self._both(queue.put_nowait)))
        work.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (event := await queue.get()) is not None:
                yield event
            await work
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    async def submit(self, task: Task, *, run_id: str | None = None) -> RunHandle:
        """Start a run in the background; returns when its admission is durable.

        It goes on by itself when approvals come in, and asks a verifier that did not answer again every
        `Limits.verifier_park_retry_s`; a store that fails while the run waits is waited for.
        """
        run_id = check_run_id(run_id or task.id)
        lives = await self._ready()
        environment = lives.environment
        created, _, _ = await environment.logs.admit(run_id, task_record(task, environment.limits), environment.plan)
        return self._in_background(lives, run_id, created=created)

    async def pick_up(self, run_id: str) -> RunHandle:
        """Go on in the background, as `submit` does, with a run that was there before; one that waits for nothing but approvals is
        left as it is until one comes. Raises RunNotFound, RunExpired, FingerprintMismatch.
        """
        lives = await self._ready()
        logs = lives.environment.logs
        await lives.refuse_changed(check_run_id(run_id))
        is_parked = (await logs.meta(run_id)).status == "parked"
        reasons = (await logs.fold(run_id)).parked if is_parked else None
        waits = reasons is not None and all(reason.startswith("approval:") for reason in reasons)
        return self._in_background(lives, run_id, reasons or () if waits else (), created=False)

    async def look(self, run_id: str) -> bool:
        """Have what lies in the inbox of a run taken now; whether the run is driven, or waited for, here. Raises StoreError."""
        return self._lives is not None and await self._lives.look(check_run_id(run_id))

    async def resume(self, run_id: str) -> RunResult:
        """Go on with a run where its log ends, until it has finished or waits. Raises RunNotFound, RunExpired, FingerprintMismatch.

        A run whose log has lost what this coordinator was acknowledged is parked as rewound first; the next `resume` goes on.
        """
        started = time.perf_counter()
        return await (await self._ready()).live(check_run_id(run_id), started, _sink(self._on_event))

    async def result(self, run_id: str) -> RunResult:
        """How a run stands now, read from its log; changes nothing. Raises RunNotFound, RunExpired."""
        return await (await self._ready()).logged_result(check_run_id(run_id), time.perf_counter())

    async def events(self, run_id: str, after: str | None = None) -> AsyncIterator[Event]:
        """The events of a run that derive from its log, as it stands now: each once, in order, with the id that it had live.

        `after` = the id of the last event that is known; only what follows it comes. So nothing is missed after a reconnect.
        Raises RunNotFound, RunExpired, InvalidConfig for an id of another run, LogRewound where the log ends before `after`.
        """
        environment = await self._open()
        async for event in logged_events(environment.logs, check_run_id(run_id), after):
            yield event

    # --- from outside ------------------------------------------------------------------------------------------------------

    async def approve(self, run_id: str, step: str, *, by: str = "", note: str = "") -> None:
        """Approve what the run waits for at `step`: exactly the output that lies there now, or its running. Then `resume` it.

        Works from any process that reaches the store. Raises AgentRaftError when the step waits for nobody.
        """
        await self._decide(run_id, "approve", step, by, note)

    async def deny(self, run_id: str, step: str, *, by: str = "", note: str = "") -> None:
        """Refuse it: the output is thrown away and `note` becomes the hint of the retry; a step that may not run ends the run."""
        await self._decide(run_id, "deny", step, by, note)

    async def cancel(self, run_id: str, *, by: str = "") -> None:
        """End a run, whatever pipeline it was admitted with; one that has finished stays as it is.

        One that nobody drives is ended here; one that another process drives ends when it reads its inbox.
        """
        lives = await self._ready()
        environment = lives.environment
        meta = await environment.logs.meta(check_run_id(run_id))
        if not await environment.store.push_command(run_id, cancel_command(by)):
            return
        if await lives.look(run_id):
            return
        if meta.status != "open" or meta.token.owner == environment.owner.id or not await environment.store.lease_alive(meta.token.owner):
            await lives.end(run_id, _sink(self._on_event))

    async def fork(self, run_id: str, step: str, *, new_id: str | None = None) -> str:
        """A new run that shares the log of `run_id` up to before `step`; returns its id, `resume` runs it. Nothing is mutated.

        The pipeline may differ from `step` on, and in budget and retries; what is shared must be judged alike.
        """
        lives = await self._ready()
        environment = lives.environment
        new_id = check_run_id(new_id or f"{run_id[:115]}-{uuid.uuid4().hex[:12]}")
        state = await environment.logs.fork(check_run_id(run_id), step, new_id, environment.plan, environment.owner.id)
        lives.known.remember(new_id, Acknowledged(state.token, state.index, state.head))
        return new_id

    @property
    def under_way(self) -> int:
        """How many runs go on, or wait, in the background."""
        return len(self._background)

    def drives(self, run_id: str) -> bool:
        """Whether a run is among those."""
        return run_id in self._background

    def breakers(self) -> dict[str, tuple[Standing, int, int]]:
        """How the breakers of this coordinator stand now; see `ScopedBreakers.standings`."""
        return {} if self._lives is None else self._lives.environment.breakers.standings(time.time())

    async def close(self) -> None:
        """Drain every run that is under way, in the background or not, and let go of the store.

        A `run` that is drained returns; its run waits to be resumed.
        """
        under_way = list(self._background.values())
        for work in under_way:
            work.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        lives, self._lives = self._lives, None
        if lives is not None:
            await lives.close()
            if self._owns_store:
                await lives.environment.store.close()

    async def __aenter__(self) -> Coordinator:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- what they are made of -----------------------------------------------------------------------------------------------

    def _in_background(self, lives: Lives, run_id: str, reasons: tuple[str, ...] = (), *, created: bool) -> RunHandle:
        """A run that goes on in the background already is not begun twice."""
        work = self._background.get(run_id)
        if work is None or work.done():
            work = asyncio.create_task(lives.to_the_end(run_id, _sink(self._on_event), reasons), name=f"run {run_id}")
            self._background[run_id] = work
            work.add_done_callback(lambda done: self._forget(run_id, done))
        return RunHandle(self, run_id, work, created=created)

    def _forget(self, run_id: str, work: asyncio.Task[Any]) -> None:
        if self._background.get(run_id) is work:
            del self._background[run_id]

    async def _ready(self) -> Lives:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._lives, self._loop, self._opening = None, loop, asyncio.Lock()
            self._background.clear()
        if self._lives is None:
            async with self._opening:  # runs that start together share one environment: one lease, one set of breakers
                if self._lives is None:
                    environment = self._make_environment()
                    await environment.store.open()
                    if self._known is None:
                        self._known = AcknowledgedLogs(environment.limits.remembered_runs_max)
                    self._lives = Lives(environment, self._known)
        return self._lives

    async def _open(self) -> Environment:
        return (await self._ready()).environment

    async def _run(self, task: Task, run_id: str, hook: EventHook | None) -> RunResult:
        started = time.perf_counter()
        check_run_id(run_id)
        environment: Environment | None = None
        try:
            lives = await self._ready()
            environment = lives.environment
            record = task_record(task, environment.limits)
            created, meta, state = await environment.logs.admit(run_id, record, environment.plan)
        except StoreError as error:
            if isinstance(error, DurabilityUnverified):
                raise
            steps_total = (environment or self._make_environment()).plan.size
            return error_result(run_id, error, steps_total, started)
        return await lives.live(run_id, started, _sink(hook), (meta, state) if created else None)

    async def _decide(self, run_id: str, kind: str, step: str, by: str, note: str) -> None:
        lives = await self._ready()
        environment = lives.environment
        state = await environment.logs.fold(check_run_id(run_id))
        is_over = state.finished is not None
        if is_over or not await environment.store.push_command(run_id, approval_command(state, kind, step, by, note)):
            raise AgentRaftError(f"run {run_id} has finished; there is nothing left to {kind}", run_id=run_id)
        await lives.look(run_id)

    def _both(self, first: Callable[[Event], None]) -> EventHook:
        second = self._on_event

        def hook(event: Event) -> Awaitable[None] | None:
            first(event)
            return second(event) if second is not None else None

        return hook


def _sink(hook: EventHook | None) -> EventSink | None:
    return None if hook is None else EventSink(hook)


class RunHandle:
    """A run that was submitted: await `result()`, or look and decide from elsewhere by its `run_id`. `created`: it is a new one."""

    def __init__(self, coordinator: Coordinator, run_id: str, work: asyncio.Task[RunResult], *, created: bool = True) -> None:
        self._coordinator = coordinator
        self.run_id = run_id
        self.created = created
        self._work = work

    async def result(self) -> RunResult:
        """The result, when the run has finished; while it waits for a person or a verifier this waits too."""
        return await asyncio.shield(self._work)

    async def status(self) -> RunResult:
        """How the run stands now, from its log."""
        return await self._coordinator.result(self.run_id)

    async def approve(self, step: str, *, by: str = "", note: str = "") -> None:
        """See `Coordinator.approve`."""
        await self._coordinator.approve(self.run_id, step, by=by, note=note)

    async def deny(self, step: str, *, by: str = "", note: str = "") -> None:
        """See `Coordinator.deny`."""
        await self._coordinator.deny(self.run_id, step, by=by, note=note)

    async def cancel(self, *, by: str = "") -> None:
        """See `Coordinator.cancel`."""
        await self._coordinator.cancel(self.run_id, by=by)
