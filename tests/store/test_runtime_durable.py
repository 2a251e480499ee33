"""The runtime over real servers: what survives, what is encrypted, what a lost server means, and who owns a run."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentraft_ray import Coordinator, Limits, Pipeline, RunResult, Step, StepContext, Task, wrap
from agentraft_ray.checkpoint.redis import RedisCheckpointStore
from agentraft_ray.checkpoint.server_binary import find_server
from agentraft_ray.errors import RunNotFound
from tests.store.servers import TestServer, running

pytestmark = pytest.mark.server

QUICK = Limits(store_wait_s=3.0, lease_ttl_s=1.0, inbox_poll_s=0.02, drain_s=1.0)
KEY = bytes(range(32))
SECRET = "the secret of the board"


@pytest.fixture(scope="module")
def shared() -> Iterator[TestServer]:
    with running(find_server().path) as server:
        yield server


@pytest.fixture
def server(shared: TestServer) -> TestServer:
    with shared.client() as client:
        client.flushall()
    return shared


@pytest.fixture
def own_server() -> Iterator[TestServer]:
    with running(find_server().path) as server:
        yield server


def coordinator(server: TestServer, pipeline: Pipeline, limits: Limits = QUICK, **options: Any) -> Coordinator:
    return wrap(pipeline, store=server.url, limits=limits, **options)


async def until(holds: Callable[[], Any], what: str, deadline_s: float = 10.0) -> None:
    end = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < end, f"waited {deadline_s} s until {what}"
        await asyncio.sleep(0.01)


def chain(calls: list[str], names: str = "abc", **gates: asyncio.Event) -> Pipeline:
    """Counted steps; one named in `gates` waits for its event."""

    async def work(ctx: StepContext) -> str:
        calls.append(ctx.step_name)
        if ctx.step_name in gates:
            await gates[ctx.step_name].wait()
        return f"{ctx.step_name} after {list(ctx.outputs)}"

    return Pipeline([Step(name, work) for name in names])


# --- the ordinary life of a run ----------------------------------------------------------------------------------------------


async def test_a_run_and_its_result_survive_the_coordinator(server: TestServer) -> None:
    calls: list[str] = []
    async with coordinator(server, chain(calls)) as first:
        assert (await first.run(Task("t", id="r"))).success
    async with coordinator(server, chain(calls)) as second:
        again = await second.run(Task("t", id="r"))
        assert [one.output for one in again.steps] == ["a after []", "b after ['a']", "c after ['a', 'b']"]
    assert calls == ["a", "b", "c"]


async def test_the_embedded_store_needs_nothing_but_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTRAFT_HOME", str(tmp_path / "home"))
    calls: list[str] = []
    async with wrap(chain(calls), store="embedded") as first:
        assert (await first.run(Task("t", id="r"))).success
    async with wrap(chain(calls), store=tmp_path / "home") as second:
        assert (await second.run(Task("t", id="r"))).success
    assert calls == ["a", "b", "c"]


def test_run_sync_on_a_server_leaves_nothing_open(server: TestServer) -> None:
    made = coordinator(server, chain([]))
    with server.client() as client:
        before = len(client.client_list())
        for _ in range(3):
            assert made.run_sync(Task("t")).success
        deadline = time.monotonic() + 5
        while len(client.client_list()) > before:
            assert time.monotonic() < deadline, client.client_list()
            time.sleep(0.01)


@pytest.mark.parametrize("size", [60_000, 70_000, 1_000_000, 8_000_000])
async def test_outputs_of_any_allowed_size_pass_through_blobs(server: TestServer, size: int) -> None:
    text = "x" * size
    pipeline = Pipeline([Step("big", lambda ctx: text), Step("size", lambda ctx: len(ctx.outputs["big"]))])
    async with coordinator(server, pipeline) as first:
        assert (await first.run(Task("t", id="r"))).output == size
    async with coordinator(server, pipeline) as second:
        found = await second.result("r")
        assert found.steps[0].output == text
        fork = await second.fork("r", "size")
        assert (await second.resume(fork)).output == size


async def test_a_thousand_runs_at_once_on_one_server(own_server: TestServer) -> None:
    async def work(ctx: StepContext) -> int:
        return len(ctx.outputs)

    async with coordinator(own_server, Pipeline([Step("a", work), Step("b", work)]), limits=Limits()) as one:
        results = await asyncio.gather(*(one.run(Task("t")) for _ in range(1_000)))
        assert {result.error for result in results} == {None}
        with own_server.client() as client:
            assert len(client.client_list()) < 30


# --- encryption --------------------------------------------------------------------------------------------------------------


async def test_an_encrypted_run_leaves_no_plain_text_on_the_server(own_server: TestServer) -> None:
    pipeline = Pipeline([Step("say", lambda ctx: f"{SECRET} {ctx.task.inputs['more']}" + " x" * 100_000), Step("n", lambda ctx: SECRET)])
    async with coordinator(own_server, pipeline, encryption_key=KEY) as first:
        assert (await first.run(Task(SECRET, {"more": SECRET}, id="r"))).success
    stored = b"".join(path.read_bytes() for path in own_server.directory.rglob("*") if path.is_file())
    assert b"agentraft:" in stored
    assert SECRET.encode() not in stored
    async with coordinator(own_server, pipeline, encryption_key=KEY) as second:
        assert (await second.result("r")).output == SECRET
        assert SECRET in (await second.result("r")).steps[0].output


@pytest.mark.parametrize("key", [bytes(32), None])
async def test_a_wrong_key_is_a_clear_error_and_changes_nothing(server: TestServer, key: bytes | None) -> None:
    calls: list[str] = []
    async with coordinator(server, chain(calls), encryption_key=KEY) as first:
        await first.run(Task("t", id="r"))
    with server.client() as client:
        before = client.lrange(client.keys("*log*")[0], 0, -1)
    async with coordinator(server, chain(calls), encryption_key=key) as second:
        result = await second.run(Task("t", id="r"))
        assert not result.success
        assert "key" in (result.error or ""), result.error
    with server.client() as client:
        assert client.lrange(client.keys("*log*")[0], 0, -1) == before
    assert calls == ["a", "b", "c"]


# --- a server that is not there ----------------------------------------------------------------------------------------------


async def test_a_server_that_cannot_be_reached_fails_the_run_as_a_value() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    one = wrap(
        Pipeline([Step("a", lambda ctx: 1), Step("b", lambda ctx: 1)]), store=f"redis://127.0.0.1:{port}/0", limits=Limits(store_wait_s=0.3)
    )
    async with asyncio.timeout(10):
        result = await one.run(Task("t"))
    assert (result.error_kind, result.success) == ("StoreUnavailable", False)
    assert result.summary()["verified"] == "0/2"
    assert str(port) in (result.error or "")


async def test_a_run_goes_on_when_its_server_comes_back(own_server: TestServer) -> None:
    calls: list[str] = []
    gate = asyncio.Event()
    async with coordinator(own_server, chain(calls, b=gate), limits=Limits(store_wait_s=20.0, inbox_poll_s=0.02)) as one:
        work = asyncio.create_task(one.run(Task("t", id="r")))
        await until(lambda: "b" in calls, "b runs")
        own_server.kill()
        gate.set()
        await asyncio.sleep(0)
        own_server.start()
        async with asyncio.timeout(20):
            result = await work
        assert result.success, result.error
    assert calls == ["a", "b", "c"]


async def test_a_run_whose_server_stays_away_fails_as_a_value_and_resumes_later(own_server: TestServer) -> None:
    calls: list[str] = []
    gate = asyncio.Event()
    async with coordinator(own_server, chain(calls, b=gate), limits=Limits(store_wait_s=0.5, inbox_poll_s=0.02, lease_ttl_s=1.0)) as one:
        work = asyncio.create_task(one.run(Task("t", id="r")))
        await until(lambda: "b" in calls, "b runs")
        own_server.kill()
        gate.set()
        async with asyncio.timeout(20):
            result = await work
        assert result.error_kind == "StoreUnavailable"
        assert result.status == "waiting"
        assert result.verified_count == 1
        own_server.start()
        async with asyncio.timeout(20):
            done = await one.resume("r")
        assert done.success, done.error
    assert calls == ["a", "b", "b", "c"]


async def test_a_submitted_run_whose_server_stays_away_ends_as_a_value(own_server: TestServer) -> None:
    gate = asyncio.Event()
    calls: list[str] = []
    async with coordinator(own_server, chain(calls, b=gate), limits=Limits(store_wait_s=0.5, inbox_poll_s=0.02)) as one:
        handle = await one.submit(Task("t", id="r"))
        await until(lambda: "b" in calls, "b runs")
        own_server.kill()
        gate.set()
        async with asyncio.timeout(20):
            assert (await handle.result()).error_kind == "StoreUnavailable"
        own_server.start()


async def test_a_key_of_another_program_is_a_clear_error(server: TestServer) -> None:
    with server.client() as client:
        keys = RedisCheckpointStore(server.url).keys
        for key in (f"{keys.prefix}:{{foreign}}:log", f"{keys.prefix}:{{foreign}}:meta"):
            client.set(key, "mine")
        assert client.exists(*keys.run("foreign")) == 2, "the names above are those that the store uses"
    async with coordinator(server, chain([])) as one:
        result = await one.run(Task("t", id="foreign"))
    assert (result.error_kind, result.success) == ("ForeignKey", False)
    with server.client() as client:
        assert client.get(f"{keys.prefix}:{{foreign}}:log") == b"mine"


async def test_a_key_that_turns_foreign_while_a_run_works_ends_it_as_a_value(server: TestServer) -> None:
    calls: list[str] = []
    gate = asyncio.Event()
    async with coordinator(server, chain(calls, b=gate)) as one:
        work = asyncio.create_task(one.run(Task("t", id="r")))
        await until(lambda: "b" in calls, "b runs")
        with server.client() as client:
            log = next(key for key in client.keys("*") if key.endswith(b":log"))
            client.delete(log)
            client.set(log, "mine now")
        gate.set()
        async with asyncio.timeout(10):
            result = await work
    assert not result.success
    assert result.error_kind in {"ForeignKey", "LogRewound", "LogCorrupted"}, result.error


async def test_a_log_that_vanishes_while_a_run_works_ends_it_as_a_value(server: TestServer) -> None:
    calls: list[str] = []
    gate = asyncio.Event()
    async with coordinator(server, chain(calls, b=gate)) as one:
        work = asyncio.create_task(one.run(Task("t", id="r")))
        await until(lambda: "b" in calls, "b runs")
        with server.client() as client:
            client.flushall()
        gate.set()
        async with asyncio.timeout(10):
            result = await work
    assert not result.success
    assert result.error_kind == "LogRewound", result.error


async def test_a_log_that_a_failover_shortened_parks_the_run_as_rewound(server: TestServer) -> None:
    calls: list[str] = []
    first, second = asyncio.Event(), asyncio.Event()
    async with coordinator(server, chain(calls, a=first, b=second)) as one:
        work = asyncio.create_task(one.run(Task("t", id="r")))
        await until(lambda: "a" in calls, "a runs")
        with server.client() as client:
            saved = {key: client.dump(key) for key in client.keys("*{r}*")}
            first.set()
            await until(lambda: "b" in calls, "b runs")
            for key, value in saved.items():
                client.restore(key, 0, value, replace=True)
        second.set()
        async with asyncio.timeout(10):
            result = await work
        assert (result.status, result.error_kind) == ("waiting", "LogRewound"), result.error
        assert calls == ["a", "b"]
        async with asyncio.timeout(10):
            resumed = await one.resume("r")
        assert resumed.success, "a person who resumes it accepts what is left"
    assert calls == ["a", "b", "a", "b", "c"]


# --- who owns a run ----------------------------------------------------------------------------------------------------------


async def test_a_second_coordinator_waits_for_the_first_and_gets_its_result(server: TestServer) -> None:
    calls: list[str] = []
    gate = asyncio.Event()
    async with coordinator(server, chain(calls, b=gate)) as first, coordinator(server, chain(calls)) as second:
        one = asyncio.create_task(first.run(Task("t", id="r")))
        await until(lambda: "b" in calls, "b runs")
        other = asyncio.create_task(second.run(Task("t", id="r")))
        done, _ = await asyncio.wait([other], timeout=1.5)
        assert not done, "the lease of the first, 1 s long, is renewed"
        gate.set()
        async with asyncio.timeout(10):
            results = await asyncio.gather(one, other)
        assert {result.output for result in results} == {"c after ['a', 'b']"}
    assert calls == ["a", "b", "c"]


async def test_a_parked_run_goes_on_elsewhere_while_its_first_coordinator_lives(server: TestServer) -> None:
    calls: list[str] = []
    gate = asyncio.Event()

    async def work(ctx: StepContext) -> str:
        calls.append(ctx.run_id)
        if ctx.run_id == "busy":
            await gate.wait()
        return "text"

    pipeline = Pipeline([Step("asked", work, needs_approval=True)])
    async with coordinator(server, pipeline) as first, coordinator(server, pipeline) as second, asyncio.timeout(20):
        busy = asyncio.create_task(first.run(Task("t", id="busy")))
        await until(lambda: "busy" in calls, "the other run keeps the lease of the first coordinator")
        assert (await first.run(Task("t", id="r"))).status == "waiting"
        await second.approve("r", "asked")
        assert (await second.resume("r")).success
        assert (await first.run(Task("t", id="r2"))).status == "waiting"
        await second.cancel("r2")
        assert (await first.result("r2")).status == "cancelled"
        gate.set()
        await busy
    assert calls == ["busy", "r", "r2"]


PROGRAM = """
import asyncio, sys
from agentraft_ray import *

calls = open(sys.argv[2], "a", buffering=1)

async def work(ctx):
    print(ctx.step_name, file=calls)
    if ctx.step_name == sys.argv[3]:
        await asyncio.sleep(600)
    return f"{ctx.step_name} after {list(ctx.outputs)}"

pipeline = Pipeline([Step(name, work) for name in "abc"])
limits = Limits(lease_ttl_s=1.0, inbox_poll_s=0.02)
result = wrap(pipeline, store=sys.argv[1], limits=limits).run_sync(Task("t", id="r"))
print(result.output)
"""


async def test_a_run_of_a_killed_process_is_adopted_when_its_lease_is_gone(server: TestServer, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    calls.touch()
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, server.url, str(calls), "b"], env=environment)
    try:
        await until(lambda: "b" in calls.read_text().split(), "b runs")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, server.url, str(calls), "-"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.strip() == "c after ['a', 'b']"
    assert calls.read_text().split() == ["a", "b", "b", "c"]


async def test_a_coordinator_that_slept_through_its_lease_does_not_write_what_it_still_had(server: TestServer) -> None:
    """The loop of the first is blocked for longer than its lease; the second takes the run; the first gets the second's result."""
    calls: list[str] = []
    begun, gate = asyncio.Event(), asyncio.Event()

    async def work(ctx: StepContext) -> str:
        calls.append(ctx.step_name)
        if len(calls) == 1:
            begun.set()
            await gate.wait()
        return f"made by call {len(calls)}"

    pipeline = Pipeline([Step("a", work), Step("b", work)])
    async with coordinator(server, pipeline) as first, coordinator(server, pipeline) as second, asyncio.timeout(20):
        one = asyncio.create_task(first.run(Task("t", id="r")))
        await begun.wait()
        owner = (await first._open()).owner
        assert owner._task is not None
        owner._task.cancel()  # it renews nothing any more, as if its process slept
        store = (await second._open()).store
        while await store.lease_alive(owner.id):
            await asyncio.sleep(0.02)
        result = await second.run(Task("t", id="r"))
        assert result.success
        gate.set()
        assert (await one).output == result.output
    assert calls.count("b") == 1


async def test_deciding_about_runs_of_other_processes(server: TestServer) -> None:
    async with coordinator(server, chain([])) as one:
        with pytest.raises(RunNotFound):
            await one.approve("nobody", "a")


async def test_results_are_plain_data_for_dashboards(server: TestServer) -> None:
    events: list[dict[str, Any]] = []
    async with coordinator(server, chain([]), on_event=lambda event: events.append(event.to_dict())) as one:
        result: RunResult = await one.run(Task("t"))
    assert json.loads(json.dumps(result.summary()))["success"] is True
    assert json.loads(json.dumps(events))[-1]["type"] == "run_success"


# --- more of what can go wrong -----------------------------------------------------------------------------------------------


async def test_ctrl_c_leaves_the_run_in_good_order(server: TestServer, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    calls.touch()
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, server.url, str(calls), "b"], env=environment, stderr=subprocess.PIPE)
    try:
        await until(lambda: "b" in calls.read_text().split(), "b runs")
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert b"KeyboardInterrupt" in told
    assert b"never retrieved" not in told
    assert b"was destroyed" not in told
    async with wrap(Pipeline([Step(name, lambda ctx: "x") for name in "abc"]), store=server.url) as one:
        found = await one.result("r")
        assert (found.status, found.waiting_for, found.verified_count) == ("waiting", ("drained",), 1)


@pytest.mark.parametrize("damage", ["changed", "foreign bytes", "cut", "twice"])
async def test_a_damaged_log_is_a_clear_error_and_runs_nothing(server: TestServer, damage: str) -> None:
    calls: list[str] = []
    pipeline = chain(calls, "ab")
    gated = Pipeline([*pipeline.steps, Step("c", lambda ctx: 1, needs_approval=True)])
    async with coordinator(server, gated) as one:
        assert (await one.run(Task("t", id="r"))).status == "waiting"
        with server.client() as client:
            log = next(key for key in client.keys("*") if key.endswith(b":log"))
            if damage == "changed":
                record = client.lindex(log, 2)
                client.lset(log, 2, record.replace(b"after", b"AFTER"))
            elif damage == "foreign bytes":
                client.lset(log, 2, b"not ours")
            elif damage == "twice":
                client.rpush(log, client.lindex(log, -1))
            else:
                client.ltrim(log, 0, 2)
        async with asyncio.timeout(10):
            result = await one.resume("r")
        assert not result.success
        assert result.error_kind in {"LogCorrupted", "LogRewound"}, result.error
    assert calls == ["a", "b"]


async def test_redis_url_selects_the_durable_store(server: TestServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", server.url)
    async with wrap(chain([])) as one:
        await one.run(Task("t", id="r"))
    with server.client() as client:
        assert client.keys("agentraft:*")
    async with wrap(chain([]), store="memory") as two:
        with pytest.raises(RunNotFound):
            await two.result("r")


async def test_outputs_that_left_memory_are_read_back_from_the_server(server: TestServer) -> None:
    def in_a_thread(ctx: StepContext) -> list[str]:
        return [ctx.step_name, *(output[0] for output in ctx.outputs.values())]

    async def on_the_loop(ctx: StepContext) -> list[str]:
        return in_a_thread(ctx)

    pipeline = Pipeline([Step(name, in_a_thread if name in "ac" else on_the_loop) for name in "abcd"])
    async with coordinator(server, pipeline, limits=Limits(cached_outputs_bytes_max=1), encryption_key=KEY) as one:
        assert (await one.run(Task("t"))).output == ["d", "a", "b", "c"]


async def test_the_seeds_calls_see_runs_on_the_server(server: TestServer) -> None:
    store = RedisCheckpointStore(server.url)
    async with wrap(chain([]), store=store) as one:
        await one.run(Task("t", id="r"))
    assert list(await store.outputs("r")) == ["a", "b", "c"]
    assert (await store.latest("r")).step_name == "c"  # type: ignore[union-attr]
    await store.close()


async def test_a_run_on_a_server_leaves_no_task_and_no_thread(server: TestServer) -> None:
    async with coordinator(server, chain([])) as one:
        await one.run(Task("t"))
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
    assert [thread for thread in threading.enumerate() if thread.name.startswith("agentraft")] == []


async def test_a_store_of_the_users_stays_open_when_a_coordinator_closes(server: TestServer) -> None:
    store = RedisCheckpointStore(server.url)
    async with wrap(chain([]), store=store) as one:
        await one.run(Task("t", id="r1"))
    async with wrap(chain([]), store=store) as two:
        assert (await two.run(Task("t", id="r2"))).success
    await store.close()


@pytest.mark.parametrize("stall_s", [1.0])
async def test_a_server_that_stalls_past_the_clients_timeout_gets_no_append_twice(own_server: TestServer, stall_s: float) -> None:
    calls: list[str] = []
    gate = asyncio.Event()
    store = RedisCheckpointStore(own_server.url, timeout_s=0.3, limits=Limits(store_wait_s=20.0))
    async with wrap(chain(calls, b=gate), store=store, limits=Limits(store_wait_s=20.0)) as one:
        work = asyncio.create_task(one.run(Task("t", id="r")))
        await until(lambda: "b" in calls, "b runs")
        own_server.signal(signal.SIGSTOP)
        gate.set()
        await asyncio.sleep(stall_s)
        own_server.signal(signal.SIGCONT)
        async with asyncio.timeout(20):
            result = await work
        assert result.success, result.error
        records = await store.read("r")
        assert len(records) == len(set(records)) == (await store.meta("r")).index  # type: ignore[union-attr]
    await store.close()
    assert calls == ["a", "b", "c"]
