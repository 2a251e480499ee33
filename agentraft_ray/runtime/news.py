"""Waiting for news of runs that are parked: one look at the store for all of them, however many wait."""

from __future__ import annotations

import asyncio
import logging

from agentraft_ray.checkpoint.base import RunMeta, RunStore
from agentraft_ray.errors import StoreError, StoreUnavailable

__all__ = ["News"]

_log = logging.getLogger("agentraft_ray")

_INBOXES_PER_POLL = 50


class News:
    """Wakes whoever waits for a run: because a command lies in its inbox, or because somebody else has ended it.

    Where the runs stand is asked for all of them every `poll_s` seconds; their inboxes are looked into some at a time.
    """

    def __init__(self, store: RunStore, poll_s: float) -> None:
        self._store = store
        self._poll_s = poll_s
        self._waiting: dict[str, list[asyncio.Event]] = {}
        self._poller: asyncio.Task[None] | None = None
        self._turn = 0

    async def of(self, run_id: str, wait_s: float | None) -> None:
        """Return when there is news of a run, or after `wait_s`."""
        event = asyncio.Event()
        self._waiting.setdefault(run_id, []).append(event)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="news of runs that wait")
        try:
            async with asyncio.timeout(wait_s):
                await event.wait()
        except TimeoutError:
            return
        finally:
            self._waiting[run_id].remove(event)
            if not self._waiting[run_id]:
                del self._waiting[run_id]
            if not self._waiting:
                await self.rest()

    def tell(self, run_id: str) -> bool:
        """There is news of a run; whether somebody waits for it."""
        waiting = self._waiting.get(run_id, ())
        for event in waiting:
            event.set()
        return bool(waiting)

    async def rest(self) -> None:
        """Stop looking, until somebody waits again."""
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.cancel()
            await asyncio.wait([poller])

    async def _poll(self) -> None:
        is_lost = False
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self._look()
                is_lost = False
            except StoreError as error:  # nothing is under way that an outage could hurt
                if not is_lost:
                    _log.warning("%d runs wait, and their store cannot be asked for news: %s", len(self._waiting), error)
                is_lost = True

    async def _look(self) -> None:
        run_ids = list(self._waiting)
        for run_id, meta in zip(run_ids, await self._store.metas(run_ids), strict=True):
            if isinstance(meta, StoreUnavailable):
                raise meta
            if not isinstance(meta, RunMeta) or meta.status == "finished":
                self.tell(run_id)
        some = run_ids[self._turn : self._turn + _INBOXES_PER_POLL]
        self._turn = self._turn + _INBOXES_PER_POLL if self._turn + _INBOXES_PER_POLL < len(run_ids) else 0
        for run_id in some:
            if run_id in self._waiting and await self._store.inbox(run_id):
                self.tell(run_id)
