"""What the routes work with: the ledger of a store and who drives its runs. Opened and closed with the application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from agentraft_ray.cluster.offers import offer
from agentraft_ray.cluster.serve.host import Host, LocalHost, Nobody
from agentraft_ray.cluster.serve.settings import ServeSettings
from agentraft_ray.cluster.settings import ClusterSettings
from agentraft_ray.cluster.stores import limits_of, seal_of, store_of
from agentraft_ray.errors import StoreUnavailable
from agentraft_ray.ledger import Ledger

__all__ = ["Opening", "Services", "opened_here"]


@dataclass
class Services:
    """`closing` is set when the server is about to stop, so that streams end. `streams` counts those that are open."""

    ledger: Ledger
    host: Host
    settings: ServeSettings
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    streams: int = 0

    def refuse_streams_beyond(self) -> None:
        """Raise StoreUnavailable where no more streams may be open."""
        if self.streams >= self.settings.streams_max:
            raise StoreUnavailable(f"{self.streams:,} event streams are open here; connect again when some have ended", url="")

    @contextmanager
    def stream(self) -> Iterator[None]:
        """One more stream, for as long as it is open."""
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1


Opening = Callable[[], AbstractAsyncContextManager[Services]]
"""Opens the services of one application, on the loop that serves, and closes them."""


def opened_here(settings: ServeSettings, store: ClusterSettings) -> Opening:
    """Runs are driven in this process, over the store that the settings name; without pipelines, by nobody.

    Imports the pipelines now. Raises InvalidConfig, InvalidPipeline, VerifierUnavailable.
    """
    offers = {name: offer(one.path, one.verifier, one.run_settings()) for name, one in settings.pipelines.items()}

    @asynccontextmanager
    async def opening() -> AsyncIterator[Services]:
        opened = store_of(store)
        await opened.open()
        ledger = Ledger(opened, seal_of(store), limits_of(store))
        host: Host = LocalHost(ledger, offers, runs_max=settings.runs_max, adopt_s=settings.adopt_s) if offers else Nobody()
        try:
            await host.open()
            yield Services(ledger, host, settings)
        finally:
            await host.close()
            await ledger.close()
            await opened.close()

    return opening
