"""From a ready step to a worker and back: back-off, permits, budgets, samples, lost workers, failures.

Called by `decide`, which holds the table; keeps nothing itself.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from agentraft_ray.identity import digest
from agentraft_ray.protocol import endings, judgement
from agentraft_ray.protocol.attempt import PERMIT, RUNNING, Attempt, Phase
from agentraft_ray.protocol.history import StepHistory
from agentraft_ray.protocol.messages import (
    AcquirePermit,
    PermitDenied,
    PermitGranted,
    RunStep,
    StepRaised,
    StepReturned,
    WorkerLost,
)
from agentraft_ray.protocol.records import (
    AttemptFailed,
    AttemptStarted,
    Payload,
    RunParked,
)
from agentraft_ray.taxonomy import FREE, Allowance, Cost, FailureCause

if TYPE_CHECKING:
    from agentraft_ray.protocol.machine import RunMachine

__all__ = [
    "allowance",
    "ask_permit",
    "denied",
    "fail_attempt",
    "granted",
    "over_budget",
    "raised",
    "returned",
    "spread",
    "start_run",
    "start_step",
    "worker_lost",
]


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
    spec = m.plan.step(step)
    attempt = Attempt(step, spec, history.lineage, history.attempt, history.hint)
    m.attempts[step] = attempt
    proposal = state.proposed.get(step)
    if step in state.accusations:
        judgement.recheck(m, attempt)
    elif state.exhausted(step):
        endings.fail_exhausted(m, step)
    elif proposal is not None:
        attempt.payload, attempt.certificate = proposal.output, proposal.certificate
        attempt.cost = attempt.booked = proposal.cost
        if proposal.certificate is None:
            judgement.judge_again(m, attempt)
        else:
            judgement.await_approval(m, attempt)
    elif spec.approve_before and (step, history.lineage) not in state.let_go:
        attempt.phase = Phase.GATE
        attempt.reason = f"approval:{m.plan.name(step)} before it runs"
    else:
        _back_off(m, attempt, history)


def _back_off(m: RunMachine, attempt: Attempt, history: StepHistory) -> None:
    tries = history.rejections + history.errors
    if tries and m.policies.base_delay_s:
        delay = min(m.policies.max_delay_s, m.policies.base_delay_s * 2.0 ** min(tries - 1, 62))
        due = history.failed_at + delay * (0.5 + 0.5 * spread(m, attempt))
        if due > m.now:
            attempt.phase, attempt.due = Phase.BACKOFF, due
            return
    ask_permit(m, attempt)


def spread(m: RunMachine, attempt: Attempt) -> float:
    """Between 0 and 1, from a hash of the attempt's id: spread out, yet the same on every replay."""
    return hashlib.sha256(_id(m, attempt).encode()).digest()[0] / 255.0


def _id(m: RunMachine, attempt: Attempt) -> str:
    return f"{m.state.run_id}/{attempt.step}/{attempt.lineage}/{attempt.number}"


def ask_permit(m: RunMachine, attempt: Attempt) -> None:
    if not m.policies.breaker:
        _dispatch(m, attempt)
        return
    attempt.phase = PERMIT
    m.command(AcquirePermit(m.open_call(attempt), m.plan.scope(attempt.step), _id(m, attempt)))


def granted(m: RunMachine, attempt: Attempt, event: PermitGranted) -> None:
    m.close_call(attempt, event.call.number)
    attempt.permit = event.permit
    _dispatch(m, attempt)


def denied(m: RunMachine, attempt: Attempt, event: PermitDenied) -> None:
    m.close_call(attempt, event.call.number)
    if m.policies.on_open == "fail":
        fields: dict[str, Any] = {"scope": event.scope, "retry_after_s": max(0.0, event.retry_at - m.now)}
        message = f"step {m.plan.name(attempt.step)!r}: the breaker {event.scope!r} is open; try again after its cooldown"
        endings.fail_run(m, "CircuitBreakerOpen", message, fields)
        return
    attempt.phase, attempt.due = Phase.BREAKER, event.retry_at
    attempt.reason = f"breaker:{event.scope}"


def _dispatch(m: RunMachine, attempt: Attempt) -> None:
    """Send the attempt to a worker: one call, or as many samples as the vote still needs."""
    m.announce("step_start", attempt.step, attempt.number, attempt.hint or "")
    if not attempt.spec.ahead_by:
        _send(m, attempt, 0)
        return
    attempt.votes = {}
    for _ in range(attempt.spec.ahead_by):
        if attempt.step in m.attempts:
            _send(m, attempt, attempt.samples)
            attempt.samples += 1


def _send(m: RunMachine, attempt: Attempt, sample: int) -> None:
    budget = m.policies.budget
    if budget is not None:
        short = over_budget(m)
        if short is not None:
            endings.fail_budget(m, *short)
            return
        m.persist(AttemptStarted(attempt.step, attempt.lineage, attempt.number, sample, budget.reserved))
    timeout_s = attempt.spec.timeout_s
    attempt.phase = RUNNING
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
            bool(attempt.losses) and attempt.losses.get(sample, 0) > 1,
        )
    )


def over_budget(m: RunMachine, *, is_start: bool = True) -> tuple[str, float] | None:
    """(resource, limit) of the first limit that one more dispatch (or, without `is_start`, one more verdict) could break."""
    budget, state = m.policies.budget, m.state
    if budget is None:
        return None
    reserve, charged = budget.reserved if is_start else FREE, state.charged
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


def allowance(m: RunMachine, attempt: Attempt) -> Allowance | None:
    """What a verdict about the attempt's output may cost: what the budget leaves, and what was set aside for the attempt itself."""
    budget = m.policies.budget
    if budget is None or (budget.tokens is None and budget.usd is None):
        return None
    own = sum((one for key, one in m.state.reservations.items() if key[:2] == (attempt.step, attempt.number)), FREE)
    used = attempt.cost.less(attempt.booked)
    if used.usd is None and own.usd:  # as when it is booked
        used = Cost(used.tokens, own.usd, used.seconds)
    total = m.state.charged.less(own) + m.late + used
    usd = float("inf") if total.usd is None else total.usd
    return Allowance(
        None if budget.tokens is None else max(0, budget.tokens - total.tokens),
        None if budget.usd is None else max(0.0, budget.usd - usd),
        unpriced=bool(budget.reserved.usd),
    )


def returned(m: RunMachine, attempt: Attempt, event: StepReturned) -> None:
    m.close_call(attempt, event.call.number)
    attempt.cost = attempt.cost + event.cost
    if attempt.votes is None:
        attempt.payload = m.state.payload_of(event.data)
        judgement.judge(m, attempt)
        return
    attempt.votes.setdefault(digest(event.data), []).append(event.data)
    _count_votes(m, attempt)


def _count_votes(m: RunMachine, attempt: Attempt) -> None:
    """First-to-ahead-by-k: take the winner, or ask for as many samples as it still lacks."""
    spec = attempt.spec
    votes = attempt.votes or {}
    ranked = sorted(votes.items(), key=lambda item: -len(item[1]))
    lead = (len(ranked[0][1]) if ranked else 0) - (len(ranked[1][1]) if len(ranked) > 1 else 0)
    if ranked and lead >= spec.ahead_by:
        winner, samples = ranked[0]
        m.abandon_calls(attempt)
        attempt.payload = Payload(winner, len(samples[0]), samples[0])
        judgement.judge(m, attempt)
        return
    if attempt.calls:
        return
    wanted = min(spec.ahead_by - lead, spec.samples_max - attempt.samples)
    if wanted <= 0:
        fail_attempt(m, attempt, FailureCause.NO_MAJORITY, f"{attempt.samples} samples, no output was {spec.ahead_by} ahead", False)
        return
    for _ in range(wanted):
        if attempt.step in m.attempts:
            _send(m, attempt, attempt.samples)
            attempt.samples += 1


def raised(m: RunMachine, attempt: Attempt, event: StepRaised) -> None:
    m.close_call(attempt, event.call.number)
    attempt.cost = attempt.cost + event.cost
    if attempt.votes is not None and not event.final:
        _count_votes(m, attempt)  # a malformed sample is discarded, never repaired
        return
    fail_attempt(m, attempt, event.cause, event.message, event.final)


def worker_lost(m: RunMachine, attempt: Attempt, event: WorkerLost) -> None:
    sample = m.close_call(attempt, event.call.number)
    losses = attempt.losses[sample] = attempt.losses.get(sample, 0) + 1
    if losses > m.policies.worker_losses_max:
        message = f"{losses} workers were lost while they ran it"
        fail_attempt(m, attempt, FailureCause.WORKER_LOST, message, False)
        return
    _send(m, attempt, sample)


def fail_attempt(m: RunMachine, attempt: Attempt, cause: FailureCause, message: str, final: bool) -> None:
    m.close(attempt, "failure")
    m.persist(AttemptFailed(attempt.step, attempt.lineage, attempt.number, cause.value, message, final, attempt.cost, m.now))
    start_step(m, attempt.step)
