"""Settings for every test: how Hypothesis searches. Fixtures live beside the tests that use them."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

# print_blob: a failing random test prints the line that repeats it. HYPOTHESIS_PROFILE=thorough for a long search by hand.
settings.register_profile("quick", deadline=None, max_examples=50, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=2_000, phases=list(Phase))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
