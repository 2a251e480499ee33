"""The store of a cluster: every promise of the port through a store actor, and each write once however often its actor is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import redis

from agentraft_ray.actors.messages import decode
from agentraft_ray.actors.remote_store import ClusterStore
from agentraft_ray.actors.store_spec import StoreSpec
from agentraft_ray.checkpoint import Answer, AnswerKind, Command, NewRun
from agentraft_ray.checkpoint.base import AppendEntry, RunMeta, RunStore
from agentraft_ray.checkpoint.embedded import EmbeddedServer
from agentraft_ray.config import Limits
from agentraft_ray.errors import InvalidConfig, OwnershipLost, StoreUnavailable
from agentraft_ray.identity import GENESIS, NO_OWNER, OwnerToken, chain, digest
from agentraft_ray.testing.store_conformance import Pen, StoreConformance, admitted, new_run_id, present
from tests.store.actor_peer import ActorPeer

pytestmark = pytest.mark.server


class TestClusterStore(StoreConformance):
    @pytest.fixture(autouse=True)
    async def _on(self, tmp_path: Path) -> AsyncIterator[None]:
        self.spec = StoreSpec.embedded(tmp_path)
        self.peer = ActorPeer(self.spec)
        yield
        await self.peer.close()
        assert EmbeddedServer(tmp_path).pid is None, "the last one to leave stops the server"

    async def make_store(self) -> RunStore:
        return ClusterStore(self.spec, self.peer)

    async def foreign_keys(self, store: RunStore) -> list[str]:
        assert isinstance(store, ClusterStore)
        path = store.reader.url.removeprefix("unix://")
        pool = redis.ConnectionPool(connection_class=redis.UnixDomainSocketConnection, path=path)
        with redis.Redis(connection_pool=pool) as client:
            return [key.decode() for key in client.scan_iter() if not store.reader.keys.is_ours(key.decode())]


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[ActorPeer]:
    made = ActorPeer(StoreSpec.embedded(tmp_path, limits=Limits(store_wait_s=5)))
    yield made
    await made.close()


@pytest.fixture
async def store(peer: ActorPeer) -> AsyncIterator[ClusterStore]:
    made = ClusterStore(peer.spec, peer)
    await made.open()
    yield made
    await made.close()


def sent(peer: ActorPeer, method: str) -> list[bytes]:
    return [args[0] for name, args in peer.calls if name == method]


@pytest.mark.parametrize("restart", [False, True], ids=["lost", "restarted"])
@pytest.mark.parametrize("where", ["lose_before", "lose_after"])
async def test_a_write_whose_actor_is_lost_is_sent_again_and_stands_once(
    store: ClusterStore, peer: ActorPeer, where: str, restart: bool
) -> None:
    peer.restart_when_lost = restart
    losses = getattr(peer, where)
    run_id, record = new_run_id(), b"first"
    losses["admit"] = 2
    assert (await store.admit(run_id, digest(b"task"), record, chain(GENESIS, record))).created, "its own repetition does not hide it"
    pen = Pen(store, run_id, OwnerToken(0, "first"))
    losses["append"] = 2
    assert (await pen.claim(await present(store, run_id))).kind is AnswerKind.APPENDED
    assert await store.push_command(run_id, Command("c", b"body"))
    losses["append"] = 2
    assert (await pen.write(b"one", taken=("c",))).kind is AnswerKind.APPENDED
    losses["put_document"] = losses["renew_lease"] = losses["revoke_lease"] = 1
    await store.put_document("breaker", b"open")
    await store.renew_lease("zombie", 60)
    await store.revoke_lease("zombie")
    with pytest.raises(OwnershipLost, match="zombie"):
        await store.renew_lease("zombie", 60)
    assert await store.read(run_id) == [b"first", b"claimed by first", b"one"]
    assert await store.inbox(run_id) == []
    assert await store.document("breaker") == b"open"
    assert len(set(sent(peer, "admit"))) == 1
    assert [len(sent(peer, "append")), len(set(sent(peer, "append")))] == [6, 2], "the very same bytes"
    losses["append"], losses["delete_run"] = 1, 1
    await pen.write(b"end", status="finished")
    await store.delete_run(run_id)
    assert (await present(store, run_id)).expired


async def test_an_actor_that_stays_lost_leaves_the_outcome_unknown_by_name(peer: ActorPeer) -> None:
    brief = msgspec.structs.replace(peer.spec, limits={"store_wait_s": 0.2})
    store = ClusterStore(brief, peer)
    pens = [await admitted(store) for _ in range(3)]
    entries = [pen.entry(b"one") for pen in pens]
    peer.lose_after["append"] = 1_000
    values = await store.append_many(entries)
    assert [type(value) for value in values] == [StoreUnavailable] * 3
    assert len({id(value) for value in values}) == 3, "to raise one is to change it"
    with pytest.raises(StoreUnavailable, match="store actor store .* resumed"):
        await store.append(entries[0])
    peer.lose_before.update({"admit": 1_000, "renew_lease": 1_000})
    assert [type(one) for one in await store.admit_many([NewRun(new_run_id(), b"d", b"r", b"h")])] == [StoreUnavailable]
    with pytest.raises(StoreUnavailable):
        await store.renew_lease("owner", 5)
    peer.lose_after.clear()
    answers = await store.append_many(entries)
    assert [answer.kind for answer in answers if isinstance(answer, Answer)] == [AnswerKind.APPENDED] * 3
    assert [len(await store.read(pen.run_id)) for pen in pens] == [3, 3, 3]
    await store.close()


async def test_of_a_thousand_entries_each_is_answered_alone(store: ClusterStore, peer: ActorPeer) -> None:
    head = chain(GENESIS, b"first")
    ids = [new_run_id() for _ in range(1_000)]
    await store.admit_many([NewRun(run_id, digest(b"task"), b"first", head) for run_id in ids])
    pens = [Pen(store, run_id, OwnerToken(1, "owner"), 1, head) for run_id in ids]
    entries = [pen.entry(b"x" * 300, claim=NO_OWNER, index=1 + (number % 10 == 3)) for number, pen in enumerate(pens)]
    entries[7] = Pen(store, new_run_id(), OwnerToken(1, "owner")).entry(b"lost")
    peer.calls.clear()
    peer.lose_after["append"] = 1
    answers = await store.append_many(entries)
    kinds = [answer.kind.value for answer in answers if isinstance(answer, Answer)]
    expected = ["moved" if number % 10 == 3 else "appended" for number in range(1_000)]
    expected[7] = "missing"
    assert kinds == expected
    assert [len(sent(peer, "append")), len(set(sent(peer, "append")))] == [2, 1], "one message, sent twice"
    found = [meta.index if isinstance(meta, RunMeta) else meta for meta in await store.metas(ids)]
    assert found == [2 if kind == "appended" else 1 for kind in expected]


async def test_single_appends_share_messages_while_one_is_on_its_way(store: ClusterStore, peer: ActorPeer) -> None:
    pens = await asyncio.gather(*(admitted(store) for _ in range(50)))
    peer.calls.clear()
    lone = asyncio.create_task(pens[0].write(b"one"))
    while not peer.calls:
        await asyncio.sleep(0)
    await asyncio.gather(lone, *(pen.write(b"one") for pen in pens[1:]))
    assert [len(decode(batch, list[AppendEntry])) for batch in sent(peer, "append")] == [1, 49]


async def test_messages_are_bounded_in_bytes(peer: ActorPeer) -> None:
    spec = msgspec.structs.replace(peer.spec, limits={"batch_bytes_max": 10_000})
    store = ClusterStore(spec, peer)
    pens = [await admitted(store) for _ in range(6)]
    peer.calls.clear()
    sizes = [4_000, 4_000, 4_000, 50_000, 100, 100]
    answers = await store.append_many([pen.entry(b"x" * size) for pen, size in zip(pens, sizes, strict=True)])
    assert len([answer for answer in answers if isinstance(answer, Answer)]) == 6
    assert [len(decode(batch, list[AppendEntry])) for batch in sent(peer, "append")] == [2, 1, 1, 2]
    await store.close()


async def test_a_draining_actor_hands_over_to_its_successor(store: ClusterStore, peer: ActorPeer) -> None:
    pen = await admitted(store)
    await peer.call("drain")
    await store.renew_lease("first", 60)
    writing = asyncio.create_task(pen.write(b"one"))
    while len(sent(peer, "append")) < 3:  # the claim, and two that were turned away
        await asyncio.sleep(0.01)
    assert not writing.done()
    peer.restart()
    assert (await writing).kind is AnswerKind.APPENDED
    assert (await store.read(pen.run_id))[2:] == [b"one"]


async def test_figures_tell_messages_from_round_trips(store: ClusterStore, peer: ActorPeer) -> None:
    pens = [await admitted(store) for _ in range(4)]
    before = await peer.call("stats")
    await store.append_many([pen.entry(b"one") for pen in pens])
    figures = await peer.call("stats")
    gained = {name: figures[name] - before[name] for name in ("calls", "entries", "batches", "items", "round_trips", "refused")}
    assert gained == {"calls": 1, "entries": 4, "batches": 1, "items": 4, "round_trips": 1, "refused": 0}
    assert figures["sent_bytes"] > before["sent_bytes"]
    assert figures["server_s"] > before["server_s"]
    assert figures["in_flight"] == 0


async def test_whoever_comes_first_starts_a_server_that_was_killed(store: ClusterStore, peer: ActorPeer) -> None:
    pen, server = await admitted(store), EmbeddedServer(peer.spec.place)
    for number, first in enumerate([store.read(pen.run_id), pen.write(b"by the actor")]):
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await first
        assert (await pen.write(b"%d" % number)).kind is AnswerKind.APPENDED
    assert (await store.read(pen.run_id))[2:] == [b"0", b"by the actor", b"1"]


async def test_an_embedded_store_of_another_machine_is_refused_with_what_to_do(peer: ActorPeer) -> None:
    spec = msgspec.structs.replace(peer.spec, machine="elsewhere")
    with pytest.raises(InvalidConfig, match="redis://"):
        ClusterStore(spec, peer)
