"""The seed's quickstart on whatever agentraft_ray this interpreter finds; prints where that came from and what the run said."""

import agentraft_ray
import agentraft_ray.actors
import agentraft_ray.cluster
from agentraft_ray import Pipeline, RulesVerifier, Step, StepContext, Task, TieredVerifier, wrap


def research(ctx: StepContext) -> str:
    return f"Three findings about {ctx.task.goal}."


def analyse(ctx: StepContext) -> dict[str, int]:
    return {"findings": len(ctx.outputs["research"].split())}


async def write(ctx: StepContext) -> str:
    return f"A report on {ctx.outputs['analyse']['findings']} words of findings."


def main() -> dict[str, object]:
    pipeline = Pipeline([Step("research", research), Step("analyse", analyse), Step("write", write)])
    coordinator = wrap(pipeline, verifier=TieredVerifier(l1=RulesVerifier()))
    summary = coordinator.run_sync(Task("durable agents")).summary()
    assert (summary["success"], summary["verified"], summary["rollbacks"]) == (True, "3/3", 0), summary
    return {"package": agentraft_ray.__file__, "actors": agentraft_ray.actors.__file__, "verified": summary["verified"]}


if __name__ == "__main__":
    print(main())
