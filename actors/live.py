"""What a coordinator shard holds in memory: the programs that it hosts, and the runs that it owns. All of it can be lost."""

from __future__ import annotations

from typing import Any, Protocol

from agentraft_ray.actors.definitions import load_blueprint
from agentraft_ray.actors.names import group_of
from agentraft_ray.checkpoint.base import Answer, AppendEntry, RunStore
from agentraft_ray.checkpoint.codec import decode_output
from agentraft_ray.checkpoint.seal import Seal
from agentraft_ray.pipeline import Task
from agentraft_ray.protocol.machine import RunMachine
from agentraft_ray.protocol.messages import AcquirePermit, PermitDenied, PermitGranted, Ready
from agentraft_ray.protocol.records import StepCommitted
from agentraft_ray.protocol.state import RunState
from agentraft_ray.runtime.acknowledged import Acknowledged
from agentraft_ray.runtime.boundary import checked_verdict
from agentraft_ray.runtime.logs import append_entry
from agentraft_ray.runtime.outputs import RunOutputs
from agentraft_ray.taxonomy import VerificationResult
from agentraft_ray.telemetry.counting import counter_of
from agentraft_ray.telemetry.tracing import RunTrace

__all__ = ["Breakers", "LiveRun", "Program"]


class Breakers(Protocol):
    """The breakers of one policy. None from `acquire`: the breaker itself is asked, and answers later with an event."""

    def acquire(self, command: AcquirePermit, run_id: str, now: float) -> PermitGranted | PermitDenied | None: ...

    def settle(self, permit: object, outcome: str) -> None: ...


class Program:
    """A definition as this process hosts it: its blueprint, and the group of workers of each step of its block.

    `breakers` are set by the host before the first run comes.
    """

    breakers: Breakers

    def __init__(self, definition: bytes) -> None:
        """Raises what loading the definition raises."""
        self.definition = definition
        self.blueprint = load_blueprint(definition)
        self.plan = self.blueprint.plan
        self.fingerprint = self.plan.fingerprint
        self.groups = tuple(
            group_of(step.num_cpus, step.num_gpus, dict(step.resources or {}), step.isolate) for step in self.blueprint.pipeline.block
        )
        self.committed = 0  # steps of all its runs, since this process began
        self.counter = counter_of(self.plan)
        self._checked: tuple[VerificationResult, VerificationResult] | None = None

    def checked(self, result: VerificationResult) -> VerificationResult:
        """A verdict of this process's own rules, made fit for a log; fixed rules answer with one shared verdict."""
        if self._checked is not None and self._checked[0] is result:
            return self._checked[1]
        verdict = checked_verdict(result, self.blueprint.verifier.name, self.blueprint.limits)
        self._checked = (result, verdict)
        return verdict


class LiveRun:
    """One run that this shard owns: its machine, and what belongs to this life of it.

    `clients` hear how it ends or waits (True: its events are wanted too), `listeners` are those of them that are told events by now.
    `ready` = what waits for the append that is in flight or queued. `tickets` maps the numbers of open calls to the tickets
    under which they are with a worker or verifier. `wake_at` = when the timer rings for it. `trace` gets its spans.
    """

    __slots__ = (
        "acknowledged",
        "clients",
        "is_gone",
        "listeners",
        "machine",
        "outputs",
        "program",
        "ready",
        "run_id",
        "seen",
        "state",
        "task",
        "tickets",
        "told_waiting",
        "trace",
        "wake_at",
    )

    def __init__(
        self, program: Program, state: RunState, clients: dict[str, bool], store: RunStore, seal: Seal, trace: RunTrace | None = None
    ) -> None:
        self.run_id = state.run_id
        self.program = program
        self.state = state
        self.task = Task(state.task.goal, decode_output(state.task.inputs), state.task.id)  # for rules of this process alone
        self.clients = clients
        self.listeners = [client for client, listens in clients.items() if listens]
        self.machine = RunMachine(state, seal=seal.seal, listening=bool(self.listeners))
        blueprint = program.blueprint
        self.outputs = RunOutputs(state, blueprint.output_types, store, seal, blueprint.limits.cached_outputs_bytes_max)
        self.ready: Ready | None = None
        self.tickets: dict[int, int] = {}
        self.seen: set[str] | None = None
        self.told_waiting: tuple[str, ...] | None = None
        self.wake_at: float | None = None
        self.acknowledged = Acknowledged(state.token, state.index, state.head)
        self.trace = trace
        if trace is not None:
            trace.follow(state.token.epoch, state.traced_lives[0])
        if program.counter is not None:
            program.counter.began()
        self.is_gone = False

    def entry(self, seal: Seal) -> AppendEntry:
        """The append that `ready` asks for."""
        assert self.ready is not None
        return append_entry(self.run_id, self.ready, seal)

    def appended(self, answer: Answer) -> tuple[Any, ...]:
        """The append stands: remember it and the outputs that it committed; the commands that may now be acted on."""
        ready = self.ready
        assert ready is not None
        self.ready = None
        self.acknowledged = Acknowledged(answer.token, answer.index, answer.head)
        position, counter = ready.index, self.program.counter
        for record in ready.decided:
            if counter is not None:
                counter.note(self.state, record)
            if type(record) is StepCommitted:
                self.program.committed += 1
                data = record.output.data
                if data is None:
                    data = next((blob for digest, blob in ready.blobs if digest == record.output.digest), None)
                if data is not None:
                    self.outputs.keep(record.certificate.step, position, data)
            position += 1
        if self.trace is not None:
            self.trace.stands(ready.decided)
        return ready.commands
