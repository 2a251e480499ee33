"""What a scoped breaker is told and what it answers: its policy, permits, denials, and how a scope stands. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from agentraft_ray.breaker.plain import BreakerState
from agentraft_ray.config import ProviderLimits
from agentraft_ray.errors import InvalidConfig

__all__ = ["BreakerPolicy", "Denied", "Outcome", "Permit", "Standing", "provider_policy"]

Outcome = Literal["success", "failure", "released"]


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a scope opens, for how long, and how long a permit is waited for.

    A scope opens when either holds, counting only failures that come from at least `runs_min` different runs:

    - `failure_threshold` failures in a row (the seed's rule for a cascade);
    - `failure_share` of the last `window` outcomes failed, of which there are at least `samples_min`, so that a success now and
      then does not hide a cascade. Both numbers follow from the threshold (8 and 4 times), so that raising the one relaxes the
      other; with the defaults that is half of the last 20 to 40 outcomes.

    One run alone, however often it fails, opens nothing unless `runs_min=1`.
    """

    failure_threshold: int = 5
    cooldown_s: float = 30.0
    runs_min: int = 3
    failure_share: float = 0.5
    permit_ttl_s: float = 3600.0  # longer than a step may sensibly take; only bounds what lost permits occupy
    probe_ttl_s: float = 60.0  # doubled for every probe lost in a row, so that a step slower than this is heard in the end
    scopes_max: int = 10_000  # the oldest closed scope is forgotten for a new one
    counted_max: int = 10_000  # attempts remembered so that none counts twice

    def __post_init__(self) -> None:
        least = {"failure_threshold": 1, "runs_min": 1, "scopes_max": 1, "counted_max": 1, "cooldown_s": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InvalidConfig(f"breaker policy: {name}={getattr(self, name)} must be at least {low}")
        if not 0 < self.failure_share <= 1:
            raise InvalidConfig(f"breaker policy: failure_share={self.failure_share} must be over 0 and at most 1")
        if not 0 < self.probe_ttl_s <= self.permit_ttl_s:
            raise InvalidConfig(f"breaker policy: need 0 < probe_ttl_s <= permit_ttl_s, not {self.probe_ttl_s} and {self.permit_ttl_s}")

    @property
    def window(self) -> int:
        """How many outcomes the failure share looks back over."""
        return 8 * self.failure_threshold

    @property
    def samples_min(self) -> int:
        """How many outcomes there must be before the failure share means anything."""
        return 4 * self.failure_threshold


def provider_policy(limits: ProviderLimits) -> BreakerPolicy:
    """The policy for requests to a provider's model. One run is enough to open it: what stops its requests stops everybody's."""
    return BreakerPolicy(limits.failure_threshold, limits.cooldown_s, runs_min=1, probe_ttl_s=limits.probe_ttl_s)


class Permit(msgspec.Struct, frozen=True, gc=False):
    """Leave for one attempt to work in a scope. Every permit is unique by its `number`; generations are never used twice.

    The outcome counts only before `expires_at_s` (the time that the host passes in) and only while the scope is in `generation`.
    """

    scope: str
    generation: int
    attempt_id: str
    owner: str
    expires_at_s: float
    probe: bool
    number: int


class Denied(msgspec.Struct, frozen=True, gc=False):
    """No permit now; asking again before `retry_at_s` is pointless."""

    scope: str
    retry_at_s: float


class Standing(msgspec.Struct, frozen=True, gc=False):
    """How a scope stands, for a host elsewhere. Leave that it gives in a closed scope carries this `generation`.

    `retry_at_s`: when it makes sense to ask for a permit; now or earlier in a closed scope, and in a half-open one without a probe.
    """

    generation: int
    state: BreakerState
    retry_at_s: float
