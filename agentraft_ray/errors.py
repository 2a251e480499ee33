"""Every exception that a caller can see, and the error classes of the taxonomy.

Exceptions are for the caller's mistakes, for lost infrastructure and for `run_or_raise`; a failed step or a bad output is a value
(`VerificationResult`, `RunResult`). Each exception carries typed fields, survives a pickle round trip, and its message says what
happened, to what, and what to do next.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

__all__ = [
    "CORRECTION_HINTS",
    "AgentRaftError",
    "ApprovalDenied",
    "BudgetExhausted",
    "CircuitBreakerOpen",
    "DurabilityUnverified",
    "ErrorType",
    "FingerprintMismatch",
    "ForeignKey",
    "InvalidConfig",
    "InvalidPipeline",
    "LogCorrupted",
    "LogRewound",
    "MaxRetriesExceeded",
    "OutputNotEncodable",
    "OwnershipLost",
    "PayloadTooLarge",
    "RunCancelled",
    "RunExpired",
    "RunIdConflict",
    "RunNotFound",
    "RunWaiting",
    "StoreError",
    "StoreFull",
    "StoreUnavailable",
    "VerifierUnavailable",
]


class ErrorType(str, Enum):
    """Why an output was judged bad. Values equal names. NONE means that nothing is wrong."""

    NONE = "NONE"
    GOAL_DRIFT = "GOAL_DRIFT"
    CONTRADICTION = "CONTRADICTION"
    HALLUCINATION = "HALLUCINATION"
    INCOMPLETE = "INCOMPLETE"
    SCOPE_CREEP = "SCOPE_CREEP"
    FORMAT = "FORMAT"

    def __str__(self) -> str:
        return self.value


CORRECTION_HINTS: dict[ErrorType, str] = {
    ErrorType.GOAL_DRIFT: "The output left the goal of this step. Re-read the goal and answer it alone, without side topics.",
    ErrorType.CONTRADICTION: "The output contradicts earlier outputs. Re-read the earlier outputs and stay consistent with them.",
    ErrorType.HALLUCINATION: "The output states things that were not given. Use only what was given: the task and the earlier outputs.",
    ErrorType.INCOMPLETE: "The output is incomplete: something that the goal asks for is missing. Say what is missing and add it.",
    ErrorType.SCOPE_CREEP: "The output does more than was asked. Keep to the scope of this step and leave everything else out.",
    ErrorType.FORMAT: "The output does not have the required form. Return exactly the form that the step asks for, and nothing around it.",
}
"""The typed hint that a retry gets, for every failing class."""


class AgentRaftError(Exception):
    """The root of all our exceptions. `fields` holds the typed details, also readable as attributes."""

    def __init__(self, message: str = "", **fields: Any) -> None:
        super().__init__(message)
        self.fields = fields

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__.get("fields", {})
        if name in fields:
            return fields[name]
        raise AttributeError(f"{type(self).__name__} has no field {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), str(self), self.fields)


def _restore(kind: type[AgentRaftError], message: str, fields: dict[str, Any]) -> AgentRaftError:
    return kind(message, **fields)


# --- the caller's mistakes -------------------------------------------------------------------------------------------------


class InvalidPipeline(AgentRaftError, ValueError):
    """A pipeline that cannot run: no steps, duplicate names, an unknown or cyclic `after`, a bad limit."""


class InvalidConfig(AgentRaftError, ValueError):
    """A setting that is out of range, unknown, or contradicts another one."""


class RunIdConflict(AgentRaftError):
    """This run id was admitted before with another task or pipeline. Fields: run_id."""


class FingerprintMismatch(AgentRaftError):
    """The pipeline is not the one that the run was admitted with. Fields: run_id, changed (names of what differs)."""


class RunNotFound(AgentRaftError, KeyError):
    """No run with this id in the store. Fields: run_id."""

    __str__ = Exception.__str__


class RunExpired(AgentRaftError):
    """The run finished and its log has passed its retention; only a tombstone is left. Fields: run_id, outcome."""


class OutputNotEncodable(AgentRaftError, TypeError):
    """A step returned something that is not plain data. Fields: field (path to the offending value)."""


class PayloadTooLarge(AgentRaftError, ValueError):
    """A value is over the store's size limit. Fields: step or document, size_bytes, limit_bytes."""


# --- how a run can end badly (raised by run_or_raise only) -----------------------------------------------------------------


class MaxRetriesExceeded(AgentRaftError):
    """A step used up its retries. Fields: step, attempts (really made), error_type (of the last rejection, or None)."""


class CircuitBreakerOpen(AgentRaftError):
    """A breaker refuses work. Fields: scope, retry_after_s."""


class VerifierUnavailable(AgentRaftError):
    """A verifier that is needed cannot answer or cannot be built. Fields: step or provider."""


class BudgetExhausted(AgentRaftError):
    """The run's budget does not allow the next attempt or verdict. Fields: resource, limit."""


class RunCancelled(AgentRaftError):
    """The run was cancelled from outside. Fields: run_id."""


class ApprovalDenied(AgentRaftError):
    """A person refused to let a step run. Fields: step."""


class RunWaiting(AgentRaftError):
    """The run is parked on an outside condition and can be resumed. Fields: run_id, reason."""


# --- the store -------------------------------------------------------------------------------------------------------------


class StoreError(AgentRaftError):
    """The store failed or refused. The run's log is as it was; nothing that was acknowledged is lost."""


class StoreUnavailable(StoreError):
    """The store did not answer within the deadline. The run can be resumed. Fields: url, waited_s."""


class StoreFull(StoreError):
    """The store is out of memory and refuses writes. Free memory or prune, then resume."""


class ForeignKey(StoreError):
    """A key of ours holds a value of a type that is not ours; another program uses the same name. Fields: key."""


class DurabilityUnverified(StoreError):
    """The server does not keep the durability that was asked for, or does not let us check. Fields: wanted, found."""


class LogCorrupted(StoreError):
    """A log cannot be what was written: broken hash chain, missing record or blob, unknown record. Fields: run_id, index."""


class LogRewound(StoreError):
    """After a failover the log is shorter or other than what was acknowledged. Fields: run_id, acknowledged, found."""


class OwnershipLost(StoreError):
    """Another coordinator owns the run now; this one must stop working on it. Fields: run_id, owner."""
