"""From an output to a commit, a rejection, or a person who must decide; and suspects that are judged again.

Called by `decide`, which holds the table; keeps nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentraft_ray.errors import CORRECTION_HINTS, ErrorType
from agentraft_ray.protocol import dispatch, endings
from agentraft_ray.protocol.attempt import JUDGING, Attempt, Phase
from agentraft_ray.protocol.messages import (
    VerdictReturned,
    Verify,
)
from agentraft_ray.protocol.records import (
    AttemptRejected,
    Certificate,
    OutputProposed,
    RolledBack,
    StepCommitted,
    SuspectCleared,
)
from agentraft_ray.taxonomy import FREE, Advice, VerdictKind, VerificationResult, VerifierFault

if TYPE_CHECKING:
    from agentraft_ray.protocol.machine import RunMachine

_REASON_CHARS_MAX = 500
# Runs that wait for the same verifier do not all come back in one moment.
_SPREAD_SHARE = 0.1
_SPREAD_S_MAX = 10.0

__all__ = ["await_approval", "commit", "judge", "judge_again", "judged", "recheck", "rechecked", "reject", "verifier_failed"]


def judge(m: RunMachine, attempt: Attempt) -> None:
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
    timeout_s = m.policies.verifier_timeout_s
    attempt.phase, attempt.due = JUDGING, m.now + timeout_s
    m.command(
        Verify(
            m.open_call(attempt),
            attempt.step,
            attempt.number,
            attempt.payload,
            -1,
            attempt.opinion,
            timeout_s,
            dispatch.allowance(m, attempt),
        )
    )


def judge_again(m: RunMachine, attempt: Attempt) -> None:
    """Judge an output that no verifier could judge before, if the budget has something left for that."""
    short = dispatch.over_budget(m, is_start=False)
    if short is not None:
        endings.fail_budget(m, *short)
    else:
        judge(m, attempt)


def judged(m: RunMachine, attempt: Attempt, event: VerdictReturned) -> None:
    m.close_call(attempt, event.call.number)
    result = event.result
    if result is None:  # no other mechanism for the repeated output
        _reject_repeat(m, attempt)
        return
    attempt.cost = attempt.cost + event.cost
    match result.kind:
        case VerdictKind.PASS:
            certificate = _certify_attempt(m, attempt, result)
            if attempt.spec.needs_approval:
                _propose(m, attempt, certificate)
            else:
                commit(m, attempt, certificate)
        case VerdictKind.REJECT:
            reject(m, attempt, result)
        case VerdictKind.ABSTAIN:
            _propose(m, attempt, _certify_attempt(m, attempt, result))
        case _ if _is_short(m, result):
            pass
        case _:
            verifier_failed(m, attempt, result.reasoning, result.failure)


def _is_short(m: RunMachine, result: VerificationResult) -> bool:
    """Whether the verdict would have cost more than the budget leaves; the run has then failed."""
    budget = m.policies.budget
    limit = getattr(budget, result.short_of, None) if result.short_of else None
    if limit is None:
        return False
    endings.fail_budget(m, result.short_of, limit)
    return True


def _certify(m: RunMachine, step: int, output: bytes, result: VerificationResult) -> Certificate:
    """Bind a verdict to exactly what it is about: this output of the step's open (or committed) attempt."""
    state = m.state
    history = state.history(step)
    parents, inputs, goal, policy = state.made_from(step)
    assert result.kind is not None
    return Certificate(
        state.run_id,
        step,
        history.lineage,
        history.attempt,
        inputs,
        parents,
        output,
        goal,
        policy,
        result.verifier,
        result.prompt,
        result.calibration,
        result.kind._value_,  # what `value` looks up, slowly
        result.error_type._value_,
        result.confidence,
        result.cached,
        None if result.cost is FREE or result.cost == FREE else result.cost,
    )


def _certify_attempt(m: RunMachine, attempt: Attempt, result: VerificationResult) -> Certificate:
    assert attempt.payload is not None
    return _certify(m, attempt.step, attempt.payload.digest, result)


def commit(m: RunMachine, attempt: Attempt, certificate: Certificate) -> None:
    assert attempt.payload is not None
    step = attempt.step
    m.close(attempt, "success")
    m.persist(StepCommitted(certificate, m.stored(attempt.payload), attempt.cost, m.now))
    for child in m.plan.children(step):
        if child in m.state.ready and child not in m.attempts and m.state.finished is None:
            dispatch.start_step(m, child)


def reject(m: RunMachine, attempt: Attempt, result: VerificationResult) -> None:
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
    dispatch.start_step(m, attempt.step)


def _reject_repeat(m: RunMachine, attempt: Attempt) -> None:
    """The same output on the same inputs again: what was wrong with it still is."""
    history = m.state.history(attempt.step)
    error_type = ErrorType(history.error_type or ErrorType.GOAL_DRIFT)
    hint = f"The same output was rejected before; return another one. {CORRECTION_HINTS.get(error_type, '')}".rstrip()
    reasoning = "this very output was rejected before"
    reject(m, attempt, VerificationResult.fail(error_type, hint=hint, reasoning=reasoning, verifier="memory"))


def verifier_failed(m: RunMachine, attempt: Attempt, why: str, failure: VerifierFault | None = None) -> None:
    """Never a pass, never billed to the agent: ask again a few times, then keep the output and wait for a verifier.

    A verifier that names a time is asked again then, and not before; one that needs somebody's help is not asked again at once.
    """
    attempt.faults += 1
    if m.policies.budget is not None:
        _keep_output(m, attempt)
    named_s = None if failure is None else failure.retry_after_s
    if named_s is None:
        delay_s = m.policies.verifier_retry_delay_s * 2.0 ** (attempt.faults - 1)
        is_worth_it = failure is None or failure.kind.advice in (Advice.AGAIN, Advice.WAIT)
    else:
        delay_s = named_s + dispatch.spread(m, attempt) * min(_SPREAD_SHARE * named_s, _SPREAD_S_MAX)
        is_worth_it = named_s <= m.policies.verifier_hold_s
    if is_worth_it and attempt.faults < m.policies.verifier_faults_max:
        attempt.phase, attempt.due = Phase.FAULTED, m.now + delay_s
        return
    m.release(attempt, "released")
    attempt.parked = True
    attempt.phase, attempt.due = Phase.BLOCKED, None if named_s is None else m.now + delay_s
    # Without times or counts: a run that waits for the same as before is not parked anew.
    what = why if failure is None else f"{failure.source} {failure.kind.value}"
    attempt.reason = f"verifier:{m.plan.name(attempt.step)}: {what}"[:_REASON_CHARS_MAX]
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
    await_approval(m, attempt)


def await_approval(m: RunMachine, attempt: Attempt) -> None:
    assert attempt.certificate is not None
    attempt.phase, attempt.due = Phase.APPROVAL, None
    abstained = attempt.certificate.kind == "abstain"
    attempt.reason = f"approval:{m.plan.name(attempt.step)}" + (" (the verifier abstained)" if abstained else "")


def recheck(m: RunMachine, attempt: Attempt) -> None:
    """Blame is a suspicion: before anything is removed, the suspect's committed output is judged again."""
    suspect, position = m.state.accusations[attempt.step]
    timeout_s = m.policies.verifier_timeout_s
    attempt.phase, attempt.due = Phase.RECHECK, m.now + timeout_s
    number = m.state.history(suspect).attempt
    m.command(Verify(m.open_call(attempt), suspect, number, None, position, "", timeout_s, dispatch.allowance(m, attempt)))


def rechecked(m: RunMachine, attempt: Attempt, event: VerdictReturned) -> None:
    m.close_call(attempt, event.call.number)
    result = event.result
    if result is None or result.kind is VerdictKind.FAULT:
        m.late = m.late + event.cost
        if result is None:
            verifier_failed(m, attempt, "no verdict about the suspect")
        elif not _is_short(m, result):
            verifier_failed(m, attempt, result.reasoning, result.failure)
        return
    suspect, position = m.state.accusations[attempt.step]
    certificate = _certify(m, suspect, m.state.output_digest(suspect), result)
    m.close(attempt, "released")
    if result.kind is not VerdictKind.REJECT:
        m.persist(SuspectCleared(suspect, position, attempt.step, certificate, event.cost, m.now))
        dispatch.start_step(m, attempt.step)
        return
    removed = m.state.fallen_with(suspect)
    fallen = {step for step, _ in removed}
    for other in list(m.attempts.values()):
        if any(ancestor in fallen for ancestor in m.plan.parents(other.step)):
            m.abandon(other)
    m.persist(RolledBack(suspect, attempt.step, removed, certificate, result.hint or "", event.cost, m.now))
    dispatch.start_step(m, suspect)
