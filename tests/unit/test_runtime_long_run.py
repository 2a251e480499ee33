"""What a run keeps in memory does not grow with its steps, whether it was admitted here or read from its log."""

from __future__ import annotations

from agentraft_ray import InMemoryCheckpointStore, Pipeline, RulesVerifier, Step, StepContext, Task, wrap
from agentraft_ray.config import Limits
from agentraft_ray.runtime.results import Commits

_STEPS = 60


async def _step(ctx: StepContext) -> str:
    return f"{ctx.step_name} is done."


async def test_a_run_over_the_limit_keeps_no_commits_and_reads_its_steps_from_the_log(monkeypatch) -> None:
    made: list[Commits] = []

    begin = Commits.__init__
    monkeypatch.setattr(Commits, "__init__", lambda self, steps_max: begin(self, steps_max) or made.append(self))
    store, limits = InMemoryCheckpointStore(), Limits(result_steps_max=_STEPS - 1)
    coordinator = wrap(Pipeline.repeat(Step("step", _step), _STEPS), verifier=RulesVerifier(), store=store, limits=limits)
    result = await coordinator.run(Task("go", id="long"))
    again = await coordinator.result("long")
    assert made
    assert all(commits.by_step is None for commits in made)
    for found in (result, again):
        assert [step.status for step in found.steps] == ["committed"] * _STEPS
        assert found.steps[7].output == "step[7] is done."


async def test_small_outputs_do_not_fill_memory_beyond_the_limit() -> None:
    seen: list[int] = []

    async def step(ctx: StepContext) -> str:
        seen.append(len(ctx.outputs._outputs._cache))  # type: ignore[attr-defined]
        return "small"

    limits = Limits(cached_outputs_bytes_max=2_600)
    pipeline = Pipeline.repeat(Step("step", step), _STEPS)
    result = await wrap(pipeline, verifier=RulesVerifier(), store="memory", limits=limits).run(Task("go"))
    assert result.success
    assert max(seen) == 10
