"""Two pipelines of three steps: the middle step of one breaks while a file says so, the other one must not notice.

Imported by the workers. Every execution of a middle step is noted from outside the library (`benchmarks.chaos.tally`).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import Any

from agentraft_ray import ErrorType, Pipeline, Step, StepContext, VerificationResult, Verifier, VerifyInput
from benchmarks.chaos.tally import BEGAN, ENDED, note

__all__ = ["CONVERT", "CONVERT_S", "FRAGILE", "JUDGE", "STEADY", "expected"]

CONVERT = "convert"
CONVERT_S = 0.05


def expected(run: str) -> str:
    """The output of a run."""
    return f"published: converted: sources of {run}"


def _share(run: str) -> float:
    """A number in [0, 1) that depends on the run alone."""
    return int.from_bytes(hashlib.sha256(run.encode()).digest()[:6]) / 2**48


async def _gather(ctx: StepContext) -> str:
    await asyncio.sleep(ctx.task.inputs["spread_s"] * _share(ctx.run_id))
    return f"sources of {ctx.run_id}"


async def _convert(ctx: StepContext) -> str:
    inputs: dict[str, Any] = ctx.task.inputs
    call = (ctx.run_id, CONVERT, ctx.lineage, ctx.attempt)
    note(inputs["tally"], BEGAN, *call, ctx.idempotency_key)
    await asyncio.sleep(CONVERT_S)
    is_broken = bool(inputs["broken"]) and os.access(inputs["broken"], os.F_OK)
    note(inputs["tally"], ENDED, *call, ctx.idempotency_key)
    return "garbage" if is_broken else f"converted: {ctx.outputs['gather']}"


async def _publish(ctx: StepContext) -> str:
    return f"published: {ctx.outputs[CONVERT]}"


class Judge(Verifier):
    """Rejects garbage."""

    async def verify(self, request: VerifyInput) -> VerificationResult:
        if request.output == "garbage":
            return VerificationResult.fail(ErrorType.HALLUCINATION, reasoning="nothing of the sources is in it")
        return VerificationResult.ok()


def _pipeline(name: str) -> Pipeline:
    return Pipeline([Step("gather", _gather), Step(CONVERT, _convert), Step("publish", _publish)], name=name)


FRAGILE = _pipeline("fragile")
STEADY = _pipeline("steady")
JUDGE = Judge()
