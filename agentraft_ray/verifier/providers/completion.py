"""What a provider's model answered, in one form for all of them. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from agentraft_ray.taxonomy import FaultKind

__all__ = ["Completion", "StopReason"]


class StopReason(str, Enum):
    """Why a model stopped writing. Closed; what a provider calls it is mapped in that provider's module."""

    COMPLETE = "complete"
    TRUNCATED = "truncated"  # by max_tokens
    TOO_LONG = "too_long"  # the prompt and the answer do not fit the model
    REFUSED = "refused"
    FILTERED = "filtered"
    MALFORMED = "malformed"  # a broken tool call, or output that the provider itself could not read
    OTHER = "other"  # one that did not exist when this was written: never a verdict

    @property
    def fault(self) -> FaultKind | None:
        """The fault that it amounts to; None for a complete answer."""
        return None if self is StopReason.COMPLETE else FaultKind(self.value)


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply, and what it took.

    `text` is what the model wrote; of a tool call, its arguments as JSON. `verdict` holds the arguments as data where the provider's
    SDK has read them. `tokens_cached` are among `tokens_in`, `tokens_reasoning` among `tokens_out`. `model` = the one that answered,
    as the provider names it. `detail` = what the provider says about a stop that is not complete.
    """

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    stop: StopReason = StopReason.COMPLETE
    verdict: Mapping[str, Any] | None = None
    tokens_cached: int = 0
    tokens_reasoning: int = 0
    model: str = ""
    detail: str = ""
