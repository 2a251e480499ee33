"""Our side: a deployment in a Ray session, kept busy with a number of runs at a time, and what one repetition of that costs."""

from __future__ import annotations

import itertools
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from agentraft_ray import Task
from agentraft_ray.checkpoint.embedded import EmbeddedServer
from agentraft_ray.cluster import Cluster
from benchmarks.processes import CpuMeter, rss_bytes
from benchmarks.throughput.work import RULES, chain_of

__all__ = ["LoadSample", "OurLoad", "OursSample", "measure_ours", "our_load"]

_WARM_UP_STEPS = 3_000


class LoadSample(msgspec.Struct, frozen=True):
    """One repetition. Latencies are the whole time of a run over its steps, in milliseconds; counts and CPU are per committed step."""

    runs_at_a_time: int
    runs: int
    steps: int
    seconds: float
    p50_ms: float
    p99_ms: float
    worker_messages: float
    store_messages: float
    store_round_trips: float
    cpu_us: dict[str, float]
    coordinator_rss_mib: float

    @property
    def steps_per_s(self) -> float:
        return self.steps / self.seconds


class OursSample(msgspec.Struct, frozen=True):
    """What the comparison with the peers needs of a repetition."""

    steps_per_s: float
    settings: dict[str, Any]


class OurLoad:
    """A deployment ready to be measured as often as one likes; `our_load` opens and closes it."""

    def __init__(self, cluster: Cluster, directory: Path, shards: int, workers: int) -> None:
        self.cluster = cluster
        self.settings = {"shards": shards, "workers": workers, "durability": "fsync", "store": "embedded", "verifier": RULES.identity}
        stats = cluster.stats()
        pids: dict[str, list[int]] = {}
        for name, figures in stats.items():
            pids.setdefault(f"{name.split('/')[1]}s", []).append(int(figures["pid"]))
        server = EmbeddedServer(directory).pid
        assert server is not None
        self._coordinators = pids["coordinators"]
        self._meter = CpuMeter(pids | {"server": [server], "driver": [os.getpid()]}, ray_worker=self._coordinators[0])
        self._rounds: dict[tuple[int, int], int] = {}

    def repetition(self, runs: int, steps: int = 10, *, seconds: float = 1.0) -> LoadSample:
        """Keep `runs` runs of `steps` steps going for about `seconds`; the first one of its kind is preceded by a warm-up."""
        rounds = self._rounds.get((runs, steps))
        if rounds is None:
            warm_up = self._measure(runs, steps, max(runs, _WARM_UP_STEPS // steps))
            rounds = self._rounds[runs, steps] = max(1, round(warm_up.steps_per_s * seconds / steps))
        return self._measure(runs, steps, max(runs, rounds))

    def _measure(self, runs_at_a_time: int, steps: int, runs: int) -> LoadSample:
        prefix = secrets.token_hex(4)
        tasks = (Task("measure", id=f"{prefix}-{number}") for number in itertools.islice(itertools.count(), runs))
        before, cpu_before, started = self.cluster.stats(), self._meter.read(), time.perf_counter()
        taken = np.empty(runs)
        for number, result in enumerate(self.cluster.map(chain_of(steps), tasks, at_a_time=runs_at_a_time, verifier=RULES)):
            if not result.success:
                raise RuntimeError(f"run {result.run_id} failed under load: {result.error}")
            taken[number] = result.elapsed_ms
        elapsed = time.perf_counter() - started
        spent, after = self._meter.used(cpu_before, self._meter.read()), self.cluster.stats()
        done = runs * steps
        p50, p99 = np.percentile(taken / steps, [50, 99])
        return LoadSample(
            runs_at_a_time,
            runs,
            done,
            elapsed,
            float(p50),
            float(p99),
            _grown(before, after, "coordinator", "worker_messages") / done,
            _grown(before, after, "store", "calls") / done,
            _grown(before, after, "store", "round_trips") / done,
            {role: used / done * 1e6 for role, used in spent.items()},
            sum(map(rss_bytes, self._coordinators)) / 2**20,
        )


@contextmanager
def our_load(directory: Path, *, shards: int = 1, workers: int = 2) -> Iterator[OurLoad]:
    """A deployment over an embedded server in `directory`, in this process's Ray session or one of its own.

    Its actors claim no CPUs, so that other programs of a benchmark find room beside it.
    """
    name = f"bench{secrets.token_hex(3)}"
    sizes: dict[str, Any] = {"shards": shards, "workers": workers, "worker_cpus": 0.0, "verifier_cpus": 0.0}
    with Cluster.launch(name=name, directory=directory, log_to_driver=False, **sizes) as cluster:
        yield OurLoad(cluster, directory, shards, workers)


def measure_ours(runs_at_a_time: int, steps: int, seconds: float) -> OursSample:
    """One repetition in a deployment of its own, for the comparison with the peers."""
    with tempfile.TemporaryDirectory(prefix="ours-") as work, our_load(Path(work)) as load:
        sample = load.repetition(runs_at_a_time, steps, seconds=seconds)
        return OursSample(sample.steps_per_s, load.settings)


def _grown(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]], role: str, figure: str) -> float:
    """How much a figure of all actors of a role has grown."""
    names = [name for name in after if f"/{role}" in name and name in before]
    return sum(float(after[name].get(figure, 0)) - float(before[name].get(figure, 0)) for name in names)
