"""Who drives the runs that a server accepts: this process, or nobody. (A cluster: see `cluster_host`.)"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from agentraft_ray.api import coordinator_of
from agentraft_ray.checkpoint.base import RunMeta, RunPlace
from agentraft_ray.cluster.offers import Offer, keep, offer_of_run
from agentraft_ray.errors import AgentRaftError, InvalidConfig, StoreError, StoreUnavailable
from agentraft_ray.events import Event
from agentraft_ray.ledger import Ledger
from agentraft_ray.pipeline import Task
from agentraft_ray.protocol.plan import PlanSpec
from agentraft_ray.runtime.coordinator import Coordinator

__all__ = ["BreakerView", "Host", "LocalHost", "Nobody", "in_order", "not_served"]

_log = logging.getLogger("agentraft_ray")

_CHUNK = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerView:
    """A breaker: `failures` of its last `outcomes`; when it is open, nothing starts there before `retry_at`."""

    scope: str
    state: Literal["closed", "open", "half_open"]
    retry_at: float
    failures: int
    outcomes: int


class Host(Protocol):
    """Who drives runs. Every call raises StoreError where the store cannot be reached."""

    async def open(self) -> None:
        """Begin; runs that nobody drives are gone on with."""

    async def close(self) -> None:
        """Put aside in good order what is under way."""

    def plans(self) -> Mapping[str, PlanSpec]:
        """What may be submitted, by name."""

    async def start(self, name: str, task: Task, run_id: str) -> bool:
        """Start a run; whether it is a new one. Returns when it stands in the store. Raises InvalidConfig, RunIdConflict ..."""

    async def go_on(self, run_id: str) -> bool:
        """Have an unfinished run driven; whether it is. Raises RunNotFound."""

    async def look(self, run_id: str) -> None:
        """A command was put into the inbox of a run: have it taken soon."""

    async def breakers(self) -> list[BreakerView]:
        """How the breakers stand, the open ones first."""


class Nobody:
    """Drives nothing: for a server that only looks at runs and leaves decisions in their inboxes."""

    async def open(self) -> None:
        """See `Host.open`."""

    async def close(self) -> None:
        """See `Host.close`."""

    def plans(self) -> Mapping[str, PlanSpec]:
        """See `Host.plans`."""
        return {}

    async def start(self, name: str, task: Task, run_id: str) -> bool:
        """See `Host.start`."""
        raise not_served(name, ())

    async def go_on(self, run_id: str) -> bool:
        """See `Host.go_on`."""
        return False

    async def look(self, run_id: str) -> None:
        """See `Host.look`."""

    async def breakers(self) -> list[BreakerView]:
        """See `Host.breakers`."""
        return []


class LocalHost:
    """Drives runs in this process, over the store of `ledger`. `offers` = what may be submitted, by name.

    Runs of these pipelines that nobody drives, whoever began them, are gone on with: at once, and again every `adopt_s` seconds.
    """

    def __init__(self, ledger: Ledger, offers: Mapping[str, Offer], *, runs_max: int = 20_000, adopt_s: float = 15.0) -> None:
        self._ledger = ledger
        self._offers = dict(offers)
        self._runs_max = runs_max
        self._adopt_s = adopt_s
        self._coordinators = {known.fingerprint: self._coordinator(known) for known in self._offers.values()}
        self._allowed = {(known.path, known.verifier) for known in self._offers.values()}
        self._strangers: set[bytes] = set()  # fingerprints of runs that are not for us
        self._adopter: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """See `Host.open`."""
        for known in self._offers.values():
            await keep(self._ledger.store, known)
        if self._offers:
            self._adopter = asyncio.create_task(self._keep_adopting(), name="adopting runs")

    async def close(self) -> None:
        """See `Host.close`."""
        if self._adopter is not None:
            self._adopter.cancel()
            await asyncio.wait([self._adopter])
        await asyncio.gather(*(coordinator.close() for coordinator in self._coordinators.values()))

    def plans(self) -> Mapping[str, PlanSpec]:
        """See `Host.plans`."""
        return {name: known.blueprint.plan.spec for name, known in self._offers.items()}

    async def start(self, name: str, task: Task, run_id: str) -> bool:
        """See `Host.start`. Raises StoreUnavailable also where so many runs are under way that this one has to wait."""
        known = self._offers.get(name)
        if known is None:
            raise not_served(name, self._offers)
        if sum(coordinator.under_way for coordinator in self._coordinators.values()) >= self._runs_max:
            raise StoreUnavailable(f"{self._runs_max:,} runs are under way here; submit again when some of them have ended", url="")
        handle = await self._coordinators[known.fingerprint].submit(task, run_id=run_id)
        return handle.created

    async def go_on(self, run_id: str) -> bool:
        """See `Host.go_on`."""
        fingerprint = (await self._ledger.logs.admitted_plan(run_id)).fingerprint
        coordinator = self._coordinators.get(fingerprint)
        if coordinator is None and fingerprint not in self._strangers:
            coordinator = await self._find(run_id, fingerprint)
        if coordinator is None:
            return False
        await coordinator.pick_up(run_id)
        return True

    async def look(self, run_id: str) -> None:
        """See `Host.look`."""
        for coordinator in self._coordinators.values():
            if await coordinator.look(run_id):
                return
        await self.go_on(run_id)

    async def breakers(self) -> list[BreakerView]:
        """See `Host.breakers`."""
        now, found = time.time(), []
        for coordinator in self._coordinators.values():
            for scope, (standing, failures, outcomes) in coordinator.breakers().items():
                retry_at = standing.retry_at_s if standing.retry_at_s > now else 0.0
                found.append(BreakerView(scope=scope, state=standing.state.value, retry_at=retry_at, failures=failures, outcomes=outcomes))
        return in_order(found)

    # --- what they are made of -------------------------------------------------------------------------------------------------

    def _coordinator(self, known: Offer) -> Coordinator:
        return coordinator_of(known.blueprint, self._ledger.store, self._ledger.logs.seal, self._note)

    def _note(self, event: Event) -> None:
        if event.position >= 0:
            self._ledger.pulse.moved(event.run_id)
            self._ledger.watch.nudge(event.run_id)

    async def _find(self, run_id: str, fingerprint: bytes) -> Coordinator | None:
        """A pipeline of ours under other settings, as the command line runs it; None, and remembered, for one that is not for us."""
        try:
            known = await offer_of_run(self._ledger.store, self._ledger.logs.seal, run_id, self._allowed)
        except StoreUnavailable:
            raise
        except AgentRaftError as error:
            _log.info("run %s is not driven here: %s", run_id, error)
            self._strangers.add(fingerprint)
            return None
        return self._coordinators.setdefault(fingerprint, self._coordinator(known))

    async def _keep_adopting(self) -> None:
        while True:
            try:
                await self._adopt()
            except StoreError as error:
                _log.warning("runs that nobody drives were not looked for: %s; trying again", error)
            await asyncio.sleep(self._adopt_s)

    async def _adopt(self) -> None:
        store = self._ledger.store
        before: RunPlace | None = None
        while places := await store.list_runs("unfinished", _CHUNK, before):
            before = places[-1]
            metas = await store.metas([place.run_id for place in places])
            for place, meta in zip(places, metas, strict=True):
                if isinstance(meta, RunMeta) and meta.index and await self._is_alone(place.run_id, meta):
                    try:
                        await self.go_on(place.run_id)
                    except StoreUnavailable:
                        raise
                    except AgentRaftError as error:
                        _log.warning("run %s cannot be gone on with: %s", place.run_id, error)

    async def _is_alone(self, run_id: str, meta: RunMeta) -> bool:
        """Whether nobody drives a run: not we, and no coordinator whose lease lives."""
        if meta.status == "finished" or any(coordinator.drives(run_id) for coordinator in self._coordinators.values()):
            return False
        return meta.status == "parked" or not await self._ledger.store.lease_alive(meta.token.owner)


def not_served(name: str, known: Iterable[str]) -> InvalidConfig:
    """The error for a pipeline that is not on the list."""
    there = ", ".join(sorted(known)) or "none"
    return InvalidConfig(f"pipeline {name!r:.200} is not served here; there are: {there}. [serve] pipelines in agentraft.toml lists them")


def in_order(views: list[BreakerView]) -> list[BreakerView]:
    """Breakers with the open ones first."""
    urgency = {"open": 0, "half_open": 1, "closed": 2}
    return sorted(views, key=lambda view: (urgency[view.state], -view.failures, view.scope))
