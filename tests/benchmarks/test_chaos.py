"""The chaos campaign without a cluster: its plan follows from the seed, and its audit finds what is planted in a log or a tally."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from agentraft_ray import Task, wrap
from agentraft_ray.checkpoint.memory import InMemoryCheckpointStore
from agentraft_ray.checkpoint.seal import PlainSeal
from agentraft_ray.identity import digest
from agentraft_ray.protocol.records import OwnerClaimed, Record, StepCommitted
from agentraft_ray.runtime.logs import RunLogs
from benchmarks.chaos import report
from benchmarks.chaos.audit import Audited, Case, audit
from benchmarks.chaos.campaign import Findings
from benchmarks.chaos.plan import faults, trouble_of
from benchmarks.chaos.runs import Runs
from benchmarks.chaos.strikes import Strike
from benchmarks.chaos.tally import BEGAN, ENDED, JUDGED, Line, Tally, note, read_all
from benchmarks.chaos.watch import is_progress
from benchmarks.chaos.work import GOAL, JUDGE, PIPELINE, TROUBLES, expected_values, inputs_of

_KINDS = {"coordinator", "worker", "verifier", "store", "breaker", "server", "stall", "zombie", "flush"}


# --- the plan --------------------------------------------------------------------------------------------------------------


def test_the_same_seed_plans_the_same_faults_and_another_seed_others() -> None:
    assert list(islice(faults(3), 500)) == list(islice(faults(3), 500)) != list(islice(faults(4), 500))


def test_every_kind_of_fault_is_in_every_deck() -> None:
    plan = list(islice(faults(7), 24 * 5))
    assert all({fault.kind for fault in plan[start : start + 24]} == _KINDS for start in range(0, len(plan), 24))


def test_some_runs_have_one_trouble_of_a_step_and_the_same_ones_for_the_same_seed() -> None:
    troubles = [trouble_of(1, number) for number in range(800)]
    assert troubles == [trouble_of(1, number) for number in range(800)]
    assert {trouble[1] for trouble in troubles if trouble} == set(TROUBLES)
    assert 60 < sum(trouble is not None for trouble in troubles) < 140


def test_runs_are_handed_out_until_there_are_enough_of_them_and_of_faults(tmp_path: Path) -> None:
    runs = Runs(tmp_path, lambda _number: None, 3)
    tasks = runs.tasks()
    handed = [next(tasks) for _ in range(5)]
    runs.enough.set()
    assert (list(tasks), len({task.id for task in handed})) == ([], 5)


# --- the audit -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A run of the campaign's pipeline in one process, as its log and tally have it."""
    directory = tmp_path_factory.mktemp("chaos")
    for name in ("tally", "tally.marks"):
        (directory / name).mkdir()
    return asyncio.run(_good(directory / "tally"))


async def _good(tally: Path) -> Case:
    store = InMemoryCheckpointStore()
    async with wrap(PIPELINE, verifier=JUDGE, store=store, max_retries=8, failure_threshold=100) as coordinator:
        result = await coordinator.run(Task(GOAL, inputs_of(tally, ("head.1", "unpicklable")), "run-1"))
    logs = RunLogs(store, PlainSeal())
    records, head = await logs.records("run-1"), (await logs.meta("run-1")).head
    seen = [(5, digest(records[4][1]))]
    return Case("run-1", PIPELINE, records, read_all(tally), expected_values("run-1"), head=head, seen=seen, told=result.status)


def _kinds(found: Audited) -> set[str]:
    return {kind for kind, texts in found.violations.items() if texts}


def _commits(case: Case) -> list[int]:
    return [index for index, (record, _) in enumerate(case.records) if isinstance(record, StepCommitted)]


def test_the_audit_accepts_a_run_with_rejections_a_rollback_and_a_raise(good: Case) -> None:
    found = audit([good])
    assert (found.violations, found.found) == ({kind: [] for kind in found.violations}, 0)
    assert (found.runs, found.rollbacks) == (1, 1)
    assert found.commits >= len(PIPELINE)
    assert found.rejections > 1
    assert found.verdicts > found.commits


def test_the_audit_finds_a_run_that_is_not_in_the_store(good: Case) -> None:
    assert _kinds(audit([replace(good, records=[])])) == {"lost runs"}


def test_the_audit_finds_a_run_that_did_not_finish_or_failed(good: Case) -> None:
    assert "lost runs" in _kinds(audit([replace(good, records=good.records[:-1])]))
    assert _kinds(audit([replace(good, must_fail=True)])) == {"lost runs"}
    assert _kinds(audit([replace(good, told="")])) == {"lost runs"}


def test_the_audit_finds_that_the_program_was_told_something_else(good: Case) -> None:
    assert _kinds(audit([replace(good, told="failed")])) == {"false reports"}


def test_the_audit_finds_a_commit_that_is_gone(good: Case) -> None:
    without = [item for index, item in enumerate(good.records) if index != _commits(good)[-1]]
    found = audit([replace(good, records=without)])
    assert {"lost commits"} <= _kinds(found)
    assert any("has succeeded without a commit" in text for text in found.violations["lost commits"])


def test_the_audit_finds_a_log_that_is_another_one_than_was_seen(good: Case) -> None:
    for seen in ((5, digest(b"another")), (10_000, b"")):
        assert _kinds(audit([replace(good, seen=[seen])])) == {"lost commits"}
    assert _kinds(audit([replace(good, head=bytes(32))])) == {"lost commits"}


def test_the_audit_finds_a_commit_that_stands_twice(good: Case) -> None:
    at = _commits(good)[0]
    doubled = [*good.records[: at + 1], good.records[at], *good.records[at + 1 :]]
    assert "doubled commits" in _kinds(audit([replace(good, records=doubled)]))


def test_the_audit_finds_a_commit_that_no_verifier_has_passed(good: Case) -> None:
    lines = [line for line in good.lines if not (line.kind == JUDGED and line.step == "join")]
    assert _kinds(audit([replace(good, lines=lines)])) == {"unverified commits"}


def test_the_audit_finds_an_execution_after_the_commit(good: Case) -> None:
    record = good.records[_commits(good)[-1]][0]
    assert isinstance(record, StepCommitted)
    late = Line(BEGAN, "run-1", "tail.2", 0, 1, "key", 1, record.at + 0.5)
    found = audit([replace(good, lines=[*good.lines, late])])
    assert _kinds(found) == {"steps run again"}
    assert "0.500 s after its commit" in found.violations["steps run again"][0]


def test_the_audit_finds_an_execution_before_its_parents_were_committed(good: Case) -> None:
    early = Line(BEGAN, "run-1", "join", 0, 0, "key", 1, good.lines[0].at)
    assert _kinds(audit([replace(good, lines=[early, *good.lines])])) == {"lost commits"}


def test_the_audit_counts_what_ran_again_before_its_commit_and_allows_it(good: Case) -> None:
    first = next(line for line in good.lines if line.kind == BEGAN)
    found = audit([replace(good, lines=[first, *good.lines])])
    assert (found.found, found.executed_again) == (0, audit([good]).executed_again + 1)


def test_the_audit_finds_an_output_that_differs_from_the_undisturbed_one(good: Case) -> None:
    expected = {**good.expected, "join": "another"}
    assert _kinds(audit([replace(good, expected=expected)])) == {"wrong outputs"}


# --- the tally and the watch -----------------------------------------------------------------------------------------------


def test_the_tally_knows_what_is_under_way_in_a_process(tmp_path: Path) -> None:
    tally = Tally(tmp_path)
    note(str(tmp_path), BEGAN, "r1", "a", 0, 0, "key")
    note(str(tmp_path), BEGAN, "r2", "a", 0, 0, "key")
    tally.look()
    [pid] = [int(path.name) for path in tmp_path.iterdir()]
    assert tally.open_at(pid) == tally.open_now() == {"r1", "r2"}
    note(str(tmp_path), ENDED, "r1", "a", 0, 0, "key")
    tally.look()
    assert tally.open_at(pid) == {"r2"}
    assert [line.kind for line in read_all(tmp_path)] == [BEGAN, BEGAN, ENDED]


def test_only_what_follows_a_claim_is_progress_of_a_shard_that_was_killed(good: Case) -> None:
    commit: Record = good.records[_commits(good)[0]][0]
    claim = OwnerClaimed(2, "other", 0.0)
    assert is_progress([commit])
    assert not is_progress([commit], claimed=True)
    assert not is_progress([commit, claim], claimed=True)
    assert is_progress([commit, claim, commit], claimed=True)
    assert is_progress([claim], OwnerClaimed)
    assert is_progress([good.records[-1][0]])
    assert not is_progress([good.records[-1][0]], OwnerClaimed), "a run that ended was not taken over"


# --- the report ------------------------------------------------------------------------------------------------------------


def _findings(**changes: Any) -> Findings:
    strikes = [Strike("worker", "w", 0.0, affected=2, recovery_s=0.5), Strike("stall", "server", 0.0, affected=3, recovery_s=1.0)]
    return Findings(1, 3, **{"strikes": strikes, "troubles": {"die": 1}, **changes})


def test_a_campaign_passes_when_nothing_is_short() -> None:
    found = _findings()
    assert report.shortfalls(found) == []
    assert list(report.lines(found))[-1] == "PASSED"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda: _findings(troubles={}),
        lambda: _findings(stuck=["worker: none of 2 affected runs went on"]),
        lambda: _findings(strikes=[Strike("worker", "w", 0.0, 1, 5.5), Strike("worker", "w", 0.0, 1, 0.1)]),
        lambda: _findings(strikes=[Strike("stall", "s", 0.0, 1, 3.5), Strike("worker", "w", 0.0, 1, 0.1)]),
        lambda: _findings(audited=Audited(violations={"lost runs": ["r: gone"]})),
    ],
)
def test_a_campaign_does_not_pass_with(spoil: Callable[[], Findings]) -> None:
    found = spoil()
    assert len(report.shortfalls(found)) == 1
    assert list(report.lines(found))[-1].startswith("NOT PASSED")


def test_a_fault_that_hit_nothing_does_not_count() -> None:
    assert _findings(strikes=[Strike("worker", "w", 0.0)], troubles={}).effective == 0
