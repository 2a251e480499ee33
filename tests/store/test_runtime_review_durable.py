"""Over a real server: what a failover loses between two lives, outages between them, events read again, and no blocking reads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentraft_ray import Event, EventType, Limits, Pipeline, Step, StepContext, Task, VerificationResult, Verifier, VerifyInput, wrap
from agentraft_ray.checkpoint.redis import RedisCheckpointStore
from agentraft_ray.checkpoint.server_binary import find_server
from agentraft_ray.errors import LogRewound
from tests.store.servers import TestServer, running

pytestmark = pytest.mark.server

QUICK = Limits(store_wait_s=3.0, lease_ttl_s=1.0, inbox_poll_s=0.02, drain_s=1.0)
KEY = bytes(range(32))


@pytest.fixture(scope="module")
def shared() -> Iterator[TestServer]:
    with running(find_server().path) as server:
        yield server


@pytest.fixture
def server(shared: TestServer) -> TestServer:
    with shared.client() as client:
        client.flushall()
    return shared


async def until(holds: Callable[[], Any], what: str, deadline_s: float = 10.0) -> None:
    end = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < end, f"waited {deadline_s} s until {what}"
        await asyncio.sleep(0.01)


class Asked:
    """Two steps, the second of which waits for a person; `saved` is the run as the server had it when the first one ran."""

    def __init__(self, server: TestServer) -> None:
        self.server = server
        self.calls: list[str] = []
        self.events: list[Event] = []
        self.saved: dict[Any, Any] = {}
        self.pipeline = Pipeline([Step("first", self.first), Step("asked", lambda ctx: "x", needs_approval=True)])

    def first(self, ctx: StepContext) -> str:
        self.calls.append("first")
        with self.server.client() as client:
            self.saved = self.saved or {key: client.dump(key) for key in client.keys("*{r}*")}
        return "done"

    def lose_the_tail(self) -> None:
        with self.server.client() as client:
            for key in client.keys("*{r}*"):
                client.delete(key)
            for key, value in self.saved.items():
                client.restore(key, 0, value, replace=True)


async def test_a_tail_lost_between_two_lives_parks_the_run_as_rewound(server: TestServer) -> None:
    scene = Asked(server)
    async with wrap(scene.pipeline, store=server.url, limits=QUICK) as one, asyncio.timeout(20):
        assert (await one.run(Task("t", id="r"))).waiting_for == ("approval:asked",)
        scene.lose_the_tail()
        found = await one.resume("r")
        assert (found.error_kind, scene.calls) == ("LogRewound", ["first"])
        assert (await one.resume("r")).waiting_for == ("approval:asked",)
        assert scene.calls == ["first", "first"]


async def test_a_log_lost_between_two_lives_is_a_rewind_and_no_unknown_run(server: TestServer) -> None:
    scene = Asked(server)
    async with wrap(scene.pipeline, store=server.url, limits=QUICK) as one, asyncio.timeout(20):
        await one.run(Task("t", id="r"))
        with server.client() as client:
            client.flushall()
        assert (await one.resume("r")).error_kind == "LogRewound"


async def test_a_submitted_run_waits_out_a_server_that_is_away_while_it_waits(caplog: pytest.LogCaptureFixture) -> None:
    with running(find_server().path) as server:
        scene = Asked(server)
        async with wrap(scene.pipeline, store=server.url, limits=Limits(store_wait_s=0.3, inbox_poll_s=0.02)) as one, asyncio.timeout(30):
            handle = await one.submit(Task("t", id="r"))
            while (await handle.status()).status != "waiting":
                await asyncio.sleep(0.02)
            server.kill()
            await until(lambda: "cannot be asked for news" in caplog.text, "a poll fails")
            server.start()
            await handle.approve("asked")
            assert (await handle.result()).success
        assert scene.calls == ["first"]


async def test_events_are_read_again_by_another_process_from_where_one_stopped(server: TestServer) -> None:
    scene = Asked(server)
    async with wrap(scene.pipeline, store=server.url, limits=QUICK, on_event=scene.events.append) as one:
        await one.run(Task("t", id="r"))
        last = next(event.id for event in reversed(scene.events) if event.id)
    async with wrap(scene.pipeline, store=server.url, limits=QUICK) as two:
        await two.approve("r", "asked")
        await two.resume("r")
        rest = [event async for event in two.events("r", last)]
        everything = [event async for event in two.events("r")]
        assert [event.id for event in everything] == [event.id for event in scene.events if event.id] + [event.id for event in rest]
        assert EventType.RUN_CLAIMED in [event.type for event in rest]
        assert rest[-1].type is EventType.RUN_SUCCESS
        with pytest.raises(LogRewound):
            [event async for event in two.events("r", "r:999:0")]


class LoopNeverBlocks(RedisCheckpointStore):
    """A store that lets nobody read on the event loop's time."""

    def read_blocking(self, run_id: str, index: int) -> bytes | None:
        assert threading.current_thread() is not threading.main_thread()
        return super().read_blocking(run_id, index)

    def blob_blocking(self, run_id: str, name: bytes) -> bytes | None:
        assert threading.current_thread() is not threading.main_thread()
        return super().blob_blocking(run_id, name)


class Reads(Verifier):
    async def verify(self, request: VerifyInput) -> VerificationResult:
        assert all(isinstance(output, str) for _, output in request.history[-1:])
        return VerificationResult.ok()


@pytest.mark.parametrize("key", [None, KEY])
async def test_parents_and_results_are_read_without_blocking_the_loop(server: TestServer, key: bytes | None) -> None:
    async def work(ctx: StepContext) -> str:
        parent = {"b": "a", "c": "b"}.get(ctx.step_name)
        return (ctx.outputs[parent][:10] if parent else "") + ctx.step_name * 70_000

    store = LoopNeverBlocks(server.url)
    pipeline = Pipeline([Step(name, work) for name in "abc"])
    limits = Limits(cached_outputs_bytes_max=0)
    async with wrap(pipeline, store=store, verifier=Reads(), encryption_key=key, limits=limits) as one:
        result = await one.run(Task("t", id="r"))
        assert result.success, result.error
        assert (await one.result("r")).output == result.output
        assert set(await store.outputs("r")) == {"a", "b", "c"}
    await store.close()
