"""From the end of a run's life to what its caller gets."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from agentraft_ray.errors import AgentRaftError, ErrorType
from agentraft_ray.events import verdict_of
from agentraft_ray.protocol.records import Certificate, Record, RolledBack, RunAdmitted, StepCommitted
from agentraft_ray.protocol.state import RunState
from agentraft_ray.result import RunResult, StepRun
from agentraft_ray.runtime.outputs import RunOutputs
from agentraft_ray.taxonomy import Cost, VerificationResult

__all__ = ["Commits", "error_result", "result_of", "standing_of", "steps_of"]


class Commits:
    """The verdict and cost of every present commit of a run, gathered record by record; nothing for runs of over `steps_max`."""

    def __init__(self, steps_max: int) -> None:
        self._steps_max = steps_max
        self._by_step: dict[int, tuple[Certificate, Cost]] | None = {}

    def note(self, record: Record) -> None:
        """Take in one more record that stands in the log."""
        if self._by_step is None:
            return
        if type(record) is StepCommitted:
            self._by_step[record.certificate.step] = (record.certificate, record.cost)
        elif type(record) is RolledBack:
            for step, _ in record.removed:
                self._by_step.pop(step, None)
        elif type(record) is RunAdmitted:
            self.expect(len(record.plan.block) * record.plan.repeats)

    def expect(self, steps: int) -> None:
        """Say how long the run is, where its admission is not read from the log."""
        if steps > self._steps_max:
            self._by_step = None

    @property
    def by_step(self) -> dict[int, tuple[Certificate, Cost]] | None:
        """step -> (certificate, cost), or None for a run too long to keep."""
        return self._by_step


async def result_of(state: RunState, outputs: RunOutputs, commits: Commits, started: float) -> RunResult:
    """The result of a run as its log stands now; `started` = `time.perf_counter()` at its begin."""
    result = standing_of(state)
    result.elapsed_ms = (time.perf_counter() - started) * 1000.0
    last = state.plan.size - 1
    if result.success:
        result.output = outputs.decode(last, (await outputs.fetch((last,)))[last])
    result.steps = steps_of(state, outputs, commits)
    return result


def steps_of(state: RunState, outputs: RunOutputs, commits: Commits) -> Sequence[StepRun]:
    """How each step went; those of a run too long to hold are read from the log on access."""
    if commits.by_step is None:
        return _LoggedSteps(state, outputs)
    return [_step_run(state, outputs, step, commits.by_step.get(step)) for step in range(state.plan.size)]


def standing_of(state: RunState) -> RunResult:
    """How a run stands: its result without outputs, steps and elapsed time."""
    finished = state.finished
    result = RunResult(
        task_id=state.run_id,
        success=finished is not None and finished.outcome == "succeeded",
        rollbacks=state.thrown_away + state.rollbacks,
        verified_count=state.committed,
        steps_total=state.plan.size,
        cost=state.cost,
    )
    if finished is None and state.parked is None:
        result.status, result.error_kind, result.error_fields = "running", "RunWaiting", {"run_id": state.run_id, "reason": "running"}
    elif finished is None:
        reasons = "; ".join(state.parked or ())
        result.status = "waiting"
        result.waiting_for = state.parked or ()
        result.error_kind = _waiting_kind(result.waiting_for)
        result.error_fields = {"run_id": state.run_id, "reason": reasons}
        result.error = f"{result.error_kind}: the run waits for {reasons}; resume it when that has changed"
    elif not result.success:
        result.status = "cancelled" if finished.outcome == "cancelled" else "failed"
        result.error_kind = finished.error.kind if finished.error else "AgentRaftError"
        result.error = f"{result.error_kind}: {finished.error.message}" if finished.error else finished.outcome
        result.error_fields = dict(finished.error.fields) if finished.error else {}
        if result.error_fields.get("error_type"):
            result.error_fields["error_type"] = ErrorType(result.error_fields["error_type"])
    return result


def error_result(run_id: str, error: AgentRaftError, steps_total: int, started: float, commits: Commits | None = None) -> RunResult:
    """The result of a life that ended without the log saying how: the store was lost. `commits` = what is known to stand in it."""
    return RunResult(
        task_id=run_id,
        success=False,
        elapsed_ms=(time.perf_counter() - started) * 1000.0,
        error=f"{type(error).__name__}: {error}",
        status="waiting",
        waiting_for=(type(error).__name__,),
        verified_count=len(commits.by_step or ()) if commits is not None else 0,
        steps_total=steps_total,
        error_kind=type(error).__name__,
        error_fields=dict(error.fields),
    )


def _waiting_kind(reasons: tuple[str, ...]) -> str:
    if any(reason.startswith("verifier:") for reason in reasons):
        return "VerifierUnavailable"
    if any(reason.startswith("breaker:") for reason in reasons):
        return "CircuitBreakerOpen"
    return "LogRewound" if any(reason.startswith("rewound") for reason in reasons) else "RunWaiting"


def _step_run(state: RunState, outputs: RunOutputs, step: int, commit: tuple[Certificate, Cost] | None) -> StepRun:
    history = state.history(step)
    name = state.plan.name(step)
    if commit is not None:
        certificate, cost = commit
        return StepRun(
            step,
            name,
            "committed",
            history.made + 1,
            partial(verdict_of, certificate),
            cost.seconds * 1000.0,
            cost,
            partial(outputs.value, step),
        )
    if step in state.proposed:
        return StepRun(step, name, "waiting", history.made + 1)
    if not history.made:
        return StepRun(step, name, "pending", 0)
    judged = None
    if history.error_type:
        error_type = ErrorType(history.error_type)
        judged = partial(VerificationResult.fail, error_type, hint=history.hint, reasoning=history.message, verifier=history.judge)
    return StepRun(step, name, "failed", history.made, judged)


class _LoggedSteps(Sequence[StepRun]):
    """The steps of a pipeline too long to hold, read from the log on access."""

    def __init__(self, state: RunState, outputs: RunOutputs) -> None:
        self._state = state
        self._outputs = outputs

    def __len__(self) -> int:
        return self._state.plan.size

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[step] for step in range(*index.indices(len(self)))]
        step = range(len(self))[index]
        if not self._state.is_committed(step):
            return _step_run(self._state, self._outputs, step, None)
        record = self._outputs.record_at(self._state.position(step))
        return _step_run(self._state, self._outputs, step, (record.certificate, record.cost))

    def __iter__(self) -> Iterator[StepRun]:
        return (self[step] for step in range(len(self)))
