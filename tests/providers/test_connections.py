"""Clients are made once and leave nothing behind; lanes keep a slow, full or broken provider from everybody else."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agentraft_ray.breaker import BreakerState
from agentraft_ray.config import ProviderLimits
from agentraft_ray.runtime.provider_guard import ProcessGuard
from agentraft_ray.taxonomy import FaultKind
from agentraft_ray.testing.model_server import PASS, ModelServer, Reply
from agentraft_ray.verifier.providers.connections import connections_here, guard_process
from tests.providers.asking import PROVIDERS, request, verifier

WAIT_S = 20.0


async def until(condition: object) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


class Gate:
    """Answers of one provider wait until it is opened."""

    def __init__(self, *providers: str) -> None:
        self.providers = providers
        self.opened = asyncio.Event()
        self.under_way = self.most = 0

    async def __call__(self, asked):  # type: ignore[no-untyped-def]
        if asked.provider in self.providers:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await self.opened.wait()
            self.under_way -= 1
        return Reply(verdict=PASS)


@contextmanager
def no_new_threads() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive(), thread


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_loop_that_ends_leaves_no_connection_and_no_thread(provider: str) -> None:
    async def judge() -> ModelServer:
        async with ModelServer() as server:
            made = verifier(server, provider)
            verdicts = await asyncio.gather(*(made.verify(request()) for _ in range(5)))
            assert all(verdict.passed for verdict in verdicts)
            assert 1 <= server.open_connections <= 5
            await connections_here().close()
            await until(lambda: server.open_connections == 0)
            assert (await made.verify(request())).passed  # with a new client
            return server

    with no_new_threads(), warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        asyncio.run(judge())  # closes what is left, since nobody else does


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_one_client_serves_all_verdicts_of_a_loop(server: ModelServer, provider: str) -> None:
    for _ in range(3):
        assert (await verifier(server, provider).verify(request())).passed
    assert server.open_connections == 1
    assert len(connections_here()._clients) == 1


@pytest.mark.parametrize("provider", ["openai", "bedrock"])
async def test_a_lane_has_so_many_requests_under_way_and_the_others_wait_in_order(server: ModelServer, provider: str) -> None:
    server.script = gate = Gate(provider)
    made = verifier(server, provider, limits=ProviderLimits(concurrency_max=3))
    asked = [asyncio.create_task(made.verify(request(f"output {n}"))) for n in range(8)]
    await until(lambda: gate.under_way == 3)
    lane = next(iter(connections_here().lanes.values()))
    await until(lambda: lane.waiting == 5)
    gate.opened.set()
    assert all(verdict.passed for verdict in await asyncio.gather(*asked))
    assert gate.most == 3
    order = [next(n for n in range(8) if f"output {n}" in one.user) for one in server.asked]
    assert sorted(order[:3]) == [0, 1, 2]


async def test_a_lane_that_is_full_refuses_and_says_when_to_come_back(server: ModelServer) -> None:
    server.script = gate = Gate("openai")
    made = verifier(server, "openai", limits=ProviderLimits(concurrency_max=1, waiting_max=1, busy_retry_s=7.0))
    asked = [asyncio.create_task(made.verify(request())) for _ in range(2)]
    await until(lambda: gate.under_way == 1)
    refused = (await made.verify(request())).failure
    assert refused is not None
    assert (refused.kind, refused.retry_after_s) == (FaultKind.BUSY, 7.0)
    late = (await made.verify(request(deadline_s=0.05))).failure
    assert late is not None
    assert late.kind is FaultKind.BUSY
    gate.opened.set()
    assert all(verdict.passed for verdict in await asyncio.gather(*asked))


async def test_a_slow_provider_keeps_nobody_else_waiting(server: ModelServer) -> None:
    server.script = gate = Gate("openai")
    slow = verifier(server, "openai", limits=ProviderLimits(concurrency_max=2))
    stuck = [asyncio.create_task(slow.verify(request())) for _ in range(20)]
    await until(lambda: gate.under_way == 2)
    assert (await verifier(server, "anthropic").verify(request())).passed
    assert not any(one.done() for one in stuck)
    gate.opened.set()
    await asyncio.gather(*stuck)


@pytest.mark.parametrize("provider", ["anthropic", "bedrock"])
async def test_a_verdict_that_is_called_off_gives_its_room_back(server: ModelServer, provider: str) -> None:
    server.script = gate = Gate(provider)
    made = verifier(server, provider, limits=ProviderLimits(concurrency_max=1))
    first, second = (asyncio.create_task(made.verify(request())) for _ in range(2))
    await until(lambda: gate.under_way == 1)
    waiting = asyncio.create_task(made.verify(request()))
    lane = next(iter(connections_here().lanes.values()))
    await until(lambda: lane.waiting == 2)
    waiting.cancel()
    first.cancel()
    gate.opened.set()
    assert (await second).passed
    await until(lambda: lane.under_way == 0)
    assert lane.waiting == 0


async def test_the_breaker_of_a_model_opens_on_failures_of_its_provider_and_one_request_tries_again(server: ModelServer) -> None:
    now = [1000.0]
    guard = ProcessGuard(lambda: now[0])
    guard_process(guard)
    limits = ProviderLimits(failure_threshold=3, cooldown_s=30.0)
    made = verifier(server, "openai", limits=limits)
    lane = made._config.lane
    server.script = lambda asked: Reply(status=500)
    kinds = [(await made.verify(request())).failure.kind for _ in range(5)]  # type: ignore[union-attr]
    assert kinds == [FaultKind.SERVER_ERROR] * 3 + [FaultKind.CLOSED] * 2
    assert guard.state(lane, limits) is BreakerState.OPEN
    assert (await verifier(server, "openai", model="another", limits=limits).verify(request())).failure.kind is FaultKind.SERVER_ERROR  # type: ignore[union-attr]
    now[0] += 31.0
    server.script = gate = Gate("openai")
    before = len(server.asked)
    asked = [asyncio.create_task(made.verify(request())) for _ in range(10)]
    await until(lambda: gate.under_way == 1)
    await asyncio.sleep(0.05)
    assert len(server.asked) == before + 1  # the others wait for what becomes of it
    gate.opened.set()
    assert all(verdict.passed for verdict in await asyncio.gather(*asked))
    assert guard.state(lane, limits) is BreakerState.CLOSED


async def test_what_a_model_answers_badly_is_no_failure_of_its_provider(server: ModelServer) -> None:
    guard = ProcessGuard()
    guard_process(guard)
    limits = ProviderLimits(failure_threshold=2)
    made = verifier(server, "openai", limits=limits)
    for reply in (Reply(text="hm"), Reply(verdict=PASS, stop="length"), Reply(status=400), Reply(refusal="no")) * 2:
        server.script = lambda asked, reply=reply: reply
        assert not (await made.verify(request())).passed
    assert guard.state(made._config.lane, limits) is BreakerState.CLOSED


async def test_after_a_pause_requests_come_back_slowly(server: ModelServer) -> None:
    now = [1000.0]
    guard_process(ProcessGuard(lambda: now[0]))
    made = verifier(server, "openai", limits=ProviderLimits(concurrency_max=8))
    server.script = lambda asked: Reply(status=429, headers={"retry-after": "60"})
    await made.verify(request())
    now[0] += 61.0
    server.script = lambda asked: Reply(verdict=PASS)
    lane = next(iter(connections_here().lanes.values()))
    windows = []
    for _ in range(4):
        windows.append(lane.window)
        assert (await made.verify(request())).passed
    assert windows == [1, 2, 4, 8]


async def test_where_a_provider_names_no_time_every_pause_is_longer_than_the_last(server: ModelServer) -> None:
    now = [1000.0]
    guard_process(ProcessGuard(lambda: now[0]))
    server.script = lambda asked: Reply(status=429)
    made = verifier(server, "bedrock")
    named = []
    for _ in range(7):
        failure = (await made.verify(request())).failure
        assert failure is not None
        assert failure.kind is FaultKind.RATE_LIMITED
        named.append(failure.retry_after_s)
        now[0] += 61.0
    assert named == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
