"""The events of a run as its log has them: each once, in order, with the id that it had live."""

from __future__ import annotations

from collections.abc import AsyncIterator

from agentraft_ray.errors import InvalidConfig, LogRewound
from agentraft_ray.events import Event, event_of
from agentraft_ray.protocol.records import Record
from agentraft_ray.protocol.state import RunState
from agentraft_ray.runtime.hooks import told_of
from agentraft_ray.runtime.logs import RunLogs

__all__ = ["events_behind", "logged_events", "place_of", "rewound_before"]


def place_of(run_id: str, event_id: str | None) -> tuple[int, int]:
    """(log position, n) of an event's id; before everything for None. Raises InvalidConfig for what is no id of this run."""
    if event_id is None:
        return -1, -1
    run, _, place = event_id.partition(":")
    position, _, n = place.partition(":")
    if run != run_id or not _is_number(position) or not _is_number(n):
        raise InvalidConfig(f"{event_id!r} is no id of an event of run {run_id!r}; pass Event.id as it came")
    return int(position), int(n)


def events_behind(state: RunState, record: Record, place: tuple[int, int]) -> list[Event]:
    """What observers are told of the last record that `state` has taken in, as far as it stands behind `place`."""
    told = [announce for announce in told_of(state, record) if (announce.position, announce.n) > place]
    return [event_of(state.run_id, state.plan, announce) for announce in told]


async def logged_events(logs: RunLogs, run_id: str, after: str | None) -> AsyncIterator[Event]:
    """The events behind the one with the id `after` (None: all). Raises RunNotFound, RunExpired, InvalidConfig, LogRewound."""
    place, index = place_of(run_id, after), 0
    async for state, record in logs.replay(run_id):
        index = state.index
        for event in events_behind(state, record, place):
            yield event
    if place[0] >= index:
        raise rewound_before(run_id, after, index)


def rewound_before(run_id: str, after: str | None, index: int) -> LogRewound:
    """The error for an event that somebody has seen and whose record is not in the log."""
    position = place_of(run_id, after)[0]
    return LogRewound(
        f"run {run_id}: event {after} derives from record {position}, but its log has only {index}; the store has lost records",
        run_id=run_id,
        acknowledged=position + 1,
        found=index,
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18
