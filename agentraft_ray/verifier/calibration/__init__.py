"""Calibration: how often a verifier is right, measured on labelled cases. ``python -m agentraft_ray.verifier.calibration`` runs it."""

from __future__ import annotations

from agentraft_ray.verifier.calibration.cases import LabelledCase, read_cases
from agentraft_ray.verifier.calibration.measured import Calibration

__all__ = ["Calibration", "LabelledCase", "read_cases"]
