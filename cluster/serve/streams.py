"""Server-sent events: frames, heartbeats, and the end of a stream when its source ends, its client goes, or the server does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from agentraft_ray.cluster.serve.problems import problem_of
from agentraft_ray.errors import AgentRaftError

__all__ = ["EVENT_STREAM", "frame", "frames"]

T = TypeVar("T")

EVENT_STREAM = "text/event-stream"
_RETRY_MS = 1_000
_END = object()


def frame(kind: str, data: Any, event_id: str | None = None) -> bytes:
    """One event as it is sent; JSON has no line breaks, so it is one line of data."""
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {kind}\ndata: {json.dumps(data, ensure_ascii=True, separators=(',', ':'))}\n\n".encode()


async def frames(
    source: AsyncIterator[T], encode: Callable[[T], bytes], heartbeat_s: float, closing: asyncio.Event
) -> AsyncIterator[bytes]:
    """The frames of a source. An ``end`` comes when it has ended, a ``problem`` when it failed; at `closing` the stream just stops,
    and its client connects again elsewhere or later."""
    yield f"retry: {_RETRY_MS}\n\n".encode()
    closed = asyncio.create_task(closing.wait())
    coming: asyncio.Task[Any] | None = None
    try:
        while True:
            coming = coming or asyncio.create_task(_next(source))
            await asyncio.wait({coming, closed}, timeout=heartbeat_s, return_when=asyncio.FIRST_COMPLETED)
            if closed.done():
                return
            if not coming.done():
                yield b": still here\n\n"
                continue
            item, coming = coming.result(), None
            if item is _END:
                yield frame("end", {})
                return
            yield encode(item)
    except AgentRaftError as error:
        yield frame("problem", problem_of(error).model_dump())
    finally:
        tasks = [task for task in (coming, closed) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        if coming is not None and not coming.cancelled():
            coming.exception()  # nobody is there to hear it
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()


async def _next(source: AsyncIterator[Any]) -> Any:
    try:
        return await anext(source)
    except StopAsyncIteration:
        return _END
