"""The bare loop: it does what it says with plain objects, its CPU accounting adds up, and it measures on a real Ray session."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from agentraft_ray.checkpoint.server_binary import find_server
from benchmarks.bare_loop.actors import BATCH_MAX, BareCoordinator, BareWorker
from benchmarks.bare_loop.command import Measurement, lines_of
from benchmarks.bare_loop.loop import LoopSample, measure
from benchmarks.machine import describe_machine
from benchmarks.processes import CpuMeter, cpu_s, ray_processes
from tests.store.servers import TestServer, running

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server() -> Iterator[TestServer]:
    with running(find_server().path) as started:
        yield started


class _Handle:
    """Looks like a Ray handle to a plain worker, and notes the batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.run = SimpleNamespace(remote=self._run)

    async def _run(self, places: list[Any]) -> Any:
        self.batches.append(len(places))
        await asyncio.sleep(0)
        return await BareWorker().run(places)


async def test_every_run_has_all_its_steps_in_order_in_the_log(server: TestServer) -> None:
    handles = [_Handle(), _Handle()]
    coordinator = BareCoordinator(handles, str(server.socket))
    assert await coordinator.seconds("p:", runs=600, steps=3, rounds=2) > 0
    with server.client() as client:
        logs = {key: client.lrange(key, 0, -1) for key in client.scan_iter("p:*", count=1_000)}
    assert len(logs) == 1_200
    assert all([json.loads(entry)["index"] for entry in log] == [0, 1, 2] for log in logs.values())
    assert max(handles[0].batches) == BATCH_MAX
    await coordinator.unlink("p:", 1_200)
    with server.client() as client:
        assert client.dbsize() == 0
    await coordinator._client.aclose()


async def test_a_refused_append_ends_the_measurement_instead_of_making_a_figure(server: TestServer) -> None:
    with server.client() as client:
        client.rpush("p:1", "somebody else's")
    coordinator = BareCoordinator([_Handle()], str(server.socket))
    with pytest.raises(ExceptionGroup) as raised:
        await coordinator.seconds("p:", runs=4, steps=2, rounds=1)
    assert "an append to p:1 was refused" in str(raised.value.exceptions[0])
    await coordinator._client.aclose()


def test_a_server_that_does_not_fsync_every_write_is_refused() -> None:
    with running(find_server().path, appendfsync="everysec") as server, pytest.raises(ValueError, match="appendfsync everysec"):
        measure(1, 1, 1, socket=server.socket)


def test_cpu_is_booked_by_role_and_a_process_that_ended_costs_nothing() -> None:
    meter = CpuMeter({"us": [os.getpid()], "gone": [2**22 + 1]})
    before = meter.read()
    while cpu_s(os.getpid()) - before[os.getpid()] < 0.05:
        sum(range(10_000))
    spent = meter.used(before, meter.read())
    assert spent["us"] >= 0.05
    assert spent["gone"] == 0.0
    assert ray_processes(os.getpid()) == set()


def test_the_table_shows_medians_and_the_cpu_of_every_process(tmp_path: Path) -> None:
    samples = tuple(LoopSample(64, 100, 100 / rate, {"coordinator": 30.0, "server": 5.0}) for rate in (900.0, 1_000.0, 2_000.0))
    text = "\n".join(lines_of(Measurement(describe_machine(tmp_path), 0.0, "valkey", 10, {64: samples})))
    assert "    64     1,000    110%" in text
    assert "30.0          5.0      35.0" in text


# In a process of its own: a Ray session belongs to a whole process, and the tests of the actors have another one.
_IN_A_RUNNING_SESSION = """
import sys
from benchmarks.bare_loop.loop import measure
from benchmarks.ray_session import ray_session

with ray_session(cpus=1) as ray:
    rates = measure(8, 3, 2, socket=sys.argv[1], seconds=0.05)
    assert len(rates) == 2 and min(rates) > 0, rates
    assert ray.is_initialized(), "the session is not ours to end"
print("measured")
"""


@pytest.mark.slow
def test_it_measures_in_a_session_that_runs_from_any_directory_and_leaves_nothing_behind(server: TestServer, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _IN_A_RUNNING_SESSION, str(server.socket)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "measured\n", done.stderr
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        assert client.dbsize() == 0


@pytest.mark.slow
def test_the_program_prints_a_table_and_the_samples(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    words = ["bare-loop", "--quick", "--runs-at-a-time", "8", "--directory", str(tmp_path / "data"), "--json", str(figures)]
    command = [sys.executable, "-m", "benchmarks", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "appendfsync always" in done.stdout
    (sample,) = json.loads(figures.read_text())["samples"]["8"]
    assert set(sample["cpu_us"]) == {"coordinator", "workers", "server", "driver", "rest of Ray"}
    assert sample["cpu_us"]["coordinator"] > 0
