"""Where clients of a shard hear from it: one queue a client, emptied by long polls."""

from __future__ import annotations

import asyncio
import time

from agentraft_ray.actors.client_messages import Notice

__all__ = ["Desk"]

_HOLD_S = 2.0
_SILENT_S_MAX = 60.0  # a client that has not asked for so long is gone; it asks for its runs anew when it comes back
_NOTICES_MAX = 1_000  # in one reply


class _Client:
    __slots__ = ("asked_at", "notices", "waiting")

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.waiting: asyncio.Future[None] | None = None
        self.asked_at = time.monotonic()


class Desk:
    """Notices for clients. A client that stays silent is forgotten with all that waits for it."""

    def __init__(self) -> None:
        self._clients: dict[str, _Client] = {}

    def welcome(self, client: str) -> None:
        """This client will ask for its notices."""
        if client not in self._clients:
            self._forget_silent()
            self._clients[client] = _Client()

    def put(self, client: str, notice: Notice) -> None:
        """Tell a client something; nobody hears what is said to a client that is gone."""
        found = self._clients.get(client)
        if found is None:
            return
        found.notices.append(notice)
        waiting = found.waiting
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def collect(self, client: str) -> list[Notice]:
        """What this client has not been told yet; waits a while for something."""
        self.welcome(client)
        found = self._clients[client]
        found.asked_at = time.monotonic()
        if not found.notices:
            if found.waiting is not None and not found.waiting.done():
                found.waiting.set_result(None)  # an older call, whose caller has given it up
            found.waiting = asyncio.get_running_loop().create_future()
            await asyncio.wait([found.waiting], timeout=_HOLD_S)
        told, found.notices = found.notices[:_NOTICES_MAX], found.notices[_NOTICES_MAX:]
        return told

    def release(self) -> None:
        """Answer everybody who waits."""
        for found in self._clients.values():
            if found.waiting is not None and not found.waiting.done():
                found.waiting.set_result(None)

    def _forget_silent(self) -> None:
        since = time.monotonic() - _SILENT_S_MAX
        for name in [name for name, found in self._clients.items() if found.asked_at < since]:
            del self._clients[name]
