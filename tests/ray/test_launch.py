"""Starting, joining and leaving a cluster: what is refused, in which words, and what is left behind: nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentraft_ray import Task
from agentraft_ray.cluster import Cluster
from agentraft_ray.cluster.settings import settings_of
from agentraft_ray.errors import FingerprintMismatch, InvalidConfig
from tests.ray.pipelines import COUNT_3, COUNT_3_ASKING
from tests.ray.programs import PROGRAM_S

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]


def run_program(*args: str, env: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """What a program of `tests.ray.programs` said, in order."""
    command = [sys.executable, "-m", "tests.ray.programs", *args]
    try:
        done = subprocess.run(command, check=False, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PROGRAM_S + 5)
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"{args[0]} does not end; it said {error.stdout!r}, and {(error.stderr or b'').decode()}") from None
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def alone(environment: dict[str, str]) -> dict[str, str]:
    """An environment in which nothing leads to the Ray of these tests."""
    return {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}


def test_a_cluster_leaves_no_process_no_thread_and_no_socket_behind(
    cluster: Cluster, short_directory: Path, environment: dict[str, str]
) -> None:
    said = run_program("launch_and_close", str(short_directory), env=alone(environment))
    for up, after in (said[:2], said[2:]):
        assert (up["output"], up["actors"], up["servers"]) == ("A report on 5 words of findings.", 5, 1)
        assert up["address"] == ["127.0.0.1"]
        assert after == {"left": [], "threads": [], "sockets": [], "servers": []}


def test_a_name_that_is_taken_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidConfig, match=r"a cluster named 'default' runs here already .* join it with Cluster.connect\(\), or give name="
    ):
        Cluster.launch(directory=tmp_path)


def test_more_demand_than_there_is_is_refused_with_the_sum(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"64 workers of 1 CPUs .* need 64.1 CPUs; this Ray cluster has 8, of which .* Set workers="):
        Cluster.launch(name="greedy", directory=tmp_path, workers=64, worker_cpus=1)


def test_ray_client_addresses_are_refused_with_the_reason(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidConfig, match="Ray Client address.* ray job submit"):
        Cluster.connect("ray://127.0.0.1:10001")
    with pytest.raises(InvalidConfig, match="Ray Client address.* ray job submit"):
        Cluster.launch(address="ray://127.0.0.1:10001")
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:10001")
    for join in (Cluster.connect, Cluster.launch, Cluster.auto):
        with pytest.raises(InvalidConfig, match="Ray Client address.* ray job submit"):
            join(name="other")


def test_where_no_ray_is_joining_says_so_at_once(environment: dict[str, str]) -> None:
    said = run_program("nowhere", env=alone(environment))
    assert len(said) == 2
    for one in said:
        assert "no Ray cluster can be joined at" in one["refused"]
        assert "ray start --head" in one["refused"]
        assert one["seconds"] < 10


def test_a_deployment_that_is_not_there_is_named_with_those_that_are(cluster: Cluster) -> None:
    with pytest.raises(InvalidConfig, match=r"no cluster named 'nobody' .* running there: default.* Cluster.launch\(\)"):
        Cluster.connect(name="nobody")
    with pytest.raises(InvalidConfig, match="cluster name 'a/b' is not allowed"):
        Cluster.connect(name="a/b")


def test_settings_come_from_arguments_then_environment_then_file_then_pyproject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTRAFT_WORKERS", "3")
    (tmp_path / "agentraft.toml").write_text("workers = 4\nshards = 4\n")
    (tmp_path / "pyproject.toml").write_text("[tool.agentraft]\nworkers = 5\nshards = 5\nverifiers = 5\n")
    assert (settings_of(workers=2).workers, settings_of().workers, settings_of().shards, settings_of().verifiers) == (2, 3, 4, 5)
    other = tmp_path / "other.toml"
    other.write_text("shards = 6\n")
    monkeypatch.setenv("AGENTRAFT_CONFIG", str(other))
    assert settings_of().shards == 6


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"workers": 0}, "workers: .*got 0"),
        ({"shards": "many"}, "shards: .*got 'many'"),
        ({"colour": "red"}, "colour: .*got 'red'"),
        ({"durability": "maybe", "name": "odd"}, "maybe"),
        ({"store": "ftp://nowhere", "name": "odd"}, "ftp://nowhere"),
        ({"encryption_key": "short", "name": "odd"}, "32 bytes"),
    ],
)
def test_settings_that_cannot_be_are_named(cluster: Cluster, tmp_path: Path, bad: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidConfig, match=words) as caught:
        Cluster.launch(**{"directory": tmp_path, "workers": 1, "worker_cpus": 0.1, **bad})
    assert "short" not in str(caught.value), "a key is a secret"
    assert sorted({name.partition("/")[0] for name in actors()}) == ["default"]


@pytest.mark.parametrize(
    ("place", "text"),
    [("agentraft.toml", "workers = 0\n"), ("agentraft.toml", "workers = = 3\n"), ("pyproject.toml", "[tool.agentraft]\nshards = 'x'\n")],
)
def test_a_bad_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / place).write_text(text)
    with pytest.raises(InvalidConfig, match=r"agentraft.toml"):
        settings_of()


def test_another_process_joins_follows_approves_and_maps(cluster: Cluster, tmp_path: Path, environment: dict[str, str]) -> None:
    inputs = {"tally": str(tmp_path / "tally"), "seconds": 0.3}
    run, asking = cluster.submit(COUNT_3, Task("count", inputs)), cluster.submit(COUNT_3_ASKING, Task("count", inputs))
    said = run_program("visit", cluster.name, run.run_id, asking.run_id, env=environment)
    facts = {name: value for one in said for name, value in one.items()}
    assert (facts["output"], facts["approved"], facts["auto"]) == ({"n": 3}, {"n": 3}, "default")
    assert facts["mapped"] == ["ONE", "TWO"]
    assert (run.result(20).output, asking.result(20).output) == ({"n": 3}, {"n": 3})
    assert "'fly' asks for resources" in facts["refused"]
    assert "wrap the pipeline there once" in facts["refused"]
    with pytest.raises(FingerprintMismatch, match="travelled by value.*a program that has the pipeline"):
        cluster.handle(facts["left"])


def actors() -> list[str]:
    from agentraft_ray.cluster import ray_session

    return ray_session.actor_names("")
