"""The command that measures the store and the runtime on this machine: what a verified, durable step costs here."""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import statistics
import time
from typing import TYPE_CHECKING, Any

import click

from agentraft_ray.cluster.cli.options import json_option, store_options
from agentraft_ray.cluster.cli.printing import Printer

if TYPE_CHECKING:
    from agentraft_ray.checkpoint.base import RunStore
    from agentraft_ray.cluster.settings import ClusterSettings

__all__ = ["bench"]

_WRITES = 50


@click.command()
@click.option("--runs", type=click.IntRange(1), default=300, show_default=True, help="Runs in all.")
@click.option("--steps", type=click.IntRange(1), default=10, show_default=True, help="Trivial steps of each.")
@click.option("--at-a-time", "widths", multiple=True, type=click.IntRange(1), default=(1, 64), show_default=True, help="Runs at once.")
@json_option
@store_options
def bench(runs: int, steps: int, widths: tuple[int, ...], printer: Printer, place: ClusterSettings) -> None:
    """Measure what a verified, durable step costs here: chains of trivial steps on the store, in this process, beside one bare durable
    write. The runs are removed afterwards. (`python -m benchmarks` in a checkout measures more.)

    \b
    Examples:
      agentraft bench
      agentraft bench --store redis://db:6379/0 --at-a-time 1 --at-a-time 256 --json
    """
    figures = asyncio.run(_measured(place, runs, steps, widths))
    if printer.as_json:
        printer.document(figures)
        return
    printer.line(f"{figures['store']}, {figures['cpus']} CPUs, Python {platform.python_version()}")
    printer.line(f"a bare durable write: {figures['write_ms']:.2f} ms (median of {_WRITES})")
    rows = [
        (one["at_a_time"], f"{one['steps_per_s']:,.0f}", f"{one['step_ms']:.2f}", f"{one['cpu_us_per_step']:,.0f}")
        for one in figures["loads"]
    ]
    printer.table(("runs at a time", "steps/s", "ms per step", "CPU us per step"), rows)


async def _measured(place: ClusterSettings, runs: int, steps: int, widths: tuple[int, ...]) -> dict[str, Any]:
    from agentraft_ray.checkpoint.connect import redact  # noqa: PLC0415
    from agentraft_ray.cluster.stores import store_of  # noqa: PLC0415

    store = store_of(place.model_copy(update={"prefix": f"{place.prefix}-bench"}))
    try:
        await store.open()
        writes = []
        for _ in range(_WRITES):
            started = time.perf_counter()
            await store.put_document("bench", b"")
            writes.append((time.perf_counter() - started) * 1e3)
        loads = [await _load(store, runs if width > 1 else max(1, runs // 10), steps, width) for width in widths]
    finally:
        await store.close()
    return {"store": redact(store.url), "cpus": os.cpu_count(), "write_ms": statistics.median(writes), "loads": loads}


async def _load(store: RunStore, runs: int, steps: int, width: int) -> dict[str, Any]:
    from agentraft_ray import Pipeline, RulesVerifier, Step, Task, wrap  # noqa: PLC0415

    pipeline = Pipeline([Step(f"s{number}", lambda ctx: ctx.step_name) for number in range(steps)], name="bench")
    room, stem = asyncio.Semaphore(width), f"bench-{secrets.token_hex(4)}"
    taken: list[float] = []
    async with wrap(pipeline, verifier=RulesVerifier(), store=store) as coordinator:  # type: ignore[arg-type]

        async def one(number: int) -> None:
            async with room:
                started = time.perf_counter()
                await coordinator.run(Task("bench", id=f"{stem}-{number}"))
                taken.append((time.perf_counter() - started) * 1e3 / steps)

        await one(-1)
        taken.clear()
        started, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*map(one, range(runs)))
        wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    for number in range(-1, runs):
        await store.delete_run(f"{stem}-{number}")
    made = runs * steps
    return {
        "at_a_time": width,
        "runs": runs,
        "steps": made,
        "steps_per_s": made / wall_s,
        "step_ms": statistics.median(taken),
        "cpu_us_per_step": cpu_s * 1e6 / made,
    }
