"""How a coordinator bears many live runs: its memory per run, and its pace while they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from agentraft_ray import Task, wrap
from agentraft_ray.cluster import Cluster, ClusterCoordinator
from benchmarks.processes import rss_bytes
from benchmarks.throughput.work import RULES, waiting_chain_of

__all__ = ["ScaleSample", "measure_scale"]

_POLL_S = 0.2
_WAIT_S_MAX = 600.0
_WARM_UP_RUNS = 200
_BATCH = 1_000


class ScaleSample(msgspec.Struct, frozen=True):
    """`runs` live at a time. `bytes_per_run` = what the coordinator has grown by over them; `steps_per_s` until all of them wait."""

    runs: int
    bytes_per_run: float
    steps_per_s: float


def measure_scale(directory: Path, sizes: Iterable[int], steps: int, say: Callable[[str], None]) -> list[ScaleSample]:
    """Have so many runs do all steps but the last one, which waits for a person: then all of them are alive in one coordinator."""
    return [_measure(directory / str(runs), runs, steps, say) for runs in sizes]


def _measure(directory: Path, runs: int, steps: int, say: Callable[[str], None]) -> ScaleSample:
    say(f"{runs:,} live runs")
    sizes: dict[str, Any] = {"workers": 2, "worker_cpus": 0.0, "verifier_cpus": 0.0, "runs_max": runs + _BATCH}
    with Cluster.launch(name=f"scale{runs}", directory=directory, log_to_driver=False, **sizes) as cluster:
        made = wrap(waiting_chain_of(steps), cluster=cluster, verifier=RULES)
        assert isinstance(made, ClusterCoordinator)
        _submit(cluster, made, "warm", _WARM_UP_RUNS)
        _until_waiting(cluster, _WARM_UP_RUNS)
        pid = next(int(figures["pid"]) for name, figures in cluster.stats().items() if "/coordinator/" in name)
        before, started = rss_bytes(pid), time.perf_counter()
        _submit(cluster, made, "live", runs)
        _until_waiting(cluster, _WARM_UP_RUNS + runs)
        elapsed = time.perf_counter() - started
        return ScaleSample(runs, (rss_bytes(pid) - before) / runs, runs * (steps - 1) / elapsed)


def _submit(cluster: Cluster, made: ClusterCoordinator, name: str, runs: int) -> None:
    """Submit so many runs at once; nobody waits for their results."""

    def submit() -> None:
        for number in range(runs):
            run_id = f"{name}-{number}"
            cluster.follow(cluster.follower(made.blueprint, run_id, Task("measure", id=run_id)))

    cluster.background.call(submit)


def _until_waiting(cluster: Cluster, runs: int) -> None:
    deadline = time.monotonic() + _WAIT_S_MAX
    while time.monotonic() < deadline:
        figures = next(figures for name, figures in cluster.stats().items() if "/coordinator/" in name)
        if figures["waiting"] >= runs:
            return
        time.sleep(_POLL_S)
    raise RuntimeError(f"after {_WAIT_S_MAX:.0f} s not all of {runs:,} runs wait")
