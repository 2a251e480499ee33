"""Runs that a coordinator drives in the background: many that wait, runs that are picked up, and none that is begun twice."""

from __future__ import annotations

import asyncio

from agentraft_ray import InMemoryCheckpointStore, Limits, Pipeline, Step, StepContext, Task, wrap
from agentraft_ray.ledger import Ledger

QUICK = Limits(inbox_poll_s=0.01, drain_s=0.5, lease_ttl_s=2.0)


class Gated:
    """A pipeline that waits for a person before it publishes."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.store = InMemoryCheckpointStore(limits=QUICK)
        self.ledger = Ledger(self.store, limits=QUICK)
        pipeline = Pipeline([Step("draft", self.step), Step("publish", self.step, needs_approval=True)])
        self.coordinator = wrap(pipeline, store=self.store, limits=QUICK)
        self.other = wrap(pipeline, store=self.store, limits=QUICK)

    def step(self, ctx: StepContext) -> str:
        self.calls.append((ctx.run_id, ctx.step_name))
        return ctx.step_name

    async def waiting(self, run_id: str) -> None:
        while (await self.ledger.summary(run_id)).status != "waiting":
            await asyncio.sleep(0.005)


async def test_runs_that_wait_are_asked_about_together_and_each_goes_on_when_its_approval_comes() -> None:
    gated = Gated()
    asked: list[int] = []
    plain = gated.store.metas

    async def counting(run_ids: list[str]) -> list[object]:
        asked.append(len(run_ids))
        return list(await plain(run_ids))

    gated.store.metas = counting  # type: ignore[method-assign,assignment]
    async with asyncio.timeout(20), gated.coordinator as coordinator:
        handles = [await coordinator.submit(Task("t", id=f"r{number}")) for number in range(120)]
        for handle in handles:
            await gated.waiting(handle.run_id)
        while not asked or asked[-1] < len(handles):
            await asyncio.sleep(0.005)
        for handle in handles:
            await gated.ledger.approve(handle.run_id, "publish")
        assert all([(await handle.result()).success for handle in handles])
    assert len(gated.calls) == 2 * len(handles)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_run_that_is_submitted_again_is_not_begun_a_second_time() -> None:
    gated = Gated()
    async with asyncio.timeout(20), gated.coordinator as coordinator:
        first, second = await coordinator.submit(Task("t", id="r")), await coordinator.submit(Task("t", id="r"))
        assert (first.created, second.created) == (True, False)
        await gated.waiting("r")
        await gated.ledger.approve("r", "publish")
        await coordinator.look("r")
        assert (await first.result()).success
        assert (await second.result()).success
        assert not await coordinator.look("r")
    assert gated.calls == [("r", "draft"), ("r", "publish")]
    assert (await gated.ledger.audit("r")).owners == 2


async def test_a_run_that_is_picked_up_is_left_as_it_is_until_what_it_waits_for_has_come() -> None:
    gated = Gated()
    async with asyncio.timeout(20), gated.coordinator as coordinator, gated.other as other:
        await coordinator.run(Task("t", id="r"))
        before = await gated.store.read("r")
        handle = await other.pick_up("r")
        while not await other.look("r"):
            await asyncio.sleep(0.005)
        assert (await gated.store.read("r"))[: len(before)] == before
        await gated.waiting("r")
        await gated.ledger.approve("r", "publish")
        assert (await handle.result()).success
    assert gated.calls == [("r", "draft"), ("r", "publish")]


async def test_a_drained_run_that_is_picked_up_goes_on_at_once() -> None:
    gated = Gated()
    begun = asyncio.Event()

    async def slow(ctx: StepContext) -> str:
        begun.set()
        await asyncio.sleep(0 if gated.calls else 60)
        return "done"

    pipeline = Pipeline([Step("slow", slow)])
    async with asyncio.timeout(20):
        async with wrap(pipeline, store=gated.store, limits=QUICK) as first:
            await first.submit(Task("t", id="r"))
            await begun.wait()
        gated.calls.append(("", ""))
        async with wrap(pipeline, store=gated.store, limits=QUICK) as second:
            assert (await (await second.pick_up("r")).result()).success
