"""What a run leaves for its caller: `RunResult` and one `StepRun` a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agentraft_ray import errors
from agentraft_ray.taxonomy import FREE, Cost, VerificationResult

__all__ = ["RunResult", "RunStatusName", "StepRun"]

RunStatusName = Literal["succeeded", "failed", "cancelled", "waiting", "running"]


class StepRun:
    """How one step went. `attempts` = the number really made; `elapsed_ms` of the attempt that was committed, its verdict included.

    `output` is decoded at each access, so that what a caller does to one copy reaches nobody else; None where nothing is committed.
    """

    __slots__ = ("_judged", "_load", "attempts", "cost", "elapsed_ms", "index", "name", "status")

    def __init__(
        self,
        index: int,
        name: str,
        status: str,
        attempts: int,
        judged: Callable[[], VerificationResult] | None = None,
        elapsed_ms: float = 0.0,
        cost: Cost = FREE,
        load: Callable[[], Any] | None = None,
    ) -> None:
        self.index = index
        self.name = name
        self.status = status
        self.attempts = attempts
        self._judged = judged
        self.elapsed_ms = elapsed_ms
        self.cost = cost
        self._load = load

    @property
    def verification(self) -> VerificationResult | None:
        """The last verdict: the passing one of a committed step, the last rejection of a failed one."""
        return self._judged() if self._judged is not None else None

    @property
    def output(self) -> Any:
        return self._load() if self._load is not None else None

    def __repr__(self) -> str:
        return f"StepRun({self.index}, {self.name!r}, {self.status!r}, attempts={self.attempts})"


@dataclass
class RunResult:
    """The outcome of a run. `status` "waiting" = parked on `waiting_for`, to be resumed; "running" = not at an end yet, seen from
    outside while its owner works or after that died; every other status is final.

    `output` is that of the step listed last, also where the pipeline is a graph with several ends; the others are in `steps`.
    `error` is "ErrorClass: message" or None. `rollbacks` counts how often a rejected output was thrown away and the run went back
    to a checkpoint. `reliability` = committed steps / steps of the pipeline. `resume_at` = seconds since the epoch when what a waiting
    run waits for may be over, None where nobody knows; a submitted run then goes on by itself.
    """

    task_id: str
    success: bool
    output: Any = None
    steps: Sequence[StepRun] = field(default_factory=list)
    rollbacks: int = 0
    elapsed_ms: float = 0.0
    error: str | None = None
    status: RunStatusName = "succeeded"
    waiting_for: tuple[str, ...] = ()
    verified_count: int = 0
    steps_total: int = 0
    cost: Cost = FREE
    error_kind: str = ""
    error_fields: dict[str, Any] = field(default_factory=dict)
    resume_at: float | None = None

    @property
    def run_id(self) -> str:
        return self.task_id

    @property
    def is_parked(self) -> bool:
        """Whether the run was put aside in good order; a result that only says that the store was lost is not."""
        return self.status == "waiting" and not issubclass(self._error_class, errors.StoreError)

    @property
    def reliability(self) -> float:
        return self.verified_count / self.steps_total if self.steps_total else 0.0

    def summary(self) -> dict[str, Any]:
        """The run on one line, as plain data."""
        return {
            "task_id": self.task_id,
            "success": self.success,
            "verified": f"{self.verified_count}/{self.steps_total}",
            "rollbacks": self.rollbacks,
            "reliability": round(self.reliability, 4),
            "elapsed_ms": round(self.elapsed_ms, 1),
            "error": self.error,
        }

    @property
    def _error_class(self) -> type[errors.AgentRaftError]:
        found: type[errors.AgentRaftError] = getattr(errors, self.error_kind, errors.AgentRaftError)
        return found

    def raise_for_error(self) -> None:
        """Raise what `error` names, with its fields; nothing for a run that succeeded."""
        if self.success:
            return
        raise self._error_class(self.error or f"run {self.task_id} did not succeed", **self.error_fields)
