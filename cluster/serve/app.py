"""The application: routes, errors as problems, the monitor's files, and the guard before all of it. One factory for every server."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from agentraft_ray import __version__
from agentraft_ray.cluster.serve import run_routes, store_routes, stream_routes
from agentraft_ray.cluster.serve.guard import Guard
from agentraft_ray.cluster.serve.problems import PROBLEM_JSON, Problem, Refusal, encoded, problem_of
from agentraft_ray.cluster.serve.services import Opening, opened_here
from agentraft_ray.cluster.serve.settings import ServeSettings, refuse_open_door, tokens_of
from agentraft_ray.cluster.sources import made
from agentraft_ray.cluster.stores import settings_here
from agentraft_ray.errors import AgentRaftError

__all__ = ["create_app", "from_settings"]

_log = logging.getLogger("agentraft_ray")

_STATIC = Path(__file__).parent / "static"
_TEXT = """Runs of AgentRaft: submit them, look at them, decide about them.

Every error is an RFC 9457 problem document. Times are seconds since the epoch. Event streams are server-sent events.
"""


def from_settings() -> FastAPI:
    """The application as the environment and the files say, for any ASGI server:
    ``uvicorn --factory agentraft_ray.cluster.serve.app:from_settings``. Raises InvalidConfig.
    """
    settings = made(ServeSettings)
    return create_app(settings, opened_here(settings, settings_here()))


def create_app(settings: ServeSettings, opening: Opening) -> FastAPI:
    """The application over what `opening` opens. Raises InvalidConfig for tokens that cannot be read, or none beyond loopback."""
    tokens = tokens_of(settings)
    refuse_open_door(settings.host, tokens)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with opening() as services:
            app.state.services = services
            try:
                yield
            finally:
                services.closing.set()

    app = FastAPI(
        title="AgentRaft",
        version=__version__,
        description=_TEXT,
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    for routes in (run_routes, stream_routes, store_routes):
        app.include_router(routes.router)
    _add_pages(app)
    _add_errors(app)
    app.add_middleware(Guard, settings=settings, tokens=tokens)
    document = app.openapi

    def openapi() -> dict[str, Any]:
        made = document()
        made["components"].setdefault("schemas", {}).setdefault("Problem", Problem.model_json_schema())
        return made

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _add_pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def monitor() -> Response:
        return FileResponse(_STATIC / "index.html", headers={"cache-control": "no-cache"})

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return Response("ok\n", media_type="text/plain")

    app.mount("/static", StaticFiles(directory=_STATIC), name="static")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> Response:
        return _answer(error.problem, error.headers)

    @app.exception_handler(AgentRaftError)
    async def ours(_: Request, error: AgentRaftError) -> Response:
        problem = problem_of(error)
        if problem.status >= 500:
            _log.warning("a request failed: %s", error)
        return _answer(problem, {"retry-after": "1"} if problem.status == 503 else {})

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        return _answer(Refusal(422, "invalid", wrong[:2_000]).problem, {})

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        kind = {404: "not-found", 405: "method"}.get(error.status_code, "request")
        detail = error.detail if isinstance(error.detail, str) else json.dumps(error.detail)
        return _answer(Refusal(error.status_code, kind, detail).problem, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        _log.error("a request failed in a way that it should not", exc_info=error)
        return _answer(Refusal(500, "unexpected", "it failed in a way that it should not; the server's log says how").problem, {})


def _answer(problem: Problem, headers: dict[str, str]) -> Response:
    return Response(encoded(problem), problem.status, headers, PROBLEM_JSON)
