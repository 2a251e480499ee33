"""Several nodes: steps run where what they ask for is; a node that goes takes nothing along but time. And steps that hang are ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from agentraft_ray import Pipeline, Step, Task, wrap
from agentraft_ray.cluster import Cluster
from agentraft_ray.errors import InvalidConfig
from tests.ray.pipelines import HANGING, LINGERING, ON_ACCELERATOR, ON_GPU, executions
from tests.ray.programs import has_ended

pytestmark = pytest.mark.ray


@pytest.fixture
def add_node(nodes: Any) -> Iterator[Callable[..., Any]]:
    """Adds a node to the Ray of this session; what is left of them goes at the end."""
    added: list[Any] = []

    def add(**resources: Any) -> Any:
        node = nodes.add_node(node_ip_address="127.0.0.1", object_store_memory=80_000_000, **{"num_cpus": 0, **resources})
        added.append(node)
        return node

    yield add
    for node in added:
        if node in nodes.worker_nodes:
            nodes.remove_node(node)


def nodes_with(resource: str) -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get(resource)}


def test_steps_run_where_their_resources_are_and_move_when_the_node_goes(
    nodes: Any, add_node: Callable[..., Any], cluster: Cluster, tmp_path: Path
) -> None:
    first = add_node(resources={"accelerator": 1})
    inputs = {"tally": str(tmp_path / "tally")}
    results = list(cluster.map(ON_ACCELERATOR, [Task(f"task {number}", inputs) for number in range(5)]))
    assert {result.output for result in results} == nodes_with("accelerator")
    assert all(result.steps[0].output not in nodes_with("accelerator") for result in results)

    pid = next(int(figures["pid"]) for name, figures in cluster.stats().items() if "accelerator" in name)
    nodes.remove_node(first, allow_graceful=False)
    deadline = time.monotonic() + 20
    while not has_ended(pid):  # it outlives its raylet for a moment
        assert time.monotonic() < deadline, "the node's worker lives on"
        time.sleep(0.05)
    waiting = cluster.submit(ON_ACCELERATOR, Task("later", inputs))
    with pytest.raises(TimeoutError):
        waiting.result(3)
    assert waiting.status().status == "running"
    began = time.monotonic()
    add_node(resources={"accelerator": 1})
    assert {waiting.result(40).output} == nodes_with("accelerator")
    print(f"\nthe step ran {time.monotonic() - began:.1f} s after its resource was back")


def test_a_gpu_step_runs_on_the_gpu_and_several_nodes_of_one_machine_may_share_the_embedded_store(
    add_node: Callable[..., Any], short_directory: Path, nodes: Any
) -> None:
    add_node(num_gpus=1)
    with Cluster.launch(name="gpus", directory=short_directory, workers=1, worker_cpus=0.1) as cluster:
        assert [result.output for result in cluster.map(ON_GPU, [Task("train")])] == [*nodes_with("GPU")]


def test_store_breaker_and_coordinators_stay_on_the_node_of_the_program_that_launched_them(
    add_node: Callable[..., Any], short_directory: Path, nodes: Any
) -> None:
    add_node(num_cpus=4)
    raylet = nodes.head_node.all_processes["raylet"][0].process.pid
    with Cluster.launch(name="here", shards=4, directory=short_directory, workers=1, worker_cpus=0.1) as cluster:
        pids = [figures["pid"] for name, figures in cluster.stats().items() if name.split("/")[1] in {"store", "breaker", "coordinator"}]
        parents = [int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in pids]
    assert parents == [raylet] * 6, pids


def test_workers_come_while_steps_wait_for_them_and_go_when_nobody_does(
    add_node: Callable[..., Any], short_directory: Path, nodes: Any
) -> None:
    add_node(resources={"seat": 3})
    with Cluster.launch(
        name="scaled", directory=short_directory, workers=1, worker_cpus=0.1, group_workers_max=3, group_idle_s=1.0
    ) as cluster:
        results = list(cluster.map(LINGERING, [Task(f"task {number}") for number in range(18)]))
        assert len({result.output for result in results}) == 3
        deadline = time.monotonic() + 30
        while sum("seat" in name for name in cluster.stats()) > 1:
            assert time.monotonic() < deadline, "the workers that nobody needs do not end"
            time.sleep(0.1)


def test_resources_that_no_node_has_are_refused_with_what_is_missing(nodes: Any, short_directory: Path) -> None:
    pipeline = Pipeline([Step("fly", lambda ctx: "up", resources={"wings": 2})])
    with Cluster.launch(name="flightless", directory=short_directory, workers=1, worker_cpus=0.1, start_s=20.0) as cluster:
        cluster._staff._settings.__dict__["start_s"] = 1.0  # what has started may have taken longer than this test has patience
        for _ in range(2):
            with pytest.raises(InvalidConfig, match="no worker for step 'fly': it asks for wings 2, which no node .* has; add one"):
                wrap(pipeline, cluster=cluster)
        assert [name for name in cluster.stats() if "wings" in name] == []


def test_a_coordinator_that_comes_back_knows_the_groups_that_were_added(
    add_node: Callable[..., Any], cluster: Cluster, short_directory: Path
) -> None:
    add_node(resources={"accelerator": 1})
    assert next(iter(cluster.map(ON_ACCELERATOR, [Task("before")]))).success
    for shard in range(2):
        os.kill(int(cluster.stats()[f"default/coordinator/{shard}"]["pid"]), signal.SIGKILL)
    results = list(cluster.map(ON_ACCELERATOR, [Task(f"after {number}") for number in range(6)]))
    assert {result.output for result in results} == nodes_with("accelerator")


def test_a_step_that_hangs_in_a_worker_of_its_own_is_ended_for_good(cluster: Cluster, tmp_path: Path) -> None:
    tally = tmp_path / "tally"
    result = next(iter(cluster.map(HANGING, [Task("hang", {"tally": str(tally)})])))
    assert (result.output, result.steps[0].attempts) == ("done", 2)
    deadline = time.monotonic() + 15
    while True:  # it is ended when it has had its grace
        before = len(executions(tally))
        time.sleep(0.5)
        if len(executions(tally)) == before:
            break
        assert time.monotonic() < deadline, "the step still runs"
