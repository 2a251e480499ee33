"""The pipelines that are measured: chains of steps that do nothing, judged by rules. Imported by the workers."""

from __future__ import annotations

from functools import cache

from agentraft_ray import Pipeline, RulesVerifier, Step, StepContext

__all__ = ["RULES", "chain_of", "waiting_chain_of"]

RULES = RulesVerifier()


async def _say(ctx: StepContext) -> str:
    return f"{ctx.step_name} of {ctx.task.goal} is done."


@cache
def chain_of(steps: int) -> Pipeline:
    """A chain of trivial asynchronous steps."""
    return Pipeline([Step(f"s{index}", _say) for index in range(steps)], name=f"throughput{steps}")


@cache
def waiting_chain_of(steps: int) -> Pipeline:
    """The same, but the last step runs only when a person lets it."""
    block = [Step(f"s{index}", _say) for index in range(steps - 1)]
    return Pipeline([*block, Step("last", _say, approve_before=True)], name=f"waiting{steps}")
