"""The in-process host of the protocol: runs machines over a store, step functions and verifiers, in one event loop."""
