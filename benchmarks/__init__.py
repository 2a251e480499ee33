"""Programs that measure and prove: each prints what it found, also when it hurts. `python -m benchmarks` lists them.

Of what they are made of, `evaluate` and its values are for use in other programs as well; they are imported when they are asked for,
since some of the programs run where this project's own packages are not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.faults.evaluate import Aggregate, Comparison, evaluate, evaluate_sync
    from benchmarks.faults.scenario import FaultConfig, Outcome, Scenario

__all__ = ["Aggregate", "Comparison", "FaultConfig", "Outcome", "Scenario", "evaluate", "evaluate_sync"]

_IN_SCENARIO = {"FaultConfig", "Outcome", "Scenario"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"benchmarks.faults.{'scenario' if name in _IN_SCENARIO else 'evaluate'}"), name)
