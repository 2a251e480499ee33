"""The values of the measurement: what a probe is asked, and what it answers. They travel between processes as JSON."""

from __future__ import annotations

import statistics
from typing import Literal

import msgspec

__all__ = ["Figures", "LiveRuns", "Load", "LongRun", "Probe", "Sample", "ServerFacts", "Storage"]

ProbeKind = Literal["load", "storage", "live", "long"]


class Probe(msgspec.Struct, frozen=True):
    """One measurement. `seconds` is how long one repetition of a load should take at least; `steps` those of one run.

    `durability` "" means the store's default; `gc_threshold` 0 leaves Python's collector as it is.
    """

    kind: ProbeKind
    store: str
    directory: str
    runs_at_a_time: int = 1
    steps: int = 10
    repetitions: int = 1
    seconds: float = 1.0
    durability: str = ""
    gc_threshold: int = 0


class Sample(msgspec.Struct, frozen=True):
    """One repetition: throughput, time per step of a run (its whole time / steps) over all runs, CPU per step.

    `gc_us` is the part of the Python time that its garbage collector took.
    """

    steps_per_s: float
    p50_us: float
    p99_us: float
    python_cpu_us: float
    server_cpu_us: float
    gc_us: float = 0.0


class ServerFacts(msgspec.Struct, frozen=True):
    """The server under a durable store. `connections` were opened during the probe, `rejected` of them by the server."""

    version: str
    appendfsync: str
    connections: int
    rejected: int


class Load(msgspec.Struct, frozen=True):
    """Throughput at `runs_at_a_time`; every repetition of ours is followed by one of the baseline, in the same process."""

    store: str
    runs_at_a_time: int
    runs: int
    baseline_name: str
    ours: tuple[Sample, ...]
    baseline: tuple[Sample, ...]
    server: ServerFacts | None

    @property
    def steps_per_s(self) -> float:
        """The median."""
        return statistics.median(sample.steps_per_s for sample in self.ours)

    @property
    def spread(self) -> float:
        """(fastest - slowest repetition) / median."""
        rates = [sample.steps_per_s for sample in self.ours]
        return (max(rates) - min(rates)) / self.steps_per_s

    @property
    def ratio(self) -> float:
        """Our throughput / the baseline's, the median of the pairs."""
        pairs = zip(self.ours, self.baseline, strict=True)
        return statistics.median(ours.steps_per_s / baseline.steps_per_s for ours, baseline in pairs)


class Storage(msgspec.Struct, frozen=True):
    """Bytes of one run's log by its number of steps, and of the server's append-only file."""

    store: str
    log_bytes: dict[int, int]
    file_bytes: dict[int, int]

    @property
    def slopes(self) -> tuple[float, float]:
        """Bytes per further step, in the shorter and in the longer half of the sizes."""
        small, middle, large = sorted(self.log_bytes)
        size = self.log_bytes
        return (size[middle] - size[small]) / (middle - small), (size[large] - size[middle]) / (large - middle)


class LiveRuns(msgspec.Struct, frozen=True):
    """Resident memory of runs that wait in the middle of their pipeline."""

    store: str
    runs: int
    bytes_per_run: float


class LongRun(msgspec.Struct, frozen=True):
    """One run of many steps: seconds and resident bytes when so many steps were done."""

    store: str
    steps: int
    marks: tuple[tuple[int, float, int], ...]
    python_cpu_us: float


Figures = Load | Storage | LiveRuns | LongRun
