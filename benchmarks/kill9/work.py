"""The run that is killed: 200 steps in chains and parallel branches, some of which fail first. Its outputs depend on nothing but its task.

Every execution of a step leaves a line in the tally file before it does anything else; that file is what the audit believes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from agentraft_ray import ErrorType, Pipeline, Step, StepContext, Task, VerificationResult, Verifier, VerifyInput

__all__ = ["STEPS", "Execution", "Judge", "executions", "make_pipeline", "make_task"]

STEPS = 200
_HEAD, _BRANCHES, _BRANCH_STEPS = 50, 5, 20
_SUSPECT, _ACCUSER = "b2.07", "b2.10"  # the accuser finds out, three steps later, that the suspect was wrong
_PAUSE_MS_MAX = 8


class Execution(NamedTuple):
    """One execution of a step function, as it noted itself."""

    step: str
    lineage: int
    attempt: int
    pid: int


def executions(tally: Path) -> list[Execution]:
    """All executions so far, oldest first."""
    if not tally.exists():
        return []
    lines = (line.split() for line in tally.read_text().splitlines())
    return [Execution(step, int(lineage), int(attempt), int(pid)) for step, lineage, attempt, pid in lines]


def make_task() -> Task:
    """The task of every run."""
    return Task("survive", id="undisturbed")


def make_pipeline(tally: Path) -> Pipeline:
    """A chain, five branches side by side, a join, a chain. Every third step is a plain function, run in a thread."""
    steps = []
    for position, (name, after) in enumerate(_plan()):
        body = _Body(tally, position, after)
        fn = body.in_thread if position % 3 == 0 else body.on_loop
        steps.append(Step(name, fn, after=after))
    return Pipeline(steps, name="kill9")


def _plan() -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name, parents) of every step."""
    before: tuple[str, ...] = ()
    for index in range(_HEAD):
        yield f"head.{index:02}", before
        before = (f"head.{index:02}",)
    start, ends = before, []
    for branch in range(_BRANCHES):
        before = start
        for index in range(_BRANCH_STEPS):
            yield f"b{branch}.{index:02}", before
            before = (f"b{branch}.{index:02}",)
        ends.append(before[0])
    before = tuple(ends)
    for index in range(STEPS - _HEAD - _BRANCHES * _BRANCH_STEPS):
        yield f"tail.{index:02}", before
        before = (f"tail.{index:02}",)


class _Body:
    """What a step does: note that it runs, take a little while, perhaps fail, and hash its parents' values."""

    def __init__(self, tally: Path, position: int, parents: tuple[str, ...]) -> None:
        self._tally = tally
        self._position = position
        self._parents = parents

    async def on_loop(self, ctx: StepContext) -> dict[str, Any]:
        self._note(ctx)
        await asyncio.sleep(self._pause_s(ctx))
        return self._output(ctx)

    def in_thread(self, ctx: StepContext) -> dict[str, Any]:
        self._note(ctx)
        time.sleep(self._pause_s(ctx))
        return self._output(ctx)

    def _note(self, ctx: StepContext) -> None:
        line = f"{ctx.step_name} {ctx.lineage} {ctx.attempt} {os.getpid()}\n"
        fd = os.open(self._tally, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, line.encode())  # one write, so that it is there whole or not at all
        finally:
            os.close(fd)

    def _pause_s(self, ctx: StepContext) -> float:
        return int(ctx.attempt_key[:4], 16) % (1000 * _PAUSE_MS_MAX) / 1e6

    def _output(self, ctx: StepContext) -> dict[str, Any]:
        if self._position % 13 == 6 and ctx.attempt == 0:
            raise RuntimeError("the first attempt of this step always fails")
        seen = [ctx.outputs[parent] for parent in self._parents]
        text = "\n".join([ctx.task.goal, ctx.step_name, *(output["value"] for output in seen)])
        return {
            "value": hashlib.sha256(text.encode()).hexdigest()[:32],
            "draft": self._position % 9 == 4 and ctx.attempt == 0,
            "flawed": ctx.step_name == _SUSPECT and ctx.lineage == 0,
            "inherits_flaw": any(output["flawed"] or output["inherits_flaw"] for output in seen),
        }


class Judge(Verifier):
    """Rejects drafts, and at the accuser what it inherited from the suspect; only its second look finds the suspect's flaw."""

    async def verify(self, request: VerifyInput) -> VerificationResult:
        output = request.output
        if output["draft"]:
            return VerificationResult.fail(ErrorType.INCOMPLETE, reasoning="a draft")
        if request.step.name == _ACCUSER and output["inherits_flaw"]:
            return VerificationResult.fail(ErrorType.CONTRADICTION, reasoning="it rests on a flaw", blame=_SUSPECT)
        return VerificationResult.ok()

    async def second_opinion(self, request: VerifyInput, previous: str) -> VerificationResult | None:
        if request.output["flawed"]:
            return VerificationResult.fail(ErrorType.HALLUCINATION, reasoning="flawed, on a second look", verifier="second look")
        return VerificationResult.ok(verifier="second look")
