"""Labelled cases out of the logs of runs: what was committed, what fell later, what people approved or denied. Changes nothing.

A log keeps the text of what was committed or proposed; of an output that was rejected at once it keeps the digest alone. Those that
are worth training on (denied by a person, taken back by a rollback, rejected while they waited) are there in full.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from agentraft_ray.checkpoint.base import RunStore
from agentraft_ray.checkpoint.codec import decode_output
from agentraft_ray.checkpoint.seal import PlainSeal, Seal
from agentraft_ray.errors import ErrorType
from agentraft_ray.pipeline import Step, Task
from agentraft_ray.protocol.plan import StepSpec
from agentraft_ray.protocol.records import AttemptRejected, CommandTaken, OutputProposed, Payload, RolledBack, RunAdmitted, StepCommitted
from agentraft_ray.runtime.logs import RunLogs
from agentraft_ray.verifier.base import VerifyInput
from agentraft_ray.verifier.classifier import PASS, label_of, request_text
from agentraft_ray.verifier.content import render
from agentraft_ray.verifier.training.cases import Case, item_id

__all__ = ["cases_of_run", "finished_cases"]


async def finished_cases(store: RunStore, seal: Seal | None = None, runs: Iterable[str] | None = None) -> AsyncIterator[Case]:
    """The cases of all finished runs in a store, or of `runs`."""
    for run_id in runs if runs is not None else await store.finished_runs():
        for case in await cases_of_run(RunLogs(store, seal or PlainSeal()), run_id):
            yield case


async def cases_of_run(logs: RunLogs, run_id: str) -> list[Case]:
    """The cases of one run. Raises RunNotFound, LogCorrupted."""
    reader = _Reader(logs, run_id)
    for position, (record, _) in enumerate(await logs.records(run_id)):
        await reader.take(record, position)
    return reader.cases()


class _Reader:
    """One pass over a log. A later word about an output stands against an earlier one: a person's over a verifier's."""

    def __init__(self, logs: RunLogs, run_id: str) -> None:
        self._logs = logs
        self._run_id = run_id
        self._admitted: RunAdmitted | None = None
        self._outputs: dict[int, Any] = {}
        self._texts: dict[tuple[int, bytes], tuple[str, str]] = {}
        self._labels: dict[tuple[int, bytes], tuple[str, str]] = {}
        self._positions: dict[int, tuple[int, bytes]] = {}

    async def take(self, record: Any, position: int) -> None:
        """Take in one record."""
        if isinstance(record, RunAdmitted):
            self._admitted = record
        elif isinstance(record, OutputProposed):
            await self._keep(record.step, record.output)
        elif isinstance(record, StepCommitted):
            await self._commit(record, position)
        elif isinstance(record, AttemptRejected):
            key = (record.certificate.step, record.certificate.output)
            self._labels[key] = (record.certificate.error_type, "log:rejected")
        elif isinstance(record, RolledBack):
            self._roll_back(record)
        elif isinstance(record, CommandTaken) and record.applied and record.output:
            self._command(record)

    def _command(self, record: CommandTaken) -> None:
        key = (record.step, record.output)
        if record.kind == "approve":
            self._labels[key] = (PASS, "log:approved")
        elif record.kind == "deny":
            self._labels[key] = (ErrorType.GOAL_DRIFT.value, "log:denied")  # a person says that it is wrong, not of which class

    async def _commit(self, record: StepCommitted, position: int) -> None:
        step = record.certificate.step
        key = (step, record.output.digest)
        self._outputs[step] = await self._keep(step, record.output)
        self._positions[position] = key
        if self._labels.get(key, ("", ""))[1] != "log:approved":
            self._labels[key] = (PASS, "log:committed")

    def _roll_back(self, record: RolledBack) -> None:
        for step, position in record.removed:
            key = self._positions.get(position)
            self._outputs.pop(step, None)
            if key is not None and step == record.suspect:
                self._labels[key] = (record.certificate.error_type, "log:rolled-back")
            elif key is not None:
                self._labels.pop(key, None)  # it fell with what it was made of, and nothing is known about it

    async def _keep(self, step: int, payload: Payload) -> Any:
        data = payload.data
        if data is None:
            name = self._logs.seal.blob_name(payload.digest)
            sealed = await self._logs.store.blob(self._run_id, name)
            data = None if sealed is None else self._logs.seal.open_blob(self._run_id, name, sealed)
        if data is None:
            return None
        output = decode_output(data)
        self._texts[step, payload.digest] = (self._asked(step, output), render(output))
        return output

    def _asked(self, step: int, output: Any) -> str:
        assert self._admitted is not None  # the first record of every log
        plan, told = self._admitted.plan, self._admitted.task
        spec = _spec(self._admitted, step)
        width = len(plan.block)
        history = [(plan.block[before % width].name, one) for before, one in sorted(self._outputs.items()) if before < step]
        task = Task(goal=told.goal, inputs=decode_output(told.inputs), id=told.id)
        return request_text(VerifyInput(task, Step(spec.name, _never_run, goal=spec.goal or None), output, history))

    def cases(self) -> list[Case]:
        """All outputs whose text and label are known."""
        assert self._admitted is not None  # the first record of every log
        found = []
        for key, (label, origin) in self._labels.items():
            if key in self._texts:
                asked, output = self._texts[key]
                family = f"{self._admitted.plan.name}/{_spec(self._admitted, key[0]).name}"
                known = label if label == PASS else label_of(ErrorType(label))
                found.append(Case(family, self._admitted.plan.name, item_id(family, asked), asked, output, known, origin))
        return found


def _spec(admitted: RunAdmitted, step: int) -> StepSpec:
    return admitted.plan.block[step % len(admitted.plan.block)]


def _never_run(_: object) -> None:
    raise AssertionError("the step of a case is judged, never run")
