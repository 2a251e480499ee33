"""What a real Ray cluster shows of its runs: one trace over its processes, metrics where Prometheus scrapes Ray, logs as JSON."""

from __future__ import annotations

import json
import logging
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from agentraft_ray import Pipeline, Step, StepContext, Task, wrap
from agentraft_ray.cluster import Cluster
from agentraft_ray.errors import InvalidConfig
from agentraft_ray.verifier import CallableVerifier
from agentraft_ray.verifier.base import VerifyInput
from tests.ray.telemetry import folder

pytestmark = pytest.mark.ray

WITHIN_S = 30.0


async def collect(ctx: StepContext) -> str:
    logging.getLogger("theirs").info("collecting")
    return "Some findings."


async def judge(request: VerifyInput) -> bool:
    return True


WATCHED = Pipeline([Step("collect", collect)], "watched")
JUDGE = CallableVerifier(judge)


def until(found: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WITHIN_S
    while not (value := found()):
        assert time.monotonic() < deadline, f"no {what} within {WITHIN_S:g} s"
        time.sleep(0.1)
    return value


def spans() -> list[dict[str, Any]]:
    return [json.loads(line) for file in folder().glob("*.jsonl") for line in file.read_text().splitlines()]


def scraped() -> dict[str, dict[str, str]]:
    """The series of ours that Ray's metrics endpoint gives: name -> labels."""
    (node,) = (node for node in ray.nodes() if node["Alive"])
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = answer.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {one.name: one.labels for one in samples if one.labels.get("deployment") == "watched"}


def logged() -> list[dict[str, Any]]:
    logs = folder().parent / "logs"
    lines = [line for file in logs.glob("worker-*.err") for line in file.read_text(errors="replace").splitlines()]
    return [json.loads(line) for line in lines if line.startswith('{"time"')]


def test_a_run_on_ray_shows_its_trace_its_metrics_and_its_logs(nodes: Any, short_directory: Path) -> None:
    settings: dict[str, Any] = {"workers": 1, "worker_cpus": 0.25, "telemetry": "tests.ray.telemetry:set_up", "json_logs": True}
    with Cluster.launch(name="watched", directory=short_directory, **settings) as cluster:
        assert wrap(WATCHED, verifier=JUDGE, cluster=cluster).run_sync(Task("goal", id="watched-run")).success

        names = ["submit watched", "invoke_workflow watched", "step collect", "invoke_agent collect"]
        names += ["execute collect", "evaluate collect", "judge collect"]
        found = until(lambda: len(made := spans()) >= len(names) and made, "trace")
        assert sorted(span["name"] for span in found) == sorted(names)
        assert len({span["context"]["trace_id"] for span in found}) == 1
        by_id = {span["context"]["span_id"]: span["name"] for span in found}
        above = {span["name"]: by_id.get(span["parent_id"]) for span in found}
        assert [above[name] for name in names] == [None, *names[:3], "invoke_agent collect", "invoke_agent collect", "evaluate collect"]
        assert len(list(folder().glob("*.jsonl"))) == 3, "the coordinator, a worker and a verifier"

        wanted = {"ray_agentraft_steps_committed_total", "ray_agentraft_runs_live", "ray_agentraft_step_seconds_bucket"}
        wanted |= {"ray_agentraft_store_appends_total", "ray_agentraft_verdict_seconds_count"}
        series = until(lambda: wanted <= (made := scraped()).keys() and made, "metrics")
        labels = series["ray_agentraft_steps_committed_total"]
        assert (labels["pipeline"], labels["step"]) == ("watched", "collect")
        assert not any("watched-run" in value for labels in series.values() for value in labels.values())

        (line,) = until(lambda: [line for line in logged() if line["logger"] == "theirs"], "line of the step")
        assert (line["run_id"], line["step"], line["message"]) == ("watched-run", "collect", "collecting")
        assert line["actor"] == "watched/worker//0"
        assert line["span_id"] == next(span["context"]["span_id"] for span in found if span["name"] == "execute collect")[2:]


def test_a_telemetry_function_that_cannot_be_imported_is_refused_at_launch(nodes: Any, short_directory: Path) -> None:
    with pytest.raises(InvalidConfig, match="has no 'nothing'"):
        Cluster.launch(name="unwatched", directory=short_directory, telemetry="tests.ray.telemetry:nothing")
