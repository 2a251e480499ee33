"""Pipelines that workers import by path, and an outside tally: a line in a file for every execution of a step."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from agentraft_ray import AheadBy, Pipeline, Step, StepContext


class Execution(NamedTuple):
    """One execution of a step function, as it noted itself."""

    run_id: str
    step: str
    lineage: int
    pid: int
    at: float


def note(ctx: StepContext) -> None:
    """Append this execution to the file that the task names; whole lines, whatever dies meanwhile."""
    line = json.dumps([ctx.run_id, ctx.step_name, ctx.lineage, os.getpid(), time.time()]) + "\n"
    file = os.open(ctx.task.inputs["tally"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def executions(tally: Path) -> list[Execution]:
    """What was noted."""
    return [Execution(*json.loads(line)) for line in tally.read_text().splitlines()] if tally.exists() else []


def executions_of(tally: Path) -> Counter[str]:
    """How often each step was executed, by its name."""
    return Counter(one.step for one in executions(tally))


# --- the seed's quickstart --------------------------------------------------------------------------------------------------------


def research(ctx: StepContext) -> str:
    return f"Three findings about {ctx.task.goal}."


def analyse(ctx: StepContext) -> dict[str, int]:
    return {"findings": len(ctx.outputs["research"].split())}


async def write(ctx: StepContext) -> str:
    return f"A report on {ctx.outputs['analyse']['findings']} words of findings."


QUICKSTART = Pipeline([Step("research", research), Step("analyse", analyse), Step("write", write)], name="quickstart")


# --- counting ---------------------------------------------------------------------------------------------------------------------


def _before(ctx: StepContext) -> int:
    number = int(ctx.step_name.removeprefix("s"))
    return ctx.outputs[f"s{number - 1:02}"]["n"] if number else int(ctx.task.inputs.get("from", 0))


async def count(ctx: StepContext) -> dict[str, int]:
    """One more than the step before; notes itself, and takes `seconds` of the task."""
    note(ctx)
    await asyncio.sleep(ctx.task.inputs.get("seconds", 0.0))
    return {"n": _before(ctx) + 1}


def count_in_thread(ctx: StepContext) -> dict[str, int]:
    """The same as a sync step."""
    note(ctx)
    time.sleep(ctx.task.inputs.get("seconds", 0.0))
    return {"n": _before(ctx) + 1}


COUNT_20 = Pipeline([Step(f"s{number:02}", count) for number in range(20)], name="count 20")
COUNT_3 = Pipeline([Step("s00", count), Step("s01", count_in_thread), Step("s02", count)], name="count 3")
COUNT_3_ASKING = Pipeline([Step("s00", count), Step("s01", count, needs_approval=True), Step("s02", count)], name="count 3, asking")


async def grumble(ctx: StepContext) -> str:
    """Raises at the first attempt."""
    if not ctx.is_retry:
        raise ValueError("not in the mood")
    return "fine"


GRUMBLING = Pipeline([Step("grumble", grumble)], name="grumbling")


async def vote(ctx: StepContext) -> str:
    return "yes" if ctx.sample != 1 else "no"


VOTING = Pipeline([Step("vote", vote, samples=AheadBy(2))], name="voting")


# --- placement and isolation ------------------------------------------------------------------------------------------------------


async def where(ctx: StepContext) -> str:
    """The id of the node that it runs on."""
    import ray

    if "tally" in ctx.task.inputs:
        note(ctx)
    return ray.get_runtime_context().get_node_id()


ON_ACCELERATOR = Pipeline([Step("anywhere", where), Step("there", where, resources={"accelerator": 1})], name="on an accelerator")
ON_GPU = Pipeline([Step("there", where, num_gpus=1)], name="on a GPU")


async def linger(ctx: StepContext) -> str:
    await asyncio.sleep(1.5)
    return f"{os.getpid()}"


LINGERING = Pipeline([Step("linger", linger, resources={"seat": 1})], name="lingering")


def hang(ctx: StepContext) -> str:
    """The first attempt ticks into the tally for ever; nothing in Python can end its thread."""
    while not ctx.is_retry:
        note(ctx)
        time.sleep(0.05)
    return "done"


HANGING = Pipeline([Step("hang", hang, isolate="process", timeout_s=1.0)], name="hanging")
