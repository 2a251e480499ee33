"""Side-by-side throughput: what a step costs in LangGraph, in DBOS and here. `programs` run in the peers' own environment."""
