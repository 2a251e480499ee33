"""The server side of the exchange protocol: what is here for each client, and replies that leave as soon as there are any.

One exchange of a client waits at a time; it takes every reply that is ready. What the requests ask for is the host's business.
Everything here belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from agentraft_ray.actors.messages import Reply

__all__ = ["Exchange", "Outbox"]

EARLY_CANCELS_MAX = 1_024  # of one client: cancellations that came before what they cancel


R = TypeVar("R")  # what the host keeps of a request


class Outbox(Generic[R]):
    """What is here for one client: `open` = its requests without a reply, by ticket, and the replies that it has not fetched.

    `session` is random: a message of the client that names another one was meant for an outbox that is gone.
    """

    __slots__ = ("_early", "_quickest_s", "_replies", "_waiting", "client", "open", "polled_at", "session")

    def __init__(self, client: str) -> None:
        self.client = client
        self.session = secrets.token_hex(4)
        self.open: dict[int, R] = {}
        self.polled_at = 0.0
        self._replies: list[Reply] = []
        self._waiting: asyncio.Future[None] | None = None
        self._early: dict[int, None] = {}
        self._quickest_s = math.inf

    def is_old(self, session: str, sent_at: float, good_for_s: float) -> bool:
        """Whether a message was on its way for longer than it is good for (0: for ever), as when its sender was stopped with it.

        So is one of a session that is over ("": its sender knew of none): what it asks for, others may have done since.

        `sent_at` is of the sender's monotonic clock. What the two clocks differ by shows in the quickest message so far; so the
        first one of a client is never old.
        """
        away_s = time.monotonic() - sent_at
        self._quickest_s = min(self._quickest_s, away_s)
        return 0 < good_for_s < away_s - self._quickest_s or session not in {"", self.session}

    @property
    def is_polled(self) -> bool:
        """Whether the client waits for replies right now."""
        return self._waiting is not None

    def put(self, reply: Reply) -> None:
        """A reply is ready. Its request leaves `open`; a second reply to one request is dropped by whoever would put it."""
        self._replies.append(reply)
        waiting = self._waiting
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def release(self) -> None:
        """Let the exchange that waits return at once."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def take(self, hold_s: float) -> list[Reply]:
        """All replies that are ready, as soon as there is one; none after `hold_s` or when another call is made meanwhile."""
        self.release()
        if not self._replies:
            loop = asyncio.get_running_loop()
            waiting = self._waiting = loop.create_future()
            timer = loop.call_later(hold_s, _release, waiting)
            try:
                await waiting
            finally:
                timer.cancel()
                if self._waiting is waiting:
                    self._waiting = None
        return self.ready()

    def ready(self) -> list[Reply]:
        """All replies that are ready now."""
        replies, self._replies = self._replies, []
        return replies

    def was_cancelled(self, ticket: int) -> bool:
        """Whether the cancellation of a request came before the request itself."""
        if ticket not in self._early:
            return False
        del self._early[ticket]
        return True

    def note_early(self, ticket: int) -> None:
        """Remember the cancellation of a request that is not here; most are of requests that were just answered."""
        self._early[ticket] = None
        if len(self._early) > EARLY_CANCELS_MAX:
            del self._early[next(iter(self._early))]


class Exchange(Generic[R]):
    """The outboxes of all clients. A client that has not polled for `client_ttl_s` is gone: `forget` gets what was open for it."""

    def __init__(
        self,
        forget: Callable[[Iterable[R]], None],
        *,
        hold_s: float = 2.0,
        client_ttl_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hold_s = hold_s
        self._forget = forget
        self._client_ttl_s = client_ttl_s
        self._clock = clock
        self._outboxes: dict[str, Outbox[R]] = {}
        self._sweeping = False

    @property
    def clients(self) -> int:
        """How many clients are known."""
        return len(self._outboxes)

    def of(self, client: str) -> Outbox[R]:
        """The outbox of a client that polls now. An exchange of it that waits already returns with what there is."""
        outbox = self._outboxes.get(client)
        if outbox is None:
            outbox = self._outboxes[client] = Outbox(client)
            self._sweep_later()
        outbox.polled_at = self._clock()
        outbox.release()
        return outbox

    def known(self, client: str) -> Outbox[R] | None:
        """The outbox of a client, None if it is unknown or was forgotten."""
        return self._outboxes.get(client)

    def disown(self, stem: str, heir: str) -> None:
        """Forget the clients whose names begin with `stem`, but `heir`: others go on with what they had asked for."""
        for outbox in [one for one in self._outboxes.values() if one.client.startswith(stem) and one.client != heir]:
            self._drop(outbox)

    async def take(self, outbox: Outbox[R]) -> list[Reply]:
        """The replies that are ready for a client, within `hold_s`."""
        try:
            return await outbox.take(self.hold_s)
        finally:
            outbox.polled_at = self._clock()

    def sweep(self) -> None:
        """Forget the clients that are gone."""
        before = self._clock() - self._client_ttl_s
        for outbox in [one for one in self._outboxes.values() if one.polled_at < before and not one.is_polled]:
            self._drop(outbox)

    def _drop(self, outbox: Outbox[R]) -> None:
        del self._outboxes[outbox.client]
        left, outbox.open = outbox.open, {}
        self._forget(left.values())

    def _sweep_later(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(self._client_ttl_s / 4, self._sweep_and_go_on)

    def _sweep_and_go_on(self) -> None:
        self._sweeping = False
        self.sweep()
        if self._outboxes:
            self._sweep_later()


def _release(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
