"""What one request to a provider's model is made with. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import urlsplit

from agentraft_ray.config import ProviderLimits
from agentraft_ray.verifier.providers.models import Manner, Thinking

__all__ = ["ProviderConfig"]


@dataclass(frozen=True)
class ProviderConfig:
    """One model at one provider. `base_url` is where it is served, if not at the usual place. `api_key` is never shown."""

    provider: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    region: str | None = None
    base_url: str | None = None
    temperature: float | None = 0.0
    max_tokens: int = 400
    limits: ProviderLimits = field(default_factory=ProviderLimits)

    @cached_property
    def lane(self) -> str:
        """The name of its lane: ``provider:model``, and where it is."""
        where = urlsplit(self.base_url).netloc.rpartition("@")[2] if self.base_url else self.region
        return f"{self.provider}:{self.model}@{where}" if where else f"{self.provider}:{self.model}"

    @cached_property
    def client_key(self) -> tuple[object, ...]:
        """What requests must have in common to share a client."""
        return self.provider, self.api_key, self.region, self.base_url, self.limits

    def tokens_max(self, manner: Manner) -> int:
        """The limit to ask for: one that thinks has room for that too."""
        return self.max_tokens + (self.limits.thinking_tokens if manner.thinking is Thinking.LEAST else 0)
