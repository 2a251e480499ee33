"""From a run's state to the notice that its client gets, and from there to the result that its user sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from agentraft_ray.actors.client_messages import Failed, Outcome
from agentraft_ray.checkpoint.codec import decode_output
from agentraft_ray.errors import AgentRaftError, ErrorType
from agentraft_ray.protocol.state import RunState
from agentraft_ray.result import RunResult, StepRun
from agentraft_ray.runtime.results import standing_of

__all__ = ["failure_of", "outcome_of", "result_of"]


def outcome_of(state: RunState, output: bytes | None, resume_at: float | None = None) -> Outcome:
    """The notice about a run that has finished or waits; `output` = the encoded output of its last step."""
    standing = standing_of(state)
    return Outcome(
        state.run_id,
        standing.status,
        output,
        standing.verified_count,
        standing.steps_total,
        standing.rollbacks,
        standing.cost,
        standing.error_kind,
        standing.error,
        _plain(standing.error_fields),
        standing.waiting_for,
        resume_at,
    )


def failure_of(run_id: str, error: AgentRaftError) -> Failed:
    """The notice about a run that a shard cannot go on with."""
    return Failed(run_id, type(error).__name__, str(error), _plain(error.fields))


def result_of(outcome: Outcome, output_type: Any, steps: Sequence[StepRun], elapsed_ms: float) -> RunResult:
    """What the user sees. `output_type` = the type that the last step declares, None for plain data."""
    success = outcome.status == "succeeded"
    return RunResult(
        task_id=outcome.run_id,
        success=success,
        output=decode_output(outcome.output, output_type) if success and outcome.output is not None else None,
        steps=steps,
        rollbacks=outcome.rollbacks,
        elapsed_ms=elapsed_ms,
        error=outcome.error,
        status=outcome.status,  # type: ignore[arg-type]
        waiting_for=outcome.waiting_for,
        verified_count=outcome.verified,
        steps_total=outcome.steps_total,
        cost=outcome.cost,
        error_kind=outcome.error_kind,
        error_fields=fields_of(outcome.error_fields),
        resume_at=outcome.resume_at,
    )


def fields_of(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of an error as its class has them."""
    if fields.get("error_type"):
        return {**fields, "error_type": ErrorType(fields["error_type"])}
    return dict(fields)


class StepsOnDemand(Sequence[StepRun]):
    """The steps of a run, read from its log when somebody looks at them."""

    def __init__(self, load: Callable[[], Sequence[StepRun]]) -> None:
        self._load = load
        self._steps: Sequence[StepRun] | None = None

    def _all(self) -> Sequence[StepRun]:
        if self._steps is None:
            self._steps = self._load()
        return self._steps

    def __len__(self) -> int:
        return len(self._all())

    def __getitem__(self, index: Any) -> Any:
        return self._all()[index]

    def __repr__(self) -> str:
        return "<steps, read from the log on access>" if self._steps is None else repr(self._steps)


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value.value if isinstance(value, ErrorType) else value for name, value in fields.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))
