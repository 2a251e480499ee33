"""Whole programs that are ended in the middle of their work: by Ctrl-C, by SIGTERM, by kill -9; another cluster goes on with their runs."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentraft_ray import Task, wrap
from agentraft_ray.cluster import Cluster
from tests.ray.pipelines import COUNT_20, executions
from tests.ray.programs import has_ended

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]
RUNS, STEPS, STEP_S = 10, 20, 0.15


class Busy:
    """The program that maps the counting pipeline on a cluster of its own, with a Ray of its own."""

    def __init__(self, name: str, directory: Path, tally: Path, environment: dict[str, str]) -> None:
        env = {**{name: value for name, value in environment.items() if name != "RAY_ADDRESS"}, "AGENTRAFT_LEASE_TTL_S": "2"}
        command = [sys.executable, "-m", "tests.ray.programs", "busy", name, str(directory), str(tally), str(RUNS), str(STEP_S)]
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.tally = tally
        self.run_ids = [f"{name}-{number}" for number in range(RUNS)]
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

    def end_when_busy(self, number: signal.Signals) -> int:
        """Wait until its runs are well under way, then send it a signal; the exit code."""
        self.wait_until_busy()
        self.process.send_signal(number)
        return self.process.wait(30)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        for reader, pipe in zip(self._readers, (self.process.stdout, self.process.stderr), strict=True):
            reader.join(10)
            assert pipe is not None
            pipe.close()

    def wait_until_gone(self, within_s: float, of: bytes = b"") -> None:
        """Until nothing is left of it: its Ray, its actors; `of` = only processes with this in their command line."""
        deadline = time.monotonic() + within_s
        while left := [line for pid in self.said[0]["pids"] if not has_ended(pid) and of in (line := command_line(pid))]:
            assert time.monotonic() < deadline, left
            time.sleep(0.05)


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")
    except OSError:
        return b""


@pytest.fixture
def start(short_directory: Path, tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[[str], Busy]]:
    """Starts a program; all of them use one data directory."""
    programs: list[Busy] = []

    def begin(name: str) -> Busy:
        programs.append(Busy(name, short_directory, tmp_path / name, environment))
        return programs[-1]

    yield begin
    for program in programs:
        program.close()


@contextmanager
def successor(directory: Path) -> Iterator[Cluster]:
    """Another cluster over the same data."""
    with Cluster.launch(name="successor", directory=directory, workers=1, worker_cpus=0.1) as cluster:
        yield cluster


def check_all_end(cluster: Cluster, program: Busy) -> None:
    handles = [cluster.handle(run_id) for run_id in program.run_ids]
    assert [handle.result(30).output for handle in handles] == [{"n": STEPS}] * RUNS
    assert len({(one.run_id, one.step) for one in executions(program.tally)}) == RUNS * STEPS


def test_programs_that_are_told_to_end_put_their_runs_aside_for_another_cluster(
    nodes: Any, start: Callable[[str], Busy], short_directory: Path
) -> None:
    interrupted, terminated = start("interrupted"), start("terminated")
    with ThreadPoolExecutor() as threads:
        codes = [threads.submit(interrupted.end_when_busy, signal.SIGINT), threads.submit(terminated.end_when_busy, signal.SIGTERM)]
    assert codes[0].result() in {-signal.SIGINT, 130}, "".join(interrupted.errors)
    assert codes[1].result() in {signal.SIGTERM, 143}, "".join(terminated.errors)
    for program in (interrupted, terminated):
        program.wait_until_gone(10)
    with successor(short_directory) as cluster:

        async def standing() -> set[tuple[str, tuple[str, ...]]]:
            async with wrap(COUNT_20, cluster=cluster) as coordinator:
                results = [await coordinator.result(run_id) for run_id in interrupted.run_ids + terminated.run_ids]
                return {(result.status, result.waiting_for) for result in results}

        assert asyncio.run(standing()) == {("waiting", ("drained",))}
        assert cluster.resume_all() == 2 * RUNS
        for program in (interrupted, terminated):
            check_all_end(cluster, program)
            assert len(executions(program.tally)) <= RUNS * (STEPS + 1), "more ran again than was under way"


def test_the_loss_of_a_whole_cluster_is_made_good_by_another_one(nodes: Any, start: Callable[[str], Busy], short_directory: Path) -> None:
    lost = start("lost")
    assert lost.end_when_busy(signal.SIGKILL) == -signal.SIGKILL
    lost.wait_until_gone(20, of=b"Actor")  # Ray's own agents take their time
    with successor(short_directory) as cluster:
        deadline = time.monotonic() + 20
        found = 0
        while found < RUNS:  # a run is nobody's when the lease of the lost cluster has ended
            found += cluster.resume_all()
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        check_all_end(cluster, lost)
        tasks = [Task("count", {"tally": str(lost.tally), "seconds": STEP_S}, id=run_id) for run_id in lost.run_ids]
        assert [result.output for result in cluster.map(COUNT_20, tasks)] == [{"n": STEPS}] * RUNS
    assert len(executions(lost.tally)) <= RUNS * (STEPS + 2)
