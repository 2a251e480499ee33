"""AgentRaft on Ray: multi-step agent pipelines in which nothing is committed without a verdict that covers exactly that output.

>>> from agentraft_ray import Pipeline, Step, Task, wrap
>>> pipeline = Pipeline([Step("draft", lambda ctx: f"A memo about {ctx.task.goal}.")])
>>> wrap(pipeline, store="memory").run_sync(Task("rollbacks")).summary()["verified"]
'1/1'
"""

from typing import TYPE_CHECKING, Any

from agentraft_ray.api import wrap
from agentraft_ray.breaker import BreakerState, CircuitBreaker
from agentraft_ray.checkpoint.base import Checkpoint, CheckpointStore
from agentraft_ray.checkpoint.memory import InMemoryCheckpointStore
from agentraft_ray.config import AgentRaftConfig, Budget, FreshCalibration, Limits, RetryPolicy
from agentraft_ray.errors import AgentRaftError, CircuitBreakerOpen, ErrorType, MaxRetriesExceeded, VerifierUnavailable
from agentraft_ray.events import Event, EventType
from agentraft_ray.pipeline import AheadBy, Criticality, Pipeline, Step, StepContext, Task, step
from agentraft_ray.result import RunResult, StepRun
from agentraft_ray.runtime.coordinator import Coordinator, RunHandle
from agentraft_ray.taxonomy import Cost, VerificationResult
from agentraft_ray.verifier import LLMVerifier, MockVerifier, RulesVerifier, TieredVerifier, Verifier, VerifyInput

if TYPE_CHECKING:
    from agentraft_ray.checkpoint.redis import RedisCheckpointStore

__version__ = "0.1.0"

__all__ = [
    "AgentRaftConfig",
    "AgentRaftError",
    "AheadBy",
    "BreakerState",
    "Budget",
    "Checkpoint",
    "CheckpointStore",
    "CircuitBreaker",
    "CircuitBreakerOpen",
    "Coordinator",
    "Cost",
    "Criticality",
    "ErrorType",
    "Event",
    "EventType",
    "FreshCalibration",
    "InMemoryCheckpointStore",
    "LLMVerifier",
    "Limits",
    "MaxRetriesExceeded",
    "MockVerifier",
    "Pipeline",
    "RedisCheckpointStore",
    "RetryPolicy",
    "RulesVerifier",
    "RunHandle",
    "RunResult",
    "Step",
    "StepContext",
    "StepRun",
    "Task",
    "TieredVerifier",
    "VerificationResult",
    "Verifier",
    "VerifierUnavailable",
    "VerifyInput",
    "step",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name == "RedisCheckpointStore":  # loads the redis client, which a run in memory does not need
        from agentraft_ray.checkpoint.redis import RedisCheckpointStore  # noqa: PLC0415

        return RedisCheckpointStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
