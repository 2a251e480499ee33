"""How an actor on Ray shows what it does: its logs, its metrics, and whatever the user's own setup function configures there.

`Observer` is what the base of all actors drives; it is created with the actor and begins on its work loop, once per process.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from agentraft_ray.actors.messages import decode
from agentraft_ray.runtime.naming import import_object
from agentraft_ray.telemetry.logs import JsonFormatter
from agentraft_ray.telemetry.metrics import FIGURES
from agentraft_ray.telemetry.registry import Meter, collect, collecting

__all__ = ["Observer", "Observing", "Reporting"]

_log = logging.getLogger("agentraft_ray")


class Observing(msgspec.Struct, frozen=True):
    """What an actor is to show. `setup` = the import path of a function that is called once in its process, "" for none."""

    deployment: str
    role: str
    name: str
    metrics: bool = True
    json_logs: bool = False
    setup: str = ""


class Reporting(Protocol):
    """A meter whose figures are taken elsewhere now and then."""

    def report(self) -> None: ...


class Observer:
    """`figures` = the actor's own, read at every report. `make_meter` makes the meter of a deployment; without one nothing is counted."""

    def __init__(
        self, observing: bytes, figures: Callable[[], Mapping[str, Any]], make_meter: Callable[[str], Meter] | None = None
    ) -> None:
        self._what: Observing = decode(observing, Observing)
        self._figures = figures
        self._make_meter = make_meter or _ray_meter
        self._meter: Meter | None = None
        self._shown = [metric for metric in FIGURES if metric.figure is not None and metric.figure[0] == self._what.role]
        self._has_begun = False

    def begin(self) -> None:
        """Set up logs and telemetry of this process. What the user's function raises is logged: an actor works without it as well."""
        if self._has_begun:
            return
        self._has_begun = True
        if self._what.json_logs:
            _log_as_json(self._what.name)
        if self._what.setup:
            try:
                import_object(self._what.setup)()
            except Exception:  # noqa: BLE001 - the boundary to the user's code
                _log.exception("the telemetry function %s failed in actor %s", self._what.setup, self._what.name)
        if self._what.metrics:
            self._meter = collecting() or collect(self._make_meter(self._what.deployment))

    def report(self) -> None:
        """Put the actor's figures into its metrics, and have them taken on."""
        meter = self._meter
        if meter is None:
            return
        figures = self._figures()
        for metric in self._shown:
            value = figures.get(metric.figure[1]) if metric.figure is not None else None
            if isinstance(value, (int, float)):
                meter.set(metric, value)
        report = getattr(meter, "report", None)
        if report is not None:
            report()


def _log_as_json(actor: str) -> None:
    """Have all lines of this process written as JSON, to where its lines went before."""
    root = logging.getLogger()
    handlers = root.handlers or [logging.StreamHandler(sys.stderr)]
    for handler in handlers:
        handler.setFormatter(JsonFormatter(fields={"actor": actor}))
    root.handlers = handlers
    root.setLevel(min(root.level or logging.INFO, logging.INFO))


def _ray_meter(deployment: str) -> Meter:
    from agentraft_ray.actors.ray_meter import RayMeter  # noqa: PLC0415 - the class works without Ray as well

    return RayMeter(deployment)
