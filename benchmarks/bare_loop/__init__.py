"""The loop that bounds us: real Ray actors and a real append-only file, and no feature at all. `loop` is for other benchmarks."""
