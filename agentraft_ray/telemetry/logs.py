"""Logs as one JSON object a line, with the run and the step that a line is about. Attach `JsonFormatter` to any handler.

Our own log calls name their run in `extra`; what a step's own code logs is labelled by the step that is running.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol

__all__ = ["FIELDS", "JsonFormatter", "running_step"]

FIELDS = ("run_id", "step", "attempt", "actor")
"""What `extra` may carry and a line then says. `step` is the step's name."""


class _StepInfo(Protocol):
    @property
    def run_id(self) -> str: ...
    @property
    def step_name(self) -> str: ...
    @property
    def attempt(self) -> int: ...


running_step: ContextVar[_StepInfo | None] = ContextVar("agentraft_running_step", default=None)
"""The context of the step whose code is running here, in its task and in its thread."""


class JsonFormatter(logging.Formatter):
    """Makes a line of a record: time, level, logger, message, and where known run_id, step, attempt, actor, trace_id, span_id, error.

    `fields` are added to every line. Texts of outputs and hints are never part of our own lines.

    >>> record = logging.LogRecord("agentraft_ray", logging.INFO, __file__, 1, "run %s waits", ("r1",), None)
    >>> record.run_id = "r1"
    >>> json.loads(JsonFormatter(fields={"service": "audit"}).format(record))["run_id"]
    'r1'
    """

    def __init__(self, *, fields: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._fields = dict(fields or {})

    def format(self, record: logging.LogRecord) -> str:
        """The line of `record`, without its end."""
        line: dict[str, Any] = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._fields,
        }
        step = running_step.get()
        if step is not None:
            line |= {"run_id": step.run_id, "step": step.step_name, "attempt": step.attempt}
        line |= {name: value for name in FIELDS if (value := getattr(record, name, None)) is not None}
        line |= _span_ids()
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, ensure_ascii=False, default=str)


def _span_ids() -> dict[str, str]:
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return {}
    context = trace.get_current_span().get_span_context()
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"} if context.is_valid else {}
