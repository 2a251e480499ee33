"""Engines: who scores texts for `VLLMVerifier`. vLLM itself runs in a process of its own (`host`); nothing here imports it before that."""

from __future__ import annotations

from agentraft_ray.verifier.engine.port import Engines, Scores
from agentraft_ray.verifier.engine.settings import EngineSettings

__all__ = ["EngineSettings", "Engines", "Scores"]
