"""The worker: runs step functions for coordinators. It decides nothing and owns nothing; when it dies, its steps run elsewhere."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from agentraft_ray.actors.control import Figures
from agentraft_ray.actors.exchange import Outbox
from agentraft_ray.actors.hosting import ExchangeHost, LoadDefinition, OpenStore
from agentraft_ray.actors.lanes import Request
from agentraft_ray.actors.messages import Raised, Reply, Returned, Returning, Work, decode
from agentraft_ray.errors import StoreUnavailable
from agentraft_ray.pipeline import StepContext
from agentraft_ray.protocol.messages import StepRaised, StepReturned
from agentraft_ray.protocol.records import TaskRecord
from agentraft_ray.runtime.boundary import described
from agentraft_ray.runtime.judging import task_copy
from agentraft_ray.runtime.logged_outputs import LoggedOutputs
from agentraft_ray.runtime.outputs import AncestorOutputs
from agentraft_ray.runtime.steps import RunningStep, StepThreads
from agentraft_ray.taxonomy import FailureCause
from agentraft_ray.telemetry import semantics

__all__ = ["WorkerActor", "WorkerSettings"]


class WorkerSettings(msgspec.Struct, frozen=True):
    """How a worker is made. `store` describes the store that it reads from, None for none; `slots` = steps at a time, None for as
    many as come; `hold_s` = how long an exchange without replies is held. `ends_after_s` = the process of a worker for isolated
    steps ends so long after the time-out of a step that has not stopped by then; None: such a step is only given up."""

    store: bytes | None = None
    slots: int | None = None
    step_threads_max: int = 32
    hold_s: float = 2.0
    payload_bytes_max: int = 8 * 1024 * 1024
    encryption_key: bytes | None = None
    ends_after_s: float | None = None


class WorkerActor(ExchangeHost):
    """Runs steps. `settings` = encoded `WorkerSettings`; `leave` ends the process."""

    def __init__(
        self,
        settings: bytes,
        *,
        load: LoadDefinition | None = None,
        open_store: OpenStore | None = None,
        leave: Callable[[int], Any] = os._exit,
        observing: bytes | None = None,
    ) -> None:
        chosen: WorkerSettings = decode(settings, WorkerSettings)
        super().__init__(
            slots=chosen.slots,
            hold_s=chosen.hold_s,
            store=chosen.store,
            encryption_key=chosen.encryption_key,
            load=load,
            open_store=open_store,
            observing=observing,
        )
        self._threads = StepThreads(chosen.step_threads_max)
        self._payload_bytes_max = chosen.payload_bytes_max
        self._ends_after_s = chosen.ends_after_s
        self._leave = leave
        self._is_doomed = False  # a step has overrun its time, and may not have stopped

    async def exchange(self, client: str, batch: bytes, sent_at: float = 0.0, good_for_s: float = 0.0, session: str = "") -> bytes:
        """Take in a batch of `Work`; the replies that are ready, once there are any, at the latest after `hold_s`."""
        return await self._exchanged(client, decode(batch, list[Work]), sent_at, good_for_s, session)

    # --- one step ------------------------------------------------------------------------------------------------------------

    def begin(self, request: Request) -> Awaitable[StepReturned | StepRaised]:
        """Start a step; what comes back runs it."""
        return self._in_span(semantics.EXECUTE, request, self._begun(request), _flaw)

    def _begun(self, request: Request) -> Awaitable[StepReturned | StepRaised]:
        work: Work = request.ask
        outputs, near = self._outputs(request.definition, work.run_id), dict(work.parents)
        if work.task is None or None in near.values():
            return self._run_with_fetched(request, outputs)
        running = self._running(request, work.task, near, outputs)  # type: ignore[arg-type]
        return self._run(running, None if running.is_async else self._overdue)

    async def _run_with_fetched(self, request: Request, outputs: LoggedOutputs) -> StepReturned | StepRaised:
        return await self._run(self._running(request, *await self._fetched(request.ask, outputs), outputs), self._overdue)

    def _running(self, request: Request, task: TaskRecord, near: dict[int, bytes], outputs: LoggedOutputs) -> RunningStep:
        work: Work = request.ask
        blueprint = request.definition
        step = work.step
        context = StepContext(
            task_copy(task),
            AncestorOutputs(outputs, step, near),
            work.attempt,
            work.hint,
            work.run_id,
            outputs.plan.name(step),
            work.lineage,
            work.sample,
        )
        running = request.running = RunningStep(request, blueprint.pipeline.step_at(step).fn, context, work.timeout_s)
        return running

    def _run(self, running: RunningStep, overdue: Callable[[RunningStep], None] | None) -> Awaitable[StepReturned | StepRaised]:
        request: Request = running.call
        types = request.definition.output_types
        work = running.run(self._threads, self._payload_bytes_max, types[request.ask.step % len(types)], overdue)
        return (
            work if self._ends_after_s is None or running.timeout_s is None else self._watched(work, running.timeout_s, self._ends_after_s)
        )

    async def _watched(self, work: Awaitable[StepReturned | StepRaised], timeout_s: float, grace_s: float) -> StepReturned | StepRaised:
        """Do it with a watch that ends this process when the step has not stopped: it may block this loop, or hang in its thread."""
        watch = threading.Timer(timeout_s + grace_s, self._leave, (1,))
        watch.daemon = True
        watch.start()
        try:
            return await work
        finally:
            if not self._threads.overdue:
                watch.cancel()
                self._is_doomed = False

    def _admit(self, outbox: Outbox[Request], ask: Any) -> None:
        if self._is_doomed:
            outbox.put(Returning(ask.ticket))
        else:
            super()._admit(outbox, ask)

    def waits(self, request: Request) -> None:
        """The clock of an async step rings from here on; most are done before they would need one."""
        running: RunningStep | None = request.running
        if running is not None and running.is_async and (left_s := running.left_s()) is not None:
            request.timer = asyncio.get_running_loop().call_later(left_s, self._overdue, running)

    def reply(self, request: Request, done: StepReturned | StepRaised) -> Reply:
        """What a step did, as the coordinator is told."""
        counter = self._counters.get(request.ask.definition)
        if counter is not None:
            counter.ran(request.ask.step, done.cost.seconds)
        return _reply(request.ask.ticket, done)

    def failed(self, request: Request, error: BaseException) -> Reply:
        """A step that could not be begun, or that ended its own task."""
        running: RunningStep | None = request.running
        ticket = request.ask.ticket
        if running is not None:
            return _reply(ticket, running.raised(error))
        if isinstance(error, StoreUnavailable):
            return Returning(ticket)
        return Raised(ticket, FailureCause.RAISED.value, described(error))

    def _called_off(self, request: Request) -> Reply:
        running: RunningStep | None = request.running
        if running is None:
            return Raised(request.ask.ticket, FailureCause.RAISED.value, "it was called off before it began")
        return _reply(request.ask.ticket, running.called_off())

    def _overdue(self, running: RunningStep) -> None:
        """The time of a step is over: the coordinator is told, and the step is stopped if it can be."""
        request: Request = running.call
        if self._ends_after_s is not None:  # this process may be about to end: what waits here is better off elsewhere
            self._is_doomed = True
            self._forget(self._lanes.take_back())
        self._end(request, _reply(request.ask.ticket, running.timed_out()))

    def _figures(self) -> Figures:
        return super()._figures() | {"overdue_threads": self._threads.overdue}


def _flaw(done: StepReturned | StepRaised) -> str:
    return done.cause.value if isinstance(done, StepRaised) else ""


def _reply(ticket: int, event: StepReturned | StepRaised) -> Reply:
    if type(event) is StepReturned:
        return Returned(ticket, event.data, event.cost)
    assert isinstance(event, StepRaised)
    return Raised(ticket, event.cause.value, event.message, event.cost, event.final)
