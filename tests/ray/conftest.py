"""One Ray for the whole folder, and one deployment on it that most tests share."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import ray_constants
from ray._raylet import Config
from ray.cluster_utils import Cluster as Nodes

from agentraft_ray.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
CPUS = 8  # as far as Ray is concerned; the machine may have fewer
DEADLINE_S = 60  # of one test


@pytest.fixture(scope="session")
def nodes() -> Iterator[Any]:
    """The Ray of this session: a head node, to which tests may add others of this machine."""
    place = tempfile.mkdtemp(prefix="ar", dir="/tmp")  # short: unix sockets live below it
    before = dict(os.environ)
    os.environ |= {"RAY_TMPDIR": place, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex * 2, "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    os.environ |= {"RAY_metrics_report_interval_ms": "2000"}  # a test waits for its metrics
    ray_constants.ENABLE_RAY_CLUSTER = False  # else Ray listens to everybody, not on loopback alone
    Config.initialize("")  # which has read the environment when ray was imported
    found = Nodes(
        initialize_head=True,
        head_node_args={
            "num_cpus": CPUS,
            "node_ip_address": "127.0.0.1",
            "include_dashboard": False,
            "object_store_memory": 100_000_000,
        },
    )
    ray.init(address=found.address, log_to_driver=False, logging_level="error", namespace="agentraft")
    os.environ["RAY_ADDRESS"] = found.address
    try:
        yield found
    finally:
        ray.shutdown()
        found.shutdown()
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    """Where the shared deployment keeps its store; short, for its unix socket."""
    place = Path(tempfile.mkdtemp(prefix="ars", dir="/tmp"))
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A data directory for one test."""
    place = Path(tempfile.mkdtemp(prefix="arx", dir="/tmp"))
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def environment(nodes: Any) -> dict[str, str]:
    """What a program needs to find the package, these tests and the Ray of this session."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::RuntimeWarning"}


@pytest.fixture(scope="session")
def cluster(nodes: Any, directory: Path) -> Iterator[Cluster]:
    """The deployment that tests share which leave it as it is."""
    with Cluster.launch(directory=directory, workers=2, worker_cpus=0.25, shards=2, num_cpus=None) as found:
        yield found


@pytest.fixture(autouse=True)
def deadline(nodes: Any) -> Iterator[None]:
    """A test that waits for what never comes fails, instead of holding up the folder."""

    def ring(*_: Any) -> None:
        raise AssertionError(f"not done within {DEADLINE_S} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(DEADLINE_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
