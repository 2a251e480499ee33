"""Start, join and use a cluster; imported only as ``agentraft_ray.cluster``, so that no class ever exists twice."""

if not __name__.startswith("agentraft_ray."):
    raise ImportError("import agentraft_ray.cluster instead of cluster: under two names every class in it would exist twice")

from agentraft_ray.cluster.cluster import Cluster
from agentraft_ray.cluster.coordinator import ClusterCoordinator
from agentraft_ray.cluster.results import Progress, Results
from agentraft_ray.cluster.run import ClusterRun
from agentraft_ray.cluster.settings import ClusterSettings

__all__ = ["Cluster", "ClusterCoordinator", "ClusterRun", "ClusterSettings", "Progress", "Results"]
