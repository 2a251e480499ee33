"""What observers of a run receive. Events that derive from the log carry its position, so that none is missed after a reconnect."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from agentraft_ray.errors import ErrorType
from agentraft_ray.protocol.messages import Announce
from agentraft_ray.protocol.plan import Plan
from agentraft_ray.protocol.records import Certificate
from agentraft_ray.taxonomy import FREE, VerdictKind, VerificationResult

__all__ = ["EVENT_VERSION", "Event", "EventType", "event_of", "verdict_of"]

EVENT_VERSION = 1


class EventType(str, Enum):
    """Kinds of events; values in lower snake case. STEP_START and STEP_VERIFYING are live only, the others derive from the log."""

    RUN_START = "run_start"
    STEP_START = "step_start"
    STEP_VERIFYING = "step_verifying"
    STEP_COMMITTED = "step_committed"
    STEP_FAILED = "step_failed"
    STEP_ROLLBACK = "step_rollback"
    STEP_RETRY = "step_retry"
    RUN_SUCCESS = "run_success"
    RUN_FAILED = "run_failed"
    BREAKER_OPEN = "breaker_open"
    RUN_CLAIMED = "run_claimed"
    RUN_PARKED = "run_parked"
    SUSPECT_CLEARED = "suspect_cleared"
    COMMAND_TAKEN = "command_taken"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `step_index` is -1 and `step_name` "" for events of the whole run; `at` is in seconds since the epoch.

    `position` and `n` name the event within the log of `run_id` (position -1: live only); `task_id` is the run id, as in the seed.
    """

    type: EventType
    task_id: str
    step_index: int = -1
    step_name: str = ""
    attempt: int = 0
    verification: VerificationResult | None = None
    detail: str = ""
    at: float = 0.0
    position: int = -1
    n: int = 0
    version: int = EVENT_VERSION

    @property
    def run_id(self) -> str:
        return self.task_id

    @property
    def timestamp(self) -> float:
        """`at` under the name that users of the seed know."""
        return self.at

    @property
    def id(self) -> str | None:
        """``run:position:n`` of an event that derives from the log; None for one that is live only."""
        return f"{self.task_id}:{self.position}:{self.n}" if self.position >= 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "version": self.version,
            "id": self.id,
            "type": self.type.value,
            "run_id": self.task_id,
            "step_index": self.step_index,
            "step_name": self.step_name,
            "attempt": self.attempt,
            "verification": self.verification.to_dict() if self.verification else None,
            "detail": self.detail,
            "at": self.at,
        }


def event_of(run_id: str, plan: Plan, announce: Announce) -> Event:
    """The public form of a machine's announcement."""
    step = announce.step
    verdict = verdict_of(announce.certificate, announce.hint) if announce.certificate is not None else None
    return Event(
        EventType(announce.type),
        run_id,
        step,
        plan.name(step) if step >= 0 else "",
        announce.attempt,
        verdict,
        announce.detail,
        announce.at,
        announce.position,
        announce.n,
    )


def verdict_of(certificate: Certificate, hint: str = "", reasoning: str = "") -> VerificationResult:
    """The verdict that a certificate holds."""
    return VerificationResult(
        certificate.passed,
        ErrorType(certificate.error_type),
        certificate.confidence,
        hint or None,
        reasoning,
        certificate.verifier,
        VerdictKind(certificate.kind),
        prompt=certificate.prompt,
        calibration=certificate.calibration,
        cached=certificate.cached,
        cost=certificate.cost or FREE,
    )
