"""The exit codes of the command line, and which one a run ends with."""

from __future__ import annotations

from collections.abc import Iterable

from agentraft_ray.result import RunResult

__all__ = ["APPROVAL", "EXIT_CODES", "FAILED", "INTERRUPTED", "OK", "PUT_ASIDE", "STOPPED", "USAGE", "exit_of", "worst"]

OK = 0
FAILED = 1
USAGE = 2
APPROVAL = 3
STOPPED = 4
PUT_ASIDE = 5
INTERRUPTED = 130

EXIT_CODES = """\b
Exit codes:
  0    it succeeded
  1    a run failed or was cancelled, or an audit or a check found something
  2    the command cannot be understood, or a setting cannot be
  3    a run waits for an approval
  4    a breaker or a budget has stopped a run
  5    a run was put aside: it waits for a verifier or the store; resume it
  130  interrupted; what was under way was put aside in good order
"""

_STOPPED_BY = frozenset({"CircuitBreakerOpen", "BudgetExhausted"})
_GRAVITY = (INTERRUPTED, FAILED, STOPPED, PUT_ASIDE, APPROVAL, OK)


def exit_of(result: RunResult) -> int:
    """The exit code that says how a run ended."""
    if result.success:
        return OK
    if result.status != "waiting":
        return STOPPED if result.error_kind in _STOPPED_BY else FAILED
    if any(reason.startswith("approval:") for reason in result.waiting_for):
        return APPROVAL
    return STOPPED if any(reason.startswith("breaker:") for reason in result.waiting_for) else PUT_ASIDE


def worst(codes: Iterable[int]) -> int:
    """The one that says most of several runs."""
    found = set(codes)
    return next((code for code in _GRAVITY if code in found), OK)
