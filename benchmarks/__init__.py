"""Programs that measure and prove: each prints what it found, also when it hurts. `python -m benchmarks` lists them."""
