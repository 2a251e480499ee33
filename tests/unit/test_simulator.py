"""The simulator: every law holds on the smoke seeds, interesting things happen in them, and a seed repeats itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path
from random import Random
from typing import get_args

import pytest

from agentraft_ray.protocol.records import Record
from agentraft_ray.testing.faults import NO_FAULTS, Faults
from agentraft_ray.testing.planted import BUGS
from agentraft_ray.testing.simulator import Outcome, main, repeat_command, simulate, simulate_many
from agentraft_ray.testing.world import World

ROOT = Path(__file__).resolve().parents[2]
SMOKE_SEEDS = range(500)
QUICK_BUGS = ("act_before_persist", "no_owner_check", "commit_without_certificate", "finished_twice", "budget_starts_anew")


@pytest.fixture(scope="module")
def smoke() -> list[Outcome]:
    return list(simulate_many(SMOKE_SEEDS, jobs=min(4, os.cpu_count() or 1)))


def test_every_law_holds_on_the_smoke_seeds(smoke: list[Outcome]) -> None:
    broken = [f"{outcome.what}\n  repeat it: {repeat_command(outcome.seed)}" for outcome in smoke if outcome.law]
    assert not broken, "\n".join(broken)


def test_the_smoke_seeds_see_every_fault_every_record_and_every_ending(smoke: list[Outcome]) -> None:
    seen: Counter[str] = Counter()
    for outcome in smoke:
        seen.update(outcome.seen)
    expected = {one.name for one in fields(Faults)} | {record.__name__ for record in get_args(Record)}
    expected |= {"run succeeded", "run failed", "run cancelled", "breaker open", "breaker closed", "probe", "tail lost"}
    expected |= {"stale execution", "operator resumes", "answer fenced", "answer leased", "answer moved"}
    expected |= {f"error {name}" for name in ("BudgetExhausted", "MaxRetriesExceeded", "ApprovalDenied", "CircuitBreakerOpen")}
    assert sorted(expected - seen.keys()) == []


def test_the_same_seed_gives_the_same_bytes(smoke: list[Outcome]) -> None:
    assert [simulate(seed).digest for seed in SMOKE_SEEDS[:40]] == [outcome.digest for outcome in smoke[:40]]
    assert len({outcome.digest for outcome in smoke}) == len(smoke)


def test_the_same_seed_gives_the_same_bytes_in_a_process_with_other_hashes(smoke: list[Outcome]) -> None:
    script = "from agentraft_ray.testing.simulator import simulate\nprint([simulate(seed).digest for seed in range(25)])"
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        assert found.stdout.strip() == str([outcome.digest for outcome in smoke[:25]])


def test_a_world_without_faults_finishes_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Faults, "drawn", classmethod(lambda _cls, _rng: NO_FAULTS))
    for seed in range(40):
        world = World(seed)
        world.run()
        budgets = sum(world.seen[f"error {name}"] for name in ("BudgetExhausted", "MaxRetriesExceeded"))
        assert world.seen["run succeeded"] + budgets == len(world.scenarios)
        assert world.seen["RolledBack"] == world.seen["stale execution"] == world.seen["answer moved"] == 0


def test_whole_worlds_differ_in_the_faults_they_have() -> None:
    drawn = [Faults.drawn(Random(seed)) for seed in range(200)]
    for one in fields(Faults):
        on = sum(getattr(faults, one.name) > 0 for faults in drawn)
        assert 40 < on < 190, one.name
        assert all(0 <= getattr(faults, one.name) <= 1 for faults in drawn)


@pytest.mark.parametrize("bug", QUICK_BUGS)
def test_a_planted_bug_is_caught_at_once(bug: str) -> None:
    assert any(simulate(seed, bug).law for seed in range(60))


def test_a_planted_bug_leaves_nothing_behind() -> None:
    before = simulate(3).digest
    for bug in BUGS:
        with BUGS[bug]():
            pass
    assert simulate(3).digest == before


def test_a_broken_law_prints_the_command_that_repeats_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "1", "--from", "0", "--bug", "finished_twice"]) == 1
    printed = capsys.readouterr().out
    assert "seed 0 breaks a law: nothing_follows_the_end" in printed
    assert "python -m agentraft_ray.testing.simulator --seeds 1 --from 0 --bug finished_twice" in printed


def test_a_sound_seed_prints_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "3", "--from", "10"]) == 0
    printed = capsys.readouterr().out
    assert "3 seeds, 0 broken" in printed
    assert "StepCommitted" in printed
