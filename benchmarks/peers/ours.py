"""Our side of the comparison: a process that repeats the throughput benchmark's measurement and prints what it found."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from benchmarks.peers.figures import Answer

__all__ = ["NOT_BUILT", "MeasureOurs", "OursSample", "is_built", "measure_with"]

MODULE = "benchmarks.throughput.load"
NOT_BUILT = f"not built yet: there is no {MODULE}, so there are no ratios"


class OursSample(Protocol):
    """One repetition. `settings` names at least the durability ("fsync" ...), as the store confirmed it."""

    @property
    def steps_per_s(self) -> float: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...


class MeasureOurs(Protocol):
    """Keeps `runs_at_a_time` runs of `steps` trivial steps going for about `seconds`."""

    def __call__(self, runs_at_a_time: int, steps: int, seconds: float) -> OursSample: ...


def is_built(module: str = MODULE) -> bool:
    """Whether there is something to measure; does not import it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its package is not there either
        return False


def measure_with(measure_ours: MeasureOurs, asked: Mapping[str, Any]) -> Answer:
    """As many repetitions as asked for; the settings are the last one's, as text."""
    samples = [measure_ours(asked["runs_at_a_time"], asked["steps"], asked["seconds"]) for _ in range(asked["repetitions"])]
    settings = {str(name): str(value) for name, value in samples[-1].settings.items()}
    return Answer(tuple(sample.steps_per_s for sample in samples), settings)


if __name__ == "__main__":
    print(msgspec.json.encode(measure_with(importlib.import_module(MODULE).measure_ours, json.loads(sys.argv[1]))).decode())
