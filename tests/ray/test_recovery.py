"""Processes die by kill -9 while runs are under way: everything finishes, right, and no committed step runs again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentraft_ray import EventType, RunResult, Task, wrap
from agentraft_ray.cluster import Cluster
from tests.ray.pipelines import COUNT_20, executions

pytestmark = pytest.mark.ray

RUNS, STEPS, STEP_S = 50, 20, 0.05


@pytest.fixture(scope="module")
def hardy(nodes: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A deployment whose processes are killed; with a lease that ends while a test can wait for it."""
    import shutil
    import tempfile

    place = tempfile.mkdtemp(prefix="ark", dir="/tmp")
    with Cluster.launch(
        name="hardy", directory=place, workers=2, worker_cpus=0.25, verifiers=1, shards=2, lease_ttl_s=3.0, restarts_max=50
    ) as found:
        yield found
    shutil.rmtree(place, ignore_errors=True)


class Mapping(threading.Thread):
    """Maps the counting pipeline over `runs` tasks in a thread of its own."""

    def __init__(self, cluster: Cluster, tally: Path, runs: int = RUNS) -> None:
        super().__init__(daemon=True)
        self.cluster = cluster
        self.tally = tally
        self.tasks = [Task("count", {"tally": str(tally), "seconds": STEP_S}) for _ in range(runs)]
        self.results: list[RunResult] = []
        self.start()

    def run(self) -> None:
        self.results.extend(self.cluster.map(COUNT_20, self.tasks))

    def wait_for_steps(self, count: int, within_s: float = 30.0) -> None:
        deadline = time.monotonic() + within_s
        while len(executions(self.tally)) < count:
            assert time.monotonic() < deadline, f"{len(executions(self.tally))} steps in {within_s} s"
            time.sleep(0.02)


def pid_of(cluster: Cluster, name: str) -> int:
    return int(cluster.stats()[f"{cluster.name}/{name}"]["pid"])


def commits(cluster: Cluster, tasks: list[Task]) -> dict[tuple[str, str], float]:
    """(run, step) -> when it was committed, from the logs; each of them is there once."""
    import asyncio

    async def read() -> dict[tuple[str, str], float]:
        coordinator = wrap(COUNT_20, cluster=cluster)
        found: dict[tuple[str, str], float] = {}
        for task in tasks:
            async for event in coordinator.events(task.id):
                if event.type is EventType.STEP_COMMITTED:
                    assert (task.id, event.step_name) not in found, "a step was committed twice"
                    found[task.id, event.step_name] = event.at
        await coordinator.close()
        return found

    return asyncio.run(read())


def check(mapping: Mapping, struck_at: float, what: str) -> None:
    """Everything has come to its right end, nothing that was committed ran again; say how long it took to go on.

    The longest silence of one run says that best: runs that the killed process had nothing to do with go on as before.
    """
    mapping.join(50)
    assert not mapping.is_alive(), f"{len(mapping.results)} of {len(mapping.tasks)} runs have ended"
    assert [(one.success, one.output) for one in mapping.results] == [(True, {"n": STEPS})] * len(mapping.tasks), mapping.results
    committed = commits(mapping.cluster, mapping.tasks)
    assert len(committed) == STEPS * len(mapping.tasks)
    ran = executions(mapping.tally)
    again = [one for one in ran if one.at > committed[one.run_id, one.step]]
    assert again == [], "steps ran after they had been committed"
    nexts = [
        min((at for (run_id, _), at in committed.items() if run_id == task.id and at > struck_at), default=struck_at)
        for task in mapping.tasks
    ]
    first, last = min(nexts) - struck_at, max(nexts) - struck_at
    print(f"\n{what}: runs went on after {first:.2f} to {last:.2f} s; {len(ran) - len(committed)} steps ran that were not committed")


@pytest.mark.parametrize("victim", ["coordinator/0", "worker//0", "verifier/0", "store", "breaker"])
def test_runs_outlive_the_kill_of(victim: str, hardy: Cluster, tmp_path: Path) -> None:
    pid = pid_of(hardy, victim)
    mapping = Mapping(hardy, tmp_path / "tally")
    mapping.wait_for_steps(RUNS * 4)
    struck_at = time.time()
    os.kill(pid, signal.SIGKILL)
    check(mapping, struck_at, victim)
    eventually(lambda: f"hardy/{victim}" in hardy.stats() and pid_of(hardy, victim) != pid)


def test_runs_outlive_the_kill_of_the_store_s_server(hardy: Cluster, tmp_path: Path) -> None:
    mapping = Mapping(hardy, tmp_path / "tally")
    mapping.wait_for_steps(RUNS * 4)
    pid = server_of(hardy)
    struck_at = time.time()
    os.kill(pid, signal.SIGKILL)
    check(mapping, struck_at, "server")
    assert server_of(hardy) != pid


def test_a_coordinator_that_slept_past_its_lease_finds_its_runs_taken(hardy: Cluster, tmp_path: Path) -> None:
    pid = pid_of(hardy, "coordinator/0")
    mapping = Mapping(hardy, tmp_path / "tally")
    mapping.wait_for_steps(RUNS * 4)
    struck_at = time.time()
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(hardy_lease_s(hardy) * 2.5)  # the pause is what is tested
    finally:
        os.kill(pid, signal.SIGCONT)
    check(mapping, struck_at, "SIGSTOP of coordinator/0")


def hardy_lease_s(cluster: Cluster) -> float:
    return cluster._shard.limits.lease_ttl_s


def server_of(cluster: Cluster) -> int:
    """The pid of the server of its embedded store."""
    directory = str(cluster._shard.store.place).encode()
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes()
        except OSError:
            continue
        if b"server" in line.partition(b"\0")[0] and directory in line:
            found.append(int(file.parent.name))
    assert len(found) == 1, found
    return found[0]


def eventually(holds: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)
