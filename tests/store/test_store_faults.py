"""What the Redis store keeps when its server stalls, dies, fails over, fills up or loses its replica."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentraft_ray.checkpoint import AnswerKind, Command, RedisCheckpointStore
from agentraft_ray.checkpoint.base import RunStore
from agentraft_ray.checkpoint.embedded import EmbeddedServer
from agentraft_ray.checkpoint.scripts import TRANSITION, sha1
from agentraft_ray.config import Limits
from agentraft_ray.errors import DurabilityUnverified, StoreError, StoreFull, StoreUnavailable
from agentraft_ray.identity import GENESIS, OwnerToken, chain, digest
from agentraft_ray.testing.store_conformance import Pen, StoreConformance, admitted, new_run_id, present
from tests.store.servers import LossyProxy, TestServer, binaries, running

pytestmark = pytest.mark.server


@pytest.fixture(params=list(binaries()))
def server(request: pytest.FixtureRequest) -> Iterator[TestServer]:
    with running(binaries()[request.param]) as started:
        yield started


def store_on(server: TestServer, wait_s: float = 20.0, timeout_s: float = 0.2, **words: Any) -> RedisCheckpointStore:
    return RedisCheckpointStore(server.url, limits=Limits(store_wait_s=wait_s), timeout_s=timeout_s, **words)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def free_cluster_port() -> str:
    """A port whose 10,000th neighbour, on which cluster nodes talk to each other, exists and is free too."""
    while True:
        port = int(free_port())
        with socket.socket() as bus, contextlib.suppress(OSError, OverflowError):
            bus.bind(("127.0.0.1", port + 10_000))
            return str(port)


async def test_a_cancellation_comes_through_although_the_client_swallows_it(server: TestServer) -> None:
    """`asyncio.wait_for` before Python 3.12, which the client uses, drops a cancellation that arrives together with the reply."""

    async def replies_when_cancelled(client: Any) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "the reply"
        return "too late"

    async with asyncio.timeout(20):
        store = store_on(server)
        caller = asyncio.create_task(store._calls.read(replies_when_cancelled, "any"))
        await asyncio.sleep(0)  # the call begins
        while not caller.cancelled():
            caller.cancel()
            done, _ = await asyncio.wait([caller], timeout=1.0)
            assert not done or caller.cancelled()
        await store.close()


# --- unknown outcomes ------------------------------------------------------------------------------------------------------


async def test_a_server_that_stalls_past_the_timeout_gets_everything_once(server: TestServer) -> None:
    store = store_on(server)
    pens = [await admitted(store) for _ in range(5)]
    fresh, command = new_run_id(), Command("c", b"body")
    server.signal(signal.SIGSTOP)
    calls: list[asyncio.Task[Any]] = [asyncio.create_task(pen.write(b"one", b"two")) for pen in pens]
    calls.append(asyncio.create_task(store.admit(fresh, b"d", b"first", b"h")))
    calls.append(asyncio.create_task(store.push_command(pens[0].run_id, command)))
    await asyncio.sleep(0.7)  # three time-outs of the client
    assert not any(call.done() for call in calls)
    server.signal(signal.SIGCONT)
    *answers, admission, pushed = await asyncio.gather(*calls)
    assert {answer.kind for answer in answers} == {AnswerKind.APPENDED}
    assert admission.created, "its own repetition does not make it somebody else's"
    assert pushed
    for pen in pens:
        assert (await store.read(pen.run_id))[2:] == [b"one", b"two"]
        assert (await pen.write(b"three")).kind is AnswerKind.APPENDED
    assert await store.inbox(pens[0].run_id) == [command]
    await store.close()


async def test_an_append_given_up_on_can_be_sent_again_when_the_server_is_back(server: TestServer) -> None:
    store = store_on(server, wait_s=0.5)
    pen = await admitted(store)
    entry = pen.entry(b"one")
    server.signal(signal.SIGSTOP)
    with pytest.raises(StoreUnavailable, match="resumed"):
        await pen.send(entry)
    server.signal(signal.SIGCONT)
    assert (await pen.send(entry)).kind is AnswerKind.APPENDED
    assert (await store.read(pen.run_id))[2:] == [b"one"]
    await store.close()


async def test_what_was_acknowledged_survives_the_server_being_killed_and_stands_once(server: TestServer) -> None:
    store, chance = store_on(server, timeout_s=2.0), random.Random(7)
    pens = [await admitted(store) for _ in range(20)]
    acknowledged: dict[str, list[bytes]] = {pen.run_id: [] for pen in pens}
    stop = asyncio.Event()

    async def write(pen: Pen) -> None:
        number = 0
        while not stop.is_set():
            record = b"%d" % number
            assert (await pen.write(record)).kind is AnswerKind.APPENDED
            acknowledged[pen.run_id].append(record)
            number += 1

    writers = [asyncio.create_task(write(pen)) for pen in pens]
    for _ in range(5):
        await asyncio.sleep(chance.uniform(0.02, 0.2))
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
    stop.set()
    await asyncio.gather(*writers)
    assert all(acknowledged.values())
    for pen in pens:
        assert (await store.read(pen.run_id))[2:] == acknowledged[pen.run_id]
    await store.close()


async def test_a_write_whose_answer_is_lost_is_made_once_and_answered_as_the_first_time(server: TestServer) -> None:
    async with LossyProxy(server) as proxy:
        store = RedisCheckpointStore(proxy.url, limits=Limits(store_wait_s=10))
        await store.open()
        run_id, record = new_run_id(), b"first"
        script = sha1(TRANSITION).encode()
        for number in range(2):  # the first time the server does not know the script yet, so that no write is lost
            proxy.lose(script)
            run_id = new_run_id()
            assert (await store.admit(run_id, digest(b"task"), record, chain(GENESIS, record))).created
            assert proxy.lost == number + 1
        pen = Pen(store, run_id, OwnerToken(0, "first"))
        proxy.lose(script)
        assert (await pen.claim(await present(store, run_id))).kind is AnswerKind.APPENDED
        proxy.lose(script)
        assert await store.push_command(run_id, Command("c", b"body"))
        proxy.lose(script)
        assert (await pen.write(b"one", taken=("c",))).kind is AnswerKind.APPENDED
        assert await store.read(run_id) == [b"first", b"claimed by first", b"one"]
        proxy.lose(script)
        assert (await pen.write(b"end", status="finished")).kind is AnswerKind.APPENDED
        assert (await present(store, run_id)).index == 4
        assert await store.inbox(run_id) == []
        await store.close()


# --- promises that the server stops keeping ----------------------------------------------------------------------------------


async def test_durability_is_checked_again_after_a_reconnect(server: TestServer) -> None:
    store = store_on(server, wait_s=0.5)
    pen = await admitted(store)
    server.kill()
    server.settings["appendonly"] = "no"
    server.start()
    with pytest.raises(DurabilityUnverified):
        await pen.write(b"one")
    await store.close()


async def test_a_full_server_makes_writers_wait_and_then_says_so(server: TestServer) -> None:
    store = store_on(server, wait_s=0.5)
    pen = await admitted(store)
    entry = pen.entry(b"one")
    with server.client() as client:
        client.config_set("maxmemory", "1mb" if client.info("memory")["used_memory"] > 2**20 else "500kb")
        with pytest.raises(StoreFull, match="prune"):
            await pen.send(entry)
        assert len(await store.read(pen.run_id)) == 2, "reads go on, and nothing was written"
        waiting = asyncio.create_task(pen.send(entry))
        await asyncio.sleep(0.1)
        client.config_set("maxmemory", "0")
    assert (await waiting).kind is AnswerKind.APPENDED
    await store.close()


async def test_a_primary_that_became_a_replica_is_waited_for(server: TestServer) -> None:
    store = store_on(server)
    pen = await admitted(store)
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", free_port())
        writing = asyncio.create_task(pen.write(b"one"))
        await asyncio.sleep(0.2)
        assert not writing.done()
        client.execute_command("REPLICAOF", "NO", "ONE")
    assert (await writing).kind is AnswerKind.APPENDED
    await store.close()


async def test_a_user_without_the_right_is_told_at_once(server: TestServer) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "weak", "on", ">pw", "~*", "+@all", "-rpush")
    store = RedisCheckpointStore(f"unix://weak:pw@{server.socket}", limits=Limits(store_wait_s=5))
    with pytest.raises(StoreError, match="permissions"):
        await store.admit(new_run_id(), b"d", b"first", b"h")
    with pytest.raises(StoreError, match="may not use RPUSH; grant"):
        await store.open()
    await store.close()


# --- replicas --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[TestServer, TestServer]]:
    binary, port = binaries()["bundled"], free_port()
    with (
        running(binary, port=port, bind="127.0.0.1") as primary,
        running(binary, port=free_port(), bind="127.0.0.1", replicaof=f"127.0.0.1 {port}", repl_diskless_sync_delay="0") as replica,
    ):
        yield primary, replica


async def in_step(replica: TestServer) -> None:
    with replica.client() as client:
        async with asyncio.timeout(20):
            while client.info("replication").get("master_link_status") != "up":
                await asyncio.sleep(0.02)


async def test_replicated_means_that_the_replica_has_it(pair: tuple[TestServer, TestServer]) -> None:
    primary, replica = pair
    await in_step(replica)
    store = store_on(primary, wait_s=1.0, timeout_s=0.4, durability="replicated(1)")
    await store.open()
    pen = await admitted(store)
    await pen.write(b"one")
    with replica.client() as client:
        assert client.lrange(store.keys.run(pen.run_id).log, 2, -1) == [b"one"]
    entry = pen.entry(b"two")
    replica.signal(signal.SIGSTOP)
    with pytest.raises(StoreUnavailable):
        await pen.send(entry)
    replica.signal(signal.SIGCONT)
    assert (await pen.send(entry)).kind is AnswerKind.APPENDED
    with replica.client() as client:
        assert client.lrange(store.keys.run(pen.run_id).log, 2, -1) == [b"one", b"two"]
    await store.close()


async def test_a_promoted_replica_that_lacks_the_tail_shows_that_the_log_was_rewound(pair: tuple[TestServer, TestServer]) -> None:
    primary, replica = pair
    await in_step(replica)
    before = store_on(primary)
    pen, claimed = await admitted(before), await admitted(before)
    await pen.write(b"kept")
    with primary.client() as client:
        assert client.execute_command("WAIT", 1, 5000) == 1
    with replica.client() as client:
        client.execute_command("REPLICAOF", "NO", "ONE")
    await pen.write(b"lost")
    new = Pen(before, claimed.run_id, OwnerToken(0, "new"))
    await new.claim(await present(before, claimed.run_id))
    primary.kill()
    await before.close()

    after = store_on(replica)
    pen.store = new.store = claimed.store = after
    answer = await pen.write(b"next")
    assert (answer.kind, answer.index) == (AnswerKind.MOVED, 3), "its own token, a shorter log"
    answer = await new.write(b"next")
    assert (answer.kind, answer.token) == (AnswerKind.FENCED, claimed.token), "the claim itself was lost"
    assert (await after.read(pen.run_id))[2:] == [b"kept"]
    await after.close()


# --- cluster and embedded ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[TestServer]:
    with running(binaries()["bundled"], port=free_cluster_port(), bind="127.0.0.1", cluster_enabled="yes") as started:
        with started.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        yield started


class TestEmbeddedStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _on(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    async def make_store(self) -> RunStore:
        return RedisCheckpointStore.embedded(self.directory)


class TestClusterStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _on(self, cluster: TestServer) -> None:
        self.server = cluster

    async def make_store(self) -> RunStore:
        return RedisCheckpointStore(f"redis+cluster://127.0.0.1:{self.server.settings['port']}")


async def test_an_embedded_server_that_was_killed_is_started_again(tmp_path: Path) -> None:
    store = RedisCheckpointStore.embedded(tmp_path, limits=Limits(store_wait_s=20))
    await store.open()
    pen = await admitted(store)
    server = EmbeddedServer(tmp_path)
    for number in range(2):
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert (await pen.write(b"%d" % number)).kind is AnswerKind.APPENDED
    assert (await store.read(pen.run_id))[2:] == [b"0", b"1"]
    await store.close()
    assert server.pid is None
