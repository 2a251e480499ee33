"""The routes that stay open: the events of one run, and the pulse of the whole store, as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from agentraft_ray.cluster.serve.access import Reader, RunPath, Serving
from agentraft_ray.cluster.serve.problems import problems
from agentraft_ray.cluster.serve.services import Services
from agentraft_ray.cluster.serve.streams import EVENT_STREAM, frame, frames
from agentraft_ray.events import Event
from agentraft_ray.ledger import Beat
from agentraft_ray.runtime.logged_events import place_of

__all__ = ["router"]

T = TypeVar("T")

router = APIRouter(prefix="/v1", tags=["streams"])

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "Server-sent events", "content": {EVENT_STREAM: {"schema": {"type": "string"}}}}
}


@router.get(
    "/runs/{run_id}/events",
    response_class=Response,
    responses={**_STREAM, 204: {"description": "The run has ended, and nothing comes after that event"}, **problems(404, 409, 410)},
)
async def follow_run(
    run_id: RunPath,
    services: Serving,
    _: Reader,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=200)] = None,
    after: Annotated[str | None, Query(max_length=200, description="the same, for clients that cannot send that header")] = None,
) -> Response:
    """The events of a run that derive from its log, each once and in order, and further ones as they come; then an `end`.

    Who connects again with the id of the last event that came misses none and gets none twice, from any server over this store.
    """
    known = last_event_id or after
    place = place_of(run_id, known)
    summary = await services.ledger.summary(run_id)
    is_over = summary.status not in {"running", "waiting"}
    if is_over and place[0] == summary.records - 1 and not [event async for event in services.ledger.events(run_id, known)]:
        return Response(status_code=204)
    return _streamed(services, services.ledger.follow(run_id, known), _event_frame)


@router.get("/pulse", response_class=Response, responses={**_STREAM, **problems()})
async def feel_pulse(services: Serving, _: Reader) -> Response:
    """What moves in the whole store: a `beat` at a time, with the runs that moved. After a gap, or where `is_partial`, list anew."""
    return _streamed(services, services.ledger.pulse.beats(), _beat_frame)


def _streamed(services: Services, source: AsyncIterator[T], encode: Callable[[T], bytes]) -> Response:
    services.refuse_streams_beyond()

    async def body() -> AsyncIterator[bytes]:
        with services.stream():
            async for one in frames(source, encode, services.settings.heartbeat_s, services.closing):
                yield one

    return StreamingResponse(body(), media_type=EVENT_STREAM, headers={"cache-control": "no-store", "x-accel-buffering": "no"})


def _event_frame(event: Event) -> bytes:
    return frame(event.type.value, event.to_dict(), event.id)


def _beat_frame(beat: Beat) -> bytes:
    data = {name: getattr(beat, name) for name in Beat.__dataclass_fields__}
    return frame("beat", data)
