"""What must hold, judged from the log on the server and the tally of executions; never from what the library says about itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from agentraft_ray.pipeline import Pipeline
from agentraft_ray.protocol.records import Record, StepCommitted
from benchmarks.kill9.work import Execution

__all__ = ["Audit", "Commit"]

Commit = tuple[str, int]  # step, lineage


@dataclass
class Audit:
    """Follows one run through its lives; `violations` is what must stay empty."""

    pipeline: Pipeline
    violations: list[str] = field(default_factory=list)
    committed: set[Commit] = field(default_factory=set)
    _seen: int = 0
    _executions: list[Execution] = field(default_factory=list)

    def look(self, records: Sequence[Record], executions: Sequence[Execution]) -> None:
        """Look at log and tally while nobody works on the run: before a life begins its work, and after the last one."""
        self._judge_life(executions[self._seen :])
        certificates = [record.certificate for record in records if isinstance(record, StepCommitted)]
        committed = [(self.pipeline.step_name(certificate.step), certificate.lineage) for certificate in certificates]
        self._judge_log(committed)
        self._executions = list(executions)
        self._seen = len(executions)
        self.committed = set(committed)
        self._judge_order()

    @property
    def executed(self) -> int:
        return len(self._executions)

    @property
    def executed_again(self) -> int:
        """Executions of an attempt that had run before and had not been recorded when its process was killed."""
        return sum(count - 1 for count in Counter(execution[:3] for execution in self._executions).values())

    def _judge_life(self, executions: Sequence[Execution]) -> None:
        """What has run since the last look."""
        for execution in executions:
            if (execution.step, execution.lineage) in self.committed:
                self._violation(f"{execution} ran although the step had committed before that life began")
        for execution, times in Counter(executions).items():
            if times > 1:
                self._violation(f"{execution} ran {times} times in one life")

    def _judge_log(self, committed: Sequence[Commit]) -> None:
        for commit, times in Counter(committed).items():
            if times > 1:
                self._violation(f"step {commit[0]}, lineage {commit[1]}, was committed {times} times")
        for commit in self.committed - set(committed):
            self._violation(f"the commit of step {commit[0]}, lineage {commit[1]}, is gone from the log")

    def _judge_order(self) -> None:
        """A step is dispatched only when its parents' commits are durable."""
        index = {self.pipeline.step_name(position): position for position in range(len(self.pipeline))}
        steps = {step for step, _ in self.committed}
        for name in {execution.step for execution in self._executions}:
            for parent in self._names(self.pipeline.parents(index[name])):
                if parent not in steps:
                    self._violation(f"step {name} ran although the commit of {parent} was never durable")

    def _names(self, positions: Iterable[int]) -> list[str]:
        return [self.pipeline.step_name(position) for position in positions]

    def _violation(self, text: str) -> None:
        if text not in self.violations:
            self.violations.append(text)
