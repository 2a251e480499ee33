"""A small kill -9 campaign on every change; `python -m benchmarks kill9` is the large one. And the audit must be able to fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentraft_ray.protocol.records import Certificate, Payload, Record, StepCommitted
from agentraft_ray.taxonomy import FREE
from benchmarks.kill9.audit import Audit
from benchmarks.kill9.campaign import plan_kills, run_campaign
from benchmarks.kill9.work import STEPS, Execution, make_pipeline

_KILLS, _SEED = 9, 11


@pytest.mark.slow
@pytest.mark.server
async def test_a_killed_run_resumes_finishes_and_runs_no_committed_step_again(tmp_path: Path) -> None:
    found = await run_campaign(tmp_path, kills=_KILLS, seed=_SEED, tell=print)
    assert found.violations == [], f"repeat it: python -m benchmarks kill9 --kills {_KILLS} --seed {_SEED}"
    assert found.kills == {"process": 3, "server": 3, "both": 3}
    assert found.steps_committed == STEPS * found.runs
    assert found.lives > found.runs


def test_a_plan_has_a_third_of_each_kind_and_is_the_same_for_the_same_seed() -> None:
    plan = plan_kills(99, seed=3)
    assert {kind: sum(kill.kind == kind for kill in plan) for kind in ("process", "server", "both")} == {
        "process": 33, "server": 33, "both": 33,
    }  # fmt: skip
    assert plan == plan_kills(99, seed=3) != plan_kills(99, seed=4)


def _committed(step: int, lineage: int = 0) -> Record:
    certificate = Certificate("r", step, lineage, 0, b"", (), b"", b"", b"", "v", "", "", "pass", "NONE", 1.0)
    return StepCommitted(certificate, Payload(b"", 0, b""), FREE, 0.0)


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    return Audit(make_pipeline(tmp_path / "tally"))


_FIRST = Execution("head.00", 0, 0, pid=1)


def test_the_audit_accepts_a_step_that_runs_again_before_it_is_committed(audit: Audit) -> None:
    audit.look([], [_FIRST])
    audit.look([_committed(0)], [_FIRST, _FIRST._replace(pid=2)])
    assert (audit.violations, audit.executed, audit.executed_again) == ([], 2, 1)


def test_the_audit_sees_a_committed_step_that_runs_again(audit: Audit) -> None:
    audit.look([_committed(0)], [_FIRST])
    audit.look([_committed(0)], [_FIRST, _FIRST._replace(pid=2)])
    assert len(audit.violations) == 1
    assert "had committed before" in audit.violations[0]


def test_the_audit_sees_an_attempt_that_runs_twice_in_one_life(audit: Audit) -> None:
    audit.look([_committed(0)], [_FIRST, _FIRST])
    assert "2 times in one life" in audit.violations[0]


def test_the_audit_sees_a_commit_that_is_doubled_or_gone(audit: Audit) -> None:
    audit.look([_committed(0), _committed(0)], [_FIRST])
    audit.look([], [_FIRST])
    assert ["committed 2 times" in text or "gone from the log" in text for text in audit.violations] == [True, True]


def test_the_audit_sees_a_step_that_ran_before_its_parent_was_durable(audit: Audit) -> None:
    audit.look([], [_FIRST, Execution("head.01", 0, 0, pid=1)])
    assert "head.00 was never durable" in audit.violations[0]
