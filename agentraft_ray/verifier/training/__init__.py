"""Trains, measures and exports a classifying verifier: ``python -m agentraft_ray.verifier.training``. Heavy packages are imported late."""
