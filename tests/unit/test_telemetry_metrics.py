"""Metrics: what is counted agrees with what happened, labels are few, and the text is what Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentraft_ray import ErrorType, Limits, MockVerifier, Pipeline, Step, StepContext, Task, wrap
from agentraft_ray.errors import InvalidConfig
from agentraft_ray.taxonomy import Cost, VerificationResult
from agentraft_ray.telemetry import registry
from agentraft_ray.telemetry.metrics import METRICS, RUNS_FINISHED, STEP_SECONDS, STEPS_COMMITTED, exported_names
from agentraft_ray.telemetry.registry import Meter, collect, collecting, stop_collecting
from agentraft_ray.verifier import CallableVerifier
from agentraft_ray.verifier.base import VerifyInput

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def meter() -> Iterator[Meter]:
    yield collect()
    stop_collecting()


def series(meter: Meter) -> dict[tuple[str, ...], float]:
    """What Prometheus would get: (name, labels in order) -> value."""
    found = {}
    for family in text_string_to_metric_families(meter.text()):
        for sample in family.samples:
            found[sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))] = sample.value
    return found


def flaky(ctx: StepContext) -> str:
    if ctx.attempt == 0:
        raise ValueError("no")
    return f"done {ctx.attempt}"


async def test_what_is_counted_is_what_happened(meter: Meter) -> None:
    verifier = MockVerifier({"flaky": [ErrorType.NONE, ErrorType.GOAL_DRIFT, ErrorType.NONE]})
    coordinator = wrap(Pipeline([Step("flaky", flaky), Step("after", flaky)], "p"), store="memory", verifier=verifier)
    for number in range(3):
        await coordinator.run(Task("goal", id=f"r{number}"))
    found = series(meter)
    assert found["agentraft_runs_started_total", "pipeline=p"] == 3
    assert found["agentraft_runs_finished_total", "outcome=succeeded", "pipeline=p"] == 3
    assert found["agentraft_steps_committed_total", "pipeline=p", "step=flaky"] == 3
    assert found["agentraft_attempts_rejected_total", "error_class=GOAL_DRIFT", "pipeline=p", "step=flaky"] == 3
    assert found["agentraft_attempts_failed_total", "cause=raised", "pipeline=p", "step=flaky"] == 3
    assert found["agentraft_verdicts_total", "pipeline=p", "step=flaky", "verdict=pass"] == 3
    assert found["agentraft_verdicts_total", "pipeline=p", "step=flaky", "verdict=reject"] == 3
    assert found["agentraft_step_seconds_count", "pipeline=p", "step=flaky"] == 9
    assert found["agentraft_verdict_seconds_count", "pipeline=p", "step=flaky"] == 6
    assert found["agentraft_run_seconds_count", "outcome=succeeded", "pipeline=p"] == 3


async def test_costs_waits_and_rollbacks_are_counted_once(meter: Meter) -> None:
    seen: list[str] = []

    async def judge(request: VerifyInput) -> VerificationResult:
        seen.append(request.step.name)
        if request.step.name == "b" and seen.count("b") == 1:
            return VerificationResult.fail(ErrorType.CONTRADICTION, blame="a")
        if request.step.name == "a" and seen.count("a") == 2:
            return VerificationResult.fail(ErrorType.HALLUCINATION, cost=Cost(5))
        return VerificationResult.ok(cost=Cost(100, 0.25, 0.0))

    def say(ctx: StepContext) -> str:
        return f"{ctx.step_name} {ctx.attempt} {ctx.lineage}"

    steps = [Step("a", say), Step("b", say), Step("c", say, needs_approval=True)]
    coordinator = wrap(Pipeline(steps, "p"), store="memory", verifier=CallableVerifier(judge), limits=Limits(inbox_poll_s=0.02))
    result = await coordinator.run(Task("goal", id="r"))
    assert result.is_parked
    await coordinator.approve("r", "c")
    assert (await coordinator.resume("r")).success
    found = series(meter)
    assert found["agentraft_rollbacks_total", "pipeline=p"] == 1
    assert found["agentraft_runs_parked_total", "pipeline=p", "reason=approval"] >= 1
    assert found["agentraft_tokens_total", "pipeline=p"] == (await coordinator.result("r")).cost.tokens
    assert found["agentraft_usd_total", "pipeline=p"] == pytest.approx(4 * 0.25)


async def test_repeats_of_a_block_share_a_label_and_no_label_names_a_run(meter: Meter) -> None:
    pipeline = Pipeline.repeat(Step("move", lambda ctx: "done"), 50)
    await wrap(pipeline, store="memory").run(Task("goal", id="run-id-of-this-test"))
    assert "run-id-of-this-test" not in meter.text()
    committed = {key: value for key, value in series(meter).items() if key[0] == "agentraft_steps_committed_total"}
    assert list(committed.values()) == [50]


def test_every_label_is_one_that_has_few_values() -> None:
    allowed = {"pipeline", "step", "outcome", "reason", "error_class", "cause", "verdict", "role"}
    assert {label for metric in METRICS for label in metric.labels} <= allowed
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    assert all(name.startswith("agentraft_") for name in names)


def test_too_many_series_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "SERIES_MAX", 3)
    meter = Meter()
    for number in range(10):
        meter.add(STEPS_COMMITTED, 1, f"pipeline-{number}", "step")
    found = series(meter)
    assert len(found) == 4
    assert found["agentraft_steps_committed_total", "pipeline=other", "step=other"] == 7


def test_the_text_is_what_prometheus_reads() -> None:
    meter = Meter()
    meter.add(RUNS_FINISHED, 2, 'a "quoted"\\ name\n', "failed")
    for seconds in (0.0005, 0.001, 0.3, 10_000.0):
        meter.distribution(STEP_SECONDS, "p", "s").observe(seconds)
    families = {family.name: family for family in text_string_to_metric_families(meter.text({"deployment": "d"}))}
    (sample,) = families["agentraft_runs_finished"].samples
    assert sample.labels == {"deployment": "d", "pipeline": 'a "quoted"\\ name\n', "outcome": "failed"}
    buckets = {one.labels["le"]: one.value for one in families["agentraft_step_seconds"].samples if one.name.endswith("_bucket")}
    assert (buckets["0.001"], buckets["0.1"], buckets["0.5"], buckets["900"], buckets["+Inf"]) == (2, 2, 3, 3, 4)
    assert {one.name for one in families["agentraft_step_seconds"].samples} == set(exported_names(STEP_SECONDS, ""))
    assert Meter().text() == ""


async def test_nothing_is_collected_before_somebody_asks_for_it() -> None:
    assert collecting() is None
    assert (await wrap(Pipeline([Step("a", lambda ctx: "done")]), store="memory").run(Task("goal"))).success
    assert collecting() is None


def test_a_process_has_one_meter(meter: Meter) -> None:
    assert collect() is meter
    assert collect(meter) is meter
    with pytest.raises(InvalidConfig, match="collects metrics already"):
        collect(Meter())


def test_the_figures_of_the_table_are_those_that_actors_have() -> None:
    source = {role: _figures_source(role) for role in ("coordinator", "worker", "verifier", "store", "breaker")}
    missing = [metric.name for metric in METRICS if metric.figure and f'"{metric.figure[1]}"' not in source[metric.figure[0]]]
    assert missing == []


def _figures_source(role: str) -> str:
    files: dict[str, Any] = {"store": ["checkpoint_store"], "worker": ["worker", "hosting"], "verifier": ["verifier", "hosting"]}
    return "".join((ROOT / "actors" / f"{name}.py").read_text() for name in [*files.get(role, [role]), "control"])
