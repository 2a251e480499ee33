"""A second, dumb reading of a run's log, for the laws: records in, plain sets and dicts out. Shares no code with the protocol's fold.

It believes what the records say and checks nothing; whether they may say it is the business of `laws`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import NamedTuple

from agentraft_ray.identity import NO_OWNER, OwnerToken
from agentraft_ray.protocol.plan import PlanSpec, StepSpec
from agentraft_ray.protocol.records import (
    AttemptFailed,
    AttemptRejected,
    AttemptStarted,
    CommandTaken,
    CostBooked,
    OutputProposed,
    OwnerClaimed,
    Record,
    RolledBack,
    RunAdmitted,
    RunFinished,
    RunParked,
    RunResumed,
    StepCommitted,
    SuspectCleared,
)

__all__ = ["Commit", "LogModel", "digest_of"]


class Commit(NamedTuple):
    position: int
    output: bytes
    attempt: int
    verifier: str


def digest_of(*parts: bytes) -> bytes:
    """SHA-256 over parts, each behind its length in 8 bytes."""
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()


class LogModel:
    """One run as its log tells it."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.count = 0
        self.head = bytes(32)
        self.first_head = b""
        self.owner: OwnerToken = NO_OWNER
        self.tokens: list[OwnerToken] = []
        self.commits: dict[int, Commit] = {}
        self.claims = 0  # in a row, without anything that counts as progress between them
        self.lineage: Counter[int] = Counter()
        self.closed: dict[int, list[int]] = {}  # step -> numbers of its attempts that ended
        self.rejections: Counter[tuple[int, int]] = Counter()  # (step, lineage)
        self.errors: Counter[tuple[int, int]] = Counter()
        self.judges: dict[tuple[int, bytes, bytes], str] = {}  # (step, inputs, output) -> who rejected it
        self.accusers: set[int] = set()  # steps whose last record is a rejection
        self.started = 0
        self.rollbacks = 0
        self.approvals: set[tuple[int, int, bytes]] = set()
        self.proposals: dict[int, OutputProposed] = {}
        self.commands: set[str] = set()
        self.cancelled = False
        self.parked: tuple[str, ...] | None = None
        self.parked_at = 0.0
        self.parked_s = 0.0
        self.admitted_at = 0.0
        self.finished: RunFinished | None = None
        self.rewinds = 0
        self.doubtful: set[OwnerToken] = set()  # owners who may not know yet that a failover took records away
        self.executions_forgiven = 0  # began under records that a failover lost
        self.plan: PlanSpec
        self.parents: list[tuple[int, ...]] = []
        self.task = b""

    # --- questions ---------------------------------------------------------------------------------------------------------

    def spec(self, step: int) -> StepSpec:
        return self.plan.block[step % len(self.plan.block)]

    def inputs(self, step: int) -> bytes | None:
        """Digest of what the step works on now; None while a parent is missing."""
        if any(parent not in self.commits for parent in self.parents[step]):
            return None
        return digest_of(self.task, *(self.commits[parent].output for parent in self.parents[step]))

    def dependents(self, step: int) -> set[int]:
        """All steps that need `step`, directly or not."""
        found = {step}
        for other, parents in enumerate(self.parents):
            if found & set(parents):  # parents come before their children, except in plans whose order says otherwise
                found.add(other)
        again = {other for other, parents in enumerate(self.parents) if found & set(parents)}
        while not again <= found:
            found |= again
            again = {other for other, parents in enumerate(self.parents) if found & set(parents)}
        return found - {step}

    def distance(self, step: int, ancestor: int) -> int | None:
        """Edges on the shortest way back from `step` to `ancestor`."""
        reached, edges = {step}, 0
        while ancestor not in reached:
            further = reached | {parent for one in reached for parent in self.parents[one]}
            if further == reached:
                return None
            reached, edges = further, edges + 1
        return edges

    def is_ready(self, step: int) -> bool:
        return step not in self.commits and all(parent in self.commits for parent in self.parents[step])

    def retries_left(self, step: int) -> bool:
        key = (step, self.lineage[step])
        spec, rejections, errors = self.spec(step), self.rejections[key], self.errors[key]
        if spec.max_errors is None:
            return rejections + errors <= spec.max_retries
        return rejections <= spec.max_retries and errors <= spec.max_errors

    def elapsed_s(self, now: float) -> float:
        until = self.parked_at if self.parked is not None else now
        return until - self.admitted_at - self.parked_s

    # --- reading -----------------------------------------------------------------------------------------------------------

    def take(self, record: Record, stored: bytes) -> None:
        """Take the next record in."""
        self._take(record)
        self.head = hashlib.sha256(self.head + stored).digest()
        self.first_head = self.first_head or self.head
        self.count += 1

    def _wait_or_go_on(self, record: Record) -> None:
        """Claims in a row without progress, and the time that the run is parked."""
        if isinstance(record, AttemptStarted | CostBooked) or (isinstance(record, CommandTaken) and not record.applied):
            return
        if isinstance(record, OwnerClaimed):
            self.claims = 1 if self.parked is not None else self.claims + 1
        elif not isinstance(record, RunParked | RunResumed):
            self.claims = 0
        if self.parked is not None:
            self.parked_s += max(0.0, record.at - self.parked_at)
            self.parked = None
        if isinstance(record, RunParked):
            self.parked, self.parked_at = record.reasons, record.at

    def _take(self, record: Record) -> None:  # noqa: C901 - one flat match is the point
        self._wait_or_go_on(record)
        match record:
            case RunAdmitted():
                self.plan, self.admitted_at = record.plan, record.at
                self.task = digest_of(record.task.goal.encode(), record.task.inputs)
                block = record.plan.block
                if record.plan.repeats == 1:
                    self.parents = [step.parents for step in block]
                else:
                    self.parents = [(k - 1,) if k else () for k in range(len(block) * record.plan.repeats)]
            case OwnerClaimed():
                self.owner = OwnerToken(record.epoch, record.owner)
                self.tokens.append(self.owner)
            case AttemptStarted():
                self.started += 1
            case OutputProposed():
                self.proposals[record.step] = record
            case StepCommitted(certificate=certificate):
                self._close(certificate.step, certificate.attempt)
                self.commits[certificate.step] = Commit(self.count, certificate.output, certificate.attempt, certificate.verifier)
            case AttemptRejected(certificate=certificate):
                self._close(certificate.step, certificate.attempt)
                self.accusers.add(certificate.step)
                self.rejections[certificate.step, certificate.lineage] += 1
                self.judges[certificate.step, certificate.inputs, certificate.output] = certificate.verifier
            case AttemptFailed():
                self._close(record.step, record.attempt)
                self.errors[record.step, record.lineage] += 1
            case RolledBack():
                self.rollbacks += 1
                fallen = {record.suspect} | self.dependents(record.suspect)
                gone = [step for step in fallen if step in self.commits or self.is_ready(step)]
                certificate = record.certificate
                self.judges[record.suspect, certificate.inputs, certificate.output] = certificate.verifier
                for step in gone:
                    self.lineage[step] += 1
                    self.commits.pop(step, None)
                    self.proposals.pop(step, None)
                    self.accusers.discard(step)
            case SuspectCleared():
                self.accusers.discard(record.accuser)
            case CommandTaken():
                self.commands.add(record.id)
                self.cancelled = self.cancelled or (record.applied and record.kind == "cancel")
                if record.applied and record.kind == "approve":
                    self.approvals.add((record.step, record.lineage, record.output))
            case RunFinished():
                self.finished = record

    def _close(self, step: int, attempt: int) -> None:
        self.closed.setdefault(step, []).append(attempt)
        self.proposals.pop(step, None)
        self.accusers.discard(step)
