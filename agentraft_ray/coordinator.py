"""The coordinator under the seed's module name."""

from agentraft_ray.api import wrap
from agentraft_ray.result import RunResult, StepRun
from agentraft_ray.runtime.coordinator import Coordinator, RunHandle

__all__ = ["Coordinator", "RunHandle", "RunResult", "StepRun", "wrap"]
