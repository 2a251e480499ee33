"""The store in memory keeps every promise of the port, and its table the promises that need a clock."""

from __future__ import annotations

import pytest

from agentraft_ray.checkpoint import AnswerKind, Checkpoint, Command, InMemoryCheckpointStore, LoggedCheckpointStore, LogTable
from agentraft_ray.checkpoint.base import AppendEntry, RunStore
from agentraft_ray.config import Limits
from agentraft_ray.errors import OutputNotEncodable, OwnershipLost, StoreError
from agentraft_ray.identity import GENESIS, NO_OWNER, OwnerToken, chain
from agentraft_ray.testing.store_conformance import StoreConformance


class TestInMemoryStore(StoreConformance):
    async def make_store(self) -> RunStore:
        return InMemoryCheckpointStore()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def finished(table: LogTable, run_id: str) -> AppendEntry:
    head = chain(GENESIS, b"admitted")
    table.admit(run_id, b"digest", b"admitted", head)
    new_head, token = chain(head, b"end"), OwnerToken(1, "owner")
    entry = AppendEntry(run_id, token, b"1", 1, head, (b"end",), new_head, claim=NO_OWNER, status="finished", outcome="ok")
    assert table.append(entry).kind is AnswerKind.APPENDED
    return entry


def test_a_finished_run_leaves_its_tombstone_after_retention_and_nothing_after_the_idempotency_time() -> None:
    clock = Clock()
    table = LogTable(clock, Limits(retention_s=10, idempotency_ttl_s=100))
    entry = finished(table, "run")
    clock.now = 9.9
    assert table.finished_runs() == ["run"]
    assert table.finished_runs(older_than_s=9) == ["run"]
    assert table.finished_runs(older_than_s=10) == []
    clock.now = 10
    meta = table.meta("run")
    assert meta is not None
    assert (meta.expired, meta.index, meta.outcome, meta.admission) == (True, 0, "ok", b"digest")
    assert table.finished_runs() == []
    assert table.append(entry).kind is AnswerKind.APPENDED
    clock.now = 100
    assert table.meta("run") is None
    assert table.append(entry).kind is AnswerKind.MISSING
    assert table.admit("run", b"digest", b"admitted", b"head").created


def test_a_tombstone_outlives_a_log_that_is_kept_longer() -> None:
    clock = Clock()
    table = LogTable(clock, Limits(retention_s=100, idempotency_ttl_s=10))
    finished(table, "run")
    clock.now = 50
    meta = table.meta("run")
    assert meta is not None
    assert meta.index == 2


def test_expired_runs_are_forgotten_without_being_asked_for() -> None:
    clock = Clock()
    table = LogTable(clock, Limits(retention_s=10, idempotency_ttl_s=20))
    for number in range(50):
        clock.now = number
        finished(table, f"run-{number}")
    assert len(table.runs) <= 11
    assert len(table.tombstones) <= 21


def test_a_lease_lives_by_the_clock_of_the_table() -> None:
    clock = Clock()
    table = LogTable(clock)
    table.renew_lease("owner", 5)
    clock.now = 4.9
    assert table.lease_alive("owner")
    clock.now = 5
    assert not table.lease_alive("owner")


def test_a_revoked_lease_stays_revoked_for_its_time_and_is_then_forgotten() -> None:
    clock = Clock()
    table = LogTable(clock, Limits(lease_revoked_s=3600))
    table.renew_lease("owner", 5)
    table.revoke_lease("owner")
    clock.now = 3599
    with pytest.raises(OwnershipLost, match="must stop"):
        table.renew_lease("owner", 5)
    clock.now = 3600
    table.revoke_lease("other")
    assert list(table.revoked) == ["other"]


def test_an_inbox_that_nobody_empties_refuses_by_name() -> None:
    table = LogTable(Clock(), Limits(inbox_max=2))
    table.admit("run", b"digest", b"admitted", b"head")
    assert table.push_command("run", Command("a", b""))
    assert table.push_command("run", Command("b", b""))
    with pytest.raises(StoreError, match="resume the run"):
        table.push_command("run", Command("c", b""))


async def test_the_checkpoint_calls_show_the_log_where_nothing_was_saved_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    async def view(store: RunStore, task_id: str) -> list[Checkpoint]:
        return [Checkpoint(task_id, index, "step", record.decode(), 0) for index, record in enumerate(await store.read(task_id))]

    monkeypatch.setattr(LoggedCheckpointStore, "log_view", view)
    store = InMemoryCheckpointStore()
    await store.admit("run", b"digest", b"admitted", b"head")
    assert (await store.outputs("run")) == {"step": "admitted"}
    await store.save(Checkpoint("run", 0, "mine", 1, 0))
    assert (await store.outputs("run")) == {"mine": 1}


async def test_a_checkpoint_that_is_not_plain_data_is_refused() -> None:
    with pytest.raises(OutputNotEncodable, match="save JSON"):
        await InMemoryCheckpointStore().save(Checkpoint("run", 0, "step", object(), 0))
