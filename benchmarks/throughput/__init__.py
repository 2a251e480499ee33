"""Steps per second of the actor runtime on one machine, beside the bare loop in the same session."""
