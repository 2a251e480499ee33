"""What moves in a store, for any number of onlookers: one look for all of them, as often as it is cheap, and none when nobody looks.

A look reads no logs, only where they stand. Whoever drives runs in this process says which ones moved, so that these are looked at at
once; all others are found by looking through the unfinished ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from agentraft_ray.checkpoint.base import RunMeta, RunPlace
from agentraft_ray.errors import AgentRaftError, StoreError, StoreUnavailable
from agentraft_ray.ledger.scoreboard import Scoreboard
from agentraft_ray.ledger.summaries import status_of
from agentraft_ray.protocol.records import decode_record
from agentraft_ray.result import RunStatusName
from agentraft_ray.runtime.logs import RunLogs

__all__ = ["Beat", "Change", "Pulse"]

_log = logging.getLogger("agentraft_ray")

_CHUNK = 500
_CHANGES_MAX = 2_000  # in one beat; beyond it the onlooker has to list anew
_QUEUED_BEATS_MAX = 30
_LOOK_SHARE = 0.1  # of the time, at most, that full looks may take
_ENDED_KEPT_MAX = 20_000
_SCORED_RUNS_MAX = 200  # whose new records are read for the scoreboard, per beat
_SCORED_RECORDS_MAX = 100


class Change(NamedTuple):
    """A run that moved: how it stands now and how many records its log has."""

    run_id: str
    status: RunStatusName
    records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """One beat. `running` and `waiting` count the runs of the whole store; `succeeded`, `failed` and `cancelled` those that were seen
    to end since this pulse began to beat. Rates are per second. `is_partial`: more has changed than is listed, so list anew.
    """

    number: int
    at: float
    running: int = 0
    waiting: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    records_per_s: float = 0.0
    ended_per_s: float = 0.0
    changed: tuple[Change, ...] = ()
    is_partial: bool = False


class Pulse:
    """Beats every `beat_s` seconds while somebody listens; full looks come every `look_s`, and take a tenth of the time at most."""

    def __init__(self, logs: RunLogs, *, beat_s: float = 0.5, look_s: float = 2.0) -> None:
        self.scoreboard = Scoreboard()
        self._logs = logs
        self._beat_s = beat_s
        self._look_s = look_s
        self._known: dict[str, tuple[RunStatusName, int]] = {}  # unfinished runs
        self._ended: dict[str, int] = {}  # that were told of, and how many records they had
        self._ended_until: RunPlace | None = None
        self._moved: set[str] = set()
        self._listeners: set[asyncio.Queue[Beat]] = set()
        self._numbers = itertools.count(1)
        self._last = Beat(number=0, at=0.0)
        self._task: asyncio.Task[None] | None = None

    def moved(self, run_id: str) -> None:
        """A run that is driven in this process has moved."""
        if self._listeners:
            self._moved.add(run_id)

    async def beats(self) -> AsyncIterator[Beat]:
        """Every beat from now on; the first one, which says how things stand, comes at once where the pulse beats already."""
        queue: asyncio.Queue[Beat] = asyncio.Queue(_QUEUED_BEATS_MAX)
        if self._listeners:
            queue.put_nowait(replace(self._last, changed=(), is_partial=True))
        self._listeners.add(queue)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="pulse")
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    async def close(self) -> None:
        """Stop."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    # --- beating ---------------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        self._known.clear()
        self._ended_until = None
        look_at, told_at, is_lost, is_first = 0.0, time.monotonic(), False, True
        while self._listeners:
            started = time.monotonic()
            try:
                changed, records = await (self._look(is_first) if started >= look_at else self._glance())
                is_lost = False
            except StoreError as error:
                if not is_lost:
                    _log.warning("the pulse of the store cannot be felt: %s; trying on", error)
                is_lost, changed, records = True, {}, 0
            else:
                now = time.monotonic()
                if started >= look_at:
                    look_at = now + max(self._look_s, (now - started) / _LOOK_SHARE)
                self._tell(changed, records, now - told_at, is_first)
                told_at, is_first = now, False
            await asyncio.sleep(max(0.0, started + self._beat_s - time.monotonic()))

    async def _look(self, is_first: bool) -> tuple[dict[str, Change], int]:
        """Look through all unfinished runs, and at those that finished since the last look."""
        self._moved.clear()
        known, seen, before = self._known, {}, None
        changed: dict[str, Change] = {}
        records = 0
        while places := await self._logs.store.list_runs("unfinished", _CHUNK, before):
            before = places[-1]
            for run_id, meta in await self._metas([place.run_id for place in places]):
                if meta.status == "finished":
                    continue
                seen[run_id] = stands = (status_of(meta), meta.index)
                if known.get(run_id) != stands and not is_first:
                    changed[run_id] = Change(run_id, *stands)
                    records += meta.index - known.get(run_id, ("", 0))[1]
        gone = [run_id for run_id in known if run_id not in seen]
        self._known = seen
        for run_id, meta in await self._metas([*gone, *await self._newly_ended(is_first)]):
            if meta.status == "finished" and run_id not in self._ended:
                changed[run_id] = Change(run_id, status_of(meta), meta.index)
                records += max(0, meta.index - known.get(run_id, ("", 0))[1])
                self._note_end(run_id, meta)
        await self._score(changed.values(), known)
        return changed, records

    async def _glance(self) -> tuple[dict[str, Change], int]:
        """Look at the runs that are said to have moved."""
        run_ids, self._moved = list(self._moved), set()
        changed: dict[str, Change] = {}
        records = 0
        before = {run_id: self._known[run_id] for run_id in run_ids if run_id in self._known}
        for run_id, meta in await self._metas(run_ids):
            stands = (status_of(meta), meta.index)
            if before.get(run_id) == stands or run_id in self._ended:
                continue
            changed[run_id] = Change(run_id, *stands)
            records += max(0, meta.index - before.get(run_id, ("", 0))[1])
            if meta.status == "finished":
                self._known.pop(run_id, None)
                self._note_end(run_id, meta)
            else:
                self._known[run_id] = stands
        await self._score(changed.values(), before)
        return changed, records

    async def _metas(self, run_ids: list[str]) -> list[tuple[str, RunMeta]]:
        found = []
        for run_id, meta in zip(run_ids, await self._logs.store.metas(run_ids), strict=True):
            if isinstance(meta, StoreUnavailable):
                raise meta
            if isinstance(meta, RunMeta) and not meta.expired:
                found.append((run_id, meta))
        return found

    async def _newly_ended(self, is_first: bool) -> list[str]:
        """Runs that came to the finished ones since the last look; at the first look those that came last are read for the scores."""
        newest = await self._logs.store.list_runs("finished", _CHUNK)
        until, self._ended_until = self._ended_until, newest[0] if newest else self._ended_until
        if is_first:
            metas = await self._metas([place.run_id for place in newest[:_SCORED_RUNS_MAX]])
            for run_id, meta in metas:
                self._ended[run_id] = meta.index
            await self._score([Change(run_id, status_of(meta), meta.index) for run_id, meta in metas], {})
            return []
        return [place.run_id for place in newest if (until is None or place > until) and place.run_id not in self._ended]

    def _note_end(self, run_id: str, meta: RunMeta) -> None:
        self._ended[run_id] = meta.index
        if len(self._ended) > _ENDED_KEPT_MAX:
            del self._ended[next(iter(self._ended))]

    def _tell(self, changed: dict[str, Change], records: int, elapsed_s: float, is_first: bool) -> None:
        ended = [change.status for change in changed.values() if change.status not in {"running", "waiting"}]
        waiting = sum(status == "waiting" for status, _ in self._known.values())
        last, elapsed_s = self._last, max(elapsed_s, 1e-3)
        self._last = beat = Beat(
            number=next(self._numbers),
            at=time.time(),
            running=len(self._known) - waiting,
            waiting=waiting,
            succeeded=last.succeeded + ended.count("succeeded"),
            failed=last.failed + ended.count("failed"),
            cancelled=last.cancelled + ended.count("cancelled"),
            records_per_s=records / elapsed_s,
            ended_per_s=len(ended) / elapsed_s,
            changed=tuple(itertools.islice(changed.values(), _CHANGES_MAX)),
            is_partial=is_first or len(changed) > _CHANGES_MAX,
        )
        for queue in self._listeners:
            if queue.full():  # an onlooker that is this slow lists anew
                queue.get_nowait()
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(replace(beat, is_partial=True))
            else:
                queue.put_nowait(beat)

    # --- scores ----------------------------------------------------------------------------------------------------------------

    async def _score(self, changed: Iterable[Change], before: dict[str, tuple[RunStatusName, int]]) -> None:
        """Read what is new in some of the logs that moved."""
        some = list(itertools.islice(changed, _SCORED_RUNS_MAX))
        await asyncio.gather(*(self._score_one(one.run_id, before.get(one.run_id, ("", 0))[1], one.records) for one in some))

    async def _score_one(self, run_id: str, start: int, stop: int) -> None:
        stored = await self._logs.store.read(run_id, start, min(max(0, stop - start), _SCORED_RECORDS_MAX))
        with contextlib.suppress(AgentRaftError):  # a log that cannot be read has no scores
            for index, one in enumerate(stored, start):
                self.scoreboard.note(decode_record(self._logs.seal.open(run_id, index, one)))
