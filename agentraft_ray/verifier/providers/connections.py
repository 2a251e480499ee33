"""What one event loop holds of all that judges for it: the providers' lanes and one client each, made once and closed with the loop, and
who runs the engines of local models.

A client costs far more than a call: it reads certificates, and Bedrock's the description of the whole service.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Protocol

from agentraft_ray.config import ProviderLimits
from agentraft_ray.verifier.engine.local import local_engines
from agentraft_ray.verifier.engine.port import Engines
from agentraft_ray.verifier.providers.lanes import Guard, Lane, NoGuard
from agentraft_ray.verifier.providers.models import Manner

__all__ = ["Client", "Connections", "Visit", "connections_here", "current_visit", "guard_process", "visiting"]


class Client(Protocol):
    """One provider's client, with its connections."""

    async def close(self) -> None:
        """Close every connection and let go of every thread."""


class Connections:
    """Lanes and clients of one event loop. Without a `guard` of its own, that of the process counts (see `guard_process`), and
    without `engines` those that are children of the process."""

    def __init__(self, guard: Guard | None = None, engines: Engines | None = None) -> None:
        self.engines: Engines = engines or local_engines()
        self.lanes: dict[str, Lane] = {}
        self.manners: dict[str, Manner] = {}  # by lane, with what its server turned out not to know left out
        self._guard = guard
        self._own = NoGuard()
        self._clients: dict[Hashable, asyncio.Future[Client]] = {}
        self._keeper: AsyncGenerator[None, None] | None = None

    @property
    def guard(self) -> Guard:
        """Who says whether a request may be sent."""
        return self._guard or _process_guard or self._own

    def lane(self, name: str, limits: ProviderLimits) -> Lane:
        """The lane of this name; its limits are those that it was first asked for with."""
        found = self.lanes.get(name)
        if found is None:
            found = self.lanes[name] = Lane(name, limits)
        return found

    async def client(self, key: Hashable, make: Maker) -> Client:
        """The client under `key`, made by `make` the first time. What that raises passes through, and is tried again the next time."""
        if self._keeper is None:
            self._keeper = self._closing_with_the_loop()
            await anext(self._keeper)
        found = self._clients.get(key)
        if found is None:
            found = self._clients[key] = asyncio.ensure_future(make())
            found.add_done_callback(lambda made: self._forget_failed(key, made))
        return await asyncio.shield(found)

    async def close(self) -> None:
        """Close all clients. Whoever asks later gets new ones."""
        clients, self._clients = list(self._clients.values()), {}
        for made in clients:
            if made.done() and not made.cancelled() and made.exception() is None:
                await made.result().close()
            else:
                made.cancel()

    def _forget_failed(self, key: Hashable, made: asyncio.Future[Client]) -> None:
        if (made.cancelled() or made.exception() is not None) and self._clients.get(key) is made:
            del self._clients[key]

    async def _closing_with_the_loop(self) -> AsyncGenerator[None, None]:
        """An event loop closes its open generators when it ends: the one moment at which connections can still be closed in order."""
        try:
            yield
        finally:
            self._keeper = None
            await self.close()


class Maker(Protocol):
    """Makes a client."""

    async def __call__(self) -> Client: ...


def _nothing() -> None:
    """What a host without bounded room does."""


class Visit:
    """One verdict, as far as its host must know of it: which connections it uses, and when it `leaves` to wait for a provider and
    when it `returns`."""

    def __init__(self, connections: Connections, leaves: Callable[[], None] = _nothing, returns: Callable[[], None] = _nothing) -> None:
        self.connections = connections
        self._leaves = leaves
        self._returns = returns
        self._waits = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around everything that waits for a provider: meanwhile the verdict takes no room where others could go on."""
        self._waits += 1
        if self._waits == 1:
            self._leaves()
        try:
            yield
        finally:
            self._waits -= 1
            if self._waits == 0:
                self._returns()


_visit: contextvars.ContextVar[Visit | None] = contextvars.ContextVar("agentraft_visit", default=None)
_by_loop: dict[int, tuple[asyncio.AbstractEventLoop, Connections]] = {}
_process_guard: Guard | None = None


def guard_process(guard: Guard) -> None:
    """Have `guard` guard all lanes of this process that have no other guard; the first one stays."""
    global _process_guard  # noqa: PLW0603 - providers limit accounts, not event loops: what one loop learns counts for all
    if _process_guard is None:
        _process_guard = guard


@contextmanager
def visiting(visit: Visit) -> Iterator[None]:
    """What is asked in here uses the connections of `visit`."""
    token = _visit.set(visit)
    try:
        yield
    finally:
        _visit.reset(token)


def current_visit() -> Visit:
    """The visit of the host that this runs in; one of the running event loop where there is none."""
    return _visit.get() or Visit(connections_here())


def connections_here() -> Connections:
    """The connections of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _by_loop.get(id(loop))
    if found is None or found[0] is not loop:
        for key in [key for key, (other, _) in _by_loop.items() if other.is_closed()]:
            del _by_loop[key]
        found = _by_loop[id(loop)] = loop, Connections()
    return found[1]
