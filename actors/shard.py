"""The loop of a coordinator without its waiting: replies, answers and time go in; appends, requests and notices come out.

A thin host of the protocol's machines. It holds thousands of runs, never waits, and does what it does for one run to its end: feeds
the machine, judges by rules where that is all it takes, and leaves what is to be sent in queues that its actor empties in batches.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from agentraft_ray.actors.live import LiveRun
from agentraft_ray.actors.messages import Judge, Judged, Raised, Reply, Returned, Work
from agentraft_ray.checkpoint.base import Answer, AnswerKind, AppendEntry, Command
from agentraft_ray.checkpoint.seal import Seal
from agentraft_ray.errors import StoreError
from agentraft_ray.protocol.messages import (
    AcquirePermit,
    Announce,
    AnyCommand,
    AnyEvent,
    Call,
    CancelAttempt,
    PermitDenied,
    PermitGranted,
    ReleasePermit,
    RunStep,
    StepRaised,
    StepReturned,
    Tick,
    VerdictReturned,
    Verify,
    WorkerLost,
)
from agentraft_ray.protocol.records import Payload, RunParked, TaskRecord
from agentraft_ray.runtime.commands import command_event
from agentraft_ray.runtime.judging import waits_long
from agentraft_ray.runtime.outputs import History
from agentraft_ray.taxonomy import Cost, FailureCause, VerificationResult
from agentraft_ray.verifier.base import VerifyInput

__all__ = ["Requests", "Shard"]

_log = logging.getLogger("agentraft_ray")

_TRAVELS_BYTES_MAX = 64 * 1024  # what is longer is read from the store by whoever needs it
_TASK_BYTES_MAX = 16 * 1024
_JUDGES_LOST_MAX = 3
_TIMERS_PER_RUN = 4
_TIMERS_SPARE = 256
_UNKNOWN = Cost(0, None, 0.0)


class Requests(Protocol):
    """A pool of workers or verifiers. True from `cancel`: it was never sent; else its reply still comes."""

    def send(self, request: Work | Judge, *, alone: bool = False) -> None: ...

    def cancel(self, ticket: int) -> bool: ...


class Shard:
    """The runs of one coordinator. `clock` gives seconds since the epoch. Set the `on_*` hooks before the first run comes."""

    def __init__(self, clock: Callable[[], float], seal: Seal, pool_of: Callable[[str], Requests], judges: Requests) -> None:
        self.clock = clock
        self.seal = seal
        self.pool_of = pool_of
        self.judges = judges
        self.runs: dict[str, LiveRun] = {}
        self.appends: list[LiveRun] = []  # runs whose next append waits to be sent
        self.on_append: Callable[[], None] = _nothing  # something came into `appends`
        self.on_told: Callable[[LiveRun, Announce], None] = _nothing
        self.on_finished: Callable[[LiveRun], None] = _nothing
        self.on_waiting: Callable[[LiveRun], None] = _nothing
        self.on_refused: Callable[[LiveRun, Answer | StoreError], None] = _nothing  # the run is not ours any more
        self.is_draining = False
        # Calls that the breaker itself will answer, by identity: two runs of one owner number their calls alike.
        self._asked: dict[int, tuple[Call, LiveRun]] = {}
        self._calls: dict[int, tuple[LiveRun, RunStep | Verify, int]] = {}  # ticket -> (run, command, times that it was lost)
        self._next_ticket = 0
        self._timers: list[tuple[float, str]] = []

    # --- runs come and go ----------------------------------------------------------------------------------------------------

    def adopt(self, live: LiveRun, commands: Iterable[Command] = ()) -> None:
        """Take in a run whose claim stands, and go on with it."""
        self.runs[live.run_id] = live
        now = self.clock()
        if self.is_draining:
            live.machine.drain(now)
        else:
            live.machine.start(now)
            for command in commands:
                self._command(live, command, now)
        self._go(live, now)

    def put_aside(self, live: LiveRun, record: RunParked) -> None:
        """Take in a run whose claim stands, and park it without starting anything of it."""
        self.runs[live.run_id] = live
        live.machine.persist(record)
        self._go(live, self.clock())

    def take(self, run_id: str, commands: Iterable[Command]) -> None:
        """Commands from outside have come for a run."""
        live = self.runs.get(run_id)
        if live is None:
            return
        now = self.clock()
        for command in commands:
            self._command(live, command, now)
        self._go(live, now)

    def drain(self) -> None:
        """Give every run up in good order; each leaves when its last append stands."""
        self.is_draining = True
        now = self.clock()
        for live in list(self.runs.values()):
            live.machine.drain(now)
            self._go(live, now)

    def drop(self, live: LiveRun) -> None:
        """Forget a run: its owner is somebody else, or its life starts anew. What is under way for it is called off."""
        live.is_gone = True
        if self.runs.get(live.run_id) is live:
            del self.runs[live.run_id]
        for number in list(live.tickets):
            self._call_off(live, number)
        for permit in live.machine.permits():
            live.program.breakers.settle(permit, "released")
        if live.trace is not None:
            live.trace.end()

    # --- what comes in -------------------------------------------------------------------------------------------------------

    def replied(self, replies: Sequence[Reply]) -> None:
        """Workers and verifiers have answered."""
        now = self.clock()
        for reply in replies:
            found = self._calls.pop(reply.ticket, None)
            if found is None:
                continue
            live, command, _ = found
            live.tickets.pop(command.call.number, None)
            if not live.is_gone:  # what was called off is answered too: its machine books what it has cost
                event = _event_of(command, reply)
                if type(event) is VerdictReturned:
                    self._verdict(live, command.step, event, now)
                else:
                    live.machine.feed(event, now)
                self._go(live, now)

    def lost(self, requests: Sequence[Work | Judge]) -> None:
        """Whoever had these is gone; whether they were worked on is unknown."""
        now = self.clock()
        for request in requests:
            found = self._calls.pop(request.ticket, None)
            if found is None:
                continue
            live, command, losses = found
            live.tickets.pop(command.call.number, None)
            if live.is_gone:
                continue
            if live.trace is not None:
                live.trace.lost(command.step)
            if isinstance(command, RunStep):
                live.machine.feed(WorkerLost(command.call), now)
                self._go(live, now)
                continue
            if live.program.blueprint.verifier.uses_model(live.program.blueprint.pipeline.step_at(command.step).criticality):
                live.machine.late = live.machine.late + _UNKNOWN  # it may have asked its model
            if losses < _JUDGES_LOST_MAX:
                self._ask_judge(live, command, losses + 1)
            else:
                fault = VerificationResult.fault(f"{losses + 1} verifiers were lost while they judged it", verifier="cluster")
                self._verdict(live, command.step, VerdictReturned(command.call, fault), now)
                self._go(live, now)

    def permitted(self, event: PermitGranted | PermitDenied) -> None:
        """The breaker itself has answered."""
        live = self._asked.pop(id(event.call), (None, None))[1]
        if live is not None and live.is_gone and isinstance(event, PermitGranted):
            live.program.breakers.settle(event.permit, "released")
        elif live is not None and not live.is_gone:
            now = self.clock()
            live.machine.feed(event, now)
            self._go(live, now)

    def take_appends(self, runs_max: int) -> list[tuple[LiveRun, AppendEntry]]:
        """The appends that wait, at most `runs_max` of them, as they go to the store."""
        taken, self.appends = self.appends[:runs_max], self.appends[runs_max:]
        seal = self.seal
        return [(live, live.entry(seal)) for live in taken]

    def appended(self, taken: Sequence[tuple[LiveRun, AppendEntry]], answers: Sequence[Answer | StoreError]) -> None:
        """The store has answered; each run alone."""
        now = self.clock()
        for (live, _), answer in zip(taken, answers, strict=True):
            if live.is_gone:
                continue
            if not isinstance(answer, Answer) or answer.kind is not AnswerKind.APPENDED:
                self.drop(live)
                self.on_refused(live, answer)
                continue
            self._act(live, live.appended(answer), now)
            self._go(live, now)

    def tick(self) -> None:
        """Time has passed."""
        now = self.clock()
        if len(self._timers) > _TIMERS_PER_RUN * len(self.runs) + _TIMERS_SPARE:  # most of them are of runs that are over
            runs = self.runs
            self._timers = [one for one in self._timers if one[1] in runs and runs[one[1]].wake_at == one[0]]
            heapq.heapify(self._timers)
        while self._timers and self._timers[0][0] <= now:
            due, run_id = heapq.heappop(self._timers)
            live = self.runs.get(run_id)
            if live is not None and live.wake_at == due:
                live.wake_at = None
                live.machine.feed(Tick(), now)
                self._go(live, now)

    # --- one run -------------------------------------------------------------------------------------------------------------

    def _command(self, live: LiveRun, command: Command, now: float) -> None:
        if live.seen is None:
            live.seen = set()
        if command.id not in live.seen:
            live.seen.add(command.id)
            live.machine.feed(command_event(command), now)

    def _go(self, live: LiveRun, now: float) -> None:
        """Act on all that is ready, up to the next append; one is in flight at most."""
        machine = live.machine
        while live.ready is None:
            ready = machine.take_ready()
            if ready is None:
                self._rest(live)
                return
            if ready.records:
                live.ready = ready
                self.appends.append(live)
                self.on_append()
                return
            self._act(live, ready.commands, now)

    def _rest(self, live: LiveRun) -> None:
        """Nothing is to be done for a run right now: it is with others, waits for time to pass, for the world, or is over."""
        if live.state.finished is not None:
            self._leave(live)
            self.on_finished(live)
            return
        wake_at = live.machine.wake_at
        if wake_at is not None and (live.wake_at is None or wake_at < live.wake_at):
            live.wake_at = wake_at
            heapq.heappush(self._timers, (wake_at, live.run_id))
        parked = live.state.parked
        if parked is not None and self.is_draining:  # also a run that waited for something else before: its log says for what
            self._leave(live)
            self.on_waiting(live)
        elif parked is None:
            live.told_waiting = None
        elif parked != live.told_waiting and self._waits_long(live, wake_at):
            live.told_waiting = parked
            self.on_waiting(live)

    def _waits_long(self, live: LiveRun, wake_at: float | None) -> bool:
        """Whether its clients should hear that it waits: the time of a breaker passes by itself, as most that a verifier names does."""
        return wake_at is None or waits_long(live.state, wake_at - self.clock(), live.program.blueprint.limits)

    def _leave(self, live: LiveRun) -> None:
        live.is_gone = True
        if live.trace is not None:
            live.trace.end()
        if self.runs.get(live.run_id) is live:
            del self.runs[live.run_id]

    def _act(self, live: LiveRun, commands: Iterable[AnyCommand], now: float) -> None:
        machine, breakers = live.machine, live.program.breakers
        for command in commands:
            kind = type(command)
            if kind is AcquirePermit:
                answer = breakers.acquire(command, live.run_id, now)  # type: ignore[arg-type]
                if answer is not None:
                    machine.feed(answer, now)
                else:
                    self._asked[id(command.call)] = (command.call, live)  # type: ignore[union-attr]
            elif kind is RunStep:
                self._run_step(live, command)  # type: ignore[arg-type]
            elif kind is Verify:
                self._verify(live, command, now)  # type: ignore[arg-type]
            elif kind is ReleasePermit:
                breakers.settle(command.permit, command.outcome)  # type: ignore[union-attr]
            elif kind is Announce:
                self.on_told(live, command)  # type: ignore[arg-type]
            elif kind is CancelAttempt:
                self._call_off(live, command.call.number)  # type: ignore[union-attr]

    def _run_step(self, live: LiveRun, command: RunStep) -> None:
        if not live.machine.waits_for(command.call):  # called off before it began
            return
        ticket = self._open(live, command, 0)
        program = live.program
        work = Work(
            ticket,
            program.fingerprint,
            live.run_id,
            command.step,
            command.lineage,
            command.attempt,
            command.sample,
            command.hint,
            command.timeout_s,
            _travelling(live.state.task),
            self._parents(live, command.step),
            "" if live.trace is None else live.trace.dispatched(command),
        )
        self.pool_of(program.groups[command.step % program.plan.width]).send(work, alone=command.fresh_worker)

    def _parents(self, live: LiveRun, step: int) -> tuple[tuple[int, bytes | None], ...]:
        parents = live.program.plan.parents(step)
        if not parents:
            return ()
        near = live.outputs.at_hand(parents)
        found = [(parent, near.get(parent)) for parent in parents]
        return tuple([(parent, data if data is not None and len(data) <= _TRAVELS_BYTES_MAX else None) for parent, data in found])

    def _verify(self, live: LiveRun, command: Verify, now: float) -> None:
        if not live.machine.waits_for(command.call):
            return
        verdict = self._judge_here(live, command) if command.output is not None and not command.previous else None
        if verdict is not None:
            if live.trace is not None:
                live.trace.asked(command)
            self._verdict(live, command.step, VerdictReturned(command.call, verdict), now)
        else:
            self._ask_judge(live, command, 0)

    def _verdict(self, live: LiveRun, step: int, event: VerdictReturned, now: float) -> None:
        if live.trace is not None:
            live.trace.judged(event)
        if live.program.counter is not None:
            live.program.counter.judged(step, event.result)
        live.machine.feed(event, now)

    def _judge_here(self, live: LiveRun, command: Verify) -> VerificationResult | None:
        """The verdict of rules that take no time; None where a verifier must be asked."""
        payload, program = command.output, live.program
        assert payload is not None
        assert payload.data is not None
        blueprint = program.blueprint
        try:
            request = VerifyInput(
                live.task,
                blueprint.pipeline.steps[command.step],
                live.outputs.decode(command.step, payload.data),
                History(live.outputs, command.step, {}),
                command.attempt,
                command.timeout_s,
            )
            verdict = blueprint.verifier.verify_now(request)
        except Exception as error:  # noqa: BLE001 - the boundary to rules that may be a user's
            verdict = VerificationResult.fault(f"{type(error).__name__}: {error}", verifier=blueprint.verifier.name)
        return None if verdict is None else program.checked(verdict)

    def _ask_judge(self, live: LiveRun, command: Verify, losses: int) -> None:
        suspect = Payload(b"", 0, None)
        self.judges.send(
            Judge(
                self._open(live, command, losses),
                live.program.fingerprint,
                live.run_id,
                command.step,
                command.attempt,
                command.output or suspect,
                command.position,
                command.previous,
                command.timeout_s,
                _travelling(live.state.task),
                self._parents(live, command.step),
                command.allowance,
                "" if live.trace is None else live.trace.asked(command),
            )
        )

    def _open(self, live: LiveRun, command: RunStep | Verify, losses: int) -> int:
        ticket = self._next_ticket = self._next_ticket + 1
        self._calls[ticket] = (live, command, losses)
        live.tickets[command.call.number] = ticket
        return ticket

    def _call_off(self, live: LiveRun, number: int) -> None:
        ticket = live.tickets.pop(number, None)
        found = self._calls.get(ticket) if ticket is not None else None
        if ticket is None or found is None:
            return
        program, command = live.program, found[1]
        pool = self.pool_of(program.groups[command.step % program.plan.width]) if isinstance(command, RunStep) else self.judges
        if pool.cancel(ticket):
            del self._calls[ticket]


def _nothing(*_: object) -> None:
    """A hook that nobody has set."""


def _travelling(task: TaskRecord) -> TaskRecord | None:
    return task if len(task.inputs) <= _TASK_BYTES_MAX else None


def _event_of(command: RunStep | Verify, reply: Reply) -> AnyEvent:
    call = command.call
    match reply:
        case Returned():
            return StepReturned(call, reply.data, reply.cost)
        case Judged():
            return VerdictReturned(call, reply.result, reply.seconds)
        case Raised() if isinstance(command, RunStep):
            return StepRaised(call, FailureCause(reply.cause), reply.message, reply.cost, reply.final)
        case Raised():
            return VerdictReturned(call, VerificationResult.fault(reply.message, verifier="cluster"))
        case _:
            return WorkerLost(call)
