"""The Redis store keeps every promise of the port on every server, and answers exactly as the table in memory does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentraft_ray.checkpoint import Answer, AnswerKind, Command, InMemoryCheckpointStore, NewRun, RedisCheckpointStore
from agentraft_ray.checkpoint.base import AppendEntry, RunStore
from agentraft_ray.config import Limits
from agentraft_ray.errors import ForeignKey, InvalidConfig, StoreError, StoreUnavailable
from agentraft_ray.identity import GENESIS, NO_OWNER, OwnerToken, chain
from agentraft_ray.testing.store_conformance import Pen, StoreConformance, admitted, new_run_id, present
from tests.store.servers import TestServer, binaries, running

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=list(binaries()))
def server(request: pytest.FixtureRequest) -> Iterator[TestServer]:
    with running(binaries()[request.param]) as started:
        yield started


class TestRedisStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _on(self, server: TestServer) -> None:
        self.server = server

    async def make_store(self) -> RunStore:
        return RedisCheckpointStore(self.server.url)

    async def foreign_keys(self, store: RunStore) -> list[str]:
        assert isinstance(store, RedisCheckpointStore)
        with self.server.client() as client:
            return [key.decode() for key in client.scan_iter() if not store.keys.is_ours(key.decode())]


@pytest.fixture
async def store(server: TestServer) -> AsyncIterator[RedisCheckpointStore]:
    made = RedisCheckpointStore(server.url, limits=Limits(store_wait_s=5, inbox_max=4))
    await made.open()
    yield made
    await made.close()


# --- the script against the table ------------------------------------------------------------------------------------------

_RUNS = st.sampled_from(["r0", "r1"])
_OWNERS = st.sampled_from([OwnerToken(epoch, owner) for epoch in (1, 2) for owner in ("a", "b")])
_NAMES = st.sampled_from([b"x", b"y"])
_COMMANDS = st.sampled_from(["c0", "c1", "c2"])
_APPENDS = st.fixed_dictionaries(
    {
        "op": st.just("append"),
        "run": _RUNS,
        "token": _OWNERS,
        "claim": st.sampled_from([None, None, "seen", NO_OWNER]),
        "off": st.sampled_from([0, 0, 0, 0, 1]),
        "bad_head": st.sampled_from([False, False, False, True]),
        "again": st.sampled_from([False, False, True]),
        "records": st.lists(st.binary(max_size=5), max_size=3),
        "blobs": st.lists(st.tuples(_NAMES, st.binary(max_size=5)), max_size=2),
        "needs": st.lists(_NAMES, max_size=1),
        "taken": st.lists(_COMMANDS, max_size=2),
        "status": st.sampled_from(["open", "open", "parked", "finished"]),
    }
)
_OTHERS = st.fixed_dictionaries(
    {
        "op": st.sampled_from(["admit", "push", "inbox", "delete", "renew", "release", "revoke", "lists", "reads"]),
        "run": _RUNS,
        "token": _OWNERS,
        "command": _COMMANDS,
    }
)


class Twins:
    """The same calls made on a server and on the table, with the same answers."""

    def __init__(self, real: RunStore, model: RunStore) -> None:
        self.stores = real, model
        self.tag = new_run_id()
        self.last: dict[str, AppendEntry] = {}

    async def both(self, call: Any) -> Any:
        answers = []
        for store in self.stores:
            try:
                answers.append(await call(store))
            except StoreError as error:
                answers.append((type(error), str(error)))
        assert answers[0] == answers[1]
        return answers[0]

    async def run(self, step: dict[str, Any], number: int) -> None:
        run_id = f"{self.tag}-{step['run']}"
        owner = f"{self.tag}-{step['token'].owner}"
        match step["op"]:
            case "append":
                await self._append(step, run_id, number)
            case "admit":
                await self.both(lambda s: s.admit(run_id, b"d", b"first", chain(GENESIS, b"first"), [(b"x", b"1")]))
            case "push":
                await self.both(lambda s: s.push_command(run_id, Command(step["command"], b"%d" % number)))
            case "inbox":
                await self.both(lambda s: s.inbox(run_id))
            case "delete":
                await self.both(lambda s: s.delete_run(run_id))
            case "renew":
                await self.both(lambda s: s.renew_lease(owner, 600))
            case "release":
                await self.both(lambda s: s.release_lease(owner))
            case "revoke":
                await self.both(lambda s: s.revoke_lease(owner))
            case "lists":
                await self.both(lambda s: self._mine(s.open_runs()))
                await self.both(lambda s: self._mine(s.finished_runs()))
            case "reads":
                await self.both(lambda s: s.read(run_id))
                await self.both(lambda s: s.blob(run_id, b"x"))
        await self.both(lambda s: s.meta(run_id))

    async def _mine(self, listing: Any) -> list[str]:
        return [run_id for run_id in await listing if run_id.startswith(self.tag)]

    async def _append(self, step: dict[str, Any], run_id: str, number: int) -> None:
        meta = await self.stores[1].meta(run_id)
        token = OwnerToken(step["token"].epoch, f"{self.tag}-{step['token'].owner}")
        claim = meta.token if step["claim"] == "seen" and meta else (NO_OWNER if step["claim"] else None)
        head = b"bad" if step["bad_head"] or meta is None else meta.head
        new_head = head
        for record in step["records"]:
            new_head = chain(new_head, record)
        entry = AppendEntry(
            run_id,
            token,
            b"%d" % number,
            (meta.index if meta else 0) + step["off"],
            head,
            tuple(step["records"]),
            new_head,
            claim,
            tuple(step["blobs"]),
            tuple(step["needs"]),
            tuple(step["taken"]),
            step["status"],
            "over" if step["status"] == "finished" else "",
        )
        if step["again"] and run_id in self.last:
            entry = self.last[run_id]
        self.last[run_id] = entry
        await self.both(lambda s: s.append(entry))


@given(steps=st.lists(st.one_of(_APPENDS, _APPENDS, _OTHERS), min_size=5, max_size=40))
@settings(max_examples=60)
def test_the_script_and_the_table_give_the_same_answers(server: TestServer, steps: list[dict[str, Any]]) -> None:
    async def run() -> None:
        limits = Limits(inbox_max=2)
        real = RedisCheckpointStore(server.url, limits=limits)
        twins = Twins(real, InMemoryCheckpointStore(limits=limits))
        for run in ("r0", "r1"):
            await twins.run({"op": "admit", "run": run, "token": OwnerToken(1, "a")}, 0)
        for number, step in enumerate(steps):
            await twins.run(step, number)
        await real.close()

    asyncio.run(run())


# --- keys that are not ours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["meta", "log", "tombstone", "blobs", "inbox", "commands"])
async def test_a_foreign_type_at_a_key_refuses_only_its_run(server: TestServer, store: RedisCheckpointStore, name: str) -> None:
    spoilt, sound = await admitted(store), await admitted(store)
    key = getattr(store.keys.run(spoilt.run_id), name)
    kind = {"meta": "hash", "log": "list", "tombstone": "string"}.get(name, "hash")
    with server.client() as client:
        client.delete(key)
        client.rpush(key, "theirs") if kind != "list" else client.set(key, "theirs")
        entries = [pen.entry(b"end", blobs=((b"name", b"data"),), taken=("c",), status="finished") for pen in (spoilt, sound)]
        answers = await asyncio.gather(*(store.append(entry) for entry in entries))
        assert [answer.kind for answer in answers] == [AnswerKind.FOREIGN, AnswerKind.APPENDED]
        refused = store.meta(spoilt.run_id) if name in {"meta", "log"} else store.push_command(spoilt.run_id, Command("c", b""))
        with pytest.raises(ForeignKey, match=name):
            await refused
        assert client.type(key) == (b"list" if kind != "list" else b"string"), "what is not ours stays as it was"


async def test_a_hash_of_another_program_is_not_taken_for_a_run(server: TestServer, store: RedisCheckpointStore) -> None:
    run_id = new_run_id()
    with server.client() as client:
        client.hset(store.keys.run(run_id).meta, "their", "field")
    with pytest.raises(ForeignKey):
        await store.admit(run_id, b"d", b"first", b"h")
    pen = Pen(store, run_id, OwnerToken(1, "owner"))
    assert (await pen.write(b"one")).kind is AnswerKind.FOREIGN


async def test_a_foreign_type_at_the_index_is_seen_at_open(server: TestServer) -> None:
    store = RedisCheckpointStore(server.url, prefix="taken")
    with server.client() as client:
        client.set(store.keys.open, "theirs")
    with pytest.raises(ForeignKey, match="prefix="):
        await store.open()
    await store.close()


async def test_a_foreign_type_at_the_documents_is_refused_and_left_alone(server: TestServer, store: RedisCheckpointStore) -> None:
    taken = RedisCheckpointStore(server.url, prefix="papers")
    with server.client() as client:
        client.set(taken.keys.documents, "theirs")
        with pytest.raises(ForeignKey, match="prefix="):
            await taken.open()
        for call in (taken.put_document("name", b"data"), taken.document("name"), taken.documents()):
            with pytest.raises(ForeignKey, match="prefix="):
                await call
        assert client.get(taken.keys.documents) == b"theirs"
    await taken.close()


async def test_what_is_wrong_with_one_run_is_a_value_among_many(server: TestServer, store: RedisCheckpointStore) -> None:
    sound, spoilt, fresh = await admitted(store), await admitted(store), new_run_id()
    with server.client() as client:
        client.set(store.keys.run(fresh).log, "theirs")
        client.delete(store.keys.run(spoilt.run_id).meta)
        client.set(store.keys.run(spoilt.run_id).meta, "theirs")
    found = await store.metas([sound.run_id, spoilt.run_id])
    assert found[0] == await store.meta(sound.run_id)
    assert isinstance(found[1], ForeignKey)
    ids = [new_run_id(), fresh]
    answers = await store.admit_many([NewRun(run_id, b"d", b"first", chain(GENESIS, b"first")) for run_id in ids])
    assert [isinstance(answer, ForeignKey) for answer in answers] == [False, True]


# --- time, loops, load -----------------------------------------------------------------------------------------------------


async def test_a_finished_run_expires_to_its_tombstone_with_all_its_keys(server: TestServer) -> None:
    store = RedisCheckpointStore(server.url, prefix="brief", limits=Limits(retention_s=1, idempotency_ttl_s=60))
    pen = await admitted(store)
    await store.push_command(pen.run_id, Command("c", b""))
    await pen.write(b"one", blobs=((b"name", b"data"),))
    keys = store.keys.run(pen.run_id)
    with server.client() as client:
        assert {client.pttl(key) for key in keys if key != keys.tombstone} == {-1}, "an open run does not expire"
        await pen.write(b"end", status="finished", outcome="done")
        assert all(0 < client.pttl(key) <= 1000 for key in keys if key != keys.tombstone)
        assert 1000 < client.pttl(keys.tombstone) <= 60_000
        async with asyncio.timeout(5):
            while client.exists(*(key for key in keys if key != keys.tombstone)):
                await asyncio.sleep(0.02)
    assert (await present(store, pen.run_id)).expired
    assert await store.finished_runs() == []
    assert await store.open_runs() == []
    await store.close()


async def test_a_dangling_entry_of_the_index_is_swept_once_it_is_old(server: TestServer) -> None:
    store = RedisCheckpointStore(server.url, prefix="dangling")
    with server.client() as client:
        seconds, micros = client.time()
        client.zadd(store.keys.open, {"old": (seconds - 3600) * 1_000_000, "young": seconds * 1_000_000 + micros})
        assert await store.open_runs() == []
        assert await store.open_runs() == []
        assert client.zrange(store.keys.open, 0, -1) == [b"young"], "a young one may belong to an admission under way"
    await store.close()


async def test_runs_of_one_score_are_all_listed_and_what_is_in_the_wrong_part_is_moved(server: TestServer) -> None:
    store = RedisCheckpointStore(server.url, prefix="listed")
    pens = [await admitted(store) for _ in range(5)]
    ids = sorted((pen.run_id for pen in pens), reverse=True)
    await pens[0].write(b"end", status="finished")
    await store.finished_runs()
    with server.client() as client:
        client.zadd(store.keys.open, {**dict.fromkeys(ids, 7), "dangling": 7})
        client.delete(store.keys.finished)
    found, before = [], None
    while page := await store.list_runs("unfinished", 2, before):
        found += [place.run_id for place in page]
        before = page[-1]
    assert found == [one for one in ids if one != pens[0].run_id]
    assert [place.run_id for place in await store.list_runs("finished", 9)] == [pens[0].run_id]
    await store.close()


async def test_a_run_that_finished_without_its_move_in_the_index_is_moved_by_the_next_look(server: TestServer) -> None:
    store = RedisCheckpointStore(server.url, prefix="unmoved")
    pen = await admitted(store)
    await pen.write(b"end", status="finished")
    assert await store.finished_runs() == [pen.run_id]
    with server.client() as client:
        client.delete(store.keys.finished)
        client.zadd(store.keys.open, {pen.run_id: 1})
    assert await store.open_runs() == []
    assert await store.finished_runs() == [pen.run_id]
    await store.close()


def test_one_store_serves_several_event_loops_and_leaves_nothing_behind(server: TestServer) -> None:
    store = RedisCheckpointStore(server.url)

    async def begin() -> Pen:
        return await admitted(store)

    pen = asyncio.run(begin())
    for number in range(3):
        assert asyncio.run(pen.write(b"%d" % number)).kind is AnswerKind.APPENDED
    assert store.read_blocking(pen.run_id, 2) == b"0"
    asyncio.run(store.close())


async def test_hundreds_of_runs_need_few_connections(server: TestServer) -> None:
    store = RedisCheckpointStore(server.url, max_connections=5)

    async def work() -> None:
        pen = await admitted(store)
        for number in range(3):
            assert (await pen.write(b"%d" % number)).kind is AnswerKind.APPENDED
            assert (await store.read(pen.run_id, 2 + number, 1)) == [b"%d" % number]
            assert (await store.meta(pen.run_id)) is not None

    with server.client() as client:
        before = client.info("clients")["connected_clients"]
        await asyncio.gather(*(work() for _ in range(300)))
        assert client.info("clients")["connected_clients"] - before <= 5
        await store.close()


async def test_calls_that_come_while_a_batch_is_in_flight_share_the_next_one(store: RedisCheckpointStore) -> None:
    pens = await asyncio.gather(*(admitted(store) for _ in range(60)))
    before = replace(store.tally)
    first = asyncio.create_task(store.append_many([pen.entry(b"one") for pen in pens[:10]]))
    while store.tally.batches == before.batches:
        await asyncio.sleep(0)
    later = [store.append_many([pen.entry(b"one") for pen in pens[start : start + 10]]) for start in range(10, 60, 10)]
    await asyncio.gather(first, *later)
    assert store.tally.items - before.items == 60
    assert store.tally.batches - before.batches == 2
    assert store.tally.round_trips - before.round_trips == 2
    assert store.tally.server_s > before.server_s


async def test_a_call_waits_for_room_and_a_larger_one_than_all_the_room_goes_alone(server: TestServer) -> None:
    store = RedisCheckpointStore(server.url, limits=Limits(queued_appends_max=10, batch_runs_max=4, batch_bytes_max=300))
    pens = await asyncio.gather(*(admitted(store) for _ in range(40)))
    parts = (pens[:25], pens[25:26], pens[26:])
    answers = await asyncio.gather(*(store.append_many([pen.entry(b"x" * 100) for pen in part]) for part in parts))
    assert [len(part) for part in answers] == [25, 1, 14]
    assert all(isinstance(one, Answer) and one.kind is AnswerKind.APPENDED for part in answers for one in part)
    await store.close()


async def test_scripts_that_the_server_forgot_are_loaded_again(server: TestServer, store: RedisCheckpointStore) -> None:
    pen = await admitted(store)
    with server.client() as client:
        for number in range(3):
            client.script_flush()
            assert (await pen.write(b"%d" % number)).kind is AnswerKind.APPENDED
            client.script_flush()
            assert (await present(store, pen.run_id)).index == 3 + number


async def test_an_inbox_that_nobody_empties_refuses_by_name(store: RedisCheckpointStore) -> None:
    pen = await admitted(store)
    for number in range(4):
        assert await store.push_command(pen.run_id, Command(f"c{number}", b""))
    with pytest.raises(StoreError, match="resume the run"):
        await store.push_command(pen.run_id, Command("c4", b""))


def test_settings_that_cannot_be_are_refused() -> None:
    for words in ({"prefix": "a{b}"}, {"prefix": ""}, {"durability": "replicated(0)"}, {"durability": "maybe"}, {"max_connections": 2}):
        with pytest.raises(InvalidConfig):
            RedisCheckpointStore("redis://localhost", **words)


async def test_a_server_that_is_not_there_is_named_after_the_wait() -> None:
    store = RedisCheckpointStore("unix:///nowhere/socket", limits=Limits(store_wait_s=0.2))
    with pytest.raises(StoreUnavailable, match="nowhere"):
        await store.open()
    with pytest.raises(StoreUnavailable, match="resumed"):
        await store.admit("run", b"d", b"first", b"h")
    with pytest.raises(StoreUnavailable):
        await store.read("run")
    entries = [Pen(store, f"run-{number}", OwnerToken(1, "owner")).entry(b"one") for number in range(3)]
    values = [*await store.append_many(entries), *await store.metas(["run"]), *await store.admit_many([NewRun("run", b"d", b"r", b"h")])]
    assert [type(value) for value in values] == [StoreUnavailable] * 5
    assert len({id(value) for value in values}) >= 3, "to raise one is to change it"
    with pytest.raises(StoreUnavailable):
        store.read_blocking("run", 0)
    await store.close()
