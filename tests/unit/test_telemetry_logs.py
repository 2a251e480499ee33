"""Logs as JSON: one object a line, with the run and the step that it is about, whoever wrote it."""

from __future__ import annotations

import ast
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentraft_ray import Event, Pipeline, Step, StepContext, Task, wrap
from agentraft_ray.telemetry import JsonFormatter
from agentraft_ray.telemetry.logs import FIELDS, running_step
from tests.spans import recorded

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lines() -> Iterator[Any]:
    """A function that gives what was logged, as objects."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(fields={"service": "test"}))
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(before)


async def test_what_a_step_logs_names_its_run_step_and_attempt(lines: Any) -> None:
    log = logging.getLogger("theirs")

    async def later(ctx: StepContext) -> str:
        log.info("reading %d pages", 3)
        if ctx.attempt == 0:
            raise ValueError("again")
        return "done"

    def sync(ctx: StepContext) -> str:
        log.info("in a thread")
        return "done"

    await wrap(Pipeline([Step("later", later), Step("sync", sync)]), store="memory").run(Task("goal", id="r"))
    told = [(line["message"], line["run_id"], line["step"], line["attempt"]) for line in lines() if line["logger"] == "theirs"]
    assert told == [("reading 3 pages", "r", "later", 0), ("reading 3 pages", "r", "later", 1), ("in a thread", "r", "sync", 0)]
    assert running_step.get() is None


async def test_our_own_lines_name_their_run_in_a_field(lines: Any) -> None:
    def hook(event: Event) -> None:
        raise RuntimeError("a hook that fails")

    await wrap(Pipeline([Step("a", lambda ctx: "done")]), store="memory", on_event=hook).run(Task("goal", id="r"))
    ours = [line for line in lines() if line["logger"] == "agentraft_ray"]
    assert {line["run_id"] for line in ours} == {"r"}
    assert any(line.get("step") == "a" for line in ours)
    assert "RuntimeError: a hook that fails" in ours[0]["error"]
    assert ours[0]["level"] == "error"
    assert ours[0]["service"] == "test"


async def test_lines_within_a_span_name_it(lines: Any) -> None:
    async def step(ctx: StepContext) -> str:
        logging.getLogger("theirs").info("here")
        return "done"

    with recorded() as spans:
        await wrap(Pipeline([Step("a", step)]), store="memory").run(Task("goal"))
    (line,) = lines()
    attempt = spans.one("invoke_agent a").context
    assert (line["trace_id"], line["span_id"]) == (f"{attempt.trace_id:032x}", f"{attempt.span_id:016x}")


def test_a_line_is_one_line_whatever_is_in_it() -> None:
    record = logging.LogRecord("x", logging.WARNING, __file__, 1, 'two\nlines "quoted" %s', (object(),), None)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"].startswith('two\nlines "quoted" <object')


def test_log_calls_that_speak_of_a_run_carry_its_id_as_a_field() -> None:
    """Found in the source: a message with the word run before a placeholder, without `extra`."""
    wrong = []
    for file in [*(ROOT / "agentraft_ray").rglob("*.py"), *(ROOT / "actors").rglob("*.py"), *(ROOT / "cluster").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            is_log = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "_log"
            if not is_log or not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            if "run %s" in str(node.args[0].value) and not any(word.arg == "extra" for word in node.keywords):
                wrong.append(f"{file.name}:{node.lineno}")
    assert wrong == []
    assert {"run_id", "step"} <= set(FIELDS)
