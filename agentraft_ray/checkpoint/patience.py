"""How long the Redis store waits for a server that does not answer, and which of its errors are worth waiting for.

The store owns every retry: the client is built with none of its own, because a client's silent repetition of a command whose
outcome is unknown is how a log gets an entry twice.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from enum import Enum, auto

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import TimeoutError as TimedOut

from agentraft_ray.errors import AgentRaftError, DurabilityUnverified, ForeignKey, StoreError, StoreFull, StoreUnavailable

__all__ = ["NotDurableYet", "Patience", "Remedy", "remedy_for", "store_error"]

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 1.0
# Redis 6.2 wraps the error of a command that a script called, so that its code stands inside the text.
_PASSING = re.compile(r"\b(MISCONF|NOREPLICAS|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|LOADING|BUSY|UNBLOCKED)\b")


class NotDurableYet(RedisError):
    """WAIT or WAITAOF came back before the write was as durable as promised: it stands, but may yet be lost."""


_PASSING_KINDS = (NotDurableYet, DurabilityUnverified, ClusterDownError, MasterDownError, TryAgainError)


class Remedy(Enum):
    """What to do about an error of the server or the connection."""

    NONE = auto()
    WAIT = auto()
    RECONNECT = auto()
    LOAD_SCRIPTS = auto()
    FIND_SLOT = auto()


def remedy_for(error: Exception) -> Remedy:
    """What may cure `error`; NONE if only a person can."""
    text = str(error)
    if isinstance(error, (AuthenticationError, AuthorizationError)):
        return Remedy.NONE
    if isinstance(error, NoScriptError) or "NOSCRIPT" in text:
        return Remedy.LOAD_SCRIPTS
    if isinstance(error, (MovedError, AskError)):
        return Remedy.FIND_SLOT
    # A replica that was a primary a moment ago: another connection may lead to the new one.
    if isinstance(error, (ReadOnlyError, ConnectionLost, TimedOut, OSError)) or "READONLY" in text:
        return Remedy.RECONNECT
    if isinstance(error, _PASSING_KINDS) or _is_full(error):
        return Remedy.WAIT
    return Remedy.WAIT if isinstance(error, ResponseError) and _PASSING.search(text) else Remedy.NONE


def _is_full(error: Exception) -> bool:
    return isinstance(error, OutOfMemoryError) or "-OOM" in str(error)


def store_error(error: Exception, url: str, waited_s: float, key: str = "") -> AgentRaftError:
    """The exception that a caller sees for `error`, after `waited_s` seconds of trying."""
    if isinstance(error, AgentRaftError):
        return error
    text = str(error) or type(error).__name__
    if "WRONGTYPE" in text or "wrong kind of value" in text:
        return ForeignKey(f"key {key!r} holds a value of a type that is not ours; choose another prefix=", key=key)
    if _is_full(error):
        return StoreFull(f"the store at {url} has been out of memory for {waited_s:.1f} s; prune or give it more, then resume")
    if remedy_for(error) is Remedy.NONE:
        return StoreError(f"the store at {url} refused: {text}; check its permissions and settings")
    return StoreUnavailable(
        f"the store at {url} did not answer for {waited_s:.1f} s (last: {text}); the run can be resumed when it is back",
        url=url,
        waited_s=waited_s,
    )


class Patience:
    """Bounded waiting with growing, jittered pauses: `deadline` is in `time.monotonic()` seconds."""

    def __init__(self, url: str, wait_s: float, since: float | None = None) -> None:
        self.url = url
        self.since = time.monotonic() if since is None else since
        self.deadline = self.since + wait_s
        self._pause_s = _FIRST_PAUSE_S

    async def bear(self, error: Exception, key: str = "") -> Remedy:
        """Wait a little because of `error`. Raises what the caller shall see if waiting cannot help or has lasted long enough."""
        remedy = self._judge(error, key)
        if remedy is not Remedy.LOAD_SCRIPTS:
            await asyncio.sleep(self._next_pause_s())
        return remedy

    def bear_blocking(self, error: Exception, key: str = "") -> None:
        """The same for a thread of its own."""
        self._judge(error, key)
        time.sleep(self._next_pause_s())

    def _judge(self, error: Exception, key: str) -> Remedy:
        remedy, now = remedy_for(error), time.monotonic()
        if remedy is Remedy.NONE or now >= self.deadline:
            raise store_error(error, self.url, now - self.since, key) from error
        return remedy

    def _next_pause_s(self) -> float:
        pause_s, self._pause_s = self._pause_s, min(_LONGEST_PAUSE_S, self._pause_s * 2)
        return pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
