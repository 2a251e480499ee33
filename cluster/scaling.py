"""How many workers a group of steps with resources of its own should have, from a minimum to a maximum. Pure; `groups` carries it out."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["Demand", "GroupSize", "resize"]


@dataclass(frozen=True, slots=True)
class Demand:
    """What a group has to do now: requests that no worker has room for, and workers that have something to do."""

    waiting: int
    busy: int


@dataclass(frozen=True, slots=True)
class GroupSize:
    """Workers of a group, those included that are still to come. `spare_since_s`: since when not all of them have had work at a time;
    `busiest` = the most that had since then."""

    count: int
    count_min: int
    count_max: int
    spare_since_s: float | None = None
    busiest: int = 0


def resize(size: GroupSize, demand: Demand, now_s: float, idle_s: float) -> GroupSize:
    """The size after this look. One worker more for every request that waits; those go that were not needed for `idle_s`."""
    if demand.waiting:
        count = min(size.count_max, size.count + demand.waiting)
        return replace(size, count=count, spare_since_s=None, busiest=0)
    if demand.busy >= size.count or size.count <= size.count_min:
        return replace(size, spare_since_s=None, busiest=0)
    since = now_s if size.spare_since_s is None else size.spare_since_s
    busiest = max(size.busiest, demand.busy)
    if now_s - since < idle_s:
        return replace(size, spare_since_s=since, busiest=busiest)
    return replace(size, count=max(size.count_min, busiest), spare_since_s=None, busiest=0)
