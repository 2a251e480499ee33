"""Every decision of the protocol: which event, in which phase of an attempt, leads where. One table, at the end.

The functions behind it (`dispatch`, `judgement`, `endings`) read the machine's state and answer through `persist`, `command` and
the attempt's phase; they keep nothing themselves. What concerns no open call (time, people) is decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agentraft_ray.errors import ErrorType
from agentraft_ray.protocol import dispatch, endings, judgement
from agentraft_ray.protocol.attempt import Attempt, Phase
from agentraft_ray.protocol.messages import (
    CommandReceived,
    PermitDenied,
    PermitGranted,
    StepRaised,
    StepReturned,
    VerdictReturned,
    WorkerLost,
)
from agentraft_ray.protocol.records import (
    CommandTaken,
    ErrorInfo,
)
from agentraft_ray.taxonomy import FailureCause, VerificationResult

if TYPE_CHECKING:
    from agentraft_ray.protocol.machine import RunMachine

__all__ = ["TABLE", "take_command", "take_tick"]

_HUMAN = "human:"
_KINDS = frozenset({"approve", "deny", "cancel"})


def take_tick(m: RunMachine) -> None:
    """Move on whatever is due."""
    budget = m.policies.budget
    limit_s = None if budget is None or m.state.parked is not None else budget.seconds
    if limit_s is not None and m.state.elapsed_s(m.now) >= limit_s:
        endings.fail_budget(m, "seconds", limit_s)
        return
    for attempt in list(m.attempts.values()):
        if attempt.due is not None and attempt.due <= m.now and m.attempts.get(attempt.step) is attempt:
            _due(m, attempt)


def _due(m: RunMachine, attempt: Attempt) -> None:
    attempt.due = None
    match attempt.phase:
        case Phase.BACKOFF | Phase.BREAKER:
            dispatch.ask_permit(m, attempt)
        case Phase.FAULTED | Phase.BLOCKED:
            if attempt.step in m.state.accusations:
                judgement.recheck(m, attempt)
            else:
                judgement.judge_again(m, attempt)
        case Phase.RUNNING:
            timeout_s = attempt.spec.timeout_s
            dispatch.fail_attempt(m, attempt, FailureCause.TIMED_OUT, f"it did not return within {timeout_s} s", False)
        case Phase.JUDGING | Phase.RECHECK:
            m.abandon_calls(attempt)
            judgement.verifier_failed(m, attempt, f"no verdict within {m.policies.verifier_timeout_s} s")
        case _:
            pass


def take_command(m: RunMachine, command: CommandReceived) -> None:
    """Approve, deny or cancel. What does not fit what is waiting is taken without effect, so that it leaves the inbox."""
    m.taken(command.id)
    known = command.id in m.state.commands
    attempt = m.attempts.get(command.step)
    if known or command.kind not in _KINDS:
        _take(m, command, False)
    elif command.kind == "cancel":
        _take(m, command, True)
        m.finish("cancelled", ErrorInfo("RunCancelled", f"cancelled by {command.by or 'command'}"))
    elif attempt is not None and attempt.phase is Phase.GATE and command.lineage == attempt.lineage and not command.output:
        _decide_gate(m, attempt, command)
    elif attempt is not None and attempt.phase is Phase.APPROVAL and _is_about(command, attempt):
        _decide_approval(m, attempt, command)
    else:
        _take(m, command, False)


def _take(m: RunMachine, command: CommandReceived, applied: bool) -> None:
    m.persist(
        CommandTaken(command.id, command.kind, command.step, command.lineage, command.output, command.by, command.note, applied, m.now)
    )


def _is_about(command: CommandReceived, attempt: Attempt) -> bool:
    return attempt.payload is not None and (command.lineage, command.output) == (attempt.lineage, attempt.payload.digest)


def _decide_gate(m: RunMachine, attempt: Attempt, command: CommandReceived) -> None:
    _take(m, command, True)
    if command.kind == "approve":
        m.attempts.pop(attempt.step)
        dispatch.start_step(m, attempt.step)
        return
    name = m.plan.name(attempt.step)
    endings.fail_run(m, "ApprovalDenied", f"step {name!r} was not allowed to run{_because(command)}", {"step": name})


def _decide_approval(m: RunMachine, attempt: Attempt, command: CommandReceived) -> None:
    _take(m, command, True)
    assert attempt.certificate is not None
    if command.kind == "approve":
        judgement.commit(m, attempt, attempt.certificate)
        return
    hint = command.note or "A person refused this output."
    judgement.reject(m, attempt, VerificationResult.fail(ErrorType.GOAL_DRIFT, hint=hint, verifier=_HUMAN + command.by))


def _because(command: CommandReceived) -> str:
    return f": {command.note}" if command.note else ""


TABLE: dict[tuple[Phase, type], Callable[[RunMachine, Attempt, Any], None]] = {
    (Phase.PERMIT, PermitGranted): dispatch.granted,
    (Phase.PERMIT, PermitDenied): dispatch.denied,
    (Phase.RUNNING, StepReturned): dispatch.returned,
    (Phase.RUNNING, StepRaised): dispatch.raised,
    (Phase.RUNNING, WorkerLost): dispatch.worker_lost,
    (Phase.JUDGING, VerdictReturned): judgement.judged,
    (Phase.RECHECK, VerdictReturned): judgement.rechecked,
}
"""What does not stand here is a late reply: it changes nothing. Verifiers that are lost answer with a fault verdict."""
