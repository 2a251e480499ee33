"""Reserved for the runtime on Ray; imported only as ``agentraft_ray.cluster``, so that no class ever exists twice."""

if not __name__.startswith("agentraft_ray."):
    raise ImportError("import agentraft_ray.cluster instead of cluster: under two names every class in it would exist twice")
