"""The removal of a node, apart from the other faults: two Ray nodes on this machine, of which the second one is killed over and over.

Both have the resource that every step of these runs asks for, so that one of the two workers is on the node that goes; whatever else
Ray has put there goes with it. A new node takes its place before the next removal.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import ray
from ray._private import ray_constants
from ray.cluster_utils import Cluster as RayCluster

from agentraft_ray import RunResult
from agentraft_ray.actors import names
from agentraft_ray.actors.gateway import RayPeer
from agentraft_ray.actors.messages import Pong, decode
from agentraft_ray.checkpoint.embedded import EmbeddedServer
from agentraft_ray.cluster import Cluster
from agentraft_ray.errors import AgentRaftError
from agentraft_ray.protocol.records import StepCommitted
from benchmarks.chaos.runs import FAILURE_THRESHOLD, LEASE_TTL_S, MAX_RETRIES, Runs
from benchmarks.chaos.strikes import Strike
from benchmarks.chaos.tally import Tally
from benchmarks.chaos.watch import Watch
from benchmarks.chaos.work import NODE_RESOURCE

__all__ = ["remove_nodes"]

_NAME = "chaos-nodes"
_AT_A_TIME = 6
_RUNS_MIN = 20
_WAIT_S = 120.0  # for a new node and its workers
_RECOVERY_S = 60.0
_FLIGHT_S = 10.0
_POLL_S = 0.01


def remove_nodes(directory: Path, *, count: int, tell: Callable[[str], None]) -> tuple[EmbeddedServer, Runs, list[Strike], list[str]]:
    """Remove a node `count` times under load: the store's server and the runs, to be judged, what was done, and what got stuck."""
    server, runs = EmbeddedServer(directory / "data"), Runs.under(directory, lambda _number: None, _RUNS_MIN, "node")
    with _two_nodes() as nodes, Cluster.launch(
        name=_NAME, shards=1, workers=1, worker_cpus=0.1, verifiers=1, group_workers=2,
        directory=server.directory, lease_ttl_s=LEASE_TTL_S, restarts_max=1_000_000,
    ) as cluster:  # fmt: skip
        results = cluster.map(
            "benchmarks.chaos.work:NODE_PIPELINE", runs.tasks(), at_a_time=_AT_A_TIME, verifier="benchmarks.chaos.work:JUDGE",
            max_retries=MAX_RETRIES, failure_threshold=FAILURE_THRESHOLD,
        )  # fmt: skip
        driving = threading.Thread(target=_drive, args=(results, runs), name="runs", daemon=True)
        driving.start()
        removals = _Removals(nodes, server, runs, count, tell)
        removals.run()  # here, because Ray starts nodes in the main thread only
        driving.join(_WAIT_S)
    return server, runs, removals.strikes, removals.stuck


def _drive(results: Iterable[RunResult], runs: Runs) -> None:
    for result in results:
        runs.take(result)


@contextlib.contextmanager
def _two_nodes() -> Iterator[Any]:
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False  # else Ray turns loopback into listening to all
    nodes = RayCluster(initialize_head=True, head_node_args={"num_cpus": 4, **_node()})
    try:
        nodes.add_node(num_cpus=1, **_node())
        ray.init(address=nodes.address, namespace=names.NAMESPACE, log_to_driver=False, logging_level="error")  # else all of its logs
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()
        ray_constants.ENABLE_RAY_CLUSTER = before


def _node() -> dict[str, Any]:
    return {"resources": {NODE_RESOURCE: 1}, "node_ip_address": "127.0.0.1", "include_dashboard": False}


class _Removals:
    """Removes the second node again and again."""

    def __init__(self, nodes: Any, server: EmbeddedServer, runs: Runs, count: int, tell: Callable[[str], None]) -> None:
        self._nodes = nodes
        self._runs = runs
        self._count = count
        self._tell = tell
        self._tally = Tally(runs.tally)
        self._watch = Watch(unquote(server.url.removeprefix("unix://")))
        self.strikes: list[Strike] = []
        self.stuck: list[str] = []

    def run(self) -> None:
        """All of them; what goes wrong ends up in `stuck`."""
        try:
            while sum(strike.affected > 0 for strike in self.strikes) < self._count and not self.stuck:
                asyncio.run(self._await_workers())
                self._remove()
                self._nodes.add_node(num_cpus=1, **_node())
        except Exception as error:  # noqa: BLE001 - the runs must still end and be judged; the report says it
            self.stuck.append(f"the removals of nodes ended early: {type(error).__name__}: {error}")
        finally:
            self._watch.close()
            self._runs.enough.set()

    async def _await_workers(self) -> None:
        """Until a worker answers on each node. Raises TimeoutError."""
        raylet = self._raylet()
        async with asyncio.timeout(_WAIT_S):
            while True:
                if any(_parent(pid) == raylet for pid in [await _pid(number) for number in range(2)]):
                    return
                await asyncio.sleep(0.1)

    def _raylet(self) -> int:
        [node] = self._nodes.worker_nodes
        return int(node.all_processes[ray_constants.PROCESS_TYPE_RAYLET][0].process.pid)

    def _remove(self) -> None:
        [node] = self._nodes.worker_nodes
        there, deadline = self._busy(), time.monotonic() + _FLIGHT_S
        while not there and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            there = self._busy()
        strike = Strike("node", f"a node with {len(self._pids())} actors", time.time())
        began = time.monotonic()
        pids = self._pids()
        self._nodes.remove_node(node, allow_graceful=False)
        self._tally.look()
        affected = set().union(*map(self._tally.open_at, pids)) & self._runs.live()
        lengths = self._watch.unfinished(affected)
        strike.affected = len(lengths)
        if lengths:
            seen = self._watch.wait_for(lengths, StepCommitted, _RECOVERY_S)
            strike.recovery_s = None if seen is None else seen - began
        self.strikes.append(strike)
        went_on = "" if not lengths else ", never went on" if strike.recovery_s is None else f", went on after {strike.recovery_s:.2f} s"
        self._tell(f"{len(self.strikes):>5} node         {strike.victim}: hit {strike.affected} runs{went_on}")
        if lengths and strike.recovery_s is None:
            self.stuck.append(f"node ({strike.victim}): none of {strike.affected} affected runs went on")

    def _pids(self) -> list[int]:
        """The processes on the second node."""
        raylet = self._raylet()
        return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _parent(int(path.name)) == raylet]

    def _busy(self) -> bool:
        self._tally.look()
        return any(self._tally.open_at(pid) for pid in self._pids())


def _parent(pid: int) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


async def _pid(number: int) -> int:
    group = names.group_of(None, None, {NODE_RESOURCE: 1}, None)
    try:
        async with asyncio.timeout(5):
            pong: Pong = decode(await RayPeer(names.worker(_NAME, group, number)).call("ping"), Pong)
            return pong.pid
    except (AgentRaftError, TimeoutError, msgspec.MsgspecError):
        return 0
