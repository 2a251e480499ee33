"""Every query of the dashboard and of the alerts is PromQL, and names metrics and labels that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from agentraft_ray.telemetry.metrics import METRICS, exported_names

OBSERVE = Path(__file__).resolve().parents[2] / "cluster" / "deploy" / "observe"
DASHBOARD = json.loads((OBSERVE / "grafana.json").read_text())
ALERTS = yaml.safe_load((OBSERVE / "alerts.yaml").read_text())
BY_SERIES = {name: metric for metric in METRICS for name in exported_names(metric)}
_VARIABLES = {"$__rate_interval": "5m", "$deployment": ".*", "$pipeline": ".*"}


def queries() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


QUERIES = list(queries())


def filled_in(query: str) -> str:
    for name, value in _VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query, query
    return query


def selectors(expression: Any) -> Iterator[Any]:
    """Every vector selector in a parsed expression."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        inner = getattr(expression, name, None)
        if inner is not None:
            yield from selectors(inner)
    for argument in getattr(expression, "args", None) or ():
        yield from selectors(argument)


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=[title for title, _ in QUERIES])
def test_a_query_names_metrics_and_labels_that_exist(title: str, query: str) -> None:
    found = list(selectors(promql_parser.parse(filled_in(query))))
    assert found
    assert len(found) == query.count("ray_agentraft_"), "a selector was overlooked"
    known = {"deployment", "le"}
    for selector in found:
        assert selector.name in BY_SERIES, f"{selector.name} is no metric"
        labels = {*BY_SERIES[selector.name].labels, "deployment"}
        assert {matcher.name for matcher in selector.matchers.matchers} <= labels
        known |= labels
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")}
    assert grouped <= known


def test_every_metric_is_on_the_dashboard() -> None:
    text = json.dumps(DASHBOARD)
    assert [metric.name for metric in METRICS if f"ray_{metric.name}" not in text] == []


def test_panels_have_names_and_places_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
    variables = {one["name"] for one in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "deployment", "pipeline"}


def test_legends_and_alerts_speak_of_labels_that_their_query_keeps() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b[^)]*\)", target["expr"]), panel["title"]
    for rule in (rule for group in ALERTS["groups"] for rule in group["rules"]):
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            assert re.search(rf"by \([^)]*\b{label}\b[^)]*\)", rule["expr"]), rule["alert"]
