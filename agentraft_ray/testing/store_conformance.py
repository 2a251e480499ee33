"""The suite that any run store proves itself with. It needs a test runner for asynchronous test methods, nothing else.

    class TestMyStore(StoreConformance):
        async def make_store(self) -> RunStore:
            return MyStore("my://server")

Run ids are new in every test, so the store need not be empty. What only a certain server can show (crashes, fail-over, foreign
types at a key) is beyond it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from agentraft_ray.checkpoint.base import (
    Answer,
    AnswerKind,
    AppendEntry,
    Checkpoint,
    CheckpointStore,
    Command,
    NewRun,
    RunMeta,
    RunPart,
    RunPlace,
    RunStore,
)
from agentraft_ray.checkpoint.retention import prune
from agentraft_ray.errors import AgentRaftError, OwnershipLost, PayloadTooLarge, StoreError
from agentraft_ray.identity import GENESIS, NO_OWNER, OwnerToken, chain, digest

__all__ = ["Pen", "StoreConformance", "admitted", "new_run_id"]

_DEADLINE_S = 10.0
_DOCUMENT_BYTES_MAX = 1024 * 1024  # the default of `Limits.document_bytes_max`


def new_run_id() -> str:
    """A run id that no other test uses."""
    return f"run-{secrets.token_hex(6)}"


class Pen:
    """One owner's view of a log: builds entries at where it believes the log to end, and moves on when one was appended."""

    def __init__(self, store: RunStore, run_id: str, token: OwnerToken, index: int = 0, head: bytes = GENESIS) -> None:
        self.store = store
        self.run_id = run_id
        self.token = token
        self.index = index
        self.head = head
        self._appends = 0

    def entry(self, *records: bytes, **more: Any) -> AppendEntry:
        """The next entry."""
        self._appends += 1
        new_head = self.head
        for record in records:
            new_head = chain(new_head, record)
        words: dict[str, Any] = {"index": self.index, "head": self.head, "new_head": new_head, **more}
        return AppendEntry(self.run_id, self.token, b"append-%d" % self._appends, records=records, **words)

    async def send(self, entry: AppendEntry) -> Answer:
        """Append `entry`; move on if it stands."""
        answer = await self.store.append(entry)
        if answer.kind is AnswerKind.APPENDED:
            assert answer == Answer(AnswerKind.APPENDED, self.token, entry.index + len(entry.records), entry.new_head), answer
            self.index, self.head = answer.index, answer.head
        return answer

    async def write(self, *records: bytes, **more: Any) -> Answer:
        """Build an entry and send it."""
        return await self.send(self.entry(*records, **more))

    async def claim(self, meta: RunMeta, *, epoch: int | None = None) -> Answer:
        """Take the run over from the owner that `meta` shows."""
        self.index, self.head = meta.index, meta.head
        self.token = OwnerToken(meta.token.epoch + 1 if epoch is None else epoch, self.token.owner)
        return await self.write(b"claimed by " + self.token.owner.encode(), claim=meta.token)


async def admitted(store: RunStore, owner: str = "first", *, run_id: str = "") -> Pen:
    """A new run, claimed by `owner`."""
    run_id = run_id or new_run_id()
    record = b"admitted"
    admission = await store.admit(run_id, digest(b"task"), record, chain(GENESIS, record))
    assert admission.created
    pen = Pen(store, run_id, OwnerToken(0, owner))
    answer = await pen.claim(admission.meta)
    assert answer.kind is AnswerKind.APPENDED, answer
    return pen


async def present(store: RunStore, run_id: str) -> RunMeta:
    """The run as it stands; it must exist."""
    meta = await store.meta(run_id)
    assert meta is not None
    return meta


async def state(store: RunStore, run_id: str) -> tuple[Any, ...]:
    """Everything that a refused call must leave as it was."""
    return await store.meta(run_id), await store.read(run_id), await store.inbox(run_id)


async def refusal(call: Awaitable[object], kind: type[AgentRaftError]) -> AgentRaftError:
    """The error of this kind that the call must raise."""
    try:
        await call
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


async def _paged(store: RunStore, part: RunPart, size: int, before: RunPlace | None = None) -> list[str]:
    """The ids of all runs of one part behind `before`, read in pages of `size`."""
    found: list[str] = []
    while page := await store.list_runs(part, size, before):
        assert len(page) <= size
        assert page == sorted(page, reverse=True)
        found += [place.run_id for place in page]
        before = page[-1]
    return found


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for an awaitable condition, with a deadline."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DEADLINE_S):
            while not await condition():  # noqa: ASYNC110 - the condition is another server's
                await asyncio.sleep(0.01)
            return
    raise AssertionError(f"after {_DEADLINE_S} s still not: {what}")


class StoreConformance:
    """Subclass it and say how to make a store; every method that starts with ``test_`` is one promise of the port."""

    async def make_store(self) -> RunStore:
        """A store to test; it is opened and closed here."""
        raise NotImplementedError

    async def foreign_keys(self, store: RunStore) -> list[str]:
        """What the store wrote under names that it does not admit to; a store with a key registry scans its server here."""
        return []

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[RunStore]:
        """A store for one test."""
        store = await self.make_store()
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    # --- admission -----------------------------------------------------------------------------------------------------------

    async def test_admission_happens_once_and_repeating_it_shows_the_first(self) -> None:
        async with self.opened() as store:
            run_id, head = new_run_id(), chain(GENESIS, b"first")
            assert await store.meta(run_id) is None
            first = await store.admit(run_id, b"a" * 32, b"first", head, [(b"blob", b"data")])
            assert first == (True, RunMeta(NO_OWNER, 1, head, "open", b"a" * 32, "", False, 9))
            again = await store.admit(run_id, b"b" * 32, b"second", chain(GENESIS, b"second"), [(b"other", b"data")])
            assert again == (False, first.meta), "another digest must find the first run unchanged, for the caller to compare"
            assert await store.read(run_id) == [b"first"]
            assert await store.blob(run_id, b"blob") == b"data"
            assert await store.blob(run_id, b"other") is None

    async def test_of_many_admissions_at_once_one_creates_the_run(self) -> None:
        async with self.opened() as store:
            run_id = new_run_id()
            records = [b"from %d" % number for number in range(10)]
            answers = await asyncio.gather(*(store.admit(run_id, digest(one), one, chain(GENESIS, one)) for one in records))
            assert sum(answer.created for answer in answers) == 1
            assert len({answer.meta for answer in answers}) == 1
            assert len(await store.read(run_id)) == 1

    async def test_many_admissions_in_one_call_are_each_answered_alone_and_in_order(self) -> None:
        async with self.opened() as store:
            assert await store.admit_many([]) == []
            old = await admitted(store)
            ids = [new_run_id() for _ in range(4)]
            news = [NewRun(run_id, digest(b"task"), b"first", chain(GENESIS, b"first"), ((b"blob", b"data"),)) for run_id in ids]
            again = NewRun(old.run_id, digest(b"other"), b"again", digest(b"again"))
            answers = await store.admit_many([*news[:2], again, *news[2:], news[0]])
            found = [answer.created for answer in answers if not isinstance(answer, StoreError)]
            assert found == [True, True, False, True, True, False]
            assert answers[2] == (False, await store.meta(old.run_id))
            for run_id in ids:
                assert await store.read(run_id) == [b"first"]
                assert await store.blob(run_id, b"blob") == b"data"
            assert set(ids) <= set(await store.open_runs())

    async def test_an_admission_sent_again_with_its_nonce_finds_that_it_created_the_run(self) -> None:
        async with self.opened() as store:
            new = NewRun(new_run_id(), digest(b"task"), b"first", chain(GENESIS, b"first"), nonce=secrets.token_bytes(8))
            other = msgspec.structs.replace(new, nonce=secrets.token_bytes(8))
            first = await store.admit_many([new])
            assert await store.admit_many([new, other]) == [*first, (False, await store.meta(new.run_id))]

    async def test_many_runs_are_looked_at_in_one_call(self) -> None:
        async with self.opened() as store:
            assert await store.metas([]) == []
            pens = await asyncio.gather(*(admitted(store) for _ in range(20)))
            await pens[3].write(b"finished", status="finished", outcome="done")
            await store.delete_run(pens[3].run_id)
            ids = [pen.run_id for pen in pens]
            ids.insert(7, new_run_id())
            found = await store.metas([*ids, ids[0]])
            assert found == [await store.meta(run_id) for run_id in [*ids, ids[0]]]
            assert found[7] is None

    # --- appending -----------------------------------------------------------------------------------------------------------

    async def test_an_append_extends_the_log_and_moves_index_and_head(self) -> None:
        async with self.opened() as store:
            pen = await admitted(store)
            await pen.write(b"one", b"two")
            await pen.write(b"three", status="parked")
            meta = await present(store, pen.run_id)
            assert meta == RunMeta(pen.token, 5, pen.head, "parked", digest(b"task"), size_bytes=8 + 16 + 11)
            assert await store.read(pen.run_id) == [b"admitted", b"claimed by first", b"one", b"two", b"three"]
            assert await store.read(pen.run_id, 2, 2) == [b"one", b"two"]
            assert await store.read(pen.run_id, 4) == [b"three"]
            assert await store.read(pen.run_id, 5) == []
            assert await store.read(pen.run_id, 0, 0) == []
            assert store.read_blocking(pen.run_id, 3) == b"two"
            assert store.read_blocking(pen.run_id, 5) is None
            assert store.read_many_blocking(pen.run_id, 1, 3) == [b"claimed by first", b"one", b"two"]
            assert store.read_many_blocking(pen.run_id, 3, 9) == [b"two", b"three"]
            assert store.read_many_blocking(pen.run_id, 5, 1) == store.read_many_blocking(pen.run_id, 0, 0) == []

    async def test_records_are_bytes_of_any_kind_and_any_number(self) -> None:
        async with self.opened() as store:
            pen = await admitted(store)
            records = [bytes(range(256)), b"", b"\r\n$5\r\n", b"x" * 100_000, *(b"%d" % number for number in range(1_000))]
            await pen.write(*records)
            assert (await store.read(pen.run_id))[2:] == records

    async def test_an_append_at_another_place_is_moved_and_changes_nothing(self) -> None:
        async with self.opened() as store:
            pen = await admitted(store)
            before = await state(store, pen.run_id)
            for wrong in ({"index": pen.index - 1}, {"index": pen.index + 1}, {"head": digest(b"other")}):
                answer = await store.append(pen.entry(b"lost", **wrong))
                assert answer == Answer(AnswerKind.MOVED, pen.token, pen.index, pen.head), (wrong, answer)
                assert await state(store, pen.run_id) == before

    async def test_a_run_that_was_never_admitted_is_missing(self) -> None:
        async with self.opened() as store:
            pen = Pen(store, new_run_id(), OwnerToken(1, "first"))
            assert (await pen.write(b"lost")).kind is AnswerKind.MISSING
            assert await store.meta(pen.run_id) is None
            assert await store.read(pen.run_id) == []

    async def test_the_same_append_sent_again_stands_once_and_gets_its_first_answer(self) -> None:
        async with self.opened() as store:
            pen = await admitted(store)
            entry = pen.entry(b"one", taken=("x",))
            first = await pen.send(entry)
            assert [await store.append(entry) for _ in range(3)] == [first] * 3
            assert (await store.read(pen.run_id))[2:] == [b"one"]

    async def test_an_older_append_sent_late_changes_nothing(self) -> None:
        async with self.opened() as store:
            pen = await admitted(store)
            old = pen.entry(b"one")
            await pen.send(old)
            await pen.write(b"two")
            before = await state(store, pen.run_id)
            assert (await store.append(old)).kind is AnswerKind.MOVED
            assert await state(store, pen.run_id) == before

    async def test_a_caller_that_is_cancelled_leaves_its_append_whole_or_absent(self) -> None:
        async with self.opened() as store:
            pen = await admitted(store)
            entry = pen.entry(b"one", b"two")
            caller = asyncio.create_task(store.append(entry))
            await asyncio.sleep(0)
            caller.cancel()
            await asyncio.gather(caller, return_exceptions=True)
            assert (await pen.send(entry)).kind is AnswerKind.APPENDED
            assert (await store.read(pen.run_id))[2:] == [b"one", b"two"]

    async def test_in_a_batch_each_run_is_answered_alone(self) -> None:
        async with self.opened() as store:
            pens = [await admitted(store) for _ in range(5)]
            entries = [pen.entry(b"one") for pen in pens]
            entries[1] = pens[1].entry(b"one", index=7)
            entries[3] = pens[3].entry(b"one", needs_blobs=(b"absent",))
            answers = await asyncio.gather(*(store.append(entry) for entry in entries))
            kinds = [answer.kind.value for answer in answers]
            assert kinds == ["appended", "moved", "appended", "no_blob", "appended"]
            assert [len(await store.read(pen.run_id)) for pen in pens] == [3, 2, 3, 2, 3]

    async def test_many_entries_in_one_call_are_each_answered_alone_and_in_order(self) -> None:
        async with self.opened() as store:
            assert await store.append_many([]) == []
            owner = f"owner-{secrets.token_hex(4)}"
            pens = [await admitted(store, owner if number == 3 else "first") for number in range(6)]
            await store.renew_lease(owner, 60)
            entries = [pen.entry(b"one") for pen in pens]
            entries[1] = pens[1].entry(b"one", head=digest(b"other"))
            entries[2] = Pen(store, new_run_id(), OwnerToken(1, "first")).entry(b"lost")
            new = [Pen(store, pen.run_id, OwnerToken(2, "new"), pen.index, pen.head) for pen in pens]
            entries[3] = new[3].entry(b"claimed", claim=pens[3].token)
            entries[4] = new[4].entry(b"claimed", claim=pens[4].token)
            answers = await store.append_many([*entries, entries[0]])
            kinds = [answer.kind.value for answer in answers if isinstance(answer, Answer)]
            assert kinds == ["appended", "moved", "missing", "leased", "appended", "appended", "appended"]
            assert answers[6] == answers[0], "the same entry again finds that it stands"
            assert [len(await store.read(pen.run_id)) for pen in pens] == [3, 2, 2, 2, 3, 3]
            await store.release_lease(owner)

    async def test_a_call_may_hold_more_entries_than_a_batch(self) -> None:
        async with self.opened() as store:
            head = chain(GENESIS, b"first")
            ids = [new_run_id() for _ in range(600)]
            admissions = await store.admit_many([NewRun(run_id, digest(b"task"), b"first", head) for run_id in ids])
            assert all(not isinstance(one, StoreError) and one.created for one in admissions)
            pens = [Pen(store, run_id, OwnerToken(1, "first"), 1, head) for run_id in ids]
            claims = [pen.entry(b"claimed", claim=NO_OWNER, index=1 + number % 2) for number, pen in enumerate(pens)]
            answers = await store.append_many(claims)
            kinds = [answer.kind for answer in answers if isinstance(answer, Answer)]
            assert kinds == [AnswerKind.APPENDED, AnswerKind.MOVED] * 300
            found = await store.metas(ids)
            assert [meta.index for meta in found if isinstance(meta, RunMeta)] == [2, 1] * 300

    async def test_entries_of_one_run_are_appended_in_the_order_of_the_call(self) -> None:
        async with self.opened() as store:
            pen = await admitted(store)
            entries = []
            for number in range(5):
                entries.append(pen.entry(b"%d" % number))
                pen.index, pen.head = pen.index + 1, entries[-1].new_head
            answers = await store.append_many(entries)
            assert [answer.index for answer in answers if isinstance(answer, Answer)] == [3, 4, 5, 6, 7]
            assert (await store.read(pen.run_id))[2:] == [b"%d" % number for number in range(5)]

    async def test_many_runs_at_once_each_keep_their_own_log(self) -> None:
        async def write(pen: Pen, count: int) -> None:
            for number in range(count):
                assert (await pen.write(b"%d" % number)).kind is AnswerKind.APPENDED

        async with self.opened() as store:
            pens = await asyncio.gather(*(admitted(store) for _ in range(100)))
            await asyncio.gather(*(write(pen, 1 + number % 7) for number, pen in enumerate(pens)))
            for number, pen in enumerate(pens):
                assert (await store.read(pen.run_id))[2:] == [b"%d" % one for one in range(1 + number % 7)]

    # --- ownership -----------------------------------------------------------------------------------------------------------

    async def test_an_owner_paused_at_any_call_is_fenced_once_another_claimed(self) -> None:
        last = 4
        for pause in range(last + 1):
            async with self.opened() as store:
                stale = await admitted(store, "stale")
                for number in range(pause):
                    await stale.write(b"stale %d" % number)
                new = Pen(store, stale.run_id, OwnerToken(0, "new"))
                assert (await new.claim(await present(store, stale.run_id))).kind is AnswerKind.APPENDED
                for number in range(pause, last):
                    before = await state(store, stale.run_id)
                    answer = await stale.write(b"stale %d" % number, status="finished", outcome="wrong")
                    assert answer == Answer(AnswerKind.FENCED, new.token, new.index, new.head)
                    assert await state(store, stale.run_id) == before
                    assert (await new.write(b"new %d" % number)).kind is AnswerKind.APPENDED

    async def test_a_stale_owner_that_sends_its_last_append_again_is_not_told_that_it_stands(self) -> None:
        async with self.opened() as store:
            stale = await admitted(store, "stale")
            entry = stale.entry(b"stale")
            await stale.send(entry)
            new = Pen(store, stale.run_id, OwnerToken(0, "new"))
            await new.claim(await present(store, stale.run_id))
            answer = await store.append(entry)
            assert answer == Answer(AnswerKind.FENCED, new.token, new.index, new.head)

    async def test_tokens_are_compared_whole(self) -> None:
        async with self.opened() as store:
            pen = await admitted(store, "first")
            for token in (OwnerToken(pen.token.epoch, "other"), OwnerToken(pen.token.epoch + 1, "first"), NO_OWNER):
                intruder = Pen(store, pen.run_id, token, pen.index, pen.head)
                assert (await intruder.write(b"lost")).kind is AnswerKind.FENCED, token
            assert len(await store.read(pen.run_id)) == 2

    async def test_of_two_claims_of_the_same_sight_one_wins(self) -> None:
        async with self.opened() as store:
            pen = await admitted(store)
            seen = await present(store, pen.run_id)
            rivals = [Pen(store, pen.run_id, OwnerToken(0, f"rival-{number}")) for number in range(4)]
            answers = await asyncio.gather(*(rival.claim(seen) for rival in rivals))
            assert sorted(answer.kind.value for answer in answers) == ["appended", "fenced", "fenced", "fenced"]
            assert len(await store.read(pen.run_id)) == 3

    async def test_a_claim_must_have_seen_the_end_of_the_log(self) -> None:
        async with self.opened() as store:
            pen = await admitted(store)
            seen = await present(store, pen.run_id)
            await pen.write(b"unseen")
            new = Pen(store, pen.run_id, OwnerToken(0, "new"))
            assert (await new.claim(seen)).kind is AnswerKind.MOVED
            assert (await present(store, pen.run_id)).token == pen.token

    async def test_a_claim_sent_again_stands_once(self) -> None:
        async with self.opened() as store:
            pen = await admitted(store, "first")
            new = Pen(store, pen.run_id, OwnerToken(pen.token.epoch + 1, "new"), pen.index, pen.head)
            entry = new.entry(b"claimed", claim=pen.token)
            first = await new.send(entry)
            await store.renew_lease("first", 60)
            assert await store.append(entry) == first
            await store.release_lease("first")
            assert (await store.read(pen.run_id))[2:] == [b"claimed"]

    async def test_a_run_is_not_claimed_while_its_owners_lease_lives(self) -> None:
        async with self.opened() as store:
            owner = f"owner-{secrets.token_hex(4)}"
            pen = await admitted(store, owner)
            assert not await store.lease_alive(owner)
            await store.renew_lease(owner, 60)
            assert await store.lease_alive(owner)
            before = await state(store, pen.run_id)
            new = Pen(store, pen.run_id, OwnerToken(0, "new"))
            assert (await new.claim(before[0])).kind is AnswerKind.LEASED
            assert await state(store, pen.run_id) == before
            itself = Pen(store, pen.run_id, OwnerToken(0, owner))
            assert (await itself.claim(before[0])).kind is AnswerKind.APPENDED, "the lease is its own"
            await store.release_lease(owner)
            assert (await new.claim(await present(store, pen.run_id))).kind is AnswerKind.APPENDED

    async def test_a_lease_that_is_not_renewed_ends(self) -> None:
        async with self.opened() as store:
            owner = f"owner-{secrets.token_hex(4)}"
            await store.renew_lease(owner, 60)
            await store.renew_lease(owner, 0.05)

            async def is_over() -> bool:
                return not await store.lease_alive(owner)

            await until(is_over, "the lease is over")

    async def test_a_lease_that_was_revoked_is_over_and_does_not_come_back(self) -> None:
        async with self.opened() as store:
            owner, other = f"owner-{secrets.token_hex(4)}", f"owner-{secrets.token_hex(4)}"
            pen = await admitted(store, owner)
            await store.renew_lease(owner, 60)
            await store.renew_lease(other, 60)
            await store.revoke_lease(owner)
            for _ in range(2):
                assert not await store.lease_alive(owner)
                lost = await refusal(store.renew_lease(owner, 60), OwnershipLost)
                assert owner in str(lost)
                await store.release_lease(owner)
            assert await store.lease_alive(other)
            new = Pen(store, pen.run_id, OwnerToken(0, other))
            assert (await new.claim(await present(store, pen.run_id))).kind is AnswerKind.APPENDED
            await store.revoke_lease(other)
            assert not await store.lease_alive(other)

    # --- the end of a run ----------------------------------------------------------------------------------------------------

    async def test_a_run_ends_once_and_accepts_nothing_after(self) -> None:
        async with self.opened() as store:
            pen = await admitted(store)
            last = pen.entry(b"finished", status="finished", outcome='{"success":true}')
            first = await pen.send(last)
            meta = await present(store, pen.run_id)
            assert (meta.status, meta.outcome) == ("finished", '{"success":true}')
            assert await store.append(last) == first, "sent again, it finds that it stands"
            for more in ({}, {"status": "finished", "outcome": "other"}, {"status": "parked"}):
                assert (await store.append(pen.entry(b"more", **more))).kind is AnswerKind.FINISHED
            new = Pen(store, pen.run_id, OwnerToken(0, "new"))
            assert (await new.claim(meta)).kind is AnswerKind.FINISHED
            assert await store.meta(pen.run_id) == meta

    async def test_runs_are_listed_as_open_until_they_finish(self) -> None:
        async with self.opened() as store:
            pens = [await admitted(store) for _ in range(3)]
            ids = [pen.run_id for pen in pens]
            assert [one for one in await store.open_runs() if one in ids] == ids
            await pens[1].write(b"parked", status="parked")
            await pens[0].write(b"finished", status="finished")
            assert [one for one in await store.open_runs() if one in ids] == ids[1:]
            await pens[2].write(b"finished", status="finished")
            assert [one for one in await store.finished_runs() if one in ids] == [ids[0], ids[2]]
            assert not set(await store.finished_runs(3600)) & set(ids)
            assert not (await store.admit(ids[0], digest(b"task"), b"again", digest(b"again"))).created
            assert ids[0] not in await store.open_runs(), "a repeated admission does not open a finished run"

    async def test_runs_are_listed_page_by_page_newest_first(self) -> None:
        async with self.opened() as store:
            pens = [await admitted(store) for _ in range(7)]
            ids = [pen.run_id for pen in pens]
            for number in (5, 2, 4):
                await pens[number].write(b"finished", status="finished")
            await pens[6].write(b"parked", status="parked")
            unfinished, finished = [ids[number] for number in (6, 3, 1, 0)], [ids[number] for number in (4, 2, 5)]
            for size in (1, 2, 3, 100):
                assert [one for one in await _paged(store, "unfinished", size) if one in ids] == unfinished
                assert [one for one in await _paged(store, "finished", size) if one in ids] == finished
            first = await store.list_runs("unfinished", 1)
            assert await store.list_runs("unfinished", 0) == []
            await pens[6].write(b"finished", status="finished")
            assert [one for one in await _paged(store, "unfinished", 2, first[0]) if one in ids] == unfinished[1:]

    async def test_a_deleted_run_leaves_a_tombstone_that_answers_for_it(self) -> None:
        async with self.opened() as store:
            pen = await admitted(store)
            before = await state(store, pen.run_id)
            try:
                await store.delete_run(pen.run_id)
            except StoreError:
                assert await state(store, pen.run_id) == before
            else:
                raise AssertionError("a run that has not finished was deleted")
            last = pen.entry(b"finished", status="finished", outcome="done", blobs=((b"name", b"data"),))
            first = await pen.send(last)
            size_bytes = (await present(store, pen.run_id)).size_bytes
            assert await store.delete_run(pen.run_id) == size_bytes == 8 + 16 + 8 + 4
            stone = RunMeta(pen.token, 0, pen.head, "finished", digest(b"task"), "done", expired=True)
            assert await state(store, pen.run_id) == (stone, [], [])
            assert await store.blob(pen.run_id, b"name") is None
            assert await store.admit(pen.run_id, digest(b"task"), b"admitted", chain(GENESIS, b"admitted")) == (False, stone)
            assert await store.append(last) == first, "its owner, who missed the answer, still learns that it finished"
            assert (await store.append(pen.entry(b"more"))).kind is AnswerKind.FINISHED
            assert await store.delete_run(pen.run_id) == 0
            assert not await store.push_command(pen.run_id, Command("c", b""))
            assert pen.run_id not in await store.finished_runs()
            assert pen.run_id not in await store.open_runs()

    async def test_prune_removes_finished_runs_only_and_a_dry_run_nothing(self) -> None:
        async with self.opened() as store:
            await prune(store)
            working, parked, finished = [await admitted(store) for _ in range(3)]
            await parked.write(b"parked", status="parked")
            await finished.write(b"finished", status="finished")
            young = await prune(store, older_than_s=3600)
            assert finished.run_id not in young.run_ids
            planned = await prune(store, dry_run=True)
            assert finished.run_id in planned.run_ids
            assert (await present(store, finished.run_id)).index == 3
            done = await prune(store)
            assert (done.run_ids, done.freed_bytes, done.runs) == (planned.run_ids, planned.freed_bytes, planned.runs)
            assert (await present(store, finished.run_id)).expired
            for pen in (working, parked):
                assert (await pen.write(b"goes on")).kind is AnswerKind.APPENDED

    async def test_a_run_that_is_pruned_around_at_any_point_goes_on_as_if_nothing_had_been(self) -> None:
        last = 4
        for point in range(last + 1):
            async with self.opened() as store:
                pen, other = await admitted(store, "first"), await admitted(store)
                for number in range(point):
                    await pen.write(b"%d" % number, blobs=((b"blob %d" % number, b"data %d" % number),))
                await other.write(b"finished", status="finished")
                before = await state(store, pen.run_id)
                assert other.run_id in (await prune(store)).run_ids
                assert await state(store, pen.run_id) == before
                new = Pen(store, pen.run_id, OwnerToken(0, "new"))
                assert (await new.claim(await present(store, pen.run_id))).kind is AnswerKind.APPENDED
                for number in range(point, last):
                    answer = await new.write(b"%d" % number, needs_blobs=tuple(b"blob %d" % one for one in range(point)))
                    assert answer.kind is AnswerKind.APPENDED
                written = [record for record in await store.read(pen.run_id) if record.isdigit()]
                assert written == [b"%d" % number for number in range(last)]
                for number in range(point):
                    assert await store.blob(pen.run_id, b"blob %d" % number) == b"data %d" % number

    # --- blobs and commands --------------------------------------------------------------------------------------------------

    async def test_blobs_come_with_their_record_and_needed_ones_must_be_there(self) -> None:
        async with self.opened() as store:
            pen = await admitted(store)
            name, data = digest(b"data"), bytes(range(256)) * 1_000
            before = await state(store, pen.run_id)
            refused = await store.append(pen.entry(b"one", needs_blobs=(name,), blobs=((b"other", b"x"),)))
            assert refused == Answer(AnswerKind.NO_BLOB, pen.token, pen.index, pen.head)
            assert await state(store, pen.run_id) == before
            assert await store.blob(pen.run_id, b"other") is None
            assert (await pen.write(b"one", blobs=((name, data),), needs_blobs=(name,))).kind is AnswerKind.APPENDED
            assert (await pen.write(b"two", blobs=((name, data),))).kind is AnswerKind.APPENDED
            assert (await pen.write(b"three", needs_blobs=(name,))).kind is AnswerKind.APPENDED
            assert await store.blob(pen.run_id, name) == store.blob_blocking(pen.run_id, name) == data
            assert store.blob_blocking(pen.run_id, b"absent") is None
            assert (await present(store, pen.run_id)).size_bytes == 8 + 16 + 3 + 3 + 5 + len(data), "a blob is stored once"

    async def test_commands_wait_in_order_once_each_and_leave_with_the_append_that_takes_them(self) -> None:
        async with self.opened() as store:
            pen = await admitted(store)
            sent = [Command(f"c{number}", b"body %d" % number) for number in (3, 1, 2)]
            assert [await store.push_command(pen.run_id, one) for one in sent] == [True] * 3
            assert not await store.push_command(pen.run_id, Command("c1", b"other"))
            assert await store.inbox(pen.run_id) == sent
            await store.append(pen.entry(b"lost", index=9, taken=("c1",)))
            assert await store.inbox(pen.run_id) == sent, "a refused append takes nothing"
            await pen.write(b"took", taken=("c3", "c1", "unknown"))
            assert await store.inbox(pen.run_id) == sent[2:]
            assert not await store.push_command(pen.run_id, sent[0]), "a command that was taken does not come back"
            later = Command("c4", b"")
            assert await store.push_command(pen.run_id, later)
            assert await store.inbox(pen.run_id) == [sent[2], later]
            await pen.write(b"finished", status="finished")
            assert not await store.push_command(pen.run_id, Command("c5", b""))
            assert not await store.push_command(new_run_id(), Command("c6", b""))

    async def test_documents_are_kept_by_name_and_the_last_one_counts(self) -> None:
        async with self.opened() as store:
            tag = secrets.token_hex(6)
            names = [f"{tag}/breaker", f"{tag} größer {{x}}"]
            assert await store.document(names[0]) is None
            await store.put_document(names[0], b"first")
            await store.put_document(names[1], bytes(range(256)))
            await store.put_document(names[0], b"second")
            assert [await store.document(name) for name in names] == [b"second", bytes(range(256))]
            found = {name: data for name, data in (await store.documents()).items() if name.startswith(tag)}
            assert found == {names[0]: b"second", names[1]: bytes(range(256))}
            refused = await refusal(store.put_document(names[0], bytes(_DOCUMENT_BYTES_MAX + 1)), PayloadTooLarge)
            assert refused.fields["limit_bytes"] == _DOCUMENT_BYTES_MAX
            assert await store.document(names[0]) == b"second"
            await store.put_document(names[0], bytes(_DOCUMENT_BYTES_MAX))

    # --- the rest ------------------------------------------------------------------------------------------------------------

    async def test_checkpoints_saved_by_hand_stay_out_of_the_log(self) -> None:
        async with self.opened() as store:
            if not isinstance(store, CheckpointStore):
                return
            task_id = new_run_id()
            made = [Checkpoint(task_id, number, f"step-{number}", {"n": number}, 0) for number in range(3)]
            for one in made:
                await store.save(one)
            assert await store.history(task_id) == made
            assert await store.latest(task_id) == made[2]
            assert await store.at(task_id, 1) == made[1]
            assert await store.outputs(task_id) == {"step-0": {"n": 0}, "step-1": {"n": 1}, "step-2": {"n": 2}}
            await store.rollback_to(task_id, 0)
            assert await store.history(task_id) == made[:1]
            await store.rollback_to(task_id, -1)
            assert await store.latest(task_id) is None
            await store.save(made[2])
            await store.clear(task_id)
            assert await store.history(task_id) == []
            pen = await admitted(store)
            before = await state(store, pen.run_id)
            await store.save(Checkpoint(pen.run_id, 0, "step", "by hand", 0))
            await store.rollback_to(pen.run_id, -1)
            assert await state(store, pen.run_id) == before

    async def test_the_store_can_be_closed_and_opened_again(self) -> None:
        store = await self.make_store()
        await store.open()
        await store.open()
        pen = await admitted(store)
        await store.close()
        await store.close()
        await store.open()
        assert (await pen.write(b"goes on")).kind is AnswerKind.APPENDED
        await store.close()

    async def test_no_key_is_written_outside_the_registry(self) -> None:
        async with self.opened() as store:
            pen = await admitted(store)
            await store.push_command(pen.run_id, Command("c", b""))
            await store.renew_lease("registry-owner", 5)
            await store.revoke_lease("registry-zombie")
            await store.put_document("registry", b"data")
            await pen.write(b"one", blobs=((b"name", b"data"),), taken=("c",))
            await pen.write(b"finished", status="finished")
            await prune(store)
            assert await self.foreign_keys(store) == []
