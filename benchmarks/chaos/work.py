"""The runs of a campaign: twenty short steps, whose values depend on nothing but the task, and a verifier that works in the pool.

Steps misbehave where the task's inputs say so (`trouble`: step -> how), each once for all processes: a marker file says that it has
happened. Only "huge" happens at every attempt, because an output that is too large is final by contract: such a run must fail.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from agentraft_ray import ErrorType, Pipeline, Step, StepContext, VerificationResult, Verifier, VerifyInput
from benchmarks.chaos.tally import BEGAN, ENDED, JUDGED, JUDGING, TROUBLE, note

__all__ = ["GOAL", "JUDGE", "NODE_PIPELINE", "NODE_RESOURCE", "PIPELINE", "STEP_TIMEOUT_S", "TROUBLES", "expected_values", "inputs_of"]

GOAL = "survive"
TROUBLES = ("die", "hang", "huge", "unpicklable")
STEP_TIMEOUT_S = 2.0
NODE_RESOURCE = "spot"

_HUGE_BYTES = 10 * 1024 * 1024
_HANG_S = 2.5 * STEP_TIMEOUT_S
_SUSPECT, _ACCUSER = "left.1", "left.3"  # the accuser finds out, two steps later, that the suspect was wrong
_AFTER: dict[str, tuple[str, ...]] = {
    **{f"head.{n}": (f"head.{n - 1}",) if n else () for n in range(4)},
    **{f"left.{n}": (f"left.{n - 1}",) if n else ("head.3",) for n in range(6)},
    **{f"right.{n}": (f"right.{n - 1}",) if n else ("head.3",) for n in range(6)},
    "join": ("left.5", "right.5"),
    **{f"tail.{n}": (f"tail.{n - 1}",) if n else ("join",) for n in range(3)},
}


def inputs_of(tally: Path, trouble: tuple[str, str] | None) -> dict[str, Any]:
    """The inputs of a task: where its steps note what they do, and (step, how) where one of them is to misbehave."""
    return {"tally": str(tally), "trouble": dict([trouble]) if trouble else {}}


@cache
def expected_values(run: str, node: bool = False) -> Mapping[str, str]:
    """The value of every step of a run as an undisturbed pipeline gives it."""
    values: dict[str, str] = {}
    for name, parents in (_NODE_AFTER if node else _AFTER).items():
        values[name] = _value(run, name, [values[parent] for parent in parents])
    return values


def _value(run: str, step: str, seen: list[str]) -> str:
    return hashlib.sha256("\n".join([GOAL, run, step, *seen]).encode()).hexdigest()[:32]


def _share(*words: object) -> float:
    """A number in [0, 1) that depends on the words alone."""
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:6]) / 2**48


class _Unpicklable(Exception):
    """Holds what cannot be pickled, and says so when somebody tries."""

    def __init__(self) -> None:
        super().__init__("no process can pass this on")
        self.callback = lambda: self

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("this exception does not pickle")


class _Body:
    """What a step does: note that it runs, take 20 to 100 ms, note that it has ended, and hash its parents' values."""

    def __init__(self, step: str, parents: tuple[str, ...]) -> None:
        self._step = step
        self._parents = parents

    async def on_loop(self, ctx: StepContext) -> dict[str, Any]:
        self._note(ctx, BEGAN)
        try:
            await asyncio.sleep(_HANG_S if self._trouble(ctx) == "hang" else self._pause_s(ctx))
            return self._done(ctx)
        finally:
            self._note(ctx, ENDED)

    def in_thread(self, ctx: StepContext) -> dict[str, Any]:
        self._note(ctx, BEGAN)
        try:
            time.sleep(_HANG_S if self._trouble(ctx) == "hang" else self._pause_s(ctx))
            return self._done(ctx)
        finally:
            self._note(ctx, ENDED)

    def _done(self, ctx: StepContext) -> dict[str, Any]:
        trouble = self._trouble(ctx)
        if trouble and self._strikes(ctx, trouble):
            if trouble == "die":
                os._exit(1)  # its side effect, the lines in the tally, is done; nobody has heard of it
            elif trouble == "huge":
                return {"value": "x" * _HUGE_BYTES, "draft": False, "flawed": False, "inherits_flaw": False}
            raise _Unpicklable
        seen = [ctx.outputs[parent] for parent in self._parents]
        return {
            "value": _value(ctx.run_id, self._step, [output["value"] for output in seen]),
            "draft": ctx.attempt == 0 and _share("draft", ctx.run_id, self._step) < 0.25,
            "flawed": self._step == _SUSPECT and ctx.lineage == 0,
            "inherits_flaw": any(output["flawed"] or output["inherits_flaw"] for output in seen),
        }

    def _trouble(self, ctx: StepContext) -> str:
        how: str = ctx.task.inputs["trouble"].get(self._step, "")
        return how if how != "hang" or self._strikes(ctx, how) else ""

    def _strikes(self, ctx: StepContext, how: str) -> bool:
        """Whether the step misbehaves now: once among all processes."""
        marks = Path(ctx.task.inputs["tally"] + ".marks")
        try:
            os.close(os.open(marks / f"{ctx.run_id}.{self._step}", os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return how == "huge"
        self._note(ctx, TROUBLE, how)
        return True

    def _pause_s(self, ctx: StepContext) -> float:
        return 0.02 + 0.08 * _share("pause", ctx.attempt_key)

    def _note(self, ctx: StepContext, kind: str, word: str = "") -> None:
        note(ctx.task.inputs["tally"], kind, ctx.run_id, self._step, ctx.lineage, ctx.attempt, word or ctx.idempotency_key)


class Judge(Verifier):
    """Takes 5 to 30 ms. Rejects drafts, and at the accuser what it inherited; only its second look finds the suspect's flaw."""

    async def verify(self, request: VerifyInput) -> VerificationResult:
        return await self._noted(request, self._verdict(request))

    async def second_opinion(self, request: VerifyInput, previous: str) -> VerificationResult | None:
        if request.output["flawed"]:
            found = VerificationResult.fail(ErrorType.HALLUCINATION, reasoning="flawed, on a second look", verifier="second look")
        else:
            found = VerificationResult.ok(verifier="second look")
        return await self._noted(request, found)

    def _verdict(self, request: VerifyInput) -> VerificationResult:
        output = request.output
        if output["draft"]:
            return VerificationResult.fail(ErrorType.INCOMPLETE, reasoning="a draft")
        if request.step.name == _ACCUSER and output["inherits_flaw"]:
            return VerificationResult.fail(ErrorType.CONTRADICTION, reasoning="it rests on a flaw", blame=_SUSPECT)
        return VerificationResult.ok()

    async def _noted(self, request: VerifyInput, found: VerificationResult) -> VerificationResult:
        tally, value = request.task.inputs["tally"], request.output["value"]
        call = (request.task.id, request.step.name, -1, request.attempt)
        note(tally, JUDGING, *call, value)
        await asyncio.sleep(0.005 + 0.025 * _share("verdict", *call))
        note(tally, JUDGED, *call, f"{'pass' if found.passed else 'reject'}:{value}")
        return found


def _pipeline(after: Mapping[str, tuple[str, ...]], name: str, resources: Callable[[int], dict[str, float] | None]) -> Pipeline:
    steps = []
    for position, (step, parents) in enumerate(after.items()):
        body = _Body(step, parents)
        fn = body.in_thread if position % 4 == 0 else body.on_loop
        steps.append(Step(step, fn, after=parents, timeout_s=STEP_TIMEOUT_S, resources=resources(position)))
    return Pipeline(steps, name=name)


_NODE_AFTER: dict[str, tuple[str, ...]] = {f"chain.{n}": (f"chain.{n - 1}",) if n else () for n in range(8)}

PIPELINE = _pipeline(_AFTER, "chaos", lambda _position: None)
NODE_PIPELINE = _pipeline(_NODE_AFTER, "chaos-nodes", lambda _position: {NODE_RESOURCE: 1})
JUDGE = Judge()
