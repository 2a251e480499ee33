"""Settings for every test: how Hypothesis searches, and what runs last. Fixtures live beside the tests that use them."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

# print_blob: a failing random test prints the line that repeats it. HYPOTHESIS_PROFILE=thorough for a long search by hand.
settings.register_profile("quick", deadline=None, max_examples=50, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=2_000, phases=list(Phase))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on a Ray session come last: it stays until the end, with threads and variables that other tests would stumble over."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is not None)
