"""Where a process adds up its metrics. Without Ray it can be asked for them as text, as Prometheus reads it; on Ray they go to Ray's.

A process collects nothing before `collect` is called.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.telemetry.metrics import METRICS, Metric, exported_names

__all__ = ["Distribution", "Meter", "Series", "collect", "collecting", "stop_collecting"]

SERIES_MAX: Final = 2_000  # of one process; what would be more is counted under OTHER
OTHER: Final = "other"

S = TypeVar("S")


class Series:
    """One counter or gauge with its labels; `value` is for its meter and for who counts with it."""

    __slots__ = ("labels", "metric", "value")

    def __init__(self, metric: Metric, labels: tuple[str, ...]) -> None:
        self.metric = metric
        self.labels = labels
        self.value = 0.0


class Distribution:
    """One histogram with its labels: counts per bucket, one more for what is beyond them, and the sum."""

    __slots__ = ("counts", "labels", "metric", "total")

    def __init__(self, metric: Metric, labels: tuple[str, ...]) -> None:
        self.metric = metric
        self.labels = labels
        self.counts = [0] * (len(metric.buckets) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Put a value into its bucket."""
        self.counts[bisect_left(self.metric.buckets, value)] += 1
        self.total += value


class Meter:
    """Counters, gauges and histograms of one process, for its event loop; other threads may read. Labels in the table's order.

    Whoever counts often asks for the series once, and keeps it.
    """

    def __init__(self) -> None:
        self._series: dict[tuple[str, tuple[str, ...]], Series] = {}
        self._distributions: dict[tuple[str, tuple[str, ...]], Distribution] = {}

    def series(self, metric: Metric, *labels: str) -> Series:
        """The series of a counter or a gauge; that of OTHER where there are too many."""
        return self._found(self._series, metric, labels, Series)

    def distribution(self, metric: Metric, *labels: str) -> Distribution:
        """The series of a histogram; that of OTHER where there are too many."""
        return self._found(self._distributions, metric, labels, self._new_distribution)

    def add(self, metric: Metric, amount: float, *labels: str) -> None:
        """Count `amount` more."""
        self.series(metric, *labels).value += amount

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """A gauge, or the total of a counter that somebody else adds up."""
        self.series(metric, *labels).value = value

    def text(self, labels: Mapping[str, str] | None = None) -> str:
        """All of it in Prometheus' text format, names without a prefix; `labels` are added to every series."""
        lines: list[str] = []
        for metric in METRICS:
            series = list(self._lines(metric, dict(labels or {})))
            if series:
                name = exported_names(metric, "")[0].removesuffix("_bucket")
                lines += [f"# HELP {name} {metric.about}", f"# TYPE {name} {metric.kind}", *series]
        return "\n".join(lines) + "\n" if lines else ""

    def _new_distribution(self, metric: Metric, labels: tuple[str, ...]) -> Distribution:
        return Distribution(metric, labels)

    def _found(
        self,
        known: dict[tuple[str, tuple[str, ...]], S],
        metric: Metric,
        labels: tuple[str, ...],
        make: Callable[[Metric, tuple[str, ...]], S],
    ) -> S:
        found = known.get((metric.name, labels))
        if found is None:
            if len(self._series) + len(self._distributions) >= SERIES_MAX:
                labels = (OTHER,) * len(labels)
            found = known.setdefault((metric.name, labels), make(metric, labels))
        return found

    def _lines(self, metric: Metric, fixed: dict[str, str]) -> Iterator[str]:
        for (name, labels), distribution in sorted(self._distributions.items()):
            if name == metric.name:
                yield from _histogram(metric, {**fixed, **dict(zip(metric.labels, labels, strict=True))}, distribution)
        exported = exported_names(metric, "")[0]
        for (name, labels), series in sorted(self._series.items()):
            if name == metric.name:
                yield f"{exported}{_labels({**fixed, **dict(zip(metric.labels, labels, strict=True))})} {series.value:.17g}"


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


def _histogram(metric: Metric, labels: dict[str, str], distribution: Distribution) -> Iterator[str]:
    buckets, total, count = exported_names(metric, "")
    running = 0
    for bound, number in zip((*metric.buckets, float("inf")), distribution.counts, strict=True):
        running += number
        yield f"{buckets}{_labels(labels | {'le': '+Inf' if bound == float('inf') else f'{bound:g}'})} {running}"
    yield f"{total}{_labels(labels)} {distribution.total:.17g}"
    yield f"{count}{_labels(labels)} {running}"


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
