"""The actors of a cluster: thin hosts of what the library decides. Imported only as ``agentraft_ray.actors``, so that no class ever
exists twice."""

if not __name__.startswith("agentraft_ray."):
    raise ImportError("import agentraft_ray.actors instead of actors: under two names every class in it would exist twice")
