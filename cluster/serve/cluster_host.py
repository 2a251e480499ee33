"""A cluster drives the runs that a server accepts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from agentraft_ray.actors.breaker import standings_in
from agentraft_ray.cluster.cluster import Cluster
from agentraft_ray.cluster.coordinator import ClusterCoordinator
from agentraft_ray.cluster.serve.host import BreakerView, breaker_views, not_served
from agentraft_ray.cluster.serve.services import Opening, Services
from agentraft_ray.cluster.serve.settings import ServeSettings
from agentraft_ray.cluster.settings import ClusterSettings
from agentraft_ray.ledger import Ledger
from agentraft_ray.pipeline import Task
from agentraft_ray.protocol.plan import PlanSpec

__all__ = ["ClusterHost", "opened_on_cluster"]


class ClusterHost:
    """See `Host`. `coordinators` = what may be submitted, by name. The cluster adopts what nobody drives by itself."""

    def __init__(self, cluster: Cluster, ledger: Ledger, coordinators: Mapping[str, ClusterCoordinator]) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._coordinators = coordinators

    async def open(self) -> None:
        """See `Host.open`."""

    async def close(self) -> None:
        """See `Host.close`. The runs go on on the cluster."""

    def plans(self) -> Mapping[str, PlanSpec]:
        """See `Host.plans`."""
        return {name: one.blueprint.plan.spec for name, one in self._coordinators.items()}

    async def start(self, name: str, task: Task, run_id: str) -> bool:
        """See `Host.start`."""
        known = self._coordinators.get(name)
        if known is None:
            raise not_served(name, self._coordinators)
        return await self._cluster.background.wait(self._cluster.accept(known.blueprint, run_id, task))

    async def go_on(self, run_id: str) -> bool:
        """See `Host.go_on`."""
        await self._ledger.logs.meta(run_id)
        await self._cluster.background.wait(self._cluster.wake(run_id))
        return True

    async def look(self, run_id: str) -> None:
        """See `Host.look`."""
        await self._cluster.background.wait(self._cluster.look(run_id))
        meta = await self._ledger.logs.meta(run_id)
        if meta.status != "finished" and not await self._ledger.store.lease_alive(meta.token.owner):
            await self.go_on(run_id)

    async def breakers(self) -> list[BreakerView]:
        """See `Host.breakers`; as the cluster wrote them down a moment ago."""
        document = await self._ledger.store.document(f"breakers:{self._cluster.name}")
        now = time.time()
        return breaker_views(standings_in(document, now) if document is not None else {}, now)


def opened_on_cluster(settings: ServeSettings, place: ClusterSettings) -> Opening:
    """Runs are driven by the deployment that `place` names: it is joined where it runs, else launched, and then ends with the server."""

    @asynccontextmanager
    async def opening() -> AsyncIterator[Services]:
        given = {name: getattr(place, name) for name in place.model_fields_set}
        cluster = await asyncio.to_thread(lambda: Cluster.auto(**given))
        try:
            store = cluster.new_store()
            await store.open()
            ledger = Ledger(store, cluster.seal)
            coordinators = await asyncio.to_thread(_coordinators, cluster, settings)
            try:
                yield Services(ledger, ClusterHost(cluster, ledger, coordinators), settings)
            finally:
                await ledger.close()
                await store.close()
        finally:
            await asyncio.to_thread(cluster.close)

    return opening


def _coordinators(cluster: Cluster, settings: ServeSettings) -> dict[str, ClusterCoordinator]:
    return {name: cluster.coordinator(one.path, one.verifier or None, one.run_settings(), None) for name, one in settings.pipelines.items()}
