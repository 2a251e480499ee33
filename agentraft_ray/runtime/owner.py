"""The lease of one coordinator: while it is renewed, others leave its runs alone; when it is late, dispatch stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid

from agentraft_ray.checkpoint.base import RunStore
from agentraft_ray.errors import OwnershipLost, StoreError

__all__ = ["Owner"]

_log = logging.getLogger("agentraft_ray")


class Owner:
    """A coordinator's identity in one event loop. `id` is random, so that no two lives of a coordinator share it."""

    def __init__(self, store: RunStore, ttl_s: float, name: str = "") -> None:
        """`name` begins the id; what follows is random."""
        self.id = name + uuid.uuid4().hex[:16]
        self.is_revoked = False  # a successor has declared this one dead
        self.lapses = 0  # renewals that may have come after the lease had ended: somebody else may own what this one owned
        self._store = store
        self._ttl_s = ttl_s
        self._renewed_at = 0.0
        self._users = 0
        self._task: asyncio.Task[None] | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()  # a lease that is given back must not overtake one that is taken again

    async def __aenter__(self) -> Owner:
        """Hold the lease for as long as at least one user is inside. Raises StoreError when it cannot be had."""
        async with self._changing:
            if self._users == 0:
                await self._renew()
                self._task = asyncio.create_task(self._keep_alive(), name=f"lease of {self.id}")
            self._users += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._users -= 1
        async with self._changing:
            if self._users == 0 and self._task is not None:
                tasks = [task for task in (self._task, self._renewal) if task is not None]
                self._task = None
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                with contextlib.suppress(StoreError):
                    await self._store.release_lease(self.id)

    @property
    def is_late(self) -> bool:
        """Half a lease has passed without renewal: start nothing new, others may soon own the runs."""
        return time.monotonic() - self._renewed_at > self._ttl_s / 2

    async def alive(self) -> None:
        """Wait until the lease is fresh. Raises StoreError when the store cannot be reached within its own deadline."""
        while self.is_late:
            if self._renewal is None:  # one for all runs that wait
                self._renewal = asyncio.create_task(self._renew(), name=f"late lease of {self.id}")
                self._renewal.add_done_callback(self._renewed)
            await asyncio.shield(self._renewal)

    def _renewed(self, renewal: asyncio.Task[None]) -> None:
        self._renewal = None
        if not renewal.cancelled():
            renewal.exception()  # every run that waits has seen it; that none may wait any more is no news

    async def _renew(self) -> None:
        asked_at = time.monotonic()
        try:
            await self._store.renew_lease(self.id, self._ttl_s)
        except OwnershipLost:
            self.is_revoked = True
            raise
        except StoreError:
            raise
        except Exception as error:  # the boundary to the store's code: a lease that fails for any reason is late
            message = f"the lease of coordinator {self.id} was not renewed: {type(error).__name__}: {error}; resume its runs"
            raise StoreError(message) from error
        if self._renewed_at and time.monotonic() - self._renewed_at > self._ttl_s:
            self.lapses += 1
        self._renewed_at = asked_at

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self._ttl_s / 4)
            try:
                await self._renew()
            except StoreError as error:  # the store's own deadline paces this; `is_late` stops dispatch meanwhile
                _log.warning("the lease of coordinator %s was not renewed: %s", self.id, error)
