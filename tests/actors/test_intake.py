"""How runs come to a shard: submissions that repeat, conflict or find it full; definitions that fail; stores that are away or rewound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from agentraft_ray import Step
from agentraft_ray.actors import names
from agentraft_ray.actors.store_spec import StoreSpec, open_store
from agentraft_ray.errors import AgentRaftError, RunIdConflict, RunNotFound
from agentraft_ray.pipeline import StepContext
from tests.actors.conftest import Start
from tests.actors.local_cluster import LIMITS, QUICK, LocalCluster, until
from tests.store.servers import TestServer, binaries
from tests.store.servers import running as running_server

pytestmark = pytest.mark.server

SHARD = names.coordinator("local", 0)
STORE = names.store("local")


def quick(name: str, **words: object) -> Step:
    async def run(ctx: StepContext) -> str:
        await asyncio.sleep(0)
        return f"This is {name}."

    return Step(name, run, **words)  # type: ignore[arg-type]


def gated(name: str, gate: asyncio.Event) -> Step:
    async def run(ctx: StepContext) -> str:
        await gate.wait()
        return f"This is {name}."

    return Step(name, run)


# --- repeated and conflicting submissions -----------------------------------------------------------------------------------------


async def test_submitting_twice_is_submitting_once(cluster: LocalCluster) -> None:
    one, other, gate = await cluster.client(), await cluster.client(), asyncio.Event()
    blueprint = one.host([gated("a", gate)])
    other.definitions |= one.definitions
    followers = [await one.submit(blueprint, "run"), await one.submit(blueprint, "run"), await other.submit(blueprint, "run")]
    gate.set()
    results = [await who.result(follower) for who, follower in zip((one, one, other), followers, strict=True)]
    assert [result.output for result in results] == ["This is a."] * 3
    assert len(cluster.tally.ran) == 1
    await cluster.check("run")


async def test_a_run_that_has_finished_is_answered_from_its_log(cluster: LocalCluster) -> None:
    client = await cluster.client()
    blueprint = client.host([quick("a"), quick("b")])
    first = await client.run(blueprint, "run", listens=True)
    told = list(client.events["run"])
    again = await client.run(blueprint, "run", listens=True)
    assert (again.output, again.verified_count) == (first.output, 2)
    live_only = [event for event in told if event.position < 0]
    assert len(client.events["run"]) == 2 * len(told) - len(live_only)
    assert len(cluster.tally.ran) == 2


async def test_an_id_that_stands_for_another_task_is_refused_while_its_run_is_here(cluster: LocalCluster) -> None:
    client, other, gate = await cluster.client(), await cluster.client(), asyncio.Event()
    blueprint = client.host([gated("a", gate)])
    other.definitions |= client.definitions
    follower = await client.submit(blueprint, "run", "one task")
    for who in (client, other):
        with pytest.raises(RunIdConflict):
            await who.submit(blueprint, "run", "another task")
    gate.set()
    assert (await client.result(follower)).success
    await cluster.check("run")


async def test_an_id_that_stands_for_another_task_is_refused_while_its_run_arrives(cluster: LocalCluster) -> None:
    client, other = await cluster.client(), await cluster.client()
    blueprint = client.host([quick("a")])
    other.definitions |= client.definitions
    for who in (client, other):  # both know that the pipeline is registered
        assert (await who.run(blueprint, f"before {who.name}".replace(" ", "-"))).success
    results = await asyncio.gather(
        client.run(blueprint, "run", "one task"), other.run(blueprint, "run", "another task"), return_exceptions=True
    )
    assert sum(isinstance(one, RunIdConflict) for one in results) == 1
    assert sum(getattr(one, "success", False) for one in results) == 1
    await cluster.check("run")


async def test_an_id_that_stands_for_another_task_is_refused_after_its_run_has_ended(cluster: LocalCluster) -> None:
    client = await cluster.client()
    blueprint = client.host([quick("a")])
    assert (await client.run(blueprint, "run", "one task")).success
    with pytest.raises(RunIdConflict):
        await client.submit(blueprint, "run", "another task")
    with pytest.raises(RunIdConflict):
        await client.submit(client.host([quick("b")]), "run", "one task")


async def test_a_run_that_does_not_exist_cannot_be_followed(cluster: LocalCluster) -> None:
    client = await cluster.client()
    blueprint = client.host([quick("a")])
    with pytest.raises(RunNotFound):
        await client.run(blueprint, "nothing", None)
    assert not cluster.actor(SHARD).intake.arriving


async def test_every_client_that_follows_a_run_hears_its_events_and_its_end(cluster: LocalCluster) -> None:
    gate = asyncio.Event()
    clients = [await cluster.client() for _ in range(3)]
    blueprint = clients[0].host([quick("a"), gated("b", gate), quick("c")])
    first = await clients[0].submit(blueprint, "run")  # without events
    await until(lambda: cluster.tally.count("b"), "b")
    late = [await who.submit(blueprint, "run", None, listens=True) for who in clients[1:]]
    gate.set()
    results = await asyncio.gather(*(who.result(one) for who, one in zip(clients, [first, *late], strict=True)))
    assert all(result.success for result in results)
    told = [[event.id for event in who.events["run"] if event.position >= 0] for who in clients[1:]]
    assert told[0] == told[1]
    assert len(told[0]) == len(set(told[0])) == 5  # the start, three commits, the end


async def test_a_client_that_starts_to_listen_during_an_append_misses_nothing(cluster: LocalCluster) -> None:
    client, gate = await cluster.client(), asyncio.Event()
    blueprint = client.host([quick("a"), gated("b", gate), quick("c")])
    follower = await client.submit(blueprint, "run")
    await until(lambda: cluster.tally.count("b"), "b")
    store = cluster.freeze(STORE)
    gate.set()
    await until(lambda: cluster.actor(SHARD).shard.runs["run"].ready is not None, "the append of b")
    listening = await client.submit(blueprint, "run", None, listens=True)
    cluster.thaw(store)
    assert (await client.result(follower)).success
    assert (await client.result(listening)).success
    positions = [event.position for event in client.events["run"] if event.position >= 0]
    assert positions == sorted(set(positions))
    assert positions == [0, 2, 3, 4, 5]


# --- definitions ------------------------------------------------------------------------------------------------------------------


async def test_a_pipeline_is_registered_again_after_a_restart(cluster: LocalCluster) -> None:
    client = await cluster.client()
    blueprint = client.host([quick("a")])
    assert (await client.run(blueprint, "run1")).success
    cluster.kill(SHARD)
    assert (await client.run(blueprint, "run2")).success
    await cluster.check("run1", "run2")


async def test_a_pipeline_that_no_worker_can_load_is_refused_before_anything_is_written(
    cluster: LocalCluster, spec: StoreSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await cluster.client()
    blueprint = client.host([quick("a")])
    for name in cluster.workers:
        monkeypatch.setattr(cluster.actor(name), "_load", _fails)
    for _ in range(2):
        with pytest.raises(AgentRaftError, match="no such module"):
            await client.submit(blueprint, "run")
    reader = open_store(spec, reader=True)
    assert await reader.meta("run") is None
    assert not [name for name in await reader.documents() if name.startswith("definition:")]
    await reader.close()


def _fails(definition: bytes) -> object:
    raise ImportError("no such module")


async def test_a_pipeline_that_fails_to_load_does_not_take_others_with_it(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await cluster.client()
    good, bad = client.host([quick("a")]), client.host([quick("b")])
    definition = client.definitions[bad.plan.fingerprint]
    for name in cluster.workers:
        actor = cluster.actor(name)
        load = actor._load
        monkeypatch.setattr(actor, "_load", lambda data, load=load: _fails(data) if data == definition else load(data))
    results = await asyncio.gather(client.run(good, "good"), client.run(bad, "bad"), return_exceptions=True)
    assert getattr(results[0], "success", False), results
    assert isinstance(results[1], AgentRaftError)


async def test_a_worker_that_is_being_restarted_refuses_no_pipeline(cluster: LocalCluster) -> None:
    client = await cluster.client()
    blueprint = client.host([quick("a")])
    for name in cluster.workers:
        cluster.kill(name, again=False)
    run = asyncio.create_task(client.run(blueprint, "run"))
    await until(lambda: cluster.calls[cluster.workers[0], "load"] > 1, "looks for a worker")
    for name in cluster.workers:
        cluster.begin(name)
    assert (await run).success


# --- a store that fails -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def own_server() -> AsyncIterator[TestServer]:
    """A server that a test may kill."""
    with running_server(binaries()["bundled"]) as made:
        yield made


async def test_runs_outlast_a_store_that_is_away_for_longer_than_is_waited(start: Start, own_server: TestServer) -> None:
    limits = replace(LIMITS, store_wait_s=0.2, lease_ttl_s=2.0)
    cluster = await start(spec=StoreSpec.server(own_server.url, limits=limits), limits=limits)
    client, gate = await cluster.client(), asyncio.Event()
    blueprint = client.host([quick("a"), gated("b", gate), quick("c")])
    followers = [await client.submit(blueprint, f"run{n}", listens=True) for n in range(5)]
    await until(lambda: cluster.tally.count("b") == 5, "b")
    own_server.kill()
    gate.set()
    await until(lambda: len(cluster.actor(SHARD).intake.arriving) == 5, "the store's absence is noticed")
    await asyncio.sleep(0.5)
    own_server.start()
    results = [await client.result(one) for one in followers]
    assert [result.status for result in results] == ["succeeded"] * 5
    assert cluster.tally.count("a") == 5
    await cluster.check(*[f"run{n}" for n in range(5)])


async def test_a_coordinator_that_starts_before_its_store_waits_for_it(start: Start, own_server: TestServer) -> None:
    limits = replace(LIMITS, store_wait_s=0.1)
    cluster = await start(spec=StoreSpec.server(own_server.url, limits=limits), limits=limits)
    client = await cluster.client()
    blueprint = client.host([quick("a")])
    own_server.kill()
    cluster.kill(SHARD)
    run = asyncio.create_task(client.run(blueprint, "run"))
    await asyncio.sleep(0.5)
    own_server.start()
    assert (await run).success
    await cluster.check("run")


async def test_a_run_whose_log_has_lost_records_is_parked_as_rewound(cluster: LocalCluster, spec: StoreSpec) -> None:
    client, gate = await cluster.client(), asyncio.Event()
    blueprint = client.host([quick("a"), quick("b"), gated("c", gate)])
    follower = await client.submit(blueprint, "run", until_waiting=True)
    await until(lambda: cluster.tally.count("c"), "c")
    reader = open_store(spec, reader=True)
    await _rewind(reader, "run", 1)
    gate.set()
    result = await client.result(follower)
    assert result.status == "waiting"
    assert result.waiting_for[0].startswith("rewound:")
    await client.link("run").call("resume", ["run"])
    assert (await client.run(blueprint, "run", None)).success
    await reader.close()
    await cluster.check("run", strict=False)


async def _rewind(reader: object, run_id: str, count: int) -> None:
    """What a failover may leave: the log and its meta as they were some records ago."""
    import redis

    from agentraft_ray.identity import GENESIS, chain

    pool = redis.ConnectionPool(connection_class=redis.UnixDomainSocketConnection, path=reader.url.removeprefix("unix://"))  # type: ignore[attr-defined]
    keys = reader.keys.run(run_id)  # type: ignore[attr-defined]
    with redis.Redis(connection_pool=pool) as client:
        for _ in range(count):
            client.rpop(keys.log)
        head = GENESIS
        stored = client.lrange(keys.log, 0, -1)
        for one in stored:
            head = chain(head, one)
        client.hset(keys.meta, mapping={"index": len(stored), "head": head})
    pool.disconnect()


# --- drain, silence, lateness -----------------------------------------------------------------------------------------------------


async def test_a_drained_shard_leaves_its_runs_to_another_cluster(start: Start, spec: StoreSpec) -> None:
    cluster = await start(limits=replace(LIMITS, lease_ttl_s=600.0))
    client, gate = await cluster.client(), asyncio.Event()
    blueprint = client.host([quick("a"), gated("b", gate)])
    asking = client.host([quick("ask", needs_approval=True)])
    followers = [await client.submit(blueprint, f"run{n}", until_waiting=True) for n in range(5)]
    await client.run(asking, "waits", until_waiting=True)
    await until(lambda: cluster.tally.count("b") == 5, "b")
    assert await cluster.actor(SHARD).shut_down() == 0
    for one in followers:
        assert (await client.result(one)).waiting_for == ("drained",)
    await client.close()
    await until(lambda: all(one.is_over for one in cluster.tally.ran), "steps that were under way are called off")
    gate.set()
    other = await start(cluster_id="c2")
    other.tally = cluster.tally
    assert await other.actor(SHARD).resume_all() == 6
    again = await other.client()
    for n in range(5):
        assert (await again.run(blueprint, f"run{n}", None)).success
    assert cluster.tally.count("a") == 5
    await again.decide("waits", "approve", "ask")
    assert (await again.run(asking, "waits", None)).success
    await other.check(*[f"run{n}" for n in range(5)], "waits")


async def test_what_arrives_while_a_shard_drains_is_not_begun(cluster: LocalCluster) -> None:
    client = await cluster.client()
    blueprint = client.host([quick("a")])
    assert (await client.run(blueprint, "before")).success
    store = cluster.freeze(STORE)
    submitting = [asyncio.create_task(client.submit(blueprint, f"run{n}")) for n in range(3)]
    await until(lambda: cluster.actor(SHARD).intake.held, "the admission")
    draining = asyncio.create_task(cluster.actor(SHARD).shut_down())
    await asyncio.sleep(0.02)
    cluster.thaw(store)
    assert await draining == 0
    for one in submitting:
        await one
    assert cluster.tally.count("a") == 1
    with pytest.raises(AgentRaftError, match="shut down"):
        await client.submit(blueprint, "late")


async def test_a_client_that_vanished_is_forgotten_and_its_runs_go_on(start: Start) -> None:
    now = {"s": 0.0}
    cluster = await start(pace=replace(QUICK, clock=lambda: now["s"]))
    client, gate = await cluster.client("gone"), asyncio.Event()
    blueprint = client.host([gated("a", gate), quick("b")])
    follower = await client.submit(blueprint, "run")
    await client.links[0].close()
    desk = cluster.actor(SHARD).desk
    assert len(desk) == 1
    now["s"] = 61.0
    await until(lambda: len(desk) == 0, "it is forgotten")
    gate.set()
    while (await cluster.state("run")).finished is None:
        await asyncio.sleep(0.005)
    assert desk.waiting == 0
    assert follower.run_id == "run"
    await cluster.check("run")


async def test_a_client_that_was_silent_for_too_long_asks_for_its_runs_anew(start: Start) -> None:
    now = {"s": 0.0}
    cluster = await start(pace=replace(QUICK, clock=lambda: now["s"]))
    client, gate = await cluster.client(), asyncio.Event()
    blueprint = client.host([gated("a", gate), quick("b")])
    follower = await client.submit(blueprint, "run", listens=True)
    await until(lambda: cluster.tally.ran, "a")
    cluster.hung.add((SHARD, "collect"))  # as if the program had been asleep
    link = client.links[0]
    assert link._listener is not None
    await asyncio.sleep(0.25)
    now["s"] = 61.0
    await until(lambda: len(cluster.actor(SHARD).desk) == 0, "it is forgotten")
    gate.set()
    while (await cluster.state("run")).finished is None:
        await asyncio.sleep(0.005)
    link._listener.cancel()
    cluster.hung.clear()
    link._listener = asyncio.create_task(link._listen())
    assert (await client.result(follower)).success
    positions = [event.position for event in client.events["run"] if event.position >= 0]
    assert positions == sorted(set(positions))


async def test_a_lease_that_is_late_holds_dispatch(start: Start) -> None:
    cluster = await start(limits=replace(LIMITS, lease_ttl_s=0.4))
    client, gate = await cluster.client(), asyncio.Event()
    blueprint = client.host([gated("a", gate), quick("b")])
    follower = await client.submit(blueprint, "run")
    await until(lambda: cluster.tally.ran, "a")
    cluster.hung.add((STORE, "renew_lease"))
    actor = cluster.actor(SHARD)
    await until(lambda: actor.pools[""].is_held, "the lease is late")
    gate.set()
    await asyncio.sleep(0.1)
    assert cluster.tally.count("b") == 0
    actor.owner._renewed_at = asyncio.get_running_loop().time()  # it is renewed after all
    await until(lambda: cluster.tally.count("b") == 1, "b is sent when the lease is fresh")
    assert (await client.result(follower)).success
