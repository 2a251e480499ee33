"""What must hold, judged from the logs on the server and the outside tally; never from what the library says about itself.

What the program was told (results) is compared with the logs too: it must not have been told more than what stands there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from agentraft_ray.checkpoint.codec import decode_output
from agentraft_ray.errors import AgentRaftError
from agentraft_ray.identity import digest
from agentraft_ray.pipeline import Pipeline
from agentraft_ray.protocol.records import AttemptFailed, Record, RolledBack, RunFinished, StepCommitted
from agentraft_ray.protocol.state import fold
from agentraft_ray.taxonomy import FailureCause
from benchmarks.chaos.tally import BEGAN, JUDGED, Line

__all__ = ["Audited", "Case", "audit"]

KINDS = ("lost runs", "lost commits", "doubled commits", "unverified commits", "steps run again", "wrong outputs", "false reports")


@dataclass(frozen=True)
class Case:
    """All that is known of one run. `records` as they stand in the store, oldest first, empty where it has none.

    `expected` = the values of its steps as an undisturbed pipeline gives them; `must_fail` = one of its steps returns what no log
    takes. `head` = the end of its hash chain as the store has it. `seen` = (index, digest of the last stored record) as observed
    during the campaign. `told` = what the program was told of its end, "" for nothing.
    """

    run: str
    pipeline: Pipeline
    records: Sequence[tuple[Record, bytes]]
    lines: Sequence[Line]
    expected: Mapping[str, str]
    must_fail: bool = False
    head: bytes = b""
    seen: Sequence[tuple[int, bytes]] = ()
    told: str = ""


class Audited(msgspec.Struct):
    """Counts, and the violations of each kind, which must be empty."""

    runs: int = 0
    commits: int = 0
    rejections: int = 0
    rollbacks: int = 0
    executions: int = 0
    executed_again: int = 0  # of attempts whose outcome was not recorded when something died: allowed, steps run at least once
    verdicts: int = 0
    claims: int = 0
    violations: dict[str, list[str]] = msgspec.field(default_factory=lambda: {kind: [] for kind in KINDS})

    @property
    def found(self) -> int:
        """How many violations there are."""
        return sum(map(len, self.violations.values()))


def audit(cases: Iterable[Case], total: Audited | None = None) -> Audited:
    """Judge all these runs, and add what was found to `total`."""
    total = total if total is not None else Audited()
    for case in cases:
        _Judge(case, total).judge()
    return total


@dataclass
class _Judge:
    case: Case
    total: Audited
    commits: list[StepCommitted] = field(default_factory=list)

    def judge(self) -> None:
        case, total = self.case, self.total
        total.runs += 1
        began = [line for line in case.lines if line.kind == BEGAN]
        total.executions += len(began)
        total.executed_again += sum(count - 1 for count in Counter(line[2:5] for line in began).values())
        total.verdicts += sum(line.kind == JUDGED for line in case.lines)
        if not case.records:
            self._violation("lost runs", "it was submitted and is not in the store")
            return
        records = [record for record, _ in case.records]
        self.commits = [record for record in records if isinstance(record, StepCommitted)]
        total.commits += len(self.commits)
        kinds = Counter(type(record).__name__ for record in records)
        total.rejections += kinds["AttemptRejected"]
        total.rollbacks += kinds["RolledBack"]
        total.claims += kinds["OwnerClaimed"]
        self._judge_log()
        self._judge_end(records)
        self._judge_history()
        self._judge_verdicts()
        self._judge_executions(began)

    def _judge_log(self) -> None:
        """The fold checks the hash chain, and that each certificate is a passing one and covers exactly its commit."""
        try:
            if fold(self.case.run, self.case.records).head != self.case.head:
                self._violation("lost commits", "its hash chain does not end in the head that the store holds")
        except AgentRaftError as error:
            self._violation("lost commits", f"its log does not fold: {error}")
        for (step, lineage), times in Counter((one.certificate.step, one.certificate.lineage) for one in self.commits).items():
            if times > 1:
                self._violation("doubled commits", f"step {self._name(step)}, lineage {lineage}, was committed {times} times")

    def _judge_end(self, records: Sequence[Record]) -> None:
        case, last = self.case, records[-1]
        outcome = last.outcome if isinstance(last, RunFinished) else f"not finished, its log ends in {type(last).__name__}"
        too_large = any(isinstance(record, AttemptFailed) and record.cause == FailureCause.TOO_LARGE.value for record in records)
        wanted = "failed" if case.must_fail else "succeeded"
        if outcome != wanted or too_large != case.must_fail:
            why = f": {last.error.message}" if isinstance(last, RunFinished) and last.error is not None else ""
            self._violation("lost runs", f"it is {outcome}{why}; it should have {wanted}")
        if case.told and case.told != outcome:
            self._violation("false reports", f"the program was told {case.told!r}; it is {outcome}")
        if not case.told:
            self._violation("lost runs", "the program was never told of its end")
        self._judge_values(records, whole=outcome == "succeeded")

    def _judge_values(self, records: Sequence[Record], *, whole: bool) -> None:
        standing: dict[str, StepCommitted] = {}
        for record in records:
            if isinstance(record, StepCommitted):
                standing[self._name(record.certificate.step)] = record
            elif isinstance(record, RolledBack):
                for removed, _ in record.removed:
                    standing.pop(self._name(removed), None)
        for step, commit in standing.items():
            output = decode_output(commit.output.data) if commit.output.data is not None else None
            if output is None or output["value"] != self.case.expected[step]:
                self._violation("wrong outputs", f"step {step} has another output than in an undisturbed run")
            elif output["draft"]:
                self._violation("unverified commits", f"step {step}: a draft was committed, which the verifier rejects")
        if whole:
            for missing in self.case.expected.keys() - standing.keys():
                self._violation("lost commits", f"it has succeeded without a commit of step {missing}")

    def _judge_history(self) -> None:
        for index, last in self.case.seen:
            if index > len(self.case.records) or digest(self.case.records[index - 1][1]) != last:
                self._violation("lost commits", f"its log had {index} records, the last of which is not there any more")

    def _judge_verdicts(self) -> None:
        passed = {(line.step, line.word.partition(":")[2]) for line in self.case.lines if line.kind == JUDGED and line.word[0] == "p"}
        for commit in self.commits:
            step = self._name(commit.certificate.step)
            if commit.output.data is None or digest(commit.output.data) != commit.output.digest:
                self._violation("unverified commits", f"step {step}: its output is not what its certificate covers")
            elif (step, decode_output(commit.output.data)["value"]) not in passed:
                self._violation("unverified commits", f"step {step} was committed, and no verifier has noted a pass of that output")

    def _judge_executions(self, began: Sequence[Line]) -> None:
        """An execution that begins after the commit of its step and lineage, or before those of its parents."""
        committed: dict[tuple[str, int], float] = {}
        first: dict[str, float] = {}
        for commit in self.commits:
            step = self._name(commit.certificate.step)
            committed.setdefault((step, commit.certificate.lineage), commit.at)
            first.setdefault(step, commit.at)
        index = {self._name(position): position for position in range(len(self.case.pipeline))}
        for line in began:
            at = committed.get((line.step, line.lineage))
            if at is not None and line.at > at:
                text = f"{line.step}, lineage {line.lineage}, attempt {line.attempt}, ran {line.at - at:.3f} s after its commit"
                self._violation("steps run again", f"step {text} at {at:.3f}, in process {line.pid}")
            for parent in map(self._name, self.case.pipeline.parents(index[line.step])):
                if first.get(parent, line.at + 1) > line.at:
                    self._violation("lost commits", f"step {line.step} ran at {line.at:.3f}, before any commit of {parent} in the log")

    def _name(self, step: int) -> str:
        return self.case.pipeline.step_name(step)

    def _violation(self, kind: str, text: str) -> None:
        self.total.violations[kind].append(f"{self.case.run}: {text}")
