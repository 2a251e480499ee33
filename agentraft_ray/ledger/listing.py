"""The runs of a store, page by page, newest first: those that have not finished, then those that have."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from agentraft_ray.checkpoint.base import RunMeta, RunPart, RunPlace
from agentraft_ray.errors import AgentRaftError, InvalidConfig, StoreUnavailable
from agentraft_ray.ledger.summaries import Summaries, status_of
from agentraft_ray.ledger.views import RunPage
from agentraft_ray.protocol.records import RunAdmitted
from agentraft_ray.result import RunStatusName
from agentraft_ray.runtime.logs import RunLogs

__all__ = ["PAGE_RUNS_MAX", "STATUSES", "RunFilter", "list_page", "statuses_of"]

PAGE_RUNS_MAX = 500
STATUSES: tuple[RunStatusName, ...] = get_args(RunStatusName)

_SCANNED_RUNS_MAX = 2_000  # looked at for one page, whatever is found
_CHUNK = 200
_PARTS: tuple[RunPart, ...] = ("unfinished", "finished")
_ENDED = frozenset({"succeeded", "failed", "cancelled"})
_CURSOR = re.compile(r"([uf])\.(\d{1,20})\.([A-Za-z0-9._-]{1,128})")


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs are wanted: of these statuses (none given: all), of this pipeline, with this text in their id or goal."""

    statuses: frozenset[RunStatusName] = frozenset()
    pipeline: str = ""
    text: str = ""

    def wants_part(self, part: RunPart) -> bool:
        """Whether a part of the index can hold what is wanted."""
        return not self.statuses or bool(self.statuses & _ENDED if part == "finished" else self.statuses - _ENDED)

    def wants(self, run_id: str, head: RunAdmitted | None) -> bool:
        """Whether a run is one that is wanted, by what its admission says."""
        if self.pipeline and (head is None or head.plan.name != self.pipeline):
            return False
        text = self.text.casefold()
        return not text or text in run_id.casefold() or (head is not None and text in head.task.goal.casefold())


def statuses_of(names: Iterable[str]) -> frozenset[RunStatusName]:
    """Statuses by their names. Raises InvalidConfig for one that there is not."""
    wanted = set(names)
    unknown = sorted(wanted - set(STATUSES))
    if unknown:
        raise InvalidConfig(f"there is no status {unknown[0]!r}; there are: {', '.join(STATUSES)}")
    return frozenset(status for status in STATUSES if status in wanted)


async def list_page(logs: RunLogs, summaries: Summaries, wanted: RunFilter, limit: int, after: str | None) -> RunPage:
    """Up to `limit` runs behind the place `after`. Raises InvalidConfig for a place that is none, StoreError."""
    if not 1 <= limit <= PAGE_RUNS_MAX:
        raise InvalidConfig(f"a page has 1 to {PAGE_RUNS_MAX} runs, not {limit}")
    first, before = _place_of(after)
    found: list[tuple[str, RunMeta]] = []
    room, next_page = _SCANNED_RUNS_MAX, None
    for part in _PARTS[_PARTS.index(first) :]:
        if part != first:
            before = None
        while wanted.wants_part(part) and next_page is None:
            places = await logs.store.list_runs(part, min(_CHUNK, room), before)
            if not places:
                break
            metas = await logs.store.metas([place.run_id for place in places])
            for place, meta in zip(places, metas, strict=True):
                before, room = place, room - 1
                if isinstance(meta, StoreUnavailable):
                    raise meta
                if isinstance(meta, RunMeta) and await _is_wanted(summaries, wanted, part, place.run_id, meta):
                    found.append((place.run_id, meta))
                if len(found) == limit or not room:
                    next_page = f"{part[0]}.{place.number}.{place.run_id}"
                    break
        if next_page is not None:
            break
    runs = await summaries.of(found)
    return RunPage(tuple(runs), next_page)


async def _is_wanted(summaries: Summaries, wanted: RunFilter, part: RunPart, run_id: str, meta: RunMeta) -> bool:
    if meta.expired or (part == "unfinished") == (meta.status == "finished"):  # it is about to be listed in the other part
        return False
    if wanted.statuses and status_of(meta) not in wanted.statuses:
        return False
    if not wanted.pipeline and not wanted.text:
        return True
    try:
        head = await summaries.head(run_id)
    except StoreUnavailable:
        raise
    except AgentRaftError:
        return wanted.wants(run_id, None)
    return wanted.wants(run_id, head)


def _place_of(after: str | None) -> tuple[RunPart, RunPlace | None]:
    if after is None:
        return "unfinished", None
    match = _CURSOR.fullmatch(after)
    if match is None:
        raise InvalidConfig(f"{after!r:.200} is no place in the list of runs; pass `next` of a page as it came")
    return "unfinished" if match[1] == "u" else "finished", RunPlace(int(match[2]), match[3])
