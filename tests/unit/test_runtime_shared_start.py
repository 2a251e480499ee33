"""Runs of one coordinator that start together: one opening of the store, one lease, and no hang when either fails at first."""

from __future__ import annotations

import asyncio

from agentraft_ray import InMemoryCheckpointStore, Pipeline, RulesVerifier, Step, StepContext, Task, wrap
from agentraft_ray.errors import StoreUnavailable

_DEADLINE_S = 10.0


class _CountingStore(InMemoryCheckpointStore):
    """Counts what a coordinator should do once; its first lease can be refused."""

    def __init__(self, *, refused_leases: int = 0) -> None:
        super().__init__()
        self.opened = 0
        self.owners: set[str] = set()
        self.refused_leases = refused_leases

    async def open(self) -> None:
        self.opened += 1
        await asyncio.sleep(0)
        await super().open()

    async def renew_lease(self, owner: str, ttl_s: float) -> None:
        await asyncio.sleep(0)
        if self.refused_leases:
            self.refused_leases -= 1
            raise StoreUnavailable("the store does not answer", url="", waited_s=0.0)
        self.owners.add(owner)
        await super().renew_lease(owner, ttl_s)


async def _step(ctx: StepContext) -> str:
    await asyncio.sleep(0)
    return f"{ctx.step_name} is done."


def _pipeline() -> Pipeline:
    return Pipeline([Step("first", _step), Step("second", _step)])


async def test_runs_that_start_together_open_the_store_once_and_share_one_lease() -> None:
    store = _CountingStore()
    coordinator = wrap(_pipeline(), verifier=RulesVerifier(), store=store)
    results = await asyncio.gather(*(coordinator.run(Task("go")) for _ in range(20)))
    assert all(result.success for result in results)
    assert (store.opened, len(store.owners)) == (1, 1)


async def test_a_lease_that_cannot_be_had_fails_one_run_and_hangs_none() -> None:
    store = _CountingStore(refused_leases=1)
    coordinator = wrap(_pipeline(), verifier=RulesVerifier(), store=store)
    async with asyncio.timeout(_DEADLINE_S):
        results = await asyncio.gather(*(coordinator.run(Task("go")) for _ in range(3)))
        again = await coordinator.run(Task("go"))
    assert sorted(result.success for result in results) == [False, True, True]
    assert next(result.error_kind for result in results if not result.success) == "StoreUnavailable"
    assert again.success
