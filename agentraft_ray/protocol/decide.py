"""Every decision of the protocol: which event, in which phase of an attempt, leads where. One table, at the end.

Functions here read the machine's state and answer through `persist`, `command` and the attempt's phase; they keep nothing themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agentraft_ray.errors import CORRECTION_HINTS, ErrorType
from agentraft_ray.identity import digest
from agentraft_ray.protocol.attempt import Attempt, Phase
from agentraft_ray.protocol.messages import (
    AcquirePermit,
    CommandReceived,
    PermitDenied,
    PermitGranted,
    RunStep,
    StepRaised,
    StepReturned,
    VerdictReturned,
    Verify,
    WorkerLost,
)
from agentraft_ray.protocol.records import (
    AttemptFailed,
    AttemptRejected,
    AttemptStarted,
    Certificate,
    CommandTaken,
    ErrorInfo,
    OutputProposed,
    Payload,
    RolledBack,
    RunParked,
    StepCommitted,
    SuspectCleared,
)
from agentraft_ray.taxonomy import FREE, FailureCause, VerdictKind, VerificationResult

if TYPE_CHECKING:
    from agentraft_ray.protocol.machine import RunMachine

__all__ = ["TABLE", "start_run", "take_command", "take_tick"]

_HUMAN = "human:"
_KINDS = frozenset({"approve", "deny", "cancel"})


# --- starting ----------------------------------------------------------------------------------------------------------------


def start_run(m: RunMachine) -> None:
    """Start every step that can go on; a run that was claimed too often without progress is parked instead."""
    if m.state.claims > m.policies.claims_max:
        m.persist(RunParked((f"poisoned:claimed {m.state.claims} times without progress",), m.now))
        return
    for step in sorted(m.state.ready):
        if m.state.finished is None:
            start_step(m, step)


def start_step(m: RunMachine, step: int) -> None:
    """Open the next attempt of a ready step, in the phase that the state calls for."""
    state = m.state
    history = state.history(step)
    attempt = Attempt(step, history.lineage, history.attempt, history.hint)
    m.attempts[step] = attempt
    proposal = state.proposed.get(step)
    if step in state.accusations:
        _recheck(m, attempt)
    elif state.exhausted(step):
        _fail_exhausted(m, step)
    elif proposal is not None:
        attempt.payload, attempt.certificate = proposal.output, proposal.certificate
        attempt.cost = attempt.booked = proposal.cost
        if proposal.certificate is None:
            _judge_again(m, attempt)
        else:
            _await_approval(m, attempt)
    elif m.plan.step(step).approve_before and (step, history.lineage) not in state.let_go:
        attempt.phase = Phase.GATE
        attempt.reason = f"approval:{m.plan.name(step)} before it runs"
    else:
        _back_off(m, attempt)


def _back_off(m: RunMachine, attempt: Attempt) -> None:
    history = m.state.history(attempt.step)
    tries = history.rejections + history.errors
    if tries and m.policies.base_delay_s:
        delay = min(m.policies.max_delay_s, m.policies.base_delay_s * 2.0 ** min(tries - 1, 62))
        due = history.failed_at + delay * _jitter(m, attempt)
        if due > m.now:
            attempt.phase, attempt.due = Phase.BACKOFF, due
            return
    _ask_permit(m, attempt)


def _jitter(m: RunMachine, attempt: Attempt) -> float:
    """Between 0.5 and 1, from a hash of the attempt's id: spread out, yet the same on every replay."""
    name = f"{m.state.run_id}/{attempt.step}/{attempt.lineage}/{attempt.number}"
    return 0.5 + hashlib.sha256(name.encode()).digest()[0] / 510.0


def _ask_permit(m: RunMachine, attempt: Attempt) -> None:
    attempt.due = None
    if not m.policies.breaker:
        _dispatch(m, attempt)
        return
    attempt.phase = Phase.PERMIT
    scope = f"{m.plan.spec.name}/{m.plan.step(attempt.step).name}"
    name = f"{m.state.run_id}/{attempt.step}/{attempt.lineage}/{attempt.number}"
    m.command(AcquirePermit(m.open_call(attempt), scope, name))


def _dispatch(m: RunMachine, attempt: Attempt) -> None:
    """Send the attempt to a worker: one call, or as many samples as the vote still needs."""
    spec = m.plan.step(attempt.step)
    m.announce("step_start", attempt.step, attempt.number, attempt.hint or "")
    if not spec.ahead_by:
        _send(m, attempt, 0)
        return
    attempt.votes = {}
    for _ in range(spec.ahead_by):
        if attempt.step in m.attempts:
            _send(m, attempt, attempt.samples)
            attempt.samples += 1


def _send(m: RunMachine, attempt: Attempt, sample: int) -> None:
    budget = m.policies.budget
    if budget is not None:
        short = _over_budget(m)
        if short is not None:
            _fail_budget(m, *short)
            return
        m.persist(AttemptStarted(attempt.step, attempt.lineage, attempt.number, sample, budget.reserve))
    timeout_s = m.plan.step(attempt.step).timeout_s
    attempt.phase = Phase.RUNNING
    attempt.due = None if timeout_s is None or m.policies.host_times_steps else m.now + timeout_s
    m.command(
        RunStep(
            m.open_call(attempt, sample),
            attempt.step,
            attempt.lineage,
            attempt.number,
            sample,
            attempt.hint,
            timeout_s,
            attempt.losses.get(sample, 0) > 1,
        )
    )


def _over_budget(m: RunMachine, *, is_start: bool = True) -> tuple[str, float] | None:
    """(resource, limit) of the first limit that one more dispatch (or, without `is_start`, one more verdict) could break."""
    budget, state = m.policies.budget, m.state
    if budget is None:
        return None
    reserve, charged = budget.reserve if is_start else FREE, state.charged
    if is_start and budget.attempts is not None and state.attempts_started + 1 > budget.attempts:
        return "attempts", budget.attempts
    if budget.tokens is not None and (charged.tokens + reserve.tokens > budget.tokens or charged.tokens >= budget.tokens):
        return "tokens", budget.tokens
    # A price that nobody knows could be any: it ends what money is left.
    usd = float("inf") if charged.usd is None else charged.usd
    if budget.usd is not None and (usd + (reserve.usd or 0.0) > budget.usd or usd >= budget.usd):
        return "usd", budget.usd
    if budget.seconds is not None and state.elapsed_s(m.now) >= budget.seconds:
        return "seconds", budget.seconds
    return None


# --- a worker answers --------------------------------------------------------------------------------------------------------


def _returned(m: RunMachine, attempt: Attempt, event: StepReturned) -> None:
    m.close_call(attempt, event.call.number)
    attempt.cost = attempt.cost + event.cost
    if attempt.votes is None:
        attempt.payload = Payload(digest(event.data), len(event.data), event.data)
        _judge(m, attempt)
        return
    attempt.votes.setdefault(digest(event.data), []).append(event.data)
    _count_votes(m, attempt)


def _count_votes(m: RunMachine, attempt: Attempt) -> None:
    """First-to-ahead-by-k: take the winner, or ask for as many samples as it still lacks."""
    spec = m.plan.step(attempt.step)
    votes = attempt.votes or {}
    ranked = sorted(votes.items(), key=lambda item: -len(item[1]))
    lead = (len(ranked[0][1]) if ranked else 0) - (len(ranked[1][1]) if len(ranked) > 1 else 0)
    if ranked and lead >= spec.ahead_by:
        winner, samples = ranked[0]
        m.abandon_calls(attempt)
        attempt.payload = Payload(winner, len(samples[0]), samples[0])
        _judge(m, attempt)
        return
    if attempt.calls:
        return
    wanted = min(spec.ahead_by - lead, spec.samples_max - attempt.samples)
    if wanted <= 0:
        _fail_attempt(m, attempt, FailureCause.NO_MAJORITY, f"{attempt.samples} samples, no output was {spec.ahead_by} ahead", False)
        return
    for _ in range(wanted):
        if attempt.step in m.attempts:
            _send(m, attempt, attempt.samples)
            attempt.samples += 1


def _raised(m: RunMachine, attempt: Attempt, event: StepRaised) -> None:
    m.close_call(attempt, event.call.number)
    attempt.cost = attempt.cost + event.cost
    if attempt.votes is not None and not event.final:
        _count_votes(m, attempt)  # a malformed sample is discarded, never repaired
        return
    _fail_attempt(m, attempt, event.cause, event.message, event.final)


def _worker_lost(m: RunMachine, attempt: Attempt, event: WorkerLost) -> None:
    sample = m.close_call(attempt, event.call.number)
    losses = attempt.losses[sample] = attempt.losses.get(sample, 0) + 1
    if losses > m.policies.worker_losses_max:
        message = f"{losses} workers were lost while they ran it"
        _fail_attempt(m, attempt, FailureCause.WORKER_LOST, message, False)
        return
    _send(m, attempt, sample)


def _fail_attempt(m: RunMachine, attempt: Attempt, cause: FailureCause, message: str, final: bool) -> None:
    m.close(attempt, "failure")
    m.persist(AttemptFailed(attempt.step, attempt.lineage, attempt.number, cause.value, message, final, attempt.cost, m.now))
    start_step(m, attempt.step)


# --- a verifier answers ------------------------------------------------------------------------------------------------------


def _judge(m: RunMachine, attempt: Attempt) -> None:
    """Ask for a verdict; an output that was rejected before goes once to another mechanism and is then rejected unseen."""
    assert attempt.payload is not None
    history = m.state.history(attempt.step)
    if history.rejected:
        judges = history.rejected.get((m.state.inputs_digest(attempt.step), attempt.payload.digest), ())
        if len(judges) > 1:
            _reject_repeat(m, attempt)
            return
        attempt.opinion = judges[0] if judges else ""
    m.announce("step_verifying", attempt.step, attempt.number)
    _ask_verifier(m, attempt)


def _judge_again(m: RunMachine, attempt: Attempt) -> None:
    """Judge an output that no verifier could judge before, if the budget has something left for that."""
    short = _over_budget(m, is_start=False)
    if short is not None:
        _fail_budget(m, *short)
    else:
        _judge(m, attempt)


def _ask_verifier(m: RunMachine, attempt: Attempt) -> None:
    assert attempt.payload is not None
    timeout_s = m.policies.verifier_timeout_s
    attempt.phase, attempt.due = Phase.JUDGING, m.now + timeout_s
    m.command(Verify(m.open_call(attempt), attempt.step, attempt.number, attempt.payload, -1, attempt.opinion, timeout_s))


def _judged(m: RunMachine, attempt: Attempt, event: VerdictReturned) -> None:
    m.close_call(attempt, event.call.number)
    result = event.result
    if result is None:  # no other mechanism for the repeated output
        _reject_repeat(m, attempt)
        return
    attempt.cost = attempt.cost + event.cost
    match result.kind:
        case VerdictKind.PASS:
            _passed(m, attempt, result)
        case VerdictKind.REJECT:
            _reject(m, attempt, result)
        case VerdictKind.ABSTAIN:
            _propose(m, attempt, _certify_attempt(m, attempt, result))
        case _:
            _verifier_failed(m, attempt, result.reasoning)


def _certify(m: RunMachine, step: int, output: bytes, result: VerificationResult) -> Certificate:
    """Bind a verdict to exactly what it is about: this output of the step's open (or committed) attempt."""
    state = m.state
    history = state.history(step)
    assert result.kind is not None
    return Certificate(
        state.run_id,
        step,
        history.lineage,
        history.attempt,
        state.inputs_digest(step),
        state.parent_positions(step),
        output,
        m.plan.goal(step),
        m.plan.judged_by(step),
        result.verifier,
        result.prompt,
        result.calibration,
        result.kind.value,
        result.error_type.value,
        result.confidence,
    )


def _certify_attempt(m: RunMachine, attempt: Attempt, result: VerificationResult) -> Certificate:
    assert attempt.payload is not None
    return _certify(m, attempt.step, attempt.payload.digest, result)


def _passed(m: RunMachine, attempt: Attempt, result: VerificationResult) -> None:
    certificate = _certify_attempt(m, attempt, result)
    if m.plan.step(attempt.step).needs_approval:
        _propose(m, attempt, certificate)
    else:
        _commit(m, attempt, certificate)


def _commit(m: RunMachine, attempt: Attempt, certificate: Certificate) -> None:
    assert attempt.payload is not None
    step = attempt.step
    m.close(attempt, "success")
    m.persist(StepCommitted(certificate, m.stored(attempt.payload), attempt.cost, m.now))
    for child in m.plan.children(step):
        if child in m.state.ready and child not in m.attempts and m.state.finished is None:
            start_step(m, child)


def _reject(m: RunMachine, attempt: Attempt, result: VerificationResult) -> None:
    certificate = _certify_attempt(m, attempt, result)
    blamed = m.plan.index_of(result.blame) if result.blame is not None else None
    m.close(attempt, "failure")
    m.persist(
        AttemptRejected(
            certificate,
            result.hint or "",
            result.reasoning,
            tuple(result.evidence),
            -1 if blamed is None else blamed,
            attempt.cost,
            m.now,
        )
    )
    start_step(m, attempt.step)


def _reject_repeat(m: RunMachine, attempt: Attempt) -> None:
    """The same output on the same inputs again: what was wrong with it still is."""
    history = m.state.history(attempt.step)
    error_type = ErrorType(history.error_type or ErrorType.GOAL_DRIFT)
    hint = f"The same output was rejected before; return another one. {CORRECTION_HINTS.get(error_type, '')}".rstrip()
    reasoning = "this very output was rejected before"
    _reject(m, attempt, VerificationResult.fail(error_type, hint=hint, reasoning=reasoning, verifier="memory"))


def _verifier_failed(m: RunMachine, attempt: Attempt, why: str) -> None:
    """Never a pass, never billed to the agent: ask again a few times, then keep the output and wait for a verifier."""
    attempt.faults += 1
    if m.policies.budget is not None:
        _keep_output(m, attempt)
    if attempt.faults < m.policies.verifier_faults_max:
        attempt.phase = Phase.FAULTED
        attempt.due = m.now + m.policies.verifier_retry_delay_s * 2.0 ** (attempt.faults - 1)
        return
    m.release(attempt, "released")
    attempt.phase, attempt.due = Phase.BLOCKED, None
    attempt.reason = f"verifier:{m.plan.name(attempt.step)}: {why}"[:500]
    _keep_output(m, attempt)


def _keep_output(m: RunMachine, attempt: Attempt) -> None:
    """Put an output that waits for its verdict into the log, with all that it has cost so far."""
    if attempt.payload is None or attempt.step in m.state.accusations:
        return
    if attempt.step not in m.state.proposed or attempt.cost != attempt.booked:
        m.persist(_proposal(m, attempt, None))


def _proposal(m: RunMachine, attempt: Attempt, certificate: Certificate | None) -> OutputProposed:
    assert attempt.payload is not None
    inputs = m.state.inputs_digest(attempt.step)
    output = m.stored(attempt.payload)
    attempt.booked = attempt.cost
    return OutputProposed(attempt.step, attempt.lineage, attempt.number, inputs, output, certificate, attempt.cost, m.now)


def _propose(m: RunMachine, attempt: Attempt, certificate: Certificate) -> None:
    """A person decides: about a passing output that needs approval, or one that no verifier could judge."""
    m.release(attempt, "released")
    attempt.certificate = certificate
    m.persist(_proposal(m, attempt, certificate))
    _await_approval(m, attempt)


def _await_approval(m: RunMachine, attempt: Attempt) -> None:
    assert attempt.certificate is not None
    attempt.phase, attempt.due = Phase.APPROVAL, None
    abstained = attempt.certificate.kind == "abstain"
    attempt.reason = f"approval:{m.plan.name(attempt.step)}" + (" (the verifier abstained)" if abstained else "")


# --- a suspect is judged again -----------------------------------------------------------------------------------------------


def _recheck(m: RunMachine, attempt: Attempt) -> None:
    """Blame is a suspicion: before anything is removed, the suspect's committed output is judged again."""
    suspect, position = m.state.accusations[attempt.step]
    timeout_s = m.policies.verifier_timeout_s
    attempt.phase, attempt.due = Phase.RECHECK, m.now + timeout_s
    number = m.state.history(suspect).attempt
    m.command(Verify(m.open_call(attempt), suspect, number, None, position, "", timeout_s))


def _rechecked(m: RunMachine, attempt: Attempt, event: VerdictReturned) -> None:
    m.close_call(attempt, event.call.number)
    result = event.result
    if result is None or result.kind is VerdictKind.FAULT:
        m.late = m.late + event.cost
        _verifier_failed(m, attempt, result.reasoning if result is not None else "no verdict about the suspect")
        return
    suspect, position = m.state.accusations[attempt.step]
    certificate = _certify(m, suspect, m.state.output_digest(suspect), result)
    m.close(attempt, "released")
    if result.kind is not VerdictKind.REJECT:
        m.persist(SuspectCleared(suspect, position, attempt.step, certificate, event.cost, m.now))
        start_step(m, attempt.step)
        return
    removed = m.state.fallen_with(suspect)
    fallen = {step for step, _ in removed}
    for other in list(m.attempts.values()):
        if any(ancestor in fallen for ancestor in m.plan.parents(other.step)):
            m.abandon(other)
    m.persist(RolledBack(suspect, attempt.step, removed, certificate, result.hint or "", event.cost, m.now))
    start_step(m, suspect)


# --- the breaker answers -----------------------------------------------------------------------------------------------------


def _granted(m: RunMachine, attempt: Attempt, event: PermitGranted) -> None:
    m.close_call(attempt, event.call.number)
    attempt.permit = event.permit
    _dispatch(m, attempt)


def _denied(m: RunMachine, attempt: Attempt, event: PermitDenied) -> None:
    m.close_call(attempt, event.call.number)
    if m.policies.on_open == "fail":
        fields: dict[str, Any] = {"scope": event.scope, "retry_after_s": max(0.0, event.retry_at - m.now)}
        message = f"step {m.plan.name(attempt.step)!r}: the breaker {event.scope!r} is open; try again after its cooldown"
        _fail_run(m, "CircuitBreakerOpen", message, fields)
        return
    attempt.phase, attempt.due = Phase.BREAKER, event.retry_at
    attempt.reason = f"breaker:{event.scope}"


# --- time passes -------------------------------------------------------------------------------------------------------------


def take_tick(m: RunMachine) -> None:
    """Move on whatever is due."""
    budget = m.policies.budget
    limit_s = None if budget is None or m.state.parked is not None else budget.seconds
    if limit_s is not None and m.state.elapsed_s(m.now) >= limit_s:
        _fail_budget(m, "seconds", limit_s)
        return
    for attempt in list(m.attempts.values()):
        if attempt.due is not None and attempt.due <= m.now and m.attempts.get(attempt.step) is attempt:
            _due(m, attempt)


def _due(m: RunMachine, attempt: Attempt) -> None:
    attempt.due = None
    match attempt.phase:
        case Phase.BACKOFF | Phase.BREAKER:
            _ask_permit(m, attempt)
        case Phase.FAULTED:
            if attempt.step in m.state.accusations:
                _recheck(m, attempt)
            else:
                _judge_again(m, attempt)
        case Phase.RUNNING:
            timeout_s = m.plan.step(attempt.step).timeout_s
            _fail_attempt(m, attempt, FailureCause.TIMED_OUT, f"it did not return within {timeout_s} s", False)
        case Phase.JUDGING | Phase.RECHECK:
            m.abandon_calls(attempt)
            _verifier_failed(m, attempt, f"no verdict within {m.policies.verifier_timeout_s} s")
        case _:
            pass


# --- a person decides --------------------------------------------------------------------------------------------------------


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
        start_step(m, attempt.step)
        return
    name = m.plan.name(attempt.step)
    _fail_run(m, "ApprovalDenied", f"step {name!r} was not allowed to run{_because(command)}", {"step": name})


def _decide_approval(m: RunMachine, attempt: Attempt, command: CommandReceived) -> None:
    _take(m, command, True)
    assert attempt.certificate is not None
    if command.kind == "approve":
        _commit(m, attempt, attempt.certificate)
        return
    hint = command.note or "A person refused this output."
    _reject(m, attempt, VerificationResult.fail(ErrorType.GOAL_DRIFT, hint=hint, verifier=_HUMAN + command.by))


def _because(command: CommandReceived) -> str:
    return f": {command.note}" if command.note else ""


# --- the run ends badly ------------------------------------------------------------------------------------------------------


def _fail_exhausted(m: RunMachine, step: int) -> None:
    history, name = m.state.history(step), m.plan.name(step)
    last = history.error_type or history.message
    fields: dict[str, Any] = {"step": name, "attempts": history.made, "error_type": history.error_type or None}
    _fail_run(m, "MaxRetriesExceeded", f"step {name!r} failed {history.made} attempts, the last with {last}", fields)


def _fail_budget(m: RunMachine, resource: str, limit: float) -> None:
    message = f"the run's budget of {limit} {resource} does not allow the next attempt; fork it with a larger budget"
    _fail_run(m, "BudgetExhausted", message, {"resource": resource, "limit": limit})


def _fail_run(m: RunMachine, kind: str, message: str, fields: dict[str, Any]) -> None:
    m.finish("failed", ErrorInfo(kind, message, fields))


# --- the table ---------------------------------------------------------------------------------------------------------------

TABLE: dict[tuple[Phase, type], Callable[[RunMachine, Attempt, Any], None]] = {
    (Phase.PERMIT, PermitGranted): _granted,
    (Phase.PERMIT, PermitDenied): _denied,
    (Phase.RUNNING, StepReturned): _returned,
    (Phase.RUNNING, StepRaised): _raised,
    (Phase.RUNNING, WorkerLost): _worker_lost,
    (Phase.JUDGING, VerdictReturned): _judged,
    (Phase.RECHECK, VerdictReturned): _rechecked,
}
"""What does not stand here is a late reply: it changes nothing. Verifiers that are lost answer with a fault verdict."""
