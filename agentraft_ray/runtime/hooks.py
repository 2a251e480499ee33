"""What a run's observers are told, and handing it to a user's hook: in order, and whatever the hook raises never reaches the run."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable

import msgspec

from agentraft_ray.events import Event
from agentraft_ray.protocol.announce import announcements
from agentraft_ray.protocol.messages import Announce
from agentraft_ray.protocol.records import OwnerClaimed, Record
from agentraft_ray.protocol.state import RunState
from agentraft_ray.runtime.steps import ends_us

__all__ = ["EventHook", "EventSink", "resumed", "told_of"]

_log = logging.getLogger("agentraft_ray")

EventHook = Callable[[Event], Awaitable[None] | None]


class EventSink:
    """Calls a hook with every event. What an async hook does runs beside the run; `flush` waits for it.

    `has_begun` = something was told; `position` = how far into the log, -1 for not at all.
    """

    def __init__(self, hook: EventHook) -> None:
        self._hook = hook
        self.has_begun = False
        self.position = -1
        self._tail: asyncio.Task[None] | None = None

    def put(self, event: Event) -> None:
        """Tell one event."""
        self.has_begun = True
        self.position = max(self.position, event.position)
        try:
            waiting = self._hook(event)
        except BaseException as error:  # noqa: BLE001 - the boundary to the user's code
            _report(error, event)
            return
        if inspect.isawaitable(waiting):
            self._tail = asyncio.ensure_future(_after(self._tail, waiting, event))

    async def flush(self) -> None:
        """Return when the hook has dealt with every event."""
        if self._tail is not None:
            await self._tail


def told_of(state: RunState, record: Record) -> list[Announce]:
    """What observers are told of the last record that `state` has taken in: the same live and whenever the log is read again."""
    told = announcements(state, record, state.index - 1)
    if told and isinstance(record, OwnerClaimed):
        return [msgspec.structs.replace(told[0], detail=resumed(state))]
    return told


def resumed(state: RunState) -> str:
    """Where a run goes on, in words."""
    return f"resumed from checkpoint {state.committed} of {state.plan.size}"


async def _after(earlier: asyncio.Task[None] | None, waiting: Awaitable[None], event: Event) -> None:
    if earlier is not None:
        await earlier
    try:
        await waiting
    except BaseException as error:  # noqa: BLE001 - the boundary to the user's code
        _report(error, event)


def _report(error: BaseException, event: Event) -> None:
    if ends_us(error):
        raise error
    about = {"run_id": event.run_id, "step": event.step_name or None}
    _log.error("the on_event hook failed on %s of run %s", event.type.value, event.run_id, exc_info=error, extra=about)
