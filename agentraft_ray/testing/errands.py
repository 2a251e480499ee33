"""What a simulated coordinator does for the commands of its machines: ask workers, verifiers and the breaker, and look things up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentraft_ray.protocol.machine import RunMachine
from agentraft_ray.protocol.messages import (
    AcquirePermit,
    Announce,
    AnyCommand,
    CancelAttempt,
    PermitDenied,
    PermitGranted,
    ReleasePermit,
    RunStep,
    Verify,
)
from agentraft_ray.protocol.records import StepCommitted, decode_record
from agentraft_ray.protocol.state import RunState

if TYPE_CHECKING:
    from agentraft_ray.testing.host import Host

__all__ = ["Errands", "Life"]

_ASK_AGAIN_S = 5.0


class Life:
    """One life of one run on one coordinator."""

    def __init__(self, run: str, state: RunState, listening: bool) -> None:
        self.run = run
        self.machine = RunMachine(state, listening=listening)
        self.appending = False
        self.held: list[AnyCommand] = []  # what the log allows and a late lease forbids
        self.fed: set[str] = set()  # ids of commands that the machine has got
        self.tick_at: float | None = None
        self.asked: dict[int, AcquirePermit] = {}
        self.draining = False


class Errands:
    """Carries out commands on behalf of one host, one at a time."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.world = host.world

    def do(self, life: Life, command: AnyCommand) -> None:
        outside = self.world.outside
        match command:
            case RunStep():
                inputs = self._parent_outputs(life, command.step)
                if inputs is not None:
                    outside.run_step(self.host, life, command, inputs)
            case Verify():
                self._ask_verifier(life, command)
            case CancelAttempt():
                outside.cancel(life.run, command.call)
            case AcquirePermit():
                life.asked[command.call.number] = command
                self._ask_breaker(life, command)
            case ReleasePermit():
                outside.release_permit(life, command)
            case Announce():
                pass

    def _ask_breaker(self, life: Life, command: AcquirePermit) -> None:
        """Ask until there is an answer: asking again for the same attempt is harmless."""
        if self.host.lives.get(life.run) is life and command.call.number in life.asked:
            self.world.outside.ask_breaker(self.host, life, command)
            self.host.later(_ASK_AGAIN_S, self._ask_breaker, life, command)

    def answered(self, run: str, event: PermitGranted | PermitDenied) -> None:
        """The breaker answered."""
        life = self.host.lives.get(run)
        if life is not None:
            if event.call.token == life.machine.token:
                life.asked.pop(event.call.number, None)
            self.host.feed(life, event)
        elif isinstance(event, PermitGranted):
            self.world.outside.return_permit(run, event)

    def _ask_verifier(self, life: Life, command: Verify) -> None:
        payload, previous = command.output, command.previous
        if payload is None:
            committed = self._record(life.run, command.position)
            if not isinstance(committed, StepCommitted):
                self.host.drop(life)
                return
            payload, previous = committed.output, committed.certificate.verifier
        data = payload.data if payload.data is not None else self.world.store.blob(life.run, payload.digest)
        inputs = self._parent_outputs(life, command.step)
        if data is None or inputs is None:
            self.host.drop(life)
            return
        self.world.outside.verify(self.host, life, command, data, inputs, previous)

    def _parent_outputs(self, life: Life, step: int) -> list[bytes] | None:
        """Encoded outputs of the step's parents, from the log; None (and the life is over) where a failover took them."""
        state, found = life.machine.state, []
        for parent in state.plan.parents(step):
            record = self._record(life.run, state.position(parent))
            if not isinstance(record, StepCommitted):
                self.host.drop(life)
                return None
            output = record.output
            data = output.data if output.data is not None else self.world.store.blob(life.run, output.digest)
            if data is None:
                self.host.drop(life)
                return None
            found.append(data)
        return found

    def _record(self, run: str, position: int) -> object:
        stored = self.world.store.read(run, position, 1)
        return decode_record(stored[0]) if stored else None
