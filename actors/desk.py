"""Where clients of a shard hear from it: one queue a client, emptied by long polls.

A notice is kept until the client has said that it has it, so that none is lost with a reply. All that a client was told since it was
first seen is one *session*; a client that finds itself in another one knows that what it had asked for is forgotten here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from agentraft_ray.actors.client_messages import Collected, Notice

__all__ = ["Desk"]

_NOTICES_MAX = 1_000  # in one reply


class _Client:
    __slots__ = ("asked_at", "notices", "session", "start", "waiting")

    def __init__(self, session: str, asked_at: float) -> None:
        self.session = session
        self.start = 0  # the number of the first notice that is kept
        self.notices: list[Notice] = []
        self.waiting: asyncio.Future[None] | None = None
        self.asked_at = asked_at

    def release(self) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)


class Desk:
    """Notices for clients. A client that stays silent is forgotten with all that waits for it. `name` is unique to this life."""

    def __init__(self, name: str, *, hold_s: float = 2.0, silent_s_max: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._hold_s = hold_s
        self._silent_s_max = silent_s_max
        self._clock = clock
        self._sessions = 0
        self._clients: dict[str, _Client] = {}

    def __len__(self) -> int:
        """How many clients are known."""
        return len(self._clients)

    @property
    def waiting(self) -> int:
        """How many notices are kept."""
        return sum(len(found.notices) for found in self._clients.values())

    def welcome(self, client: str) -> str:
        """This client will ask for its notices; its session."""
        return self._of(client).session

    def _of(self, client: str) -> _Client:
        found = self._clients.get(client)
        if found is None:
            self._sessions += 1
            found = self._clients[client] = _Client(f"{self._name}.{self._sessions}", self._clock())
        return found

    def put(self, client: str, notice: Notice) -> None:
        """Tell a client something; nobody hears what is said to a client that is gone."""
        found = self._clients.get(client)
        if found is not None:
            found.notices.append(notice)
            found.release()

    async def collect(self, client: str, session: str, seen: int, *, waits: bool = True) -> Collected:
        """What this client has not been told yet; with `waits`, something within a while. `seen` = notices it has of `session`."""
        found = self._of(client)
        found.asked_at = self._clock()
        if session == found.session and seen > found.start:
            del found.notices[: seen - found.start]
            found.start = seen
        found.release()  # an older call, whose caller has given it up
        if waits and not found.notices:
            waiting = found.waiting = asyncio.get_running_loop().create_future()
            await asyncio.wait([waiting], timeout=self._hold_s)
            found.asked_at = self._clock()
        return Collected(found.session, found.start, found.notices[:_NOTICES_MAX])

    def release(self) -> None:
        """Answer everybody who waits."""
        for found in self._clients.values():
            found.release()

    def forget_silent(self) -> None:
        """Let go of the clients that are gone."""
        since = self._clock() - self._silent_s_max
        for name in [name for name, found in self._clients.items() if found.asked_at < since]:
            del self._clients[name]
