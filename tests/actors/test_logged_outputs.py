"""Outputs that did not travel along are read from the log of their run: once, and then only what was appended since."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from agentraft_ray import ErrorType, InMemoryCheckpointStore, Limits, MockVerifier, RedisCheckpointStore, Step, StepContext, Task, wrap
from agentraft_ray.actors.messages import Raised, Returned
from agentraft_ray.checkpoint.base import RunStore
from agentraft_ray.checkpoint.codec import decode_output
from agentraft_ray.checkpoint.seal import PlainSeal
from agentraft_ray.errors import LogCorrupted
from agentraft_ray.runtime.blueprint import Blueprint
from agentraft_ray.runtime.logged_outputs import LoggedOutputs, LoggedRuns
from agentraft_ray.runtime.outputs import AncestorOutputs, History
from agentraft_ray.taxonomy import VerificationResult
from tests.actors.hosted import at_work, blueprint
from tests.store.servers import TestServer, binaries, running

KEY = b"k" * 32


class CountingStore(InMemoryCheckpointStore):
    """Counts what is read without an event loop, and by which threads."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[int, int]] = []
        self.threads: set[threading.Thread] = set()

    def read_blocking(self, run_id: str, index: int) -> bytes | None:
        self._note(index, 1)
        return super().read_blocking(run_id, index)

    def read_many_blocking(self, run_id: str, start: int, count: int) -> list[bytes]:
        found = super().read_many_blocking(run_id, start, count)
        self._note(start, len(found))
        return found

    def blob_blocking(self, run_id: str, name: bytes) -> bytes | None:
        self._note(-1, 1)
        return super().blob_blocking(run_id, name)

    def _note(self, start: int, count: int) -> None:
        self.reads.append((start, count))
        self.threads.add(threading.current_thread())


def steps(size: int = 1) -> list[Step]:
    """Six steps in a chain, each of which says its name and attempt `size` times."""
    return [Step(name, lambda ctx, name=name: [f"{name}{ctx.attempt}"] * size) for name in "abcdef"]


def outputs_of(of: Blueprint, runs: LoggedRuns, run_id: str = "run") -> LoggedOutputs:
    return LoggedOutputs(run_id, of.plan, of.output_types, runs)


async def finished(store: RunStore, of: Blueprint, run_id: str = "run", **options: Any) -> None:
    result = await wrap(of.pipeline, store=store, verifier=of.verifier, **options).run(Task("the goal", {"n": 1}), run_id=run_id)
    assert result.success, result.error


async def test_all_ancestors_can_be_looked_up_and_the_log_is_read_once() -> None:
    store, of = CountingStore(), blueprint(steps())
    await finished(store, of)
    runs = LoggedRuns(lambda: store, PlainSeal())
    outputs = outputs_of(of, runs)
    ancestors = AncestorOutputs(outputs, 4, {3: b"\x01"})
    assert dict(ancestors) == {"a": ["a0"], "b": ["b0"], "c": ["c0"], "d": 1}
    assert list(History(outputs, 2, {})) == [("a", ["a0"]), ("b", ["b0"])]
    size = len(await store.read("run"))
    assert store.reads == [(0, size)]
    assert outputs_of(of, runs).value(5) == ["f0"]
    assert store.reads == [(0, size), (size - 1, 1), (size, 0)]


async def test_only_the_tail_is_read_when_the_log_has_grown() -> None:
    chain = steps()
    store, of = CountingStore(), blueprint([*chain[:2], replace(chain[2], needs_approval=True), *chain[3:]])
    runs = LoggedRuns(lambda: store, PlainSeal())
    coordinator = wrap(of.pipeline, store=store, verifier=of.verifier)
    assert not (await coordinator.run(Task("the goal"), run_id="run")).success
    assert outputs_of(of, runs).value(1) == ["b0"]
    parked = len(await store.read("run"))
    await coordinator.approve("run", "c")
    assert (await coordinator.resume("run")).success
    store.reads.clear()
    assert outputs_of(of, runs).value(3) == ["d0"]
    assert store.reads == [(parked - 1, 1), (parked, len(await store.read("run")) - parked)]


async def test_a_step_that_was_rolled_back_shows_its_new_output() -> None:
    store = CountingStore()
    script = {"d": [VerificationResult.fail(ErrorType.CONTRADICTION, blame="b"), VerificationResult.ok()]}

    class Fickle(MockVerifier):
        seen = 0

        async def verify(self, request: Any) -> VerificationResult:
            if request.step.name == "b":
                self.seen += 1
                return VerificationResult.fail(ErrorType.HALLUCINATION) if self.seen == 2 else VerificationResult.ok(verifier="mock")
            return await super().verify(request)

    of = blueprint(steps(), Fickle(script))
    await finished(store, of)
    outputs = outputs_of(of, LoggedRuns(lambda: store, PlainSeal()))
    state = outputs._read().state
    assert state.rollbacks == 1
    assert outputs.value(1) == ["b1"]
    assert state.position(1) > state.position(0) + 2


async def test_a_log_whose_end_was_replaced_is_read_again_from_its_begin() -> None:
    store, of = CountingStore(), blueprint(steps())
    await finished(store, of)
    runs = LoggedRuns(lambda: store, PlainSeal())
    assert outputs_of(of, runs).value(5) == ["f0"]
    other = CountingStore()
    fresh = blueprint([replace(step, fn=lambda ctx: "another life") for step in steps()])
    await finished(other, fresh)
    store.table = other.table
    assert outputs_of(of, runs).value(5) == "another life"
    assert len(runs) == 1


async def test_a_log_that_is_gone_is_an_error_that_says_so() -> None:
    store, of = CountingStore(), blueprint(steps())
    runs = LoggedRuns(lambda: store, PlainSeal())
    for look in (lambda: outputs_of(of, runs).value(1), lambda: outputs_of(of, runs).task()):
        with pytest.raises(LogCorrupted, match="run run: its log is not in the store"):
            look()
    assert len(runs) == 0
    await finished(store, of)
    assert outputs_of(of, runs).value(1) == ["b0"]
    del store.table.runs["run"]
    with pytest.raises(LogCorrupted):
        outputs_of(of, runs).value(1)


async def test_folds_are_kept_within_bounds() -> None:
    store, of, now = CountingStore(), blueprint(steps(2_000)), [0.0]
    for k in range(5):
        await finished(store, of, f"r{k}")
    few = LoggedRuns(lambda: store, PlainSeal(), runs_max=2)
    small = LoggedRuns(lambda: store, PlainSeal(), bytes_max=100_000)
    young = LoggedRuns(lambda: store, PlainSeal(), age_s_max=10, clock=lambda: now[0])
    for k in range(5):
        now[0] += 6
        for runs in (few, small, young):
            assert outputs_of(of, runs, f"r{k}").value(0)[0] == "a0"
    assert [len(runs) for runs in (few, small, young)] == [2, 2, 2]


async def test_many_threads_look_into_one_log() -> None:
    store, of = CountingStore(), blueprint(steps())
    await finished(store, of)
    runs, found = LoggedRuns(lambda: store, PlainSeal()), []
    threads = [threading.Thread(target=lambda k=k: found.append(outputs_of(of, runs).value(k % 6))) for k in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 24
    assert max(count for _, count in store.reads) == len(await store.read("run"))


# --- through a worker, from a real server ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[TestServer]:
    with running(binaries()["bundled"]) as one:
        yield one


@pytest.fixture(params=["memory", "server"])
async def store(request: pytest.FixtureRequest, server: TestServer) -> AsyncIterator[RunStore]:
    if request.param == "memory":
        yield InMemoryCheckpointStore()
        return
    with server.client() as client:
        client.flushall()
    real = RedisCheckpointStore(server.url)
    yield real
    await real.close()


@pytest.mark.server
@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
@pytest.mark.parametrize("size", [1, 5_000], ids=["inline", "blobs"])
async def test_a_worker_reads_what_did_not_travel(store: RunStore, key: bytes | None, size: int) -> None:
    async def looks(ctx: StepContext) -> Any:
        return [len(ctx.outputs[name]) for name in "aed"], ctx.task.inputs, len(ctx.outputs)

    def sync(ctx: StepContext) -> Any:
        return ctx.outputs["a"][0], ctx.task.goal

    names = {"f": looks, "g": sync}
    of = blueprint([*steps(size)[:5], *(Step(name, fn) for name, fn in names.items())], limits=Limits(inline_bytes_max=2_000))
    await finished(store, of, encryption_key=key, limits=of.limits)
    async with at_work(of, store, encryption_key=key) as client:
        reply = await client.ask(client.work(5, task=None, parents=((4, None),)))
        assert isinstance(reply, Returned), reply
        assert decode_output(reply.data) == [[size] * 3, {"n": 1}, 5]
        reply = await client.ask(client.work(6, task=None, parents=((5, b"\x01"),)))
        assert isinstance(reply, Returned), reply
        assert decode_output(reply.data) == ["a0", "the goal"]


async def test_parents_and_tasks_are_read_off_the_event_loop() -> None:
    store = CountingStore()

    async def near(ctx: StepContext) -> Any:
        return ctx.outputs["a"], ctx.task.inputs

    of = blueprint([steps()[0], Step("b", near)])
    await finished(store, of)
    store.threads.clear()
    async with at_work(of, store) as client:
        requests = [client.work(1, task=None, parents=((0, None),)) for _ in range(20)]
        await client.exchange(*requests)
        for request in requests:
            reply = await client.reply(request.ticket)
            assert isinstance(reply, Returned), reply
        assert store.threads
        assert threading.main_thread() not in store.threads


async def test_what_cannot_be_read_is_a_value() -> None:
    of = blueprint(steps())
    for held in (None, InMemoryCheckpointStore()):
        async with at_work(of, held) as client:
            reply = await client.ask(client.work(1, parents=((0, None),)))
            assert isinstance(reply, Raised)
            assert "LogCorrupted" in reply.message
