"""What `wrap` makes of a pipeline and its settings: all that any process needs to host its runs, but no store and no clock."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from agentraft_ray.breaker import BreakerPolicy, CircuitBreaker
from agentraft_ray.checkpoint.codec import output_type
from agentraft_ray.config import Limits
from agentraft_ray.pipeline import Pipeline
from agentraft_ray.protocol.plan import Plan
from agentraft_ray.verifier.base import Verifier

__all__ = ["Blueprint"]


@dataclass(frozen=True)
class Blueprint:
    """A pipeline with its verifier and policies. `plain` is the seed's breaker where the user passed one."""

    pipeline: Pipeline
    plan: Plan
    verifier: Verifier
    limits: Limits
    policy: BreakerPolicy
    plain: CircuitBreaker | None = None

    @cached_property
    def output_types(self) -> list[Any]:
        """The type that each step of the block declares for its output, or None."""
        return [output_type(step.fn) for step in self.pipeline.block]
