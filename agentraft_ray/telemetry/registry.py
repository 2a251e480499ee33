"""Where a process adds up its metrics. Without Ray it can be asked for them as text, as Prometheus reads it; on Ray they go to Ray's.

A process collects nothing before `collect` is called, and then costs a dictionary look-up per record of a log.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Final

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.telemetry.metrics import METRICS, Metric, exported_names

__all__ = ["Meter", "collect", "collecting", "stop_collecting"]

SERIES_MAX: Final = 2_000  # of one process; what would be more is counted under OTHER
OTHER: Final = "other"

Key = tuple[str, tuple[str, ...]]  # the name of a metric and the values of its labels


class Meter:
    """Counters, gauges and histograms of one process, for its event loop; other threads may read. Labels in the table's order."""

    def __init__(self) -> None:
        self.values: dict[Key, float] = {}
        self.histograms: dict[Key, list[float]] = {}  # per bucket, one more for what is beyond them, and the sum

    def add(self, metric: Metric, amount: float, *labels: str) -> None:
        """Count `amount` more."""
        key = (metric.name, labels)
        values = self.values
        if key in values:
            values[key] += amount
        else:
            key = self._room_for(metric, labels)
            values[key] = values.get(key, 0.0) + amount

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """A gauge, or the total of a counter that somebody else adds up."""
        self.values[self._room_for(metric, labels)] = value

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Put a value into its bucket."""
        key = (metric.name, labels)
        counts = self.histograms.get(key)
        if counts is None:
            counts = self.histograms.setdefault(self._room_for(metric, labels), [0.0] * (len(metric.buckets) + 2))
        counts[bisect_left(metric.buckets, value)] += 1
        counts[-1] += value

    def text(self, labels: Mapping[str, str] | None = None) -> str:
        """All of it in Prometheus' text format, names without a prefix; `labels` are added to every series."""
        lines: list[str] = []
        for metric in METRICS:
            series = list(self._series(metric, dict(labels or {})))
            if series:
                name = exported_names(metric, "")[0].removesuffix("_bucket")
                lines += [f"# HELP {name} {metric.about}", f"# TYPE {name} {metric.kind}", *series]
        return "\n".join(lines) + "\n" if lines else ""

    def _room_for(self, metric: Metric, labels: tuple[str, ...]) -> Key:
        key = (metric.name, labels)
        if key in self.values or key in self.histograms or len(self.values) + len(self.histograms) < SERIES_MAX:
            return key
        return (metric.name, (OTHER,) * len(labels))

    def _series(self, metric: Metric, fixed: dict[str, str]) -> Iterator[str]:
        if metric.kind == "histogram":
            for (name, labels), counts in sorted(self.histograms.items()):
                if name == metric.name:
                    yield from _histogram(metric, {**fixed, **dict(zip(metric.labels, labels, strict=True))}, counts)
            return
        exported = exported_names(metric, "")[0]
        for (name, labels), value in sorted(self.values.items()):
            if name == metric.name:
                yield f"{exported}{_labels({**fixed, **dict(zip(metric.labels, labels, strict=True))})} {value:.17g}"


_meter: Meter | None = None


def collect(meter: Meter | None = None) -> Meter:
    """Collect metrics in this process from now on; what collects them. Coordinators made before collect nothing.

    >>> meter = collect()
    >>> from agentraft_ray import Pipeline, Step, Task, wrap
    >>> wrap(Pipeline([Step("greet", lambda ctx: "Hello.")], "letters"), store="memory").run_sync(Task("world")).success
    True
    >>> 'agentraft_steps_committed_total{pipeline="letters",step="greet"} 1' in meter.text()
    True
    >>> stop_collecting()
    """
    global _meter  # noqa: PLW0603 - what is collected is the process's, as the log of its lines
    if _meter is None:
        _meter = meter or Meter()
    elif meter is not None and meter is not _meter:
        raise InvalidConfig("this process collects metrics already; use what collect() returned first")
    return _meter


def collecting() -> Meter | None:
    """What this process collects its metrics with, if it does."""
    return _meter


def stop_collecting() -> None:
    """Collect no more; for tests."""
    global _meter  # noqa: PLW0603
    _meter = None


def _histogram(metric: Metric, labels: dict[str, str], counts: list[float]) -> Iterator[str]:
    buckets, total, count = exported_names(metric, "")
    running = 0.0
    for bound, number in zip((*metric.buckets, float("inf")), counts[:-1], strict=True):
        running += number
        yield f"{buckets}{_labels(labels | {'le': '+Inf' if bound == float('inf') else f'{bound:g}'})} {running:.17g}"
    yield f"{total}{_labels(labels)} {counts[-1]:.17g}"
    yield f"{count}{_labels(labels)} {running:.17g}"


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
