"""Fault injection: what the layer buys where agents and verifiers err at known rates, measured through the real protocol.

`FaultConfig` and `Scenario` say what is simulated; `benchmarks.evaluate` measures one scenario; `python -m benchmarks` measures
sweeps of them, with intervals, and holds them against formulas.
"""

from benchmarks.faults.scenario import FaultConfig, Outcome, Scenario

__all__ = ["FaultConfig", "Outcome", "Scenario"]
