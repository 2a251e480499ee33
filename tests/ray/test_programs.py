"""Whole programs that are ended in the middle of their work: by Ctrl-C, by SIGTERM, by kill -9; another cluster goes on with their runs."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentraft_ray import Task, wrap
from agentraft_ray.cluster import Cluster
from tests.ray.pipelines import COUNT_20, executions
from tests.ray.programs import is_zombie

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]
RUNS, STEPS, STEP_S = 10, 20, 0.1


class Busy:
    """The program that maps the counting pipeline on a cluster of its own, with a Ray of its own."""

    def __init__(self, directory: Path, tally: Path, environment: dict[str, str]) -> None:
        env = {**{name: value for name, value in environment.items() if name != "RAY_ADDRESS"}, "AGENTRAFT_LEASE_TTL_S": "2"}
        command = [sys.executable, "-m", "tests.ray.programs", "busy", str(directory), str(tally), str(RUNS), str(STEP_S)]
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.tally = tally
        self.said: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self._readers = [threading.Thread(target=self._hear, daemon=True), threading.Thread(target=self._hear_errors, daemon=True)]
        for reader in self._readers:
            reader.start()

    def _hear(self) -> None:
        assert self.process.stdout is not None
        self.said.extend(json.loads(line) for line in self.process.stdout if line.startswith("{"))

    def _hear_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(self.process.stderr)

    def wait_until_busy(self) -> None:
        deadline = time.monotonic() + 40
        while len(executions(self.tally)) < RUNS * 3:
            assert self.process.poll() is None, "".join(self.errors)
            assert time.monotonic() < deadline, "it never got to work"
            time.sleep(0.05)

    def end(self, number: signal.Signals) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(30)
        for reader in self._readers:
            reader.join(10)
        return code

    def wait_until_gone(self, within_s: float) -> None:
        """Until nothing is left of it: its Ray, its actors, its server."""
        deadline = time.monotonic() + within_s
        while left := [pid for pid in self.said[0]["pids"] if Path(f"/proc/{pid}").exists() and not is_zombie(pid)]:
            assert time.monotonic() < deadline, [Path(f"/proc/{pid}/cmdline").read_bytes()[:200] for pid in left]
            time.sleep(0.05)


@pytest.fixture
def busy(short_directory: Path, tmp_path: Path, environment: dict[str, str]) -> Iterator[Busy]:
    program = Busy(short_directory, tmp_path / "tally", environment)
    yield program
    if program.process.poll() is None:
        program.process.kill()


@contextmanager
def successor(directory: Path) -> Iterator[Cluster]:
    """Another cluster over the same data."""
    with Cluster.launch(name="successor", directory=directory, workers=1, worker_cpus=0.1) as cluster:
        yield cluster


def check_all_end(cluster: Cluster, tally: Path) -> None:
    handles = [cluster.handle(f"busy-{number}") for number in range(RUNS)]
    assert [handle.result(30).output for handle in handles] == [{"n": STEPS}] * RUNS
    assert len({(one.run_id, one.step) for one in executions(tally)}) == RUNS * STEPS


@pytest.mark.parametrize(("number", "codes"), [(signal.SIGINT, {-signal.SIGINT, 130}), (signal.SIGTERM, {signal.SIGTERM, 143})])
def test_a_program_that_is_told_to_end_puts_its_runs_aside_for_another_cluster(
    nodes: Any, busy: Busy, short_directory: Path, number: signal.Signals, codes: set[int]
) -> None:
    busy.wait_until_busy()
    code = busy.end(number)
    assert code in codes, "".join(busy.errors)
    busy.wait_until_gone(10)
    before = executions(busy.tally)
    with successor(short_directory) as cluster:

        async def standing() -> set[tuple[str, tuple[str, ...]]]:
            async with wrap(COUNT_20, cluster=cluster) as coordinator:
                results = [await coordinator.result(f"busy-{number}") for number in range(RUNS)]
                return {(result.status, result.waiting_for) for result in results}

        assert asyncio.run(standing()) == {("waiting", ("drained",))}
        assert cluster.resume_all() == RUNS
        check_all_end(cluster, busy.tally)
    # What was drained had nothing under way that counted: at most the step that was running runs again.
    assert len(executions(busy.tally)) <= RUNS * (STEPS + 1)
    assert len(before) < RUNS * STEPS


def test_the_loss_of_a_whole_cluster_is_made_good_by_another_one(nodes: Any, busy: Busy, short_directory: Path) -> None:
    busy.wait_until_busy()
    assert busy.end(signal.SIGKILL) == -signal.SIGKILL
    busy.wait_until_gone(20)
    with successor(short_directory) as cluster:
        deadline = time.monotonic() + 20
        found = 0
        while found < RUNS:  # a run is nobody's when the lease of the lost cluster has ended
            found += cluster.resume_all()
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        check_all_end(cluster, busy.tally)
        again = list(
            cluster.map(COUNT_20, [Task("count", {"tally": str(busy.tally), "seconds": STEP_S}, id=f"busy-{n}") for n in range(RUNS)])
        )
    assert [result.output for result in again] == [{"n": STEPS}] * RUNS
    assert len(executions(busy.tally)) <= RUNS * (STEPS + 2)
