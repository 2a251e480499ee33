"""Handing events to a user's hook: in order, and whatever the hook raises never reaches the run."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable

from agentraft_ray.events import Event
from agentraft_ray.runtime.steps import ends_us

__all__ = ["EventHook", "EventSink"]

_log = logging.getLogger("agentraft_ray")

EventHook = Callable[[Event], Awaitable[None] | None]


class EventSink:
    """Calls a hook with every event. What an async hook does runs beside the run; `flush` waits for it."""

    def __init__(self, hook: EventHook) -> None:
        self._hook = hook
        self._tail: asyncio.Task[None] | None = None

    def put(self, event: Event) -> None:
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
    _log.error("the on_event hook failed on %s of run %s", event.type.value, event.task_id, exc_info=error)
