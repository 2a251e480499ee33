"""A program's connection to the coordinator shards: tasks go out in batches, notices come in; a shard that dies is asked anew.

Everything here runs on one event loop. Submissions are idempotent, so that after a loss all that is unfinished is simply submitted
again: what has finished meanwhile is answered from its log. Notices are numbered within a session and confirmed with the next question,
so that none is lost with a reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentraft_ray.actors.client_messages import (
    SHARD_FULL,
    UNKNOWN_DEFINITION,
    Accepted,
    Attached,
    Collected,
    Failed,
    Notice,
    Outcome,
    Submission,
    Submitted,
    Told,
)
from agentraft_ray.actors.messages import Loaded, decode, encode
from agentraft_ray.actors.peers import Peer, PeerLost
from agentraft_ray.errors import AgentRaftError, StoreUnavailable

__all__ = ["Following", "Link", "error_of"]

_log = logging.getLogger("agentraft_ray")

_BATCH_MAX = 500
_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)
_LOST_S_MAX = 120.0  # a shard that is gone for longer than this is not coming back


@dataclass(eq=False)
class Following:
    """A run that this program follows. `ended` becomes its outcome; `waiting` is called whenever it is parked.

    `on_told` and `on_attached` get what is told of its events. `session` = that of the shard which will tell of it, "" for none yet.
    """

    submission: Submission
    ended: asyncio.Future[Outcome]
    on_waiting: Callable[[Outcome], None] | None = None
    on_told: Callable[[Told], None] | None = None
    on_attached: Callable[[Attached], None] | None = None
    accepted: asyncio.Future[Accepted] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    session: str = ""


class Link:
    """One shard, as seen from a program. `definitions` gives the encoded definition of a fingerprint.

    `pauses_s` = between calls to a shard that is lost, the last one for ever; after `lost_s_max` it is given up.
    """

    def __init__(
        self,
        client: str,
        peer: Peer,
        definitions: Callable[[bytes], bytes],
        *,
        pauses_s: Sequence[float] = _PAUSES_S,
        lost_s_max: float = _LOST_S_MAX,
    ) -> None:
        self._client = client
        self._peer = peer
        self._definitions = definitions
        self._pauses_s = pauses_s
        self._lost_s_max = lost_s_max
        self._following: dict[str, list[Following]] = {}
        self._queue: list[Following] = []
        self._registered: set[bytes] = set()
        self._session = ""
        self._seen = 0  # notices of this session
        self._is_split = False  # something was taken in by another session than the one that tells us
        self._flusher: asyncio.Task[None] | None = None
        self._listener: asyncio.Task[None] | None = None

    # --- what a cluster does ---------------------------------------------------------------------------------------------------

    def follow(self, following: Following) -> None:
        """Submit a task and follow its run, or follow one that exists."""
        others = self._following.setdefault(following.submission.run_id, [])
        if following in others:
            return
        others.append(following)
        self._send(following)
        if self._listener is None or self._listener.done():
            self._listener = asyncio.get_running_loop().create_task(self._listen())

    def forget(self, following: Following) -> None:
        """This one does not wait for its run any more; that goes on all the same."""
        run_id = following.submission.run_id
        left = [one for one in self._following.get(run_id, ()) if one is not following]
        if left:
            self._following[run_id] = left
        else:
            self._following.pop(run_id, None)

    async def call(self, method: str, *args: Any) -> Any:
        """Call the shard; one that is being restarted is waited for. Only for calls that may be made twice. Raises StoreUnavailable."""
        return await self._patiently(lambda: self._peer.call(method, *args))

    async def register(self, definition: bytes) -> Loaded:
        """Have the shard and its workers load a definition."""
        loaded: Loaded = decode(await self.call("register", definition), Loaded)
        if not loaded.error:
            self._registered.add(loaded.fingerprint)
        return loaded

    async def close(self) -> None:
        """Stop listening; runs go on without us."""
        tasks = [task for task in (self._flusher, self._listener) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- going out -------------------------------------------------------------------------------------------------------------

    def _send(self, *followings: Following) -> None:
        self._queue += followings
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        while self._queue:
            batch, self._queue = self._queue[:_BATCH_MAX], self._queue[_BATCH_MAX:]
            try:
                await self._submit([one for one in await self._with_definitions(batch) if self._is_followed(one)])
            except AgentRaftError as error:
                for one in batch:
                    self._fail(one, error)

    def _is_followed(self, following: Following) -> bool:
        return following in self._following.get(following.submission.run_id, ())

    async def _with_definitions(self, batch: Sequence[Following]) -> Sequence[Following]:
        """Those of a batch whose pipelines the shard knows by now; the others have failed."""
        wanted = {one.submission.definition for one in batch if one.submission.task is not None}
        for fingerprint in wanted - self._registered:
            loaded = await self.register(self._definitions(fingerprint))
            if loaded.error:
                error = error_of(loaded.error, loaded.message, {})
                for one in batch:
                    if one.submission.definition == fingerprint:
                        self._fail(one, error)
        return batch

    async def _submit(self, batch: Sequence[Following]) -> None:
        if not batch:
            return
        data = encode([one.submission for one in batch])
        submitted: Submitted = decode(await self.call("submit", self._client, data), Submitted)
        again: list[Following] = []
        for one, accepted in zip(batch, submitted.answers, strict=True):
            if accepted.error == UNKNOWN_DEFINITION:  # the shard has begun a new life since it was registered
                self._registered.discard(one.submission.definition)
                again.append(one)
            elif accepted.error == SHARD_FULL:
                again.append(one)
            elif accepted.error:
                self._fail(one, error_of(accepted.error, accepted.message, dict(accepted.fields)))
            else:
                one.session = submitted.session
                self._is_split = self._is_split or submitted.session != self._session
                if not one.accepted.done():
                    one.accepted.set_result(accepted)
        if again:
            self._queue += again
            await asyncio.sleep(self._pauses_s[0])

    def _fail(self, following: Following, error: AgentRaftError) -> None:
        self.forget(following)
        for future in (following.accepted, following.ended):
            if not future.done():
                future.set_exception(type(error)(str(error), **error.fields))  # each caller raises its own
                future.exception()  # whoever awaits one of them sees it

    # --- coming in -------------------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            try:
                while self._following:
                    reply = await self._patiently(lambda: self._peer.call("collect", self._client, self._session, self._seen))
                    self._hear(decode(reply, Collected))
            except AgentRaftError as error:
                for following in [one for others in self._following.values() for one in others]:
                    self._fail(following, error)
                return
            with contextlib.suppress(AgentRaftError):  # so that the shard need not keep what we have; else it forgets us after a while
                await self._peer.call("collect", self._client, self._session, self._seen, False)
            if not self._following:
                return

    def _hear(self, collected: Collected) -> None:
        if collected.session != self._session:
            self._session, self._seen, self._is_split = collected.session, 0, True
        new = collected.notices[max(0, self._seen - collected.start) :]
        self._seen = max(self._seen, collected.start + len(collected.notices))
        if self._is_split:
            self._submit_again()
        for notice in new:
            self._take(notice)

    def _submit_again(self) -> None:
        """What an earlier session took in is not known to this one."""
        self._is_split = False
        again = [one for others in self._following.values() for one in others if one.session not in {"", self._session}]
        if again:
            _log.warning("%s has begun a new life; asking it for %d runs", self._peer.name, len(again))
            for one in again:
                one.session = ""
            self._send(*again)

    def _take(self, notice: Notice) -> None:
        for following in tuple(self._following.get(notice.run_id, ())):
            match notice:
                case Told():
                    if following.on_told is not None:
                        following.on_told(notice)
                case Attached():
                    if following.on_attached is not None:
                        following.on_attached(notice)
                case Failed():
                    self._fail(following, error_of(notice.error, notice.message, dict(notice.fields)))
                case Outcome(status="waiting"):
                    if following.on_waiting is not None:
                        following.on_waiting(notice)
                case Outcome():
                    self.forget(following)
                    for future, value in ((following.accepted, Accepted(notice.run_id)), (following.ended, notice)):
                        if not future.done():
                            future.set_result(value)  # type: ignore[arg-type]

    async def _patiently(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        pauses: Iterator[float] = iter(self._pauses_s)
        lost_since: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await call()
            except PeerLost as error:
                lost_since = lost_since or loop.time()
                lost_s = loop.time() - lost_since
                if lost_s > self._lost_s_max:
                    message = f"{self._peer.name} has been gone for {lost_s:.0f} s ({error}); runs can be resumed on another cluster"
                    raise StoreUnavailable(message) from None
                await asyncio.sleep(next(pauses, self._pauses_s[-1]))


def error_of(name: str, message: str, fields: dict[str, Any]) -> AgentRaftError:
    """An error that came as a value, as its class."""
    from agentraft_ray import errors  # noqa: PLC0415 - by name

    found = getattr(errors, name, None)
    kind = found if isinstance(found, type) and issubclass(found, AgentRaftError) else AgentRaftError
    return kind(message, **fields)
