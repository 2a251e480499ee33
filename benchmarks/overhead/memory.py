"""Memory of this process: what a live run holds, and whether a very long run keeps growing. Needs a fresh process to mean anything."""

from __future__ import annotations

import asyncio
import gc
import time

from agentraft_ray import Pipeline, RulesVerifier, Step, StepContext, Task, wrap
from benchmarks.overhead.figures import LiveRuns, LongRun, Probe
from benchmarks.overhead.stores import open_bench
from benchmarks.processes import rss_bytes

__all__ = ["measure_live_runs", "measure_long_run"]

_START_S_MAX = 120.0


async def measure_live_runs(probe: Probe) -> LiveRuns:
    """Let all runs come to a gate in the middle of their pipeline and weigh the process before and then."""
    gate = asyncio.Event()
    everybody = asyncio.Event()
    waiting = 0
    expected = 1

    async def step(ctx: StepContext) -> str:
        nonlocal waiting
        if ctx.step_name == f"s{probe.steps // 2}":
            waiting += 1
            if waiting == expected:
                everybody.set()
            await gate.wait()
        return f"{ctx.step_name} is done."

    pipeline = Pipeline([Step(f"s{index}", step) for index in range(probe.steps)])
    async with open_bench(probe) as bench:
        coordinator = wrap(pipeline, verifier=RulesVerifier(), store=bench.store)
        gate.set()
        await coordinator.run(Task("warm up"))
        gate.clear()
        everybody.clear()
        waiting, expected = 0, probe.runs_at_a_time
        gc.collect()
        before = rss_bytes()
        runs = [asyncio.ensure_future(coordinator.run(Task("measure", id=f"live-{n}"))) for n in range(expected)]
        await asyncio.wait_for(everybody.wait(), _START_S_MAX)
        gc.collect()
        grown = rss_bytes() - before
        gate.set()
        for result in await asyncio.gather(*runs):
            result.raise_for_error()
        await coordinator.close()
    return LiveRuns(probe.store, expected, grown / expected)


async def measure_long_run(probe: Probe) -> LongRun:
    """One run of `probe.steps` steps; looks at clock and memory at 10 %, 50 % and 100 % of them."""
    at = {max(1, probe.steps * percent // 100) for percent in (10, 50, 100)}
    marks: list[tuple[int, float, int]] = []
    done = 0
    started = time.perf_counter()

    async def step(ctx: StepContext) -> str:
        nonlocal done
        done += 1
        if done in at:
            marks.append((done, time.perf_counter() - started, rss_bytes()))
        return f"{ctx.step_name} is done."

    pipeline = Pipeline.repeat(Step("step", step), probe.steps, name="long")
    async with open_bench(probe) as bench:
        coordinator = wrap(pipeline, verifier=RulesVerifier(), store=bench.store)
        cpu_before, started = time.process_time(), time.perf_counter()
        result = await coordinator.run(Task("measure", id="long"))
        result.raise_for_error()
        cpu_us = (time.process_time() - cpu_before) / probe.steps * 1e6
        await coordinator.close()
    return LongRun(probe.store, probe.steps, tuple(marks), cpu_us)
