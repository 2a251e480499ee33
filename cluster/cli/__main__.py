"""``python -m agentraft_ray.cluster.cli``: the command line without its console script."""

from agentraft_ray.cluster.cli.main import main

main()
