"""What can be seen of runs from outside: spans (`tracing`), metrics (`metrics`), logs as JSON (`logs`).

Nothing here changes what a run does, and without OpenTelemetry configured no span costs anything.
"""

from agentraft_ray.telemetry.logs import JsonFormatter

__all__ = ["JsonFormatter"]
