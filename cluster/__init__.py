"""Start, join and use a cluster; imported only as ``agentraft_ray.cluster``, so that no class ever exists twice."""

if not __name__.startswith("agentraft_ray."):
    raise ImportError("import agentraft_ray.cluster instead of cluster: under two names every class in it would exist twice")

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentraft_ray.cluster.cluster import Cluster
    from agentraft_ray.cluster.coordinator import ClusterCoordinator
    from agentraft_ray.cluster.results import Progress, Results
    from agentraft_ray.cluster.run import ClusterRun
    from agentraft_ray.cluster.settings import ClusterSettings

__all__ = ["Cluster", "ClusterCoordinator", "ClusterRun", "ClusterSettings", "Progress", "Results"]

_FILES = {
    "Cluster": "cluster",
    "ClusterCoordinator": "coordinator",
    "ClusterRun": "run",
    "ClusterSettings": "settings",
    "Progress": "results",
    "Results": "results",
}


def __getattr__(name: str) -> Any:
    """Loads Ray when something that needs it is first named: the command line lives in this room and mostly does without."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
