"""Following runs through the store alone: whoever drives them, wherever. One question per tick is asked for all that are followed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from agentraft_ray.checkpoint.base import RunMeta, RunStore
from agentraft_ray.errors import RunExpired, RunNotFound, StoreError, StoreUnavailable
from agentraft_ray.events import Event
from agentraft_ray.ledger.folds import RunFold
from agentraft_ray.runtime.logged_events import events_behind, place_of, rewound_before
from agentraft_ray.runtime.logs import RunLogs

__all__ = ["Watch", "follow", "refuse_absent"]

_log = logging.getLogger("agentraft_ray")

_GATHER_S = 0.01


class Watch:
    """Wakes those who wait for a log to grow. Asks the store every `poll_s` seconds, for as long as somebody waits."""

    def __init__(self, store: RunStore, poll_s: float) -> None:
        self._store = store
        self._poll_s = poll_s
        self._waiting: dict[str, list[tuple[int, asyncio.Future[None]]]] = {}
        self._poller: asyncio.Task[None] | None = None
        self._nudged = asyncio.Event()

    async def beyond(self, run_id: str, index: int) -> None:
        """Return when the log has more than `index` records, or other ones, or is gone."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(run_id, [])
        waiting.append((index, future))
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="watch over logs")
        try:
            await future
        finally:
            if (index, future) in waiting:
                waiting.remove((index, future))
            if not waiting and self._waiting.get(run_id) is waiting:
                del self._waiting[run_id]

    def nudge(self, run_id: str) -> None:
        """A run has just moved: if somebody waits for it, look now instead of at the next tick."""
        if run_id in self._waiting:
            self._nudged.set()

    async def close(self) -> None:
        """Stop; those who still wait are cancelled."""
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.cancel()
            await asyncio.wait([poller])
        for waiting in list(self._waiting.values()):
            for _, future in waiting:
                future.cancel()

    async def _poll(self) -> None:
        is_lost = False
        while self._waiting:
            try:
                await self._look()
                is_lost = False
            except StoreError as error:
                if not is_lost:
                    _log.warning("the logs of %d runs cannot be watched: %s; trying on", len(self._waiting), error)
                is_lost = True
            await asyncio.sleep(_GATHER_S)  # what moves together is looked at together
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await self._nudged.wait()
            self._nudged.clear()

    async def _look(self) -> None:
        run_ids = list(self._waiting)
        for run_id, meta in zip(run_ids, await self._store.metas(run_ids), strict=True):
            if isinstance(meta, StoreUnavailable):
                raise meta
            for index, future in self._waiting.get(run_id, ()):
                if (not isinstance(meta, RunMeta) or meta.index != index) and not future.done():
                    future.set_result(None)


async def follow(logs: RunLogs, watch: Watch, run_id: str, after: str | None = None) -> AsyncIterator[Event]:
    """The events of a run that derive from its log, behind the one with the id `after`, and further ones as they come, to its end.

    Each comes once and in order. Raises RunNotFound, RunExpired, InvalidConfig for an id of another run, LogRewound where the log ends
    before `after` or is replaced, StoreUnavailable; after that, follow again from the last event that came.
    """
    place = place_of(run_id, after)
    await refuse_absent(logs, run_id)
    fold = RunFold(logs, run_id)
    is_first = True
    while True:
        async for state, record in fold.advance():
            for event in events_behind(state, record, place):
                yield event
        state = fold.state
        if is_first and place[0] >= state.index:
            raise rewound_before(run_id, after, state.index)
        is_first = False
        if state.finished is not None:
            return
        await watch.beyond(run_id, state.index)
        await refuse_absent(logs, run_id)


async def refuse_absent(logs: RunLogs, run_id: str) -> RunMeta:
    """The run as it stands. Raises RunNotFound, RunExpired."""
    meta = await logs.store.meta(run_id)
    if meta is None:
        raise RunNotFound(f"no run {run_id!r} in this store; `agentraft ls` lists those that there are", run_id=run_id)
    if meta.expired:
        raise RunExpired(f"run {run_id!r} has expired; only its outcome is left: {meta.outcome}", run_id=run_id, outcome=meta.outcome)
    return meta
