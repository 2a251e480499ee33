"""A cascade on a live cluster: one step breaks in a thousand live runs; what the breaker lets through, and what becomes of the runs."""
