"""Throughput and latency: N runs at a time of a chain of trivial steps, beside a loop that does the same without us."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import os
import time
from collections.abc import Awaitable, Callable
from typing import Self

import numpy as np

from agentraft_ray import Checkpoint, Pipeline, RulesVerifier, Step, StepContext, Task, VerifyInput, wrap
from benchmarks.overhead.figures import Load, Probe, Sample
from benchmarks.overhead.stores import Bench, open_bench

__all__ = ["chain_of", "measure_load"]

_WARM_UP_RUNS = 200
_REPETITION_RUNS_MAX = 200_000

RunOnce = Callable[[str], Awaitable[None]]


async def _say(ctx: StepContext) -> str:
    return f"{ctx.step_name} of {ctx.task.goal} is done."


def chain_of(steps: int) -> Pipeline:
    """A chain of trivial asynchronous steps."""
    return Pipeline([Step(f"s{index}", _say) for index in range(steps)], name="overhead")


async def measure_load(probe: Probe) -> Load:
    """Repeat: our runs, then the baseline's, so that what else the machine does falls on both."""
    async with open_bench(probe) as bench:
        baseline_name, baseline = _baseline(bench, probe.steps)
        coordinator = wrap(chain_of(probe.steps), verifier=RulesVerifier(), store=bench.store)

        async def ours(run_id: str) -> None:
            result = await coordinator.run(Task("measure", id=run_id))
            if not result.success:
                raise RuntimeError(f"run {run_id} failed under load: {result.error}")

        loads = [_ClosedLoop(probe, bench, ours), _ClosedLoop(probe, bench, baseline)]
        for load in loads:
            await load.warm_up()
        samples = [[await load.repetition() for load in loads] for _ in range(probe.repetitions)]
        await coordinator.close()
        return Load(
            probe.store,
            probe.runs_at_a_time,
            loads[0].runs,
            baseline_name,
            tuple(pair[0] for pair in samples),
            tuple(pair[1] for pair in samples),
            bench.facts(),
        )


class _ClosedLoop:
    """As many workers as runs at a time; each starts its next run when its last one has ended."""

    def __init__(self, probe: Probe, bench: Bench, run_once: RunOnce) -> None:
        self._probe = probe
        self._bench = bench
        self._run_once = run_once
        self._next_id = 0
        self._rounds = 1

    @property
    def runs(self) -> int:
        """Runs in one repetition."""
        return self._rounds * self._probe.runs_at_a_time

    async def warm_up(self) -> None:
        """Run a little, and find how many rounds a repetition needs to last long enough."""
        at_a_time = self._probe.runs_at_a_time
        self._rounds = max(1, _WARM_UP_RUNS // at_a_time)
        rate = (await self.repetition()).steps_per_s
        wanted = rate * self._probe.seconds / (at_a_time * self._probe.steps)
        self._rounds = max(1, min(math.ceil(wanted), _REPETITION_RUNS_MAX // at_a_time))

    async def repetition(self) -> Sample:
        taken: list[float] = []
        probe, bench = self._probe, self._bench
        server_before, python_before, started = bench.server_cpu_s(), time.process_time(), time.perf_counter()
        with _CollectorClock() as collector:
            await asyncio.gather(*(self._worker(taken) for _ in range(probe.runs_at_a_time)))
        elapsed = time.perf_counter() - started
        steps = len(taken) * probe.steps
        p50, p99 = np.percentile(taken, [50, 99])
        return Sample(
            steps / elapsed,
            float(p50) / probe.steps * 1e6,
            float(p99) / probe.steps * 1e6,
            (time.process_time() - python_before) / steps * 1e6,
            (bench.server_cpu_s() - server_before) / steps * 1e6,
            collector.seconds / steps * 1e6,
        )

    async def _worker(self, taken: list[float]) -> None:
        for _ in range(self._rounds):
            self._next_id += 1
            run_id = f"{os.getpid()}-{self._next_id}"
            started = time.perf_counter()
            await self._run_once(run_id)
            taken.append(time.perf_counter() - started)


class _CollectorClock:
    """How long Python's garbage collector worked while this was open: it visits every live object, so it grows with the live runs."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def __enter__(self) -> Self:
        gc.callbacks.append(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._note)

    def _note(self, phase: str, _info: object) -> None:
        if phase == "start":
            self._started = time.perf_counter()
        else:
            self.seconds += time.perf_counter() - self._started


def _baseline(bench: Bench, steps: int) -> tuple[str, RunOnce]:
    """Without a server: the steps and their verdicts alone. With one: the same, and an unfenced RPUSH of a checkpoint per step."""
    pipeline, verifier = chain_of(steps), RulesVerifier()
    client = bench.client() if bench.has_server else None

    async def run_once(run_id: str) -> None:
        task = Task("measure", id=run_id)
        history: list[tuple[str, object]] = []
        for index, step in enumerate(pipeline.steps):
            output = await step.fn(StepContext(task=task, outputs=dict(history), run_id=run_id, step_name=step.name))
            verdict = await verifier.verify(VerifyInput(task, step, output, history))
            if client is not None:
                checkpoint = Checkpoint(run_id, index, step.name, output, 0, verdict.to_dict())
                await client.rpush(f"{bench.prefix}:loop:{run_id}", json.dumps(checkpoint.to_dict()))
            history.append((step.name, output))

    return ("RPUSH loop" if client is not None else "bare loop"), run_once
