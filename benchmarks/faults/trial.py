"""A trial through the real protocol: one run of `RunMachine`, driven by the leanest host there can be.

The host keeps the machine's one rule (append, then act; the log is a list, or nothing) and answers at once: agents and verifiers are
the draws of a `TrialModel`. What was shipped is read from the run's folded log by digests, never from what the host believes.
"""

from __future__ import annotations

from typing import NamedTuple

from agentraft_ray.errors import ErrorType
from agentraft_ray.protocol.machine import RunMachine
from agentraft_ray.protocol.messages import AnyEvent, RunStep, StepReturned, Tick, VerdictReturned, Verify
from agentraft_ray.protocol.plan import PlanSpec, Policies, StepSpec, fingerprint_of
from agentraft_ray.protocol.records import OwnerClaimed, Record, RunAdmitted, TaskRecord, encode_record
from agentraft_ray.protocol.state import RunState
from agentraft_ray.taxonomy import Cost, VerificationResult
from benchmarks.faults.model import OUTPUTS, TRUTH, Kind, TrialModel
from benchmarks.faults.scenario import VERIFIERS_MAX

__all__ = ["CAUGHT", "OWNER", "PARKED", "SILENT", "SUCCESS", "TrialHost", "TrialResult", "admitted", "outcome_of", "verdict_of"]

SUCCESS, SILENT, CAUGHT, PARKED = range(4)  # PARKED waits for a verifier that does not answer: nothing was shipped either
OWNER = "simulated-owner"
_NAME = "panel"
_RIGHT, _WRONG = Kind.RIGHT, Kind.WRONG
_GENERATED = Cost(1, 0.0, 0.0)  # generations are booked as tokens, verdicts as seconds: the run's own log then counts both
_CLAIMED = OwnerClaimed(1, OWNER, 0.0)
_FAULT = VerificationResult.fault("it did not answer", verifier=_NAME)


class TrialResult(NamedTuple):
    """How a trial ended: an outcome's number, and what it took."""

    outcome: int
    generations: int
    verdicts: int
    rollbacks: int
    silences: int


_PASSES = [VerificationResult.ok(verifier=_NAME, cost=Cost(0, 0.0, float(asked))) for asked in range(VERIFIERS_MAX + 1)]
_REJECTIONS: dict[ErrorType, list[VerificationResult]] = {
    kind: [VerificationResult.fail(kind, verifier=_NAME, cost=Cost(0, 0.0, float(asked))) for asked in range(VERIFIERS_MAX + 1)]
    for kind in ErrorType
    if kind is not ErrorType.NONE
}


def verdict_of(model: TrialModel, place: int, is_wrong: bool) -> VerificationResult:
    """The panel's verdict about an output; a false alarm says GOAL_DRIFT."""
    is_rejected, asked = model.verdict(place, is_wrong)
    if not is_rejected:
        return _PASSES[asked]
    return _REJECTIONS[model.error_class(place) if is_wrong else ErrorType.GOAL_DRIFT][asked]


class TrialHost:
    """Runs the trials of one model. `log`, where it is given, gets every record of the run as it is stored."""

    def __init__(self, model: TrialModel) -> None:
        scenario = model.scenario
        policies = Policies(
            verifier=_NAME,
            max_rollback_depth=scenario.max_rollback_depth if scenario.fault.upstream else 0,
            rollbacks_max=scenario.rollbacks_max,
            verifier_retry_delay_s=0.0,
        )
        self._model = model
        self._spec = PlanSpec("trial", (StepSpec("step", (), max_retries=scenario.max_retries),), scenario.n_steps, policies)
        self._is_plain = not scenario.fault.upstream
        self._silences = 0
        self.state: RunState | None = None  # of the run that was last

    def run(self, trial: int, log: list[bytes] | None = None) -> TrialResult:
        """One trial from its admission to its end."""
        machine, model, is_plain = admitted(f"trial-{trial}", self._spec, log), self._model, self._is_plain
        self._silences = 0
        while True:
            ready = machine.take_ready()
            if ready is None:
                if machine.idle:
                    break
                machine.feed(Tick(), machine.wake_at or 0.0)
                continue
            if log is not None:
                log.extend(ready.records)
            for command in ready.commands:
                if type(command) is RunStep:
                    step, attempt = command.step, command.attempt
                    kind = model.output(trial, step, attempt, not is_plain and self._is_spoilt(machine.state, step))
                    machine.feed(StepReturned(command.call, OUTPUTS[kind][attempt], _GENERATED), machine.now)
                elif type(command) is Verify:
                    machine.feed(self._judge(machine, trial, command), machine.now)
        return self._result(machine)

    def _is_spoilt(self, state: RunState, step: int) -> bool:
        source = self._model.source_of(step)
        return source is not None and TRUTH[state.output_digest(source)] is Kind.FLAWED

    def _judge(self, machine: RunMachine, trial: int, command: Verify) -> AnyEvent:
        model = self._model
        place = model.place(trial, command.step, command.attempt)
        if command.output is None:
            return self._judge_suspect(machine, place, command)
        if command.previous:  # an output that was rejected before: there is no other mechanism to ask
            return VerdictReturned(command.call, None)
        attempt = machine.attempts[command.step]
        if model.is_silent(place, attempt.faults):
            self._silences += 1
            return VerdictReturned(command.call, _FAULT)
        verdict = verdict_of(model, place, TRUTH[command.output.digest] >= _WRONG)
        source = None if self._is_plain else model.source_of(command.step)
        if source is not None and not verdict.passed and model.blames(place, self._is_spoilt(machine.state, command.step)):
            verdict = VerificationResult.fail(verdict.error_type, verifier=_NAME, cost=verdict.cost, blame=machine.plan.name(source))
        return VerdictReturned(command.call, verdict)

    def _judge_suspect(self, machine: RunMachine, place: int, command: Verify) -> AnyEvent:
        is_bad = TRUTH[machine.state.output_digest(command.step)] is not _RIGHT
        falls = self._model.falls(place, is_bad)
        return VerdictReturned(command.call, _REJECTIONS[ErrorType.CONTRADICTION][1] if falls else _PASSES[1])

    def _result(self, machine: RunMachine) -> TrialResult:
        self.state = state = machine.state
        return TrialResult(outcome_of(state), state.cost.tokens, int(state.cost.seconds), state.rollbacks, self._silences)


def admitted(run: str, spec: PlanSpec, log: list[bytes] | None = None) -> RunMachine:
    """The machine of a run that was admitted and claimed just now."""
    state = RunState(run)
    first: Record = RunAdmitted(run, TaskRecord("simulated", b"\x80", run), spec, fingerprint_of(spec), 0.0)
    for record in (first, _CLAIMED):
        stored = encode_record(record)
        state.apply(record, stored)
        if log is not None:
            log.append(stored)
    machine = RunMachine(state, listening=False)
    machine.start(0.0)
    return machine


def outcome_of(state: RunState) -> int:
    """How a run ended, by what its log holds."""
    if state.finished is None:
        return PARKED
    if state.finished.outcome != "succeeded":
        return CAUGHT
    is_right = all(TRUTH[state.output_digest(step)] is _RIGHT for step in range(state.plan.size))
    return SUCCESS if is_right else SILENT
