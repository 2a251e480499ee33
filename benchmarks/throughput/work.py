"""The pipeline that is measured: a chain of steps that do nothing, judged by rules. Imported by the workers."""

from __future__ import annotations

from functools import cache

from agentraft_ray import Pipeline, RulesVerifier, Step, StepContext

__all__ = ["RULES", "chain_of"]

RULES = RulesVerifier()


async def _say(ctx: StepContext) -> str:
    return f"{ctx.step_name} of {ctx.task.goal} is done."


@cache
def chain_of(steps: int) -> Pipeline:
    """A chain of trivial asynchronous steps."""
    return Pipeline([Step(f"s{index}", _say) for index in range(steps)], name=f"throughput{steps}")


CHAIN = chain_of(10)
