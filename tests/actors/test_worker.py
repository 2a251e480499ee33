"""The worker: instant steps share a task, those that wait hold nobody back, and nothing that a step does ends the actor."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from typing import Any

import pytest

from agentraft_ray import Step, StepContext
from agentraft_ray.actors import lanes
from agentraft_ray.actors.messages import Loaded, Raised, Returned, Returning, Unloaded, decode
from agentraft_ray.actors.worker import WorkerActor
from agentraft_ray.checkpoint.codec import decode_output, encode_output
from agentraft_ray.errors import InvalidPipeline
from tests.actors.hosted import Client, at_work, blueprint, until, worker


def output(reply: Any) -> Any:
    assert isinstance(reply, Returned), reply
    return decode_output(reply.data)


async def instant(ctx: StepContext) -> str:
    return f"{ctx.run_id} {ctx.step_name} {ctx.task.goal} {ctx.task.inputs['n']}"


class Gate:
    """A step that waits for others to let it go on."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.begun = 0
        self.cancelled = 0

    async def step(self, ctx: StepContext) -> str:
        self.begun += 1
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "through"


# --- the exchange ------------------------------------------------------------------------------------------------------------


async def test_a_batch_of_instant_steps_comes_back_whole_in_one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "HELD_S_MAX", 60.0)  # however slow this machine is
    tasks = set()

    async def step(ctx: StepContext) -> str:
        tasks.add(asyncio.current_task())
        return await instant(ctx)

    async with at_work(blueprint([Step("a", step)]), hold_s=60) as client:
        replies = await client.exchange(*(client.work(run_id=f"r{k}") for k in range(100)))
        assert [output(reply) for reply in replies] == [f"r{k} a the goal 1" for k in range(100)]
        assert len(tasks) == 1


async def test_steps_that_wait_hold_nobody_back() -> None:
    gate = Gate()
    async with at_work(blueprint([Step("gate", gate.step, after=()), Step("a", instant, after=())]), hold_s=60) as client:
        requests = [client.work(k % 2) for k in range(20)]
        replies = await client.exchange(*requests)
        while len(replies) < 10:
            replies += await client.exchange()
        assert sorted(reply.ticket for reply in replies) == [request.ticket for request in requests[1::2]]
        assert (await client.actor.stats())["running"] == gate.begun == 10
        gate.opened.set()
        for request in requests[::2]:
            assert output(await client.reply(request.ticket)) == "through"
        assert (await client.actor.stats())["done"] == 20


async def test_a_long_batch_lets_what_is_done_leave_early() -> None:
    async def busy(ctx: StepContext) -> int:
        time.sleep(0.005)
        return 1

    async with at_work(blueprint([Step("a", busy)]), hold_s=60) as client:
        requests = [client.work() for _ in range(40)]
        assert 0 < len(await client.exchange(*requests)) < 40
        for request in requests:
            assert output(await client.reply(request.ticket)) == 1


async def test_a_request_that_is_sent_twice_runs_once() -> None:
    gate = Gate()
    async with at_work(blueprint([Step("a", gate.step)]), hold_s=0.01) as client:
        request = client.work()
        assert await client.exchange(request, request) == await client.exchange(request) == []
        gate.opened.set()
        assert output(await client.reply(request.ticket)) == "through"
        assert gate.begun == 1


async def test_two_clients_have_tickets_of_their_own() -> None:
    of = blueprint([Step("a", instant)])
    async with at_work(of) as one:
        other = Client(one.actor, of, "other")
        replies = await asyncio.gather(one.ask(one.work(run_id="x")), other.ask(other.work(run_id="y")))
        assert [output(reply) for reply in replies] == ["x a the goal 1", "y a the goal 1"]


# --- definitions and draining ------------------------------------------------------------------------------------------------


async def test_what_is_not_loaded_is_not_run() -> None:
    of = blueprint([Step("a", instant)])
    client = Client(worker(of), of)
    request = client.work()
    assert await client.exchange(request) == [Unloaded(request.ticket)]
    assert await client.load() == Loaded(of.plan.fingerprint)
    assert output(await client.ask(client.work())) == "run a the goal 1"


@pytest.mark.parametrize("error", [InvalidPipeline("two steps named 'a'"), ModuleNotFoundError("No module named 'x'")], ids=repr)
async def test_a_definition_that_does_not_load_is_a_value(error: Exception) -> None:
    def load(definition: bytes) -> Any:
        raise error

    loaded = decode(await WorkerActor(b"\x80", load=load).load(b""), Loaded)
    assert loaded.error == "InvalidPipeline"
    assert str(error) in loaded.message


async def test_a_worker_that_drains_ends_what_runs_and_gives_the_rest_back() -> None:
    gate = Gate()
    async with at_work(blueprint([Step("a", gate.step)]), hold_s=0.01, slots=1) as client:
        runs, queued, late = client.work(), client.work(), client.work()
        assert await client.exchange(runs, queued) == []
        await client.actor.drain()
        assert await client.reply(queued.ticket) == Returning(queued.ticket)
        assert await client.ask(late) == Returning(late.ticket)
        gate.opened.set()
        assert output(await client.reply(runs.ticket)) == "through"
        assert gate.begun == 1


async def test_with_slots_only_so_many_steps_run_at_a_time_and_the_others_do_not_start_their_clocks() -> None:
    running, most = 0, 0

    async def step(ctx: StepContext) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.06)
        running -= 1
        return 1

    async with at_work(blueprint([Step("a", step)]), slots=2) as client:
        requests = [client.work(timeout_s=0.15) for _ in range(8)]
        await client.exchange(*requests)
        assert [output(await client.reply(request.ticket)) for request in requests] == [1] * 8
        assert most == 2


# --- cancellation and time ---------------------------------------------------------------------------------------------------


async def test_one_step_is_cancelled_and_the_others_go_on() -> None:
    gate = Gate()
    async with at_work(blueprint([Step("a", gate.step)]), hold_s=0.01, slots=2) as client:
        first, second, third = (client.work() for _ in range(3))
        await client.exchange(first, second, third)
        await client.actor.cancel("client", [first.ticket, 999])
        cancelled = await client.reply(first.ticket)
        assert isinstance(cancelled, Raised)
        assert cancelled.message == "it was called off"
        assert cancelled.cost.seconds > 0
        await until(lambda: gate.begun == 3, "the queued step takes the place of the cancelled one")
        gate.opened.set()
        assert output(await client.reply(second.ticket)) == output(await client.reply(third.ticket)) == "through"
        assert gate.cancelled == 1


async def test_a_queued_step_that_is_cancelled_never_begins() -> None:
    gate = Gate()
    async with at_work(blueprint([Step("a", gate.step)]), hold_s=0.01, slots=1) as client:
        runs, queued = client.work(), client.work()
        await client.exchange(runs, queued)
        await client.actor.cancel("client", [queued.ticket])
        reply = await client.reply(queued.ticket)
        gate.opened.set()
        assert isinstance(reply, Raised)
        assert output(await client.reply(runs.ticket)) == "through"
        assert gate.begun == 1


async def test_a_cancellation_that_overtakes_its_request_still_counts() -> None:
    gate = Gate()
    async with at_work(blueprint([Step("a", gate.step)]), hold_s=0.01) as client:
        await client.exchange()
        request = client.work()
        await client.actor.cancel("client", [request.ticket])
        await asyncio.sleep(0)
        assert isinstance(await client.ask(request), Raised)
        assert gate.begun == 0


async def test_cancel_comes_from_another_thread() -> None:
    gate = Gate()
    async with at_work(blueprint([Step("a", gate.step)]), hold_s=60) as client:
        request = client.work()
        reply = asyncio.create_task(client.ask(request))
        await until(lambda: gate.begun, "it runs")
        await asyncio.to_thread(lambda: asyncio.run(client.actor.cancel("client", [request.ticket])))
        assert isinstance(await reply, Raised)


async def test_a_step_that_ignores_its_cancellation_answers_once() -> None:
    ended = asyncio.Event()

    async def stubborn(ctx: StepContext) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.set()
        return "done all the same"

    async with at_work(blueprint([Step("a", stubborn, after=()), Step("b", instant, after=())]), hold_s=0.01) as client:
        request = client.work()
        await client.exchange(request)
        await client.actor.cancel("client", [request.ticket])
        assert isinstance(await client.reply(request.ticket), Raised)
        await ended.wait()
        assert output(await client.ask(client.work(1))) == "run b the goal 1"
        assert await client.exchange() == []


async def test_async_and_sync_steps_are_timed_out() -> None:
    opened = threading.Event()
    gate = Gate()

    def blocks(ctx: StepContext) -> None:
        ctx.spend(tokens=7)
        opened.wait(10)

    async with at_work(blueprint([Step("a", gate.step, after=()), Step("b", blocks, after=())])) as client:
        for step in (0, 1):
            reply = await client.ask(client.work(step, timeout_s=0.05))
            assert isinstance(reply, Raised)
            assert (reply.cause, reply.cost.tokens) == ("timed_out", 7 * step)
            assert reply.cost.seconds >= 0.05
        await until(lambda: client.actor._figures()["overdue_threads"] == 1, "the thread is given up")
        assert gate.cancelled == 1
        opened.set()
        await until(lambda: client.actor._figures()["overdue_threads"] == 0, "the thread ends")


async def test_a_sync_step_waits_for_a_thread_on_nobodys_time() -> None:
    async with at_work(blueprint([Step("a", lambda ctx: time.sleep(0.1))]), step_threads_max=1) as client:
        requests = [client.work(timeout_s=0.19) for _ in range(3)]
        await client.exchange(*requests)
        assert [output(await client.reply(request.ticket)) for request in requests] == [None] * 3


async def test_asyncio_timeout_works_inside_a_step() -> None:
    async def impatient(ctx: StepContext) -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(asyncio.sleep(0, k)) for k in range(3)]
            return f"gave up, {sum(task.result() for task in tasks)}"
        return "never"

    async with at_work(blueprint([Step("a", impatient)])) as client:
        requests = [client.work() for _ in range(10)]
        await client.exchange(*requests)
        assert {output(await client.reply(request.ticket)) for request in requests} == {"gave up, 3"}


# --- what steps may do to their surroundings ---------------------------------------------------------------------------------


async def test_context_variables_do_not_leak_from_step_to_step() -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")
    tenant.set("the test")

    async def step(ctx: StepContext) -> str:
        found = tenant.get()
        if ctx.attempt == 1:
            tenant.set(ctx.run_id)
        if ctx.attempt == 2:
            tenant.reset(tenant.set("for a while"))
        return found

    def sync(ctx: StepContext) -> str:
        found = tenant.get()
        tenant.set(ctx.run_id)
        return found

    async with at_work(blueprint([Step("a", step, after=()), Step("b", sync, after=())])) as client:
        requests = [client.work(k % 2, attempt=k % 3, run_id=f"r{k}") for k in range(30)]
        await client.exchange(*requests)
        assert {output(await client.reply(request.ticket)) for request in requests} == {"nobody"}


class Unpicklable(Exception):
    def __init__(self, lock: Any) -> None:
        super().__init__("holds a lock")
        self.lock = lock


async def raises(ctx: StepContext) -> Any:
    errors = [
        SystemExit(3),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        GeneratorExit(),
        StopAsyncIteration(),
        Unpicklable(threading.Lock()),
    ]
    raise errors[ctx.attempt]


async def cancels_itself(ctx: StepContext) -> str:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    if ctx.attempt:
        await asyncio.sleep(0)
    return "returned"


async def test_whatever_a_step_raises_is_a_value() -> None:
    async with at_work(blueprint([Step("a", raises, after=()), Step("b", cancels_itself, after=())])) as client:
        requests = [client.work(attempt=attempt) for attempt in range(6)]
        await client.exchange(*requests)
        for request, name in zip(requests, "SystemExit Keyboard Cancelled GeneratorExit StopAsync Unpicklable".split(), strict=True):
            reply = await client.reply(request.ticket)
            assert isinstance(reply, Raised)
            assert reply.cause == "raised"
            assert name in reply.message
        assert output(await client.ask(client.work(1))) == "returned"
        assert isinstance(await client.ask(client.work(1, attempt=1)), Raised)
        assert output(await client.ask(client.work(1))) == "returned"


async def test_outputs_that_cannot_be_stored_are_values() -> None:
    async def typed(ctx: StepContext) -> Any:
        return {"bad": {1, 2}} if ctx.attempt else "x" * 2_000

    async with at_work(blueprint([Step("a", typed)]), payload_bytes_max=1_000) as client:
        large, odd = await client.ask(client.work()), await client.ask(client.work(attempt=1))
        assert isinstance(large, Raised)
        assert isinstance(odd, Raised)
        assert (large.cause, large.final, odd.cause) == ("too_large", True, "not_encodable")
        assert 'output["bad"]' in odd.message


async def test_a_step_sees_its_context_and_its_parents() -> None:
    async def second(ctx: StepContext) -> dict[str, Any]:
        ctx.spend(tokens=5, usd=0.25)
        return {"up": ctx.outputs["a"], "hint": ctx.hint, "try": [ctx.attempt, ctx.lineage, ctx.sample], "all": list(ctx.outputs)}

    async with at_work(blueprint([Step("a", instant), Step("b", second)])) as client:
        parents = ((0, encode_output([1, 2])),)
        reply = await client.ask(client.work(1, parents=parents, hint="again", attempt=2, lineage=1, sample=3))
        assert output(reply) == {"up": [1, 2], "hint": "again", "try": [2, 1, 3], "all": ["a"]}
        assert isinstance(reply, Returned)
        assert (reply.cost.tokens, reply.cost.usd) == (5, 0.25)


async def test_the_work_of_a_client_that_stays_away_is_stopped() -> None:
    gate = Gate()
    async with at_work(blueprint([Step("a", gate.step)]), hold_s=0.01) as client:
        now = [0.0]
        client.actor._exchange._clock = lambda: now[0]
        await client.exchange(*(client.work() for _ in range(3)))
        now[0] = 61.0
        client.actor._exchange.sweep()
        await until(lambda: gate.cancelled == 3, "its steps are cancelled")
        assert (await client.actor.stats())["clients"] == 0
        gate.opened.set()
        assert isinstance(await client.ask(client.work()), Returning), "it was sent to what is gone"
        assert output(await client.ask(client.work())) == "through"


async def test_thousands_of_steps_that_wait_and_do_not_all_come_back() -> None:
    async def mixed(ctx: StepContext) -> int:
        for _ in range(ctx.attempt % 4):
            await asyncio.sleep(0)
        return ctx.attempt

    async with at_work(blueprint([Step("a", mixed)])) as client:
        requests = [client.work(attempt=k) for k in range(2_000)]
        for start in range(0, 2_000, 250):
            await client.exchange(*requests[start : start + 250])
        assert [output(await client.reply(request.ticket)) for request in requests] == list(range(2_000))
        await until(lambda: client.actor._lanes.busy == 0, "all lanes end")
        assert client.actor._lanes.queued == 0
