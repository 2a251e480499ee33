"""The figures as tables for people. Nothing is measured here, and nothing that was measured is left out."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

from benchmarks.machine import Machine
from benchmarks.overhead.figures import LiveRuns, Load, LongRun, Sample, Storage

__all__ = ["AIM_RUNS", "AIM_STEPS_PER_S", "LINEAR_WITHIN", "report"]

AIM_STEPS_PER_S = 10_000  # verified and fsync-durable, at AIM_RUNS runs at a time, on two free cores
AIM_RUNS = 1_000
LINEAR_WITHIN = 0.10

_MIB = 1024 * 1024


def report(
    machine: Machine, loads: Sequence[Load], storages: Sequence[Storage], lives: Sequence[LiveRuns], longs: Sequence[LongRun]
) -> str:
    """All of it."""
    lines = [
        f"{machine.cores} cores ({machine.cpu}), load {machine.load:.1f} before the start",
        f"{machine.python}; {machine.disk} with {machine.fsync_us:,.0f} us per small write and fdatasync",
        *(["this disk is memory: nothing here is durable, the figures show the software alone"] if machine.disk == "tmpfs" else []),
        *_load_lines(loads),
        *_storage_lines(storages),
        *_memory_lines(lives, longs),
    ]
    return "\n".join(lines)


def _load_lines(loads: Sequence[Load]) -> Iterator[str]:
    if not loads:
        return
    yield "\nThroughput: chains of trivial async steps, each verified (rules) and logged; medians of the repetitions"
    yield (
        f"{'store':<10} {'runs':>5} {'steps/s':>9} {'spread':>7} {'p50/step':>10} {'p99/step':>10} "
        f"{'python CPU':>11} {'of it GC':>9} {'server CPU':>11} {'baseline':>11} {'steps/s':>9} {'CPU':>8} {'ours/its':>9}"
    )
    for load in loads:
        yield (
            f"{_short(load.store):<10} {load.runs_at_a_time:>5,} {load.steps_per_s:>9,.0f} {load.spread:>6.0%} "
            f"{_us(load.ours, lambda s: s.p50_us):>10} {_us(load.ours, lambda s: s.p99_us):>10} "
            f"{_us(load.ours, lambda s: s.python_cpu_us):>11} {_us(load.ours, lambda s: s.gc_us):>9} "
            f"{_us(load.ours, lambda s: s.server_cpu_us):>11} "
            f"{load.baseline_name:>11} {_median(load.baseline, lambda s: s.steps_per_s):>9,.0f} "
            f"{_us(load.baseline, lambda s: s.python_cpu_us):>8} {load.ratio:>8.2f}x"
        )
    yield from _server_lines(loads)
    yield from _aim_lines(loads)


def _server_lines(loads: Sequence[Load]) -> Iterator[str]:
    for load in loads:
        if load.server is not None:
            yield (
                f"  {_short(load.store)} at {load.runs_at_a_time:,}: {load.server.version}, appendfsync {load.server.appendfsync}, "
                f"{load.server.connections} connections opened (the baseline's included), {load.server.rejected} rejected"
            )


def _aim_lines(loads: Sequence[Load]) -> Iterator[str]:
    for load in loads:
        if load.runs_at_a_time != AIM_RUNS or load.server is None or load.server.appendfsync != "always":
            continue
        python_us = _median(load.ours, lambda s: s.python_cpu_us)
        server_us = _median(load.ours, lambda s: s.server_cpu_us)
        verdict = "MET" if load.steps_per_s >= AIM_STEPS_PER_S else "NOT MET"
        yield (
            f"  aim: {AIM_STEPS_PER_S:,} fsync-durable steps/s at {AIM_RUNS:,} runs at a time: {verdict} ({load.steps_per_s:,.0f}); by CPU "
            f"alone, a core for Python allows {1e6 / python_us:,.0f}"
            + (f" and one for the server {1e6 / server_us:,.0f}" if server_us else "")
        )


def _storage_lines(storages: Sequence[Storage]) -> Iterator[str]:
    if storages:
        yield "\nStorage of one run: bytes of records and blobs, and of the server's append-only file"
    for storage in storages:
        for steps, size in sorted(storage.log_bytes.items()):
            on_disk = f", {storage.file_bytes[steps] / steps:,.0f} on disk" if storage.file_bytes[steps] else ""
            yield f"  {_short(storage.store):<10} {steps:>6,} steps: {size:>9,} bytes, {size / steps:,.0f} per step{on_disk}"
        low, high = storage.slopes
        verdict = "PASS" if abs(high / low - 1) <= LINEAR_WITHIN else "FAIL"
        growth = f"{low:,.1f} bytes per further step, then {high:,.1f} ({high / low - 1:+.1%})"
        yield f"  {_short(storage.store):<10} {growth}; linear within {LINEAR_WITHIN:.0%}: {verdict}"


def _memory_lines(lives: Sequence[LiveRuns], longs: Sequence[LongRun]) -> Iterator[str]:
    if lives or longs:
        yield "\nMemory of the Python process"
    for live in lives:
        yield (
            f"  {_short(live.store):<10} {live.bytes_per_run / 1024:,.1f} KiB per live run "
            f"({live.runs:,} runs in the middle of their pipeline)"
        )
    for long in longs:
        at = "; ".join(f"at {steps:,}: {rss / _MIB:,.1f} MiB, {seconds:,.1f} s" for steps, seconds, rss in long.marks)
        (first, _, before), (last, _, after) = long.marks[0], long.marks[-1]
        yield f"  {_short(long.store):<10} one run of {long.steps:,} steps: {at}"
        yield (
            f"  {'':<10} {(after - before) / _MIB:+,.1f} MiB from the first mark to the last, "
            f"{(after - before) / (last - first):,.0f} bytes per step; {long.python_cpu_us:,.0f} us Python CPU per step"
        )


def _short(store: str) -> str:
    return store if "://" not in store else "server"


def _median(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    return statistics.median(map(of, samples))


def _us(samples: Sequence[Sample], of: Callable[[Sample], float]) -> str:
    return f"{_median(samples, of):,.0f} us"
