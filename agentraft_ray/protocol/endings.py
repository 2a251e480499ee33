"""How a run ends badly: the error that its last record names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentraft_ray.protocol.records import (
    ErrorInfo,
)

if TYPE_CHECKING:
    from agentraft_ray.protocol.machine import RunMachine

__all__ = ["fail_budget", "fail_exhausted", "fail_run"]


def fail_exhausted(m: RunMachine, step: int) -> None:
    history, name = m.state.history(step), m.plan.name(step)
    last = history.error_type or history.message
    fields: dict[str, Any] = {"step": name, "attempts": history.made, "error_type": history.error_type or None}
    fail_run(m, "MaxRetriesExceeded", f"step {name!r} failed {history.made} attempts, the last with {last}", fields)


def fail_budget(m: RunMachine, resource: str, limit: float) -> None:
    message = f"the run's budget of {limit} {resource} does not allow the next attempt or verdict; fork it with a larger budget"
    fail_run(m, "BudgetExhausted", message, {"resource": resource, "limit": limit})


def fail_run(m: RunMachine, kind: str, message: str, fields: dict[str, Any]) -> None:
    m.finish("failed", ErrorInfo(kind, message, fields))
