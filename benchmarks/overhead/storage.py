"""How a run's log grows with its steps: a line, or the whole history again at every step?"""

from __future__ import annotations

from agentraft_ray import RulesVerifier, Task, wrap
from benchmarks.overhead.figures import Probe, Storage
from benchmarks.overhead.load import chain_of
from benchmarks.overhead.stores import open_bench

__all__ = ["SIZES", "measure_storage"]

SIZES = (10, 100, 1_000)


async def measure_storage(probe: Probe) -> Storage:
    """Run a chain of each size once and weigh what is left of it."""
    log_bytes, file_bytes = {}, {}
    async with open_bench(probe) as bench:
        for steps in SIZES:
            before = bench.file_bytes()
            run_id = f"storage-{steps}"
            coordinator = wrap(chain_of(steps), verifier=RulesVerifier(), store=bench.store)
            result = await coordinator.run(Task("measure", id=run_id))
            meta = await bench.store.meta(run_id)
            if not result.success or meta is None:
                raise RuntimeError(f"run {run_id} failed: {result.error}")
            log_bytes[steps] = meta.size_bytes
            file_bytes[steps] = bench.file_bytes() - before
    return Storage(probe.store, log_bytes, file_bytes)
