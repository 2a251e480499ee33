"""A meter whose figures Ray exports: what was counted goes to `ray.util.metrics` in one call per series and report, not one per count.

Ray's own call costs about 4 us, so only durations are passed on one by one: Ray's histograms take nothing else.
"""

from __future__ import annotations

from typing import Any

from ray.util import metrics as ray_metrics

from agentraft_ray.telemetry.metrics import METRICS, Metric
from agentraft_ray.telemetry.registry import Key, Meter

__all__ = ["RayMeter"]

_DEPLOYMENT = "deployment"
_BY_NAME = {metric.name: metric for metric in METRICS}


class RayMeter(Meter):
    """See `Meter`; `deployment` becomes a label of everything."""

    def __init__(self, deployment: str) -> None:
        super().__init__()
        self._deployment = deployment
        self._made: dict[str, Any] = {}
        self._reported: dict[Key, float] = {}

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Pass a value on."""
        key = (metric.name, labels)
        if key not in self.histograms:
            key = self._room_for(metric, labels)
            self.histograms[key] = []  # Ray keeps the buckets
        self._ray(metric).observe(value, tags=self._tags(metric, key[1]))

    def report(self) -> None:
        """Pass on what counters have grown by and how gauges stand."""
        for key, value in self.values.items():
            metric = _BY_NAME[key[0]]
            tags = self._tags(metric, key[1])
            if metric.kind == "gauge":
                self._ray(metric).set(value, tags=tags)
                continue
            grown = value - self._reported.get(key, 0.0)
            if grown > 0:
                self._reported[key] = value
                self._ray(metric).inc(grown, tags=tags)

    def _ray(self, metric: Metric) -> Any:
        made = self._made.get(metric.name)
        if made is None:
            words: dict[str, Any] = {"description": metric.about, "tag_keys": (*metric.labels, _DEPLOYMENT)}
            if metric.kind == "histogram":
                made = ray_metrics.Histogram(metric.name, boundaries=list(metric.buckets), **words)
            else:
                made = (ray_metrics.Gauge if metric.kind == "gauge" else ray_metrics.Counter)(metric.name, **words)
            made.set_default_tags({_DEPLOYMENT: self._deployment})
            self._made[metric.name] = made
        return made

    def _tags(self, metric: Metric, labels: tuple[str, ...]) -> dict[str, str]:
        return dict(zip(metric.labels, labels, strict=True))
