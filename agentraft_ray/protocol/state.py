"""The durable state of a run: the fold of its log, and nothing that a crash would lose.

`RunState.apply` is the only way to change it. The machine applies a record when it decides on it, everyone else when reading a log,
so live state and fold are the same function. A record that cannot follow the ones before it is refused with LogCorrupted: a commit
without a passing certificate for exactly that output, for instance, cannot be folded, whoever wrote it.

Per step it keeps 41 bytes (status, position, output digest) and more only for steps that did not commit at once.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Set
from typing import Any, TypeVar

from agentraft_ray.errors import LogCorrupted
from agentraft_ray.identity import DIGEST_FRAME, GENESIS, NO_OWNER, OwnerToken, chain, digest, digest_of_parts
from agentraft_ray.protocol.history import FAILURE_HINTS, StepHistory
from agentraft_ray.protocol.plan import Plan, fingerprint_of, plan_of
from agentraft_ray.protocol.records import (
    AttemptFailed,
    AttemptRejected,
    AttemptStarted,
    Certificate,
    CommandTaken,
    CostBooked,
    OutputProposed,
    OwnerClaimed,
    Payload,
    Record,
    RolledBack,
    RunAdmitted,
    RunFinished,
    RunParked,
    RunResumed,
    StepCommitted,
    SuspectCleared,
    TaskRecord,
    decode_record,
)
from agentraft_ray.taxonomy import FREE, Cost, FailureCause

__all__ = ["RunState", "StepHistory", "fold"]

T = TypeVar("T")

_COMMITTED = 1
_Origin = tuple[tuple[int, ...], bytes, bytes, bytes]
_MEMOS = frozenset({"plan", "_hashed", "_made_from"})  # what follows from the rest

_FRESH = StepHistory()
_NOTHING: frozenset[Any] = frozenset()  # what most runs have of most things; a set of their own would take 232 bytes


def _grown(known: Set[T], item: T) -> set[T]:
    """`known` with one more item: the same set, unless it is the shared empty one."""
    grown = known if isinstance(known, set) else set(known)
    grown.add(item)
    return grown


class RunState:
    """One run, as its log tells it. Read freely; change only through `apply`."""

    __slots__ = (
        "_digests",
        "_hashed",
        "_made_from",
        "_positions",
        "_status",
        "_task_frame",
        "accusations",
        "admitted_at",
        "approved",
        "attempts_started",
        "charged",
        "claims",
        "cleared",
        "commands",
        "committed",
        "cost",
        "finished",
        "forked_from",
        "head",
        "histories",
        "index",
        "let_go",
        "parked",
        "parked_at",
        "paused_s",
        "plan",
        "proposed",
        "ready",
        "reservations",
        "rollbacks",
        "run_id",
        "task",
        "thrown_away",
        "token",
        "trace",
        "traced_lives",
    )

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._made_from: dict[int, _Origin] = {}  # of ready steps, so that it is found and hashed once
        self._hashed: Payload | None = None  # made here from its bytes just now, so that they are hashed once
        self.index = 0
        self.head = GENESIS
        self.token: OwnerToken = NO_OWNER
        self.plan: Plan
        self.task: TaskRecord
        self.admitted_at = 0.0
        self.forked_from: tuple[str, int] | None = None
        self.committed = 0
        self.ready: set[int] = set()
        self.histories: dict[int, StepHistory] = {}
        self.accusations: dict[int, tuple[int, int]] = {}  # accuser -> (suspect, position of its commit)
        self.cleared: Set[tuple[int, int, int]] = _NOTHING  # (accuser, its lineage, position of the suspect's commit)
        self.proposed: dict[int, OutputProposed] = {}
        self.approved: dict[int, tuple[int, bytes]] = {}  # step -> (lineage, output digest)
        self.let_go: Set[tuple[int, int]] = _NOTHING  # (step, lineage) whose running was approved
        self.commands: Set[str] = _NOTHING
        self.reservations: dict[tuple[int, int, int], Cost] = {}  # (step, attempt, sample) of this owner's life
        self.attempts_started = 0
        self.cost = FREE
        self.charged = FREE
        self.rollbacks = 0
        self.thrown_away = 0
        self.claims = 0
        self.parked: tuple[str, ...] | None = None
        self.parked_at = 0.0
        self.paused_s = 0.0
        self.finished: RunFinished | None = None
        self.trace = ""
        self.traced_lives = ("", "")  # the trace contexts of the life before the present one, and of that

    # --- questions ---------------------------------------------------------------------------------------------------------

    def is_committed(self, step: int) -> bool:
        return self._status[step] == _COMMITTED

    def position(self, step: int) -> int:
        """Log position of the step's present commit; only for committed steps."""
        return self._positions[step]

    def output_digest(self, step: int) -> bytes:
        """Digest of the step's committed output; only for committed steps."""
        return bytes(self._digests[32 * step : 32 * step + 32])

    def history(self, step: int) -> StepHistory:
        """The step's history; read-only, a shared empty one where nothing happened yet."""
        return self.histories.get(step, _FRESH)

    def made_from(self, step: int) -> _Origin:
        """What a verdict about the step's output must be bound to: the log positions of its parents' present commits, and the
        digests of its inputs (the task and its parents' outputs), of its goal, and of the policy that it is judged under."""
        known = self._made_from.get(step)
        if known is None:
            plan = self.plan
            parents = plan.parents(step)
            positions = tuple([self._positions[parent] for parent in parents])
            framed = bytearray(self._task_frame)  # digest_of_parts(task digest, *digests of the parents' outputs), in less time
            for parent in parents:
                framed += DIGEST_FRAME
                framed += self._digests[32 * parent : 32 * parent + 32]
            inputs = digest(framed)
            known = positions, inputs, plan.goal(step), plan.judged_by(step)
            if step in self.ready:
                self._made_from[step] = known
        return known

    def inputs_digest(self, step: int) -> bytes:
        """Digest of all that the step's output may depend on: the task and its parents' present outputs."""
        return self.made_from(step)[1]

    def payload_of(self, data: bytes) -> Payload:
        """An output's payload; the next record need not hash its bytes again if it carries this very value, which nobody can change."""
        self._hashed = payload = Payload(digest(data), len(data), data)
        return payload

    def exhausted(self, step: int) -> bool:
        """Whether the step may not be tried again in this lineage."""
        history = self.histories.get(step)
        if history is None:
            return False
        spec = self.plan.step(step)
        if history.final:
            return True
        if spec.max_errors is None:
            return history.rejections + history.errors > spec.max_retries
        return history.rejections > spec.max_retries or history.errors > spec.max_errors

    def elapsed_s(self, now: float) -> float:
        """Seconds since admission, less the time in which the run was parked."""
        until = self.parked_at if self.parked is not None else now
        return until - self.admitted_at - self.paused_s

    def fallen_with(self, suspect: int) -> tuple[tuple[int, int], ...]:
        """(step, position) of the suspect and its committed dependents: what a rollback to before it removes."""
        fallen = [suspect, *(step for step in self.plan.descendants(suspect) if self._status[step])]
        return tuple((step, self._positions[step]) for step in sorted(fallen))

    # --- the fold ----------------------------------------------------------------------------------------------------------

    def apply(self, record: Record, stored: bytes) -> None:
        """Fold one more record in. Raises LogCorrupted if it cannot stand at this place of this log."""
        if not self.index and type(record) is not RunAdmitted:
            self._refuse("a log starts with the admission of its run")
        if self.finished is not None:
            self._refuse("nothing follows the end of a run")
        try:
            _APPLY[type(record)](self, record)
        except (LookupError, ArithmeticError, ValueError) as error:  # a step that does not exist, a digest that is none ...
            self._refuse(f"{type(error).__name__}: {error}")
        self.head = chain(self.head, stored)
        self.index += 1

    def _refuse(self, why: str) -> None:
        raise LogCorrupted(
            f"run {self.run_id}: record {self.index} cannot stand there: {why}; audit the log before resuming it",
            run_id=self.run_id,
            index=self.index,
        )

    def _admitted(self, record: RunAdmitted) -> None:
        if self.index or record.run != self.run_id:
            self._refuse(f"it admits run {record.run}")
        if fingerprint_of(record.plan) != record.fingerprint:
            self._refuse("the fingerprint is not that of the plan")
        self.plan = plan_of(record.plan)
        self.task = record.task
        self._task_frame = DIGEST_FRAME + digest_of_parts(record.task.goal.encode(), record.task.inputs)
        self.admitted_at = record.at
        self.forked_from = record.forked_from
        self.trace = record.trace
        size = self.plan.size
        self._status = bytearray(size)
        self._positions = array("Q", bytes(8 * size))
        self._digests = bytearray(32 * size)
        steps = (0,) if self.plan.is_chain else range(size)
        self.ready = {step for step in steps if not self.plan.parents(step)}

    def _claimed(self, record: OwnerClaimed) -> None:
        self.token = OwnerToken(record.epoch, record.owner)
        self.traced_lives = (self.traced_lives[1], record.trace)
        self.claims = 1 if self.parked is not None else self.claims + 1
        self._unpark(record.at)
        self.reservations.clear()

    def _started(self, record: AttemptStarted) -> None:
        self._check_attempt(record.step, record.lineage, record.attempt)
        self.reservations[record.step, record.attempt, record.sample] = record.reserved
        self.attempts_started += 1
        self.charged = self.charged + record.reserved

    def _proposed(self, record: OutputProposed) -> None:
        self._check_attempt(record.step, record.lineage, record.attempt)
        self._check_payload(record.output, record.output.digest)
        if record.inputs != self.inputs_digest(record.step):
            self._refuse("the proposed output was made from other inputs")
        if record.certificate is not None:
            self._check_subject(record.certificate, record.output.digest)
        self._settle(record.step, record.attempt, record.cost)
        self.proposed[record.step] = record
        self._progress(record.at)

    def _committed(self, record: StepCommitted) -> None:
        certificate = record.certificate
        step = certificate.step
        self._check_subject(certificate, record.output.digest)
        self._check_payload(record.output, certificate.output)
        approved = step in self.approved and self.approved[step] == (certificate.lineage, certificate.output)
        if certificate.kind != "pass" and not (certificate.kind == "abstain" and approved):
            self._refuse(f"step {self.plan.name(step)!r} is committed on a verdict that does not pass")
        spec = self.plan.step(step)
        if (spec.needs_approval and not approved) or (spec.approve_before and (step, certificate.lineage) not in self.let_go):
            self._refuse(f"step {self.plan.name(step)!r} is committed without the approval it needs")
        self._settle(step, certificate.attempt, record.cost)
        self._status[step] = _COMMITTED
        self._positions[step] = self.index
        self._digests[32 * step : 32 * step + 32] = certificate.output
        self.committed += 1
        self.ready.discard(step)
        self._made_from.pop(step, None)
        status = self._status
        for child in self.plan.children(step):
            if not status[child] and all(map(status.__getitem__, self.plan.parents(child))):
                self.ready.add(child)
        self._progress(record.at)

    def _rejected(self, record: AttemptRejected) -> None:
        certificate = record.certificate
        step = certificate.step
        self._check_subject(certificate, certificate.output)
        if certificate.kind != "reject":
            self._refuse("a rejection needs a rejecting verdict")
        self._settle(step, certificate.attempt, record.cost)
        history = self.histories.setdefault(step, StepHistory())
        key = (certificate.inputs, certificate.output)
        history.rejected[key] = (*history.rejected.get(key, ()), certificate.verifier)
        history.rejections += 1
        history.attempt += 1
        history.made += 1
        history.hint, history.message, history.error_type = record.hint, record.reasoning, certificate.error_type
        history.failed_at, history.judge = record.at, certificate.verifier
        suspect = self._suspect(step, record.blame)
        if suspect is not None:
            self.accusations[step] = (suspect, self._positions[suspect])
        if self.plan.policies.rollback_on_failure and (suspect is not None or not self.exhausted(step)):
            self.thrown_away += 1
        self._progress(record.at)

    def _suspect(self, accuser: int, blame: int) -> int | None:
        policies = self.plan.policies
        if not policies.rollback_on_failure or not policies.max_rollback_depth:
            return None
        if self.rollbacks + len(self.accusations) >= policies.rollbacks_max:
            return None
        suspects = [blame] if 0 <= blame < self.plan.size else []
        if not suspects and policies.back_when_exhausted and self.exhausted(accuser):
            suspects = sorted(self.plan.parents(accuser), key=self._positions.__getitem__, reverse=True)
        lineage = self.history(accuser).lineage
        for suspect in suspects:
            depth = self.plan.depth_to(accuser, suspect)
            if depth is None or depth > policies.max_rollback_depth or not self._status[suspect]:
                continue
            if (accuser, lineage, self._positions[suspect]) not in self.cleared:
                return suspect
        return None

    def _failed(self, record: AttemptFailed) -> None:
        self._check_attempt(record.step, record.lineage, record.attempt)
        if record.cause == FailureCause.TIMED_OUT.value:
            self._keep_reserved(record.step, record.attempt)
        self._settle(record.step, record.attempt, record.cost)
        history = self.histories.setdefault(record.step, StepHistory())
        history.errors += 1
        history.attempt += 1
        history.made += 1
        history.final = record.final
        history.hint = FAILURE_HINTS.get(record.cause)
        history.message, history.error_type, history.failed_at = record.message, "", record.at
        self._progress(record.at)

    def _rolled_back(self, record: RolledBack) -> None:
        suspect = record.suspect
        if not 0 <= suspect < self.plan.size or not self._status[suspect]:
            self._refuse("it rolls back a step that is not committed")
        if self.accusations.get(record.accuser) != (suspect, self._positions[suspect]):
            self._refuse("nobody accused the step that it rolls back")
        if record.removed != self.fallen_with(suspect):
            self._refuse("a rollback removes the suspect with all its dependents and nothing else")
        certificate = record.certificate
        if certificate.kind != "reject" or certificate.step != suspect:
            self._refuse("the suspect was not judged bad")
        self._check_binding(certificate, self.output_digest(suspect))
        if self.rollbacks >= self.plan.policies.rollbacks_max:
            self._refuse("the run has used up its rollbacks")
        self._book(record.cost)
        self.rollbacks += 1
        cone = [suspect]
        for step in self.plan.descendants(suspect):
            if self._status[step] or step in self.ready:
                cone.append(step)
            elif self.plan.is_chain:
                break
        history = self.histories.setdefault(suspect, StepHistory())
        key = (certificate.inputs, certificate.output)
        history.rejected[key] = (*history.rejected.get(key, ()), certificate.verifier)
        history.judge, history.error_type = certificate.verifier, certificate.error_type
        for step in cone:
            history = self.histories.setdefault(step, StepHistory())
            history.start_lineage(record.hint if step == suspect else None)
            history.made += self._status[step]
            self.committed -= self._status[step]
            self._status[step] = 0
            self.ready.discard(step)
            for forgotten in (self.accusations, self.proposed, self.approved):
                forgotten.pop(step, None)
        self._made_from.clear()
        gone = set(cone)
        for reserved in [one for one in self.reservations if one[0] in gone]:
            del self.reservations[reserved]
        self.ready.add(suspect)
        self._progress(record.at)

    def _cleared(self, record: SuspectCleared) -> None:
        if self.accusations.get(record.accuser) != (record.suspect, record.position):
            self._refuse("it clears a step that nobody accused")
        if record.certificate.step != record.suspect or record.certificate.kind == "reject":
            self._refuse("the suspect was not judged to stand")
        self._check_binding(record.certificate, self.output_digest(record.suspect))
        del self.accusations[record.accuser]
        self.cleared = _grown(self.cleared, (record.accuser, self.history(record.accuser).lineage, record.position))
        self._book(record.cost)
        self._progress(record.at)

    def _command(self, record: CommandTaken) -> None:
        if record.applied and record.id in self.commands:
            self._refuse(f"command {record.id} was taken before")
        self.commands = _grown(self.commands, record.id)
        if record.applied and record.kind == "approve":
            if record.output:
                self.approved[record.step] = (record.lineage, record.output)
            else:
                self.let_go = _grown(self.let_go, (record.step, record.lineage))
        if record.applied:  # what has no effect neither wakes a parked run nor clears it of being poisoned
            self._progress(record.at)

    def _parked(self, record: RunParked) -> None:
        self._unpark(record.at)
        self.parked = record.reasons
        self.parked_at = record.at

    def _resumed(self, record: RunResumed) -> None:
        self._unpark(record.at)

    def _finished(self, record: RunFinished) -> None:
        if record.outcome == "succeeded" and self.committed != self.plan.size:
            self._refuse("a run succeeds only when every step is committed")
        self._unpark(record.at)
        self._book(record.late)
        self.finished = record

    def _booked(self, record: CostBooked) -> None:
        self._book(record.cost)

    # --- what several records share ----------------------------------------------------------------------------------------

    def _progress(self, at: float) -> None:
        self.claims = 0
        self._hashed = None
        if self.parked is not None:
            self._unpark(at)

    def _unpark(self, at: float) -> None:
        if self.parked is not None:
            # A fork's prefix is older than its admission, before which no time of its own has passed.
            self.paused_s += max(0.0, at - max(self.parked_at, self.admitted_at))
            self.parked = None

    def _keep_reserved(self, step: int, attempt: int) -> None:
        """Nobody knows what a call costs that was given up: its reservation stays charged."""
        for key in [key for key in self.reservations if key[:2] == (step, attempt)]:
            del self.reservations[key]

    def _settle(self, step: int, attempt: int, cost: Cost) -> None:
        """Book what an attempt cost, less what its proposal booked, and give its reservations of this life back.

        Reservations of lost lives stay charged.
        """
        if step in self.proposed:
            cost = cost.less(self.proposed.pop(step).cost)
        if self.charged is self.cost and not self.reservations:  # nothing was ever reserved: one sum serves as both
            self.charged = self.cost = self.cost + cost
            return
        self.cost = self.cost + cost
        if self.reservations:
            for key in [key for key in self.reservations if key[0] == step and key[1] == attempt]:
                reserved = self.reservations.pop(key)
                if cost.usd is None and reserved.usd:  # nobody knows the price, but that it is at most what was set aside
                    cost = Cost(cost.tokens, reserved.usd, cost.seconds)
                cost = cost.less(reserved)
        self.charged = self.charged + cost

    def _book(self, cost: Cost) -> None:
        is_all = self.charged is self.cost
        self.cost = self.cost + cost
        budget = self.plan.policies.budget
        if cost.usd is None and budget is not None and budget.reserved.usd:  # as for attempts: at most what is set aside for one
            self.charged = self.charged + Cost(cost.tokens, max(budget.reserved.usd, cost.known_usd), cost.seconds)
            return
        self.charged = self.cost if is_all else self.charged + cost

    def _check_attempt(self, step: int, lineage: int, attempt: int) -> None:
        if step not in self.ready:
            self._refuse(f"step {step} is not ready to run")
        self._check_number(step, lineage, attempt)

    def _check_number(self, step: int, lineage: int, attempt: int) -> None:
        history = self.histories.get(step, _FRESH)
        if history.lineage != lineage or history.attempt != attempt:
            self._refuse(f"step {step}: lineage {lineage} attempt {attempt} is closed; {history.lineage}/{history.attempt} is the open one")

    def _check_subject(self, certificate: Certificate, output: bytes) -> None:
        """The certificate is about this output of the attempt that is open now."""
        if certificate.step not in self.ready:
            self._refuse(f"step {certificate.step} is not ready to run")
        self._check_binding(certificate, output)

    def _check_binding(self, certificate: Certificate, output: bytes) -> None:
        """The certificate is about this output of the step's present attempt, made from its parents' present commits."""
        step = certificate.step
        self._check_number(step, certificate.lineage, certificate.attempt)
        if certificate.run != self.run_id and not self._is_copied():
            self._refuse(f"the verdict is about run {certificate.run}")
        if certificate.output != output:
            self._refuse("the verdict is about another output")
        parents, inputs, goal, policy = self.made_from(step)
        if certificate.parents != parents or certificate.inputs != inputs:
            self._refuse("the verdict was made on other inputs than the parents' present commits")
        if certificate.goal != goal or certificate.policy != policy:
            self._refuse("the verdict was made for another goal or under another policy")

    def _is_copied(self) -> bool:
        """Whether the next record is one of a fork's prefix, which names the run that it was made in."""
        return self.forked_from is not None and self.index < self.forked_from[1]

    def _check_payload(self, payload: Payload, expected: bytes) -> None:
        if payload is not self._hashed and payload.data is not None and digest(payload.data) != payload.digest:
            self._refuse("the output's bytes do not match their digest")
        if payload.digest != expected:
            self._refuse("the output's bytes do not match their digest")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunState) and all(
            getattr(self, name, None) == getattr(other, name, None) for name in self.__slots__ if name not in _MEMOS
        )

    __hash__ = None  # type: ignore[assignment]


_APPLY: dict[type, Callable[[RunState, Any], None]] = {
    RunAdmitted: RunState._admitted,
    OwnerClaimed: RunState._claimed,
    AttemptStarted: RunState._started,
    OutputProposed: RunState._proposed,
    StepCommitted: RunState._committed,
    AttemptRejected: RunState._rejected,
    AttemptFailed: RunState._failed,
    RolledBack: RunState._rolled_back,
    SuspectCleared: RunState._cleared,
    CommandTaken: RunState._command,
    RunParked: RunState._parked,
    RunResumed: RunState._resumed,
    CostBooked: RunState._booked,
    RunFinished: RunState._finished,
}


def fold(run_id: str, records: Iterable[tuple[Record, bytes]] | Iterable[bytes]) -> RunState:
    """The state that a log leads to. `records` are stored bytes, or (record, stored bytes) where the host has opened a seal."""
    state = RunState(run_id)
    for item in records:
        record, stored = (decode_record(item), item) if isinstance(item, bytes) else item
        state.apply(record, stored)
    return state
