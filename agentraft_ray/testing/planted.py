"""Planted bugs: known mistakes that the simulator must catch, each a context manager that breaks one rule while it is open.

Not for use outside tests. They patch the real classes, so that a rule that moves takes its bug along or fails loudly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from agentraft_ray.breaker import ScopedBreakers
from agentraft_ray.checkpoint.base import Answer, AnswerKind, AppendEntry
from agentraft_ray.checkpoint.memory import LogTable, RunRow
from agentraft_ray.protocol import decide
from agentraft_ray.protocol.attempt import Attempt, Phase
from agentraft_ray.protocol.machine import RunMachine
from agentraft_ray.protocol.messages import (
    Call,
    CommandReceived,
    PermitDenied,
    Ready,
    StepRaised,
    StepReturned,
    VerdictReturned,
    WorkerLost,
)
from agentraft_ray.protocol.records import AttemptStarted, Certificate, OwnerClaimed, RolledBack
from agentraft_ray.protocol.state import RunState, StepHistory
from agentraft_ray.taxonomy import FREE, Cost, VerdictKind, VerificationResult
from agentraft_ray.testing.host import Host, Life

__all__ = ["BUGS"]

Bug = Callable[[], AbstractContextManager[None]]
Make = Callable[[Any], Any]


@contextmanager
def _patched(*patches: tuple[Any, str, Make]) -> Iterator[None]:
    """(owner, name, make): `make` gets the present value and gives the broken one."""
    with ExitStack() as undo:
        for owner, name, make in patches:
            present = owner[name] if isinstance(owner, dict) else getattr(owner, name)
            if isinstance(owner, dict):
                undo.callback(owner.__setitem__, name, present)
                owner[name] = make(present)
            else:
                undo.callback(setattr, owner, name, present)
                setattr(owner, name, make(present))
        yield


def _always(value: object) -> Make:
    return lambda _: lambda *args, **more: value


# --- the host ------------------------------------------------------------------------------------------------------------------


def _acts_at_once(_: Any) -> Any:
    def act_early(self: Host, life: Life, ready: Ready) -> None:
        for command in ready.commands:
            if self.lives.get(life.run) is life:
                self._act(life, command)

    return act_early


def _reuses_the_epoch(claim: Any) -> Any:
    """Claims with the epoch that the store shows, not a higher one."""

    def claim_again(self: Host, run: str, meta: Any) -> None:
        claim(self, run, msgspec.structs.replace(meta, token=meta.token._replace(epoch=max(0, meta.token.epoch - 1))))

    return claim_again


# --- the store -----------------------------------------------------------------------------------------------------------------


def _fences_nobody(_: Any) -> Any:
    def refusal(self: LogTable, row: RunRow, entry: AppendEntry) -> AnswerKind | None:
        return AnswerKind.FINISHED if row.status == "finished" else None

    return refusal


def _compares_epochs(_: Any) -> Any:
    def refusal(self: LogTable, row: RunRow, entry: AppendEntry) -> AnswerKind | None:
        expected = entry.token if entry.claim is None else entry.claim
        if row.token.epoch != expected.epoch:
            return AnswerKind.FENCED
        if row.status == "finished":
            return AnswerKind.FINISHED
        return None if len(row.records) == entry.index else AnswerKind.MOVED

    return refusal


def _writes_a_retry_again(_: Any) -> Any:
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


def _hears_everybody(feed: Any) -> Any:
    def feed_any(self: RunMachine, event: Any, now: float) -> None:
        call = getattr(event, "call", None)
        if call is not None:
            event = msgspec.structs.replace(event, call=Call(self.token, call.number))
        feed(self, event, now)

    return feed_any


def _hears_equal_epochs(feed: Any) -> Any:
    def feed_equal(self: RunMachine, event: Any, now: float) -> None:
        call = getattr(event, "call", None)
        if call is not None and call.token.epoch == self.token.epoch:
            event = msgspec.structs.replace(event, call=Call(self.token, call.number))
        feed(self, event, now)

    return feed_equal


def _certifies_anything(certify: Any) -> Any:
    def certified(*args: Any) -> Certificate:
        return msgspec.structs.replace(certify(*args), kind=VerdictKind.PASS.value)

    return certified


def _commits_what_was_rejected(_: Any) -> Any:
    def reject(m: RunMachine, attempt: Attempt, result: VerificationResult) -> None:
        decide._commit(m, attempt, _certifies_anything(decide._certify_attempt)(m, attempt, result))

    return reject


def _remembers_closed_calls(abandon: Any) -> Any:
    def abandon_but_remember(self: RunMachine, attempt: Attempt) -> None:
        if attempt.phase is Phase.JUDGING:
            for number in attempt.calls:
                _CLOSED[self.token, number] = attempt
        abandon(self, attempt)

    return abandon_but_remember


_CLOSED: dict[Call | tuple[Any, int], Attempt] = {}


def _takes_late_verdicts(feed: Any) -> Any:
    def feed_late(self: RunMachine, event: Any, now: float) -> None:
        old = _CLOSED.pop(tuple(event.call), None) if isinstance(event, VerdictReturned) else None
        present = self.attempts.get(old.step) if old is not None else None
        if old is not None and present is not None and event.result is not None and present.phase is Phase.RUNNING:
            present.phase, present.payload, present.calls = Phase.JUDGING, old.payload, {**present.calls, event.call.number: -1}
            self._calls[event.call.number] = present
        feed(self, event, now)

    return feed_late


def _forgets_a_dependent(fallen_with: Any) -> Any:
    def fallen(self: RunState, suspect: int) -> Any:
        found = fallen_with(self, suspect)
        return found[:-1] if len(found) > 1 else found

    return fallen


def _keeps_unlisted_dependents(rolled_back: Any) -> Any:
    def roll_back(self: RunState, record: RolledBack) -> None:
        listed = {step for step, _ in record.removed}
        kept = {step: self._positions[step] for step in self.plan.descendants(record.suspect) if self._status[step]}
        rolled_back(self, record)
        for step in kept.keys() - listed:
            self._status[step], self.committed = 1, self.committed + 1

    return roll_back


def _believes_blame(_: Any) -> Any:
    """Rolls back on suspicion, without judging the suspect again."""

    def recheck(m: RunMachine, attempt: Attempt) -> None:
        attempt.phase = Phase.RECHECK
        suspicion = VerificationResult.fail(decide.ErrorType.CONTRADICTION, verifier="blame")
        call = m.open_call(attempt)
        decide._rechecked(m, attempt, VerdictReturned(call, suspicion))

    return recheck


def _starts_anew(claimed: Any) -> Any:
    def claim(self: RunState, record: OwnerClaimed) -> None:
        claimed(self, record)
        self.attempts_started, self.charged = 0, FREE

    return claim


def _refunds_on_claim(claimed: Any) -> Any:
    def claim(self: RunState, record: OwnerClaimed) -> None:
        reserved = sum(cost.tokens for cost in self.reservations.values())
        claimed(self, record)
        self.charged = Cost(self.charged.tokens - reserved, self.charged.usd, self.charged.seconds)

    return claim


def _reserves_nothing(send: Any) -> Any:
    def send_free(m: RunMachine, attempt: Attempt, sample: int) -> None:
        policies = m.policies
        m.policies = msgspec.structs.replace(policies, budget=None)
        send(m, attempt, sample)
        m.policies = policies

    return send_free


def _same_lineage(start_lineage: Any) -> Any:
    def start(self: StepHistory, hint: str | None) -> None:
        start_lineage(self, hint)
        self.lineage -= 1

    return start


def _first_attempt_again(start_lineage: Any) -> Any:
    def start(self: StepHistory, hint: str | None) -> None:
        start_lineage(self, hint)
        self.attempt = 0

    return start


def _fault_passes(_: Any) -> Any:
    def failed(m: RunMachine, attempt: Attempt, why: str) -> None:
        if attempt.payload is not None:
            decide._commit(m, attempt, decide._certify_attempt(m, attempt, VerificationResult.ok(verifier="first")))

    return failed


def _parks_without_alarm(denied: Any) -> Any:
    def deny(m: RunMachine, attempt: Attempt, event: PermitDenied) -> None:
        denied(m, attempt, event)
        attempt.due = None

    return deny


def _finishes_twice(finish: Any) -> Any:
    def finish_again(self: RunMachine, record: Any) -> None:
        finish(self, record)
        self.state.finished = None
        self.persist(record)

    return finish_again


def _approves_anything(decide_approval: Any) -> Any:
    def approve(m: RunMachine, attempt: Attempt, command: CommandReceived) -> None:
        assert attempt.payload is not None
        decide_approval(m, attempt, msgspec.structs.replace(command, lineage=attempt.lineage, output=attempt.payload.digest))

    return approve


def _opens_every_gate(start_step: Any) -> Any:
    def start(m: RunMachine, step: int) -> None:
        m.state.let_go.add((step, m.state.history(step).lineage))
        start_step(m, step)

    return start


def _leaves_commands(take_command: Any) -> Any:
    def take(m: RunMachine, command: CommandReceived) -> None:
        take_command(m, command)
        m._taken.clear()

    return take


def _ignores_cancel(finish: Any) -> Any:
    def finish_others(self: RunMachine, record: Any) -> None:
        if record.outcome != "cancelled":
            finish(self, record)

    return finish_others


def _waits_for_ever(take_tick: Any) -> Any:
    """A verdict that never comes is waited for."""

    def tick(m: RunMachine) -> None:
        for attempt in m.attempts.values():
            if attempt.phase is Phase.JUDGING:
                attempt.due = None
        take_tick(m)

    return tick


def _gives_permits_away(_: Any) -> Any:
    return lambda self: []


def _probes_for_all(acquire: Any) -> Any:
    def acquire_probe(self: ScopedBreakers, found: Any, *args: Any) -> Any:
        found.probe = None
        return acquire(self, found, *args)

    return acquire_probe


def _changes_unpersisted(feed: Any) -> Any:
    """Changes its state behind the log's back."""

    def feed_and_change(self: RunMachine, event: Any, now: float) -> None:
        feed(self, event, now)
        if isinstance(event, StepRaised | WorkerLost):
            self.state.cost = self.state.cost + Cost(1)

    return feed_and_change


def _judges_its_own_repeat(judge: Any) -> Any:
    def judge_again(m: RunMachine, attempt: Attempt) -> None:
        history = m.state.history(attempt.step)
        known, history.rejected = history.rejected, {}
        judge(m, attempt)
        history.rejected = known

    return judge_again


def _bug(*patches: tuple[Any, str, Make]) -> Bug:
    return partial(_patched, *patches)


_RETRY_ROW = (Phase.RUNNING, StepReturned)

BUGS: dict[str, Bug] = {
    "act_before_persist": _bug((Host, "act_early", _acts_at_once)),
    "no_owner_check": _bug((LogTable, "refusal", _fences_nobody)),
    "owner_by_epoch_only": _bug(
        (LogTable, "refusal", _compares_epochs), (RunMachine, "feed", _hears_equal_epochs)
    ),
    "equal_epochs": _bug((Host, "claim", _reuses_the_epoch)),
    "replies_by_epoch_only": _bug((RunMachine, "feed", _hears_equal_epochs)),
    "claim_over_a_lease": _bug((LogTable, "lease_alive", _always(False))),
    "late_owner_dispatches": _bug((Host, "is_late", lambda _: False)),
    "no_append_id": _bug((LogTable, "is_duplicate", _always(False))),
    "retry_written_twice": _bug((LogTable, "append", _writes_a_retry_again)),
    "reply_of_an_earlier_life": _bug((RunMachine, "feed", _hears_everybody)),
    "commit_without_certificate": _bug((decide, "_reject", _commits_what_was_rejected)),
    "fault_is_a_pass": _bug((decide, "_verifier_failed", _fault_passes)),
    "late_verdict_after_rollback": _bug(
        (RunMachine, "abandon_calls", _remembers_closed_calls), (RunMachine, "feed", _takes_late_verdicts)
    ),
    "rollback_keeps_a_dependent": _bug(
        (RunState, "fallen_with", _forgets_a_dependent),
    ),
    "blame_is_believed": _bug((decide, "_recheck", _believes_blame)),
    "lineage_stays_after_rollback": _bug((StepHistory, "start_lineage", _same_lineage)),
    "attempts_restart_after_rollback": _bug((StepHistory, "start_lineage", _first_attempt_again)),
    "repeat_judged_alike": _bug((decide, "_judge", _judges_its_own_repeat)),
    "retries_without_end": _bug((RunState, "exhausted", _always(False))),
    "budget_starts_anew": _bug((RunState, "_claimed", _starts_anew)),
    "reservations_refunded_on_claim": _bug((RunState, "_claimed", _refunds_on_claim)),
    "timeouts_refunded": _bug((RunState, "_keep_reserved", _always(None))),
    "dispatch_without_reservation": _bug((decide, "_send", _reserves_nothing)),
    "approval_of_another_output": _bug(
        (decide, "_is_about", _always(True)), (decide, "_decide_approval", _approves_anything)
    ),
    "gate_stands_open": _bug((decide, "start_step", _opens_every_gate)),
    "command_stays_in_the_inbox": _bug((decide, "take_command", _leaves_commands)),
    "cancel_goes_on": _bug((RunMachine, "finish", _ignores_cancel)),
    "finished_twice": _bug((RunMachine, "finish", _finishes_twice)),
    "parked_for_ever": _bug((decide, "_denied", _parks_without_alarm)),
    "lost_verdict_waited_for": _bug((decide, "take_tick", _waits_for_ever)),
    "state_changed_behind_the_log": _bug((RunMachine, "feed", _changes_unpersisted)),
    "two_probes": _bug((ScopedBreakers, "_acquire_probe", _probes_for_all)),
    "permit_given_away": _bug((RunMachine, "permits", _gives_permits_away)),
}
"""Name -> a context manager inside which the bug is there."""
