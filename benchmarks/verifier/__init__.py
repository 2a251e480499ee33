"""What verdicts of a model of one's own cost: beside the bare engine, and beside the agent whose answers they judge."""
