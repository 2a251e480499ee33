"""One measurement in a process of its own, so that none sees another's memory: a `Probe` as JSON comes in, its figures go out."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable

import msgspec

from benchmarks.overhead.figures import Figures, Probe, ProbeKind
from benchmarks.overhead.load import measure_load
from benchmarks.overhead.memory import measure_live_runs, measure_long_run
from benchmarks.overhead.storage import measure_storage

_MEASURE: dict[ProbeKind, Callable[[Probe], Awaitable[Figures]]] = {
    "load": measure_load,
    "storage": measure_storage,
    "live": measure_live_runs,
    "long": measure_long_run,
}


async def _measure(probe: Probe) -> Figures:
    if probe.gc_threshold:
        gc.set_threshold(probe.gc_threshold, *gc.get_threshold()[1:])
    return await _MEASURE[probe.kind](probe)


if __name__ == "__main__":
    print(msgspec.json.encode(asyncio.run(_measure(msgspec.json.decode(sys.argv[1], type=Probe)))).decode())
