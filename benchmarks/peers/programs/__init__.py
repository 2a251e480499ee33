"""What runs in the peers' environment, one process a measurement: the standard library and the peer itself, nothing of ours beside."""
