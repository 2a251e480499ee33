"""What the protocol core alone costs per step: no store, no event loop, no verifier; a host that answers at once."""
