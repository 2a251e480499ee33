"""The simulator can fail: it catches every planted bug within the smoke run's seeds, which are sound without the bug."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor

import pytest

from agentraft_ray.testing.planted import BUGS
from agentraft_ray.testing.simulator import Outcome, repeat_command, simulate, simulate_many

SMOKE_SEEDS = range(3_000)
JOBS = min(4, os.cpu_count() or 1)


def first_caught(bug: str) -> Outcome | None:
    return next((outcome for outcome in (simulate(seed, bug) for seed in SMOKE_SEEDS) if outcome.law), None)


@pytest.mark.slow
def test_every_law_holds_on_the_seeds_that_the_bugs_are_sought_on() -> None:
    broken = [f"{one.what}\n  repeat it: {repeat_command(one.seed)}" for one in simulate_many(SMOKE_SEEDS, jobs=JOBS) if one.law]
    assert not broken, "\n".join(broken)


@pytest.mark.slow
def test_every_planted_bug_is_caught_and_is_the_reason() -> None:
    with ProcessPoolExecutor(JOBS) as pool:
        caught = dict(zip(BUGS, pool.map(first_caught, BUGS), strict=True))
    assert [bug for bug, outcome in caught.items() if outcome is None] == []
    for bug, outcome in caught.items():
        assert outcome is not None
        assert "AttributeError" not in outcome.what, f"{bug} does not fit the code any more: {outcome.what}"
        assert "TypeError" not in outcome.what, f"{bug} does not fit the code any more: {outcome.what}"
        assert not simulate(outcome.seed).law, bug
        assert simulate(outcome.seed, bug).what == outcome.what
