"""Broken variants of rules, one small mistake each: given the right function, each gives the wrong one. `planted` names them as bugs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from agentraft_ray.breaker import ScopedBreakers
from agentraft_ray.checkpoint.base import Answer, AnswerKind, AppendEntry
from agentraft_ray.checkpoint.log_table import LogTable, RunRow
from agentraft_ray.errors import ErrorType
from agentraft_ray.identity import OwnerToken
from agentraft_ray.protocol import judgement
from agentraft_ray.protocol.attempt import Attempt, Phase
from agentraft_ray.protocol.machine import RunMachine
from agentraft_ray.protocol.messages import Call, CommandReceived, PermitDenied, Ready, StepRaised, VerdictReturned, WorkerLost
from agentraft_ray.protocol.records import Certificate, ErrorInfo, OwnerClaimed, RolledBack, RunResumed
from agentraft_ray.protocol.state import RunState, StepHistory
from agentraft_ray.taxonomy import FREE, Cost, VerdictKind, VerificationResult
from agentraft_ray.testing.errands import Life
from agentraft_ray.testing.host import Host

Make = Callable[[Any], Any]


def always(value: object) -> Make:
    return lambda _: lambda *args, **more: value


# --- the host ------------------------------------------------------------------------------------------------------------------


def acts_at_once(_: Any) -> Any:
    def act_early(self: Host, life: Life, ready: Ready) -> None:
        for command in ready.commands:
            if self.lives.get(life.run) is life:
                self.errands.do(life, command)

    return act_early


def reuses_the_epoch(_: Any) -> Any:
    return lambda self, run, meta: max(1, meta.token.epoch)


# --- the store -----------------------------------------------------------------------------------------------------------------


def fences_nobody(_: Any) -> Any:
    def refusal(self: LogTable, row: RunRow, entry: AppendEntry) -> AnswerKind | None:
        return AnswerKind.FINISHED if row.status == "finished" else None

    return refusal


def compares_epochs(_: Any) -> Any:
    def refusal(self: LogTable, row: RunRow, entry: AppendEntry) -> AnswerKind | None:
        expected = entry.token if entry.claim is None else entry.claim
        if row.token.epoch != expected.epoch:
            return AnswerKind.FENCED
        if row.status == "finished":
            return AnswerKind.FINISHED
        if entry.claim is not None and entry.claim.owner != entry.token.owner and self.lease_alive(row.token.owner):
            return AnswerKind.LEASED
        return None if len(row.records) == entry.index else AnswerKind.MOVED

    return refusal


def writes_a_retry_again(_: Any) -> Any:
    def append(self: LogTable, entry: AppendEntry) -> Answer:
        row = self.runs[entry.run_id]
        if not self.is_duplicate(row, entry):
            refusal = self.refusal(row, entry)
            if refusal is not None:
                return Answer(refusal, row.token, len(row.records), row.head)
        self._write(row, entry)
        return Answer(AnswerKind.APPENDED, row.token, len(row.records), row.head)

    return append


# --- the machine ---------------------------------------------------------------------------------------------------------------


def hears_everybody(feed: Any) -> Any:
    def feed_any(self: RunMachine, event: Any, now: float) -> None:
        call = getattr(event, "call", None)
        if call is not None:
            event = msgspec.structs.replace(event, call=Call(self.token, call.number))
        feed(self, event, now)

    return feed_any


def hears_equal_epochs(feed: Any) -> Any:
    def feed_equal(self: RunMachine, event: Any, now: float) -> None:
        call = getattr(event, "call", None)
        if call is not None and call.token.epoch == self.token.epoch:
            event = msgspec.structs.replace(event, call=Call(self.token, call.number))
        feed(self, event, now)

    return feed_equal


def certifies_anything(certify: Any) -> Any:
    def certified(*args: Any) -> Certificate:
        certificate: Certificate = certify(*args)
        return msgspec.structs.replace(certificate, kind=VerdictKind.PASS.value)

    return certified


def commits_what_was_rejected(_: Any) -> Any:
    def reject(m: RunMachine, attempt: Attempt, result: VerificationResult) -> None:
        judgement.commit(m, attempt, certifies_anything(judgement._certify_attempt)(m, attempt, result))

    return reject


def remembers_closed_calls(abandon: Any) -> Any:
    def abandon_but_remember(self: RunMachine, attempt: Attempt) -> None:
        if attempt.phase is Phase.JUDGING:
            for number in attempt.calls:
                _CLOSED[self.token, number] = attempt
        abandon(self, attempt)

    return abandon_but_remember


_CLOSED: dict[tuple[OwnerToken, int], Attempt] = {}


def takes_late_verdicts(feed: Any) -> Any:
    def feed_late(self: RunMachine, event: Any, now: float) -> None:
        old = _CLOSED.pop((event.call.token, event.call.number), None) if isinstance(event, VerdictReturned) else None
        present = self.attempts.get(old.step) if old is not None else None
        if old is not None and present is not None and event.result is not None and present.phase is Phase.RUNNING:
            present.phase, present.payload, present.calls = Phase.JUDGING, old.payload, {**present.calls, event.call.number: -1}
            self._calls[event.call.number] = present
        feed(self, event, now)

    return feed_late


def forgets_a_dependent(fallen_with: Any) -> Any:
    def fallen(self: RunState, suspect: int) -> Any:
        found = fallen_with(self, suspect)
        return found[:-1] if len(found) > 1 else found

    return fallen


def keeps_a_dependent(rolled_back: Any) -> Any:
    def roll_back(self: RunState, record: RolledBack) -> None:
        rolled_back(self, record)
        last = record.removed[-1][0]
        if last != record.suspect:
            self._status[last], self.committed = 1, self.committed + 1

    return roll_back


def believes_blame(_: Any) -> Any:
    """Rolls back on suspicion, without judging the suspect again."""

    def recheck(m: RunMachine, attempt: Attempt) -> None:
        attempt.phase = Phase.RECHECK
        suspicion = VerificationResult.fail(ErrorType.CONTRADICTION, verifier="blame")
        call = m.open_call(attempt)
        judgement.rechecked(m, attempt, VerdictReturned(call, suspicion))

    return recheck


def starts_anew(claimed: Any) -> Any:
    def claim(self: RunState, record: OwnerClaimed) -> None:
        claimed(self, record)
        self.attempts_started, self.charged = 0, FREE

    return claim


def forgets_claims(claimed: Any) -> Any:
    def claim(self: RunState, record: OwnerClaimed) -> None:
        claimed(self, record)
        self.claims = 1

    return claim


def replaces_workers_for_ever(worker_lost: Any) -> Any:
    def lost(m: RunMachine, attempt: Attempt, event: WorkerLost) -> None:
        attempt.losses.clear()
        worker_lost(m, attempt, event)

    return lost


def refunds_on_claim(claimed: Any) -> Any:
    def claim(self: RunState, record: OwnerClaimed) -> None:
        reserved = sum(cost.tokens for cost in self.reservations.values())
        claimed(self, record)
        self.charged = Cost(self.charged.tokens - reserved, self.charged.usd, self.charged.seconds)

    return claim


def reserves_nothing(send: Any) -> Any:
    def send_free(m: RunMachine, attempt: Attempt, sample: int) -> None:
        policies = m.policies
        m.policies = msgspec.structs.replace(policies, budget=None)
        send(m, attempt, sample)
        m.policies = policies

    return send_free


def same_lineage(start_lineage: Any) -> Any:
    def start(self: StepHistory, hint: str | None) -> None:
        start_lineage(self, hint)
        self.lineage -= 1

    return start


def first_attempt_again(start_lineage: Any) -> Any:
    def start(self: StepHistory, hint: str | None) -> None:
        start_lineage(self, hint)
        self.attempt = 0

    return start


def fault_passes(_: Any) -> Any:
    def failed(m: RunMachine, attempt: Attempt, why: str, failure: object = None) -> None:
        if attempt.payload is not None:
            judgement.commit(m, attempt, judgement._certify_attempt(m, attempt, VerificationResult.ok(verifier="first")))

    return failed


def parks_without_alarm(denied: Any) -> Any:
    def deny(m: RunMachine, attempt: Attempt, event: PermitDenied) -> None:
        denied(m, attempt, event)
        attempt.due = None

    return deny


def resumes_in_silence(persist: Any) -> Any:
    """Goes on with a parked run without saying so in the log."""

    def persist_others(self: RunMachine, record: Any) -> None:
        if not isinstance(record, RunResumed):
            persist(self, record)

    return persist_others


def finishes_twice(finish: Any) -> Any:
    def finish_again(self: RunMachine, outcome: str, error: ErrorInfo | None) -> None:
        finish(self, outcome, error)
        record, self.state.finished = self.state.finished, None
        assert record is not None
        self.persist(record)

    return finish_again


def approves_anything(decide_approval: Any) -> Any:
    def approve(m: RunMachine, attempt: Attempt, command: CommandReceived) -> None:
        assert attempt.payload is not None
        decide_approval(m, attempt, msgspec.structs.replace(command, lineage=attempt.lineage, output=attempt.payload.digest))

    return approve


def opens_every_gate(start_step: Any) -> Any:
    def start(m: RunMachine, step: int) -> None:
        gate = (step, m.state.history(step).lineage)
        known = m.state.let_go
        m.state.let_go = {*known, gate}
        start_step(m, step)
        m.state.let_go = known

    return start


def leaves_commands(take_command: Any) -> Any:
    def take(m: RunMachine, command: CommandReceived) -> None:
        take_command(m, command)
        m._taken = ()

    return take


def ignores_cancel(finish: Any) -> Any:
    def finish_others(self: RunMachine, outcome: str, error: ErrorInfo | None) -> None:
        if outcome != "cancelled":
            finish(self, outcome, error)

    return finish_others


def waits_for_ever(take_tick: Any) -> Any:
    """A verdict that never comes is waited for."""

    def tick(m: RunMachine) -> None:
        for attempt in m.attempts.values():
            if attempt.phase is Phase.JUDGING:
                attempt.due = None
        take_tick(m)

    return tick


def gives_permits_away(_: Any) -> Any:
    return lambda self: []


def probes_for_all(acquire: Any) -> Any:
    def acquire_probe(self: ScopedBreakers, found: Any, *args: Any) -> Any:
        found.probe = None
        return acquire(self, found, *args)

    return acquire_probe


def changes_unpersisted(feed: Any) -> Any:
    """Changes its state behind the log's back."""

    def feed_and_change(self: RunMachine, event: Any, now: float) -> None:
        feed(self, event, now)
        if isinstance(event, StepRaised | WorkerLost):
            self.state.cost = self.state.cost + Cost(1)

    return feed_and_change


def forgets_the_time(verifier_failed: Any) -> Any:
    """What a verifier says about when to ask again is not heard."""

    def failed(m: RunMachine, attempt: Attempt, why: str, failure: object = None) -> None:
        verifier_failed(m, attempt, why)

    return failed


def judges_its_own_repeat(judge: Any) -> Any:
    def judge_again(m: RunMachine, attempt: Attempt) -> None:
        history = m.state.history(attempt.step)
        known, history.rejected = history.rejected, {}
        judge(m, attempt)
        history.rejected = known

    return judge_again
