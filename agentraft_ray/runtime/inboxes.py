"""Looking for commands from outside in the inboxes of the runs that are driven here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from agentraft_ray.checkpoint.base import RunStore
from agentraft_ray.errors import StoreError
from agentraft_ray.runtime.driver import RunDriver

__all__ = ["Inboxes"]

_INBOXES_PER_POLL = 50


class Inboxes:
    """Reads the inboxes of `drivers`, some every `poll_s` seconds, for as long as there are any."""

    def __init__(self, store: RunStore, poll_s: float, drivers: Mapping[str, RunDriver]) -> None:
        self._store = store
        self._poll_s = poll_s
        self._drivers = drivers
        self._poller: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Begin, unless it has begun."""
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="inboxes")

    async def rest(self) -> None:
        """Stop at once."""
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.cancel()
            await asyncio.wait([poller])

    async def look(self, run_id: str) -> None:
        """Hand the commands of a run to its driver now. Raises StoreError."""
        for command in await self._store.inbox(run_id):
            driver = self._drivers.get(run_id)
            if driver is not None:
                driver.take(command)

    async def _poll(self) -> None:
        turn = 0
        while self._drivers:
            await asyncio.sleep(self._poll_s)
            live = list(self._drivers)
            for run_id in live[turn : turn + _INBOXES_PER_POLL]:
                with contextlib.suppress(StoreError):
                    await self.look(run_id)
            turn = turn + _INBOXES_PER_POLL if turn + _INBOXES_PER_POLL < len(live) else 0
