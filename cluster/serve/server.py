"""uvicorn as this server needs it: event streams end when it is told to stop, instead of holding it up."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from agentraft_ray.cluster.serve.app import create_app
from agentraft_ray.cluster.serve.services import Opening, Services
from agentraft_ray.cluster.serve.settings import ServeSettings
from agentraft_ray.errors import InvalidConfig

__all__ = ["Server", "listening", "run", "serving"]

_DRAIN_S = 10
_BACKLOG = 2_048
_POLL_S = 0.01


class Server(uvicorn.Server):
    """Serves one application until it is told to stop. `heeds_signals`: Ctrl-C and SIGTERM tell it to."""

    def __init__(self, app: FastAPI, services: Services, *, heeds_signals: bool) -> None:
        self._services = services
        self._heeds_signals = heeds_signals
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_level="warning",
                access_log=False,
                server_header=False,
                date_header=False,
                timeout_graceful_shutdown=_DRAIN_S,
                proxy_headers=False,
                backlog=_BACKLOG,
                ws="none",
            )
        )

    def stop(self) -> None:
        """Stop taking requests; streams end, and requests that are under way are answered."""
        self._services.closing.set()
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Ours for as long as it serves; the second signal does not wait. Nothing is raised again: to be told to stop is no failure."""
        if not self._heeds_signals:
            yield
            return
        before = {number: signal.signal(number, self._told) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _told(self, number: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.stop()


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises InvalidConfig where it cannot."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host.strip("[]"), port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise InvalidConfig(f"a server cannot listen on {host}:{port} ({error.strerror}); choose another --port") from None


def run(settings: ServeSettings, opening: Opening, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; `ready` gets the URL. Raises InvalidConfig, and whatever keeps the services from opening."""
    app = create_app(settings, opening)

    async def main() -> None:
        with listening(settings.host, settings.port) as found:
            async with _served(app, opening, found, heeds_signals=True) as work:
                ready(_url(settings.host, found))
                await work

    asyncio.run(main())


@asynccontextmanager
async def serving(settings: ServeSettings, opening: Opening) -> AsyncIterator[str]:
    """Serve on a free port of loopback, on the running loop, for as long as the context lasts; the URL."""
    app = create_app(settings, opening)
    with listening("127.0.0.1", 0) as found:
        async with _served(app, opening, found, heeds_signals=False):
            yield _url("127.0.0.1", found)


@asynccontextmanager
async def _served(app: FastAPI, opening: Opening, found: socket.socket, *, heeds_signals: bool) -> AsyncIterator[asyncio.Task[None]]:
    async with opening() as services:
        app.state.services = services
        server = Server(app, services, heeds_signals=heeds_signals)
        work = asyncio.create_task(server.serve([found]), name="server")
        try:
            while not server.started and not work.done():  # noqa: ASYNC110 - uvicorn tells nobody
                await asyncio.sleep(_POLL_S)
            yield work
        finally:
            server.stop()
            await work


def _url(host: str, found: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{found.getsockname()[1]}"
