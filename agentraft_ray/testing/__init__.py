"""Test tools for users: conformance suites for stores and verifiers, and the simulator of whole clusters. Imports nothing by itself."""
