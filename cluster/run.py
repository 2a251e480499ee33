"""A handle on one run of a cluster, for the program that submitted it and for any other one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from agentraft_ray.cluster.coordinator import ClusterCoordinator
from agentraft_ray.cluster.following import Follower
from agentraft_ray.result import RunResult

if TYPE_CHECKING:
    from agentraft_ray.cluster.cluster import Cluster

__all__ = ["ClusterRun"]

T = TypeVar("T")


class ClusterRun:
    """A run by its id. Calls block; in a coroutine, `await handle` gives the result, and `wrap(...).submit` all the rest."""

    def __init__(self, cluster: Cluster, coordinator: ClusterCoordinator, run_id: str, follower: Follower | None = None) -> None:
        self.run_id = run_id
        self.coordinator = cluster.on_its_loop(coordinator)  # calls block, so they can be made with or without a loop of the caller
        self._cluster = cluster
        self._follower = follower

    def __repr__(self) -> str:
        return f"ClusterRun({self.run_id!r})"

    def result(self, timeout_s: float | None = None) -> RunResult:
        """The result when the run has finished. Raises TimeoutError after `timeout_s`; the run goes on."""
        return self._cluster.background.run(self._result(), timeout_s)

    def __await__(self):  # type: ignore[no-untyped-def]  # a generator of whatever the loop uses
        return self._cluster.background.wait(self._result()).__await__()

    def status(self) -> RunResult:
        """How the run stands now, from its log; its `status` says whether it runs, waits or is over."""
        return self._call(self.coordinator.result(self.run_id))

    def approve(self, step: str, *, by: str = "", note: str = "") -> None:
        """See `Coordinator.approve`."""
        self._call(self.coordinator.approve(self.run_id, step, by=by, note=note))

    def deny(self, step: str, *, by: str = "", note: str = "") -> None:
        """See `Coordinator.deny`."""
        self._call(self.coordinator.deny(self.run_id, step, by=by, note=note))

    def cancel(self, *, by: str = "") -> None:
        """See `Coordinator.cancel`."""
        self._call(self.coordinator.cancel(self.run_id, by=by))

    async def _result(self) -> RunResult:
        if self._follower is None:
            self._follower = await self._cluster.begin(self.coordinator.blueprint, self.run_id, None, None)
        ended = self._follower.following.ended
        await asyncio.wait([ended])  # a caller that is cancelled or times out must not end it for the next one
        return self._follower.result_from(ended.result())

    def _call(self, call: Coroutine[Any, Any, T]) -> T:
        return self._cluster.background.run(call)
