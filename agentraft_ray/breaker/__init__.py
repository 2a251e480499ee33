"""Circuit breakers: the seed's plain one, and the scoped one that many runs share. State machines only, no I/O."""

from agentraft_ray.breaker.plain import BreakerState, CircuitBreaker
from agentraft_ray.breaker.policy import BreakerPolicy, Denied, Outcome, Permit, Standing, provider_policy
from agentraft_ray.breaker.scoped import ScopedBreakers
from agentraft_ray.config import RetryPolicy

__all__ = [
    "BreakerPolicy",
    "BreakerState",
    "CircuitBreaker",
    "Denied",
    "Outcome",
    "Permit",
    "RetryPolicy",
    "ScopedBreakers",
    "Standing",
    "provider_policy",
]
