"""A coordinator with its workers, verifiers, breaker and store, in one process: what a run goes through, and what its client is told."""

from __future__ import annotations

import asyncio

import pytest

from agentraft_ray import Step
from agentraft_ray.pipeline import StepContext
from tests.actors.local_cluster import LocalCluster

pytestmark = pytest.mark.server


def say(name: str) -> Step:
    async def run(ctx: StepContext) -> str:
        await asyncio.sleep(0)
        return f"This is {name} of {ctx.task.goal}."

    return Step(name, run)


async def test_a_run_of_ten_steps_ends_with_its_last_output(cluster: LocalCluster) -> None:
    client = await cluster.client()
    blueprint = client.host([say(f"s{n}") for n in range(10)])
    result = await client.run(blueprint, "run")
    assert result.success
    assert result.output == "This is s9 of goal."
    assert result.verified_count == 10
    assert len(cluster.tally.ran) == 10
    await cluster.check("run")
