"""Drives one run: hands the machine's commands to steps and verifiers, feeds back what they answer, appends before it acts.

Work goes on in jobs. A task takes one job, feeds the machine with what came of it, and goes on with the first of the jobs that
follow; only further ones get tasks of their own. So a chain of steps is one task, from the first step to the last append.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from agentraft_ray.checkpoint.base import Answer, AnswerKind, Command
from agentraft_ray.errors import AgentRaftError, LogCorrupted, LogRewound, OwnershipLost
from agentraft_ray.pipeline import StepContext
from agentraft_ray.protocol.machine import RunMachine
from agentraft_ray.protocol.messages import (
    AcquirePermit,
    Announce,
    AnyCommand,
    AnyEvent,
    CancelAttempt,
    PermitDenied,
    PermitGranted,
    Ready,
    ReleasePermit,
    RunStep,
    Tick,
    Verify,
)
from agentraft_ray.protocol.records import RunParked, StepCommitted
from agentraft_ray.protocol.state import RunState
from agentraft_ray.runtime.commands import command_event
from agentraft_ray.runtime.environment import Environment
from agentraft_ray.runtime.judging import RunningVerdict, judge, task_copy, waits_long
from agentraft_ray.runtime.logs import append_entry
from agentraft_ray.runtime.outputs import AncestorOutputs, RunOutputs
from agentraft_ray.runtime.results import Commits
from agentraft_ray.runtime.steps import RunningStep
from agentraft_ray.telemetry.tracing import RunTrace

__all__ = ["RunDriver"]

Job = Callable[[], Awaitable["list[Job]"]]


class RunDriver:
    """One life of one run in this process, from a claimed state until the run finishes, parks, or is lost. `trace` gets its spans."""

    def __init__(
        self,
        environment: Environment,
        state: RunState,
        commits: Commits,
        tell: Callable[[Announce], None] | None,
        trace: RunTrace | None = None,
    ) -> None:
        self.environment = environment
        self.state = state
        self.commits = commits
        seal = environment.seal
        self.outputs = RunOutputs(state, environment.output_types, environment.store, seal, environment.limits.cached_outputs_bytes_max)
        self._tell = tell
        self._trace = trace
        self._machine = RunMachine(state, seal=seal.seal, listening=tell is not None)
        self._appending = False
        self._commands_seen: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_call: dict[int, tuple[asyncio.Task[None], RunningStep | RunningVerdict]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.acknowledged = (state.token, state.index, state.head)  # how far the log is known to have come
        self._stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def resume_at(self) -> float | None:
        """When what the run waits for may be over, seconds since the epoch; None where nobody knows."""
        return self._machine.wake_at if self.state.finished is None else None

    @property
    def is_waiting(self) -> bool:
        """Parked: nothing goes on before an outside condition changes."""
        return self._machine.idle and self.state.finished is None

    async def drive(self, commands: Sequence[Command] = ()) -> None:
        """Run until the run has finished or waits; `commands` wait in its inbox.

        Raises StoreError, OwnershipLost or LogCorrupted when this life is over. Cancelling it drains: what is under way is
        stopped, and the log says that the run waits for an owner.
        """
        self._machine.start(time.time())
        if self.environment.counter is not None:
            self.environment.counter.began()
        for command in commands:
            self._commands_seen.add(command.id)
            self._machine.feed(command_event(command), time.time())
        try:
            self._spawn(self._advance)  # in a task of its own: a step that is cancelled must not take this one with it
            await asyncio.wait([self._stopped])
        except asyncio.CancelledError:
            self.drain()
            await asyncio.wait([self._stopped], timeout=self.environment.limits.drain_s)
            raise
        finally:
            await self._stop()
        self._stopped.result()

    def drain(self) -> None:
        """Give the run up in good order: what is under way is stopped, `drive` returns, and the log says that it waits for an owner."""
        if self._stopped.done():
            return
        for _, running in self._by_call.values():
            self._machine.late = self._machine.late + running.bill()
        self._machine.drain(time.time())
        self._spawn(self._advance)

    async def park(self, record: RunParked) -> None:
        """Put the run aside without starting anything."""
        self._machine.persist(record)
        ready = self._machine.take_ready()
        if ready is not None:
            await self._append(ready)

    def take(self, command: Command) -> None:
        """A command came in from outside."""
        if not self._stopped.done() and command.id not in self._commands_seen:
            self._commands_seen.add(command.id)
            self._feed_and_go(command_event(command))

    # --- jobs --------------------------------------------------------------------------------------------------------------

    async def _work(self, job: Job) -> None:
        """Do a job and then, one after the other, what follows from it."""
        try:
            while True:
                jobs = await job()
                if not jobs:
                    break
                job = jobs[0]
                for other in jobs[1:]:
                    self._spawn(other)
            if self._is_at_rest() and not self._stopped.done():
                self._stopped.set_result(None)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever broke ends this life, never silently
            if not self._stopped.done():
                self._stopped.set_exception(error)

    def _spawn(self, job: Job) -> None:
        task = asyncio.get_running_loop().create_task(self._work(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _feed_and_go(self, event: AnyEvent) -> None:
        self._machine.feed(event, time.time())
        for job in self._jobs():
            self._spawn(job)
        if self._is_at_rest() and not self._stopped.done():
            self._stopped.set_result(None)

    def _is_at_rest(self) -> bool:
        machine = self._machine
        if self._appending or machine.has_ready or not machine.idle:
            return False
        wake_at = machine.wake_at
        if self.state.finished is not None or wake_at is None:
            return True
        return waits_long(self.state, wake_at - time.time(), self.environment.limits)  # a breaker's cooldown is waited for here

    async def _advance(self) -> list[Job]:
        return self._jobs()

    def _after(self, event: AnyEvent) -> list[Job]:
        self._machine.feed(event, time.time())
        return self._jobs()

    def _jobs(self) -> list[Job]:
        """Take what is ready. Commands that come with records wait for their append; only one append is in flight."""
        jobs: list[Job] = []
        while not self._appending:
            ready = self._machine.take_ready()
            if ready is None:
                break
            if ready.records:
                self._appending = True
                jobs.append(partial(self._append, ready))
            else:
                jobs += self._act(ready.commands)
        self._set_timer()
        return jobs

    async def _append(self, ready: Ready) -> list[Job]:
        environment = self.environment
        answer = await environment.store.append(append_entry(self.state.run_id, ready, environment.seal))
        if answer.kind is not AnswerKind.APPENDED:
            raise self._refused(answer, ready.index)
        self.acknowledged = (answer.token, answer.index, answer.head)
        position = ready.index
        for record in ready.decided:
            if type(record) is StepCommitted:
                data = record.output.data if record.output.data is not None else dict(ready.blobs).get(record.output.digest)
                if data is not None:
                    self.outputs.keep(record.certificate.step, position, data)
            self.commits.note(record)
            if environment.counter is not None:
                environment.counter.note(self.state, record)
            position += 1
        if self._trace is not None:
            self._trace.stands(ready.decided)
        if environment.mirror is not None:
            await environment.mirror.follow(self.state, self.outputs, ready.decided)
        self._appending = False
        return self._act(ready.commands) + self._jobs()

    def _refused(self, answer: Answer, acknowledged: int) -> AgentRaftError:
        run_id, token = self.state.run_id, self._machine.token
        if answer.kind is AnswerKind.FOREIGN:
            return self.environment.logs.refuse_foreign(run_id)
        if answer.kind is AnswerKind.NO_BLOB:
            return LogCorrupted(f"run {run_id}: a blob that its log needs is gone from the store", run_id=run_id, index=answer.index)
        if answer.kind is AnswerKind.MISSING:
            return LogRewound(
                f"run {run_id}: its log of {acknowledged} records is gone from the store; restore the store",
                run_id=run_id,
                acknowledged=acknowledged,
                found=0,
            )
        return OwnershipLost(
            f"run {run_id}: the store answered {answer.kind.value}; {answer.token.owner or 'nobody'} owns it in epoch {answer.token.epoch}",
            run_id=run_id,
            owner=answer.token.owner,
            rewound=answer.kind is AnswerKind.MOVED or answer.token.epoch < token.epoch,
            epoch=token.epoch,
        )

    # --- commands ----------------------------------------------------------------------------------------------------------

    def _act(self, commands: tuple[AnyCommand, ...]) -> list[Job]:
        jobs: list[Job] = []
        for command in commands:
            match command:
                case RunStep():
                    jobs.append(partial(self._run_step, command))
                case Verify():
                    jobs.append(partial(self._verify, command))
                case Announce():
                    if self._tell is not None:
                        self._tell(command)
                case CancelAttempt():
                    running = self._call_off(command.call.number)
                    if running is not None:
                        self._machine.feed(running.called_off(), time.time())
                case AcquirePermit():
                    self._machine.feed(self._ask_breaker(command), time.time())
                case ReleasePermit():
                    self.environment.breakers.settle(command.permit, command.outcome)
        return jobs

    def _ask_breaker(self, command: AcquirePermit) -> PermitGranted | PermitDenied:
        return self.environment.breakers.acquire(command, self.state.run_id, time.time())

    async def _run_step(self, command: RunStep) -> list[Job]:
        environment, state = self.environment, self.state
        if environment.owner.is_late:
            await environment.owner.alive()
        parents = state.plan.parents(command.step)
        near = self.outputs.at_hand(parents) or await self.outputs.fetch(parents)  # read before the step would block the loop
        if not self._machine.waits_for(command.call):  # called off before it began
            return []
        step, name = command.step, state.plan.name(command.step)
        context = StepContext(
            task=task_copy(state.task),
            outputs=AncestorOutputs(self.outputs, step, near),
            attempt=command.attempt,
            hint=command.hint,
            run_id=state.run_id,
            step_name=name,
            lineage=command.lineage,
            sample=command.sample,
        )
        fn, wanted = environment.pipeline.step_at(step).fn, self.outputs.type_of(step)
        running = RunningStep(command.call, fn, context, command.timeout_s)
        work = running.run(environment.threads, environment.limits.payload_bytes_max, wanted, self._overdue)
        if self._trace is not None:
            self._trace.dispatched(command)
            work = self._trace.within(command, work)
        done = await self._tracked(command.call.number, work, running)
        if environment.counter is not None:
            environment.counter.ran(step, done.cost.seconds)
        return self._after(done)

    def _overdue(self, running: RunningStep) -> None:
        """The time of a step is over: the machine is told, and the step is stopped if it can be."""
        if not self._stopped.done() and self._call_off(running.call.number) is running:
            self._feed_and_go(running.timed_out())

    async def _verify(self, command: Verify) -> list[Job]:
        if not self._machine.waits_for(command.call):
            return []
        running = RunningVerdict(command.call, command.allowance)
        work, trace = judge(self.environment, self.outputs, command, running.spending), self._trace
        if trace is not None:
            trace.asked(command)
            work = trace.within(command, work)
        event = running.returned(await self._tracked(command.call.number, work, running))
        if trace is not None:
            trace.judged(event)
        if self.environment.counter is not None:
            self.environment.counter.judged(command.step, event.result)
            self.environment.counter.took(command.step, event.seconds)
        return self._after(event)

    async def _tracked(self, number: int, work: Awaitable[Any], running: RunningStep | RunningVerdict) -> Any:
        """Await `work` where CancelAttempt can find it."""
        task = asyncio.current_task()
        assert task is not None
        self._by_call[number] = (task, running)
        try:
            done = await work
            while task.cancelling():  # called off, but it went on to its end: what follows is another attempt's
                task.uncancel()
            return done
        finally:
            self._by_call.pop(number, None)

    def _call_off(self, number: int) -> RunningStep | RunningVerdict | None:
        """Stop the work on a call; what ran for it, if anything did."""
        task, running = self._by_call.pop(number, (None, None))
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        return running

    # --- time and the end --------------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        if self._stopped.done():
            return
        wake_at = self._machine.wake_at
        if wake_at is None or (self._timer is not None and self._timer_at <= wake_at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = wake_at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, wake_at - time.time()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._stopped.done():
            self._feed_and_go(Tick())

    async def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:  # a step that ignores its cancellation is left behind
            await asyncio.wait(tasks, timeout=self.environment.limits.drain_s)
        if not self._stopped.done():
            self._stopped.cancel()
        for permit in self._machine.permits():
            self.environment.breakers.settle(permit, "released")
