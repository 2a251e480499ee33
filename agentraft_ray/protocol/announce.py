"""What observers are told of a record. A pure function of the record and the state after it, so that a stream can be replayed from
any log position without a gap."""

from __future__ import annotations

from agentraft_ray.protocol.messages import Announce
from agentraft_ray.protocol.records import (
    AttemptFailed,
    AttemptRejected,
    CommandTaken,
    OwnerClaimed,
    Record,
    RolledBack,
    RunAdmitted,
    RunFinished,
    RunParked,
    StepCommitted,
    SuspectCleared,
)
from agentraft_ray.protocol.state import RunState

__all__ = ["announcements"]


def announcements(state: RunState, record: Record, position: int) -> list[Announce]:
    """The announcements of `record`, which stands at `position`; `state` is the fold up to and including it."""
    match record:
        case RunAdmitted():
            return [Announce("run_start", -1, 0, position, 0, at=record.at)]
        case OwnerClaimed():
            return [Announce("run_claimed", -1, 0, position, 0, detail=f"epoch {record.epoch}", at=record.at)] if position > 1 else []
        case StepCommitted(certificate=certificate):
            return [Announce("step_committed", certificate.step, certificate.attempt, position, 0, certificate, at=record.at)]
        case AttemptRejected(certificate=certificate):
            failed = Announce(
                "step_failed",
                certificate.step,
                certificate.attempt,
                position,
                0,
                certificate,
                record.hint,
                record.reasoning,
                record.at,
            )
            return [failed, *_after_failure(state, certificate.step, certificate.attempt, record.hint, position, record.at, True)]
        case AttemptFailed():
            failed = Announce(
                "step_failed", record.step, record.attempt, position, 0, detail=f"{record.cause}: {record.message}", at=record.at
            )
            hint = state.history(record.step).hint or ""
            return [failed, *_after_failure(state, record.step, record.attempt, hint, position, record.at, False)]
        case RolledBack(certificate=certificate):
            detail = ", ".join(state.plan.name(step) for step, _ in record.removed)
            return [Announce("step_rollback", record.suspect, 0, position, 0, certificate, record.hint, detail, record.at)]
        case SuspectCleared():
            detail = f"accused by {state.plan.name(record.accuser)}"
            return [Announce("suspect_cleared", record.suspect, 0, position, 0, record.certificate, detail=detail, at=record.at)]
        case CommandTaken():
            detail = f"{record.kind} {record.id}" + ("" if record.applied else " (no effect)")
            return [Announce("command_taken", record.step, 0, position, 0, detail=detail, at=record.at)]
        case RunParked():
            return [Announce("run_parked", -1, 0, position, 0, detail="; ".join(record.reasons), at=record.at)]
        case RunFinished():
            return _finished(record, position)
        case _:
            return []


def _after_failure(state: RunState, step: int, attempt: int, hint: str, position: int, at: float, rejected: bool) -> list[Announce]:
    if state.exhausted(step) or step in state.accusations:
        return []
    told: list[Announce] = []
    if rejected and state.plan.policies.rollback_on_failure:
        told.append(Announce("step_rollback", step, attempt, position, 1, detail=f"checkpoint_{state.committed}", at=at))
    told.append(Announce("step_retry", step, attempt + 1, position, 2, hint=hint, detail="with hint" if hint else "", at=at))
    return told


def _finished(record: RunFinished, position: int) -> list[Announce]:
    if record.outcome == "succeeded":
        return [Announce("run_success", -1, 0, position, 0, at=record.at)]
    message = record.error.message if record.error else record.outcome
    told = [Announce("run_failed", -1, 0, position, 1, detail=message, at=record.at)]
    if record.error is not None and record.error.kind == "CircuitBreakerOpen":
        told.insert(0, Announce("breaker_open", -1, 0, position, 0, detail=message, at=record.at))
    return told
