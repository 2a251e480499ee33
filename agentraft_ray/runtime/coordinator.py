"""The coordinator: runs pipelines in this process over a store, one life after another until a run has finished or waits."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from weakref import WeakValueDictionary

from agentraft_ray.checkpoint.base import AnswerKind, RunMeta
from agentraft_ray.errors import (
    AgentRaftError,
    DurabilityUnverified,
    FingerprintMismatch,
    OwnershipLost,
    StoreError,
)
from agentraft_ray.events import Event, event_of
from agentraft_ray.identity import check_run_id
from agentraft_ray.pipeline import Task
from agentraft_ray.protocol.messages import Announce
from agentraft_ray.protocol.records import RunParked
from agentraft_ray.protocol.state import RunState
from agentraft_ray.result import RunResult
from agentraft_ray.runtime.commands import approval_command, cancel_command
from agentraft_ray.runtime.driver import RunDriver
from agentraft_ray.runtime.environment import Environment
from agentraft_ray.runtime.hooks import EventHook, EventSink
from agentraft_ray.runtime.logs import changed_between, task_record
from agentraft_ray.runtime.outputs import RunOutputs
from agentraft_ray.runtime.results import Commits, error_result, result_of

__all__ = ["Coordinator", "RunHandle"]

_INBOXES_PER_POLL = 50


class Coordinator:
    """Runs one pipeline. Made by `wrap`; `run` is all that most users need.

    A coordinator may be used from one event loop after another. `close` (or ``async with``) drains what runs in the background.
    """

    def __init__(self, make_environment: Callable[[], Environment], on_event: EventHook | None = None, *, owns_store: bool = False) -> None:
        self._make_environment = make_environment
        self._on_event = on_event
        self._owns_store = owns_store
        self._environment: Environment | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = asyncio.Lock()
        self._drivers: dict[str, RunDriver] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._poller: asyncio.Task[None] | None = None
        self._epochs: dict[str, int] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # --- running -----------------------------------------------------------------------------------------------------------

    async def run(self, task: Task, *, run_id: str | None = None) -> RunResult:
        """Run `task` until it has finished or waits for something outside; never raises for a run that fails.

        The run id defaults to `task.id`. A run that exists goes on where its log ends; one that has finished returns its result.
        Raises only for the caller's mistakes: a bad run id, inputs that are not plain data, an id that stands for another task.
        """
        return await self._run(task, run_id or task.id, self._on_event)

    def run_sync(self, task: Task, *, run_id: str | None = None) -> RunResult:
        """`run` for programs without an event loop. Raises AgentRaftError where one is running."""
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            raise AgentRaftError("run_sync was called inside a running event loop; write `await coordinator.run(task)` there")

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
        """Start a run in the background; returns when its admission is durable. It goes on by itself when approvals come in."""
        run_id = check_run_id(run_id or task.id)
        environment = await self._open()
        await environment.logs.admit(run_id, task_record(task, environment.limits), environment.plan)
        work = asyncio.create_task(self._run_to_the_end(run_id), name=f"run {run_id}")
        self._background.add(work)
        work.add_done_callback(self._background.discard)
        return RunHandle(self, run_id, work)

    async def resume(self, run_id: str) -> RunResult:
        """Go on with a run where its log ends, until it has finished or waits. Raises RunNotFound, RunExpired, FingerprintMismatch."""
        started = time.perf_counter()
        environment = await self._open()
        return await self._lives(environment, check_run_id(run_id), None, started, self._on_event)

    async def result(self, run_id: str) -> RunResult:
        """How a run stands now, read from its log; changes nothing. Raises RunNotFound, RunExpired."""
        environment = await self._open()
        return await self._logged_result(environment, check_run_id(run_id), time.perf_counter())

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
        """End a run. One that nobody drives is ended here; one that another process drives ends when it reads its inbox."""
        environment = await self._open()
        await environment.logs.meta(check_run_id(run_id))
        await environment.store.push_command(run_id, cancel_command(by))
        if run_id in self._drivers:
            await self._poll_inbox(environment, run_id)
            return
        meta = await environment.logs.meta(run_id)
        if meta.status == "open" and meta.token.owner != environment.owner.id and await environment.store.lease_alive(meta.token.owner):
            return
        if meta.status != "finished":
            await self._lives(environment, run_id, None, time.perf_counter(), self._on_event)

    async def fork(self, run_id: str, step: str, *, new_id: str | None = None) -> str:
        """A new run that shares the log of `run_id` up to before `step`; returns its id, `resume` runs it. Nothing is mutated.

        The pipeline may differ from `step` on, and in budget and retries; what is shared must be judged alike.
        """
        environment = await self._open()
        new_id = check_run_id(new_id or f"{run_id[:115]}-{uuid.uuid4().hex[:12]}")
        state = await environment.logs.fork(check_run_id(run_id), step, new_id, environment.plan, environment.owner.id)
        self._epochs[new_id] = state.token.epoch
        return new_id

    async def close(self) -> None:
        """Drain the runs in the background and let go of the store."""
        for work in list(self._background):
            work.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._environment is not None and self._owns_store:
            await self._environment.store.close()
        self._environment = None

    async def __aenter__(self) -> Coordinator:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- lives of a run ----------------------------------------------------------------------------------------------------

    async def _open(self) -> Environment:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._environment, self._loop, self._opening, self._poller = None, loop, asyncio.Lock(), None
            self._drivers.clear()
            self._background.clear()
            self._turns.clear()
        if self._environment is None:
            async with self._opening:  # runs that start together share one environment: one lease, one set of breakers
                if self._environment is None:
                    environment = self._make_environment()
                    await environment.store.open()
                    self._environment = environment
        return self._environment

    async def _run(self, task: Task, run_id: str, hook: EventHook | None) -> RunResult:
        started = time.perf_counter()
        check_run_id(run_id)
        environment: Environment | None = None
        try:
            environment = await self._open()
            record = task_record(task, environment.limits)
            created, meta, state = await environment.logs.admit(run_id, record, environment.plan)
        except StoreError as error:
            if isinstance(error, DurabilityUnverified):
                raise
            steps_total = (environment or self._make_environment()).plan.size
            return error_result(run_id, error, steps_total, started)
        fresh = (meta, state) if created else None
        return await self._lives(environment, run_id, fresh, started, hook)

    async def _lives(
        self,
        environment: Environment,
        run_id: str,
        fresh: tuple[RunMeta, RunState] | None,
        started: float,
        hook: EventHook | None,
    ) -> RunResult:
        """One life after another: claim, drive, and again while the run is taken from us or commands wait for it."""
        rewound = ""
        sink = EventSink(hook) if hook is not None else None
        turn = self._turns.setdefault(run_id, asyncio.Lock())  # claims do not keep one owner from itself
        try:
            async with turn, environment.owner:
                while True:
                    if fresh is not None:
                        meta, admitted = fresh
                        fresh = None
                    else:
                        meta, admitted = await environment.logs.meta(run_id), None
                        if meta.status == "finished":
                            return await self._logged_result(environment, run_id, started)
                        if run_id not in self._epochs:
                            await self._refuse_changed(environment, run_id)
                    remembered = self._epochs.get(run_id, 0)
                    answer = await environment.logs.claim(run_id, environment.owner.id, meta, remembered, admitted)
                    if answer.kind is not AnswerKind.APPENDED:
                        if answer.kind is AnswerKind.FOREIGN:
                            raise environment.logs.refuse_foreign(run_id)
                        await asyncio.sleep(environment.limits.inbox_poll_s)  # its owner is at work; see what becomes of it
                        continue
                    self._epochs[run_id] = max(remembered, answer.token.epoch)
                    try:
                        result = await self._life(environment, run_id, admitted, started, sink, rewound)
                    except OwnershipLost as lost:
                        rewound = str(lost) if lost.fields.get("rewound") else ""
                        continue
                    if not result.is_parked or not await environment.store.inbox(run_id):
                        return result
        except StoreError as error:
            return error_result(run_id, error, environment.plan.size, started)
        finally:
            self._epochs.pop(run_id, None)
            if sink is not None:
                await sink.flush()

    async def _life(
        self,
        environment: Environment,
        run_id: str,
        admitted: RunState | None,
        started: float,
        sink: EventSink | None,
        rewound: str,
    ) -> RunResult:
        commits = Commits(environment.limits.result_steps_max)
        commits.expect(environment.plan.size)
        state = admitted if admitted is not None else await environment.logs.fold(run_id, commits.note)
        tell = None if sink is None else lambda announce: sink.put(event_of(run_id, state.plan, announce))
        if tell is not None:
            resumed = "" if admitted is not None else f"resumed from checkpoint {state.committed} of {state.plan.size}"
            tell(Announce("run_start", -1, 0, 0, 0, detail=resumed, at=state.admitted_at))
        driver = RunDriver(environment, state, commits, tell)
        if rewound:
            await driver.park(RunParked((f"rewound: {rewound}"[:500],), time.time()))
            return result_of(state, driver.outputs, commits, started)
        commands = [] if admitted is not None else await environment.store.inbox(run_id)
        self._drivers[run_id] = driver
        self._start_poller(environment)
        try:
            await driver.drive(commands)
        except OwnershipLost:
            raise
        except StoreError as error:
            return error_result(run_id, error, state.plan.size, started, commits)
        finally:
            self._drivers.pop(run_id, None)
            if not self._drivers:
                await self._stop_poller()
        return result_of(state, driver.outputs, commits, started)

    async def _run_to_the_end(self, run_id: str) -> RunResult:
        environment = await self._open()
        pause_s = environment.limits.inbox_poll_s
        while True:
            started = time.perf_counter()
            result = await self._lives(environment, run_id, None, started, self._on_event)
            if not result.is_parked:
                return result
            try:
                while not await environment.store.inbox(run_id):
                    await asyncio.sleep(pause_s)
                    meta = await environment.logs.meta(run_id)
                    if meta.status == "finished":
                        break
            except StoreError as error:
                return error_result(run_id, error, environment.plan.size, started)

    async def _refuse_changed(self, environment: Environment, run_id: str) -> None:
        stored = await environment.logs.admitted_plan(run_id)
        if stored.fingerprint != environment.plan.fingerprint:
            changed = changed_between(stored, environment.plan)
            raise FingerprintMismatch(
                f"run {run_id!r} was admitted with another pipeline: {changed}; resume it with the first one, or fork it",
                run_id=run_id,
                changed=changed,
            )

    async def _logged_result(self, environment: Environment, run_id: str, started: float) -> RunResult:
        commits = Commits(environment.limits.result_steps_max)
        state = await environment.logs.fold(run_id, commits.note)
        outputs = RunOutputs(
            state, environment.output_types, environment.store, environment.seal, environment.limits.cached_outputs_bytes_max
        )
        return result_of(state, outputs, commits, started)

    async def _decide(self, run_id: str, kind: str, step: str, by: str, note: str) -> None:
        environment = await self._open()
        state = await environment.logs.fold(check_run_id(run_id))
        await environment.store.push_command(run_id, approval_command(state, kind, step, by, note))
        if run_id in self._drivers:
            await self._poll_inbox(environment, run_id)

    # --- inboxes and events ------------------------------------------------------------------------------------------------

    def _start_poller(self, environment: Environment) -> None:
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll_inboxes(environment), name="inboxes")

    async def _stop_poller(self) -> None:
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.cancel()
            await asyncio.wait([poller])

    async def _poll_inboxes(self, environment: Environment) -> None:
        """Look into the inboxes of live runs, some at a time; ends with the last run."""
        turn = 0
        while self._drivers:
            await asyncio.sleep(environment.limits.inbox_poll_s)
            live = list(self._drivers)
            for run_id in live[turn : turn + _INBOXES_PER_POLL]:
                with contextlib.suppress(StoreError):
                    await self._poll_inbox(environment, run_id)
            turn = turn + _INBOXES_PER_POLL if turn + _INBOXES_PER_POLL < len(live) else 0

    async def _poll_inbox(self, environment: Environment, run_id: str) -> None:
        for command in await environment.store.inbox(run_id):
            driver = self._drivers.get(run_id)
            if driver is not None:
                driver.take(command)

    def _both(self, first: Callable[[Event], None]) -> EventHook:
        second = self._on_event

        def hook(event: Event) -> Awaitable[None] | None:
            first(event)
            return second(event) if second is not None else None

        return hook


class RunHandle:
    """A run that was submitted: await `result()`, or look and decide from elsewhere by its `run_id`."""

    def __init__(self, coordinator: Coordinator, run_id: str, work: asyncio.Task[RunResult]) -> None:
        self._coordinator = coordinator
        self.run_id = run_id
        self._work = work

    async def result(self) -> RunResult:
        """The result, when the run has finished; while it waits for a person this waits too."""
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
