"""A program's connection to the coordinator shards: tasks go out in batches, notices come in; a shard that dies is asked anew.

Everything here runs on one event loop. Submissions are idempotent, so that after a loss all that is unfinished is simply submitted
again: what has finished meanwhile is answered from its log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentraft_ray.actors.client_messages import Accepted, Attached, Collected, Failed, Notice, Outcome, Submission, Told
from agentraft_ray.actors.messages import Loaded, decode, encode
from agentraft_ray.actors.peers import Peer, PeerLost
from agentraft_ray.errors import AgentRaftError, RunIdConflict, StoreUnavailable

__all__ = ["Following", "Link", "error_of"]

_log = logging.getLogger("agentraft_ray")

_BATCH_MAX = 500
_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)
_LOST_S_MAX = 120.0  # a shard that is gone for longer than this is not coming back


@dataclass(eq=False)
class Following:
    """A run that this program follows. `ended` becomes its outcome; `waiting` is called whenever it is parked.

    `on_told` and `on_attached` get what is told of its events.
    """

    submission: Submission
    ended: asyncio.Future[Outcome]
    on_waiting: Callable[[Outcome], None] | None = None
    on_told: Callable[[Told], None] | None = None
    on_attached: Callable[[Attached], None] | None = None
    accepted: asyncio.Future[Accepted] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Link:
    """One shard, as seen from a program. `definitions` gives the encoded definition of a fingerprint."""

    def __init__(self, client: str, peer: Peer, definitions: Callable[[bytes], bytes]) -> None:
        self._client = client
        self._peer = peer
        self._definitions = definitions
        self._following: dict[str, Following] = {}
        self._queue: list[Following] = []
        self._registered: set[bytes] = set()
        self._incarnation = ""
        self._flusher: asyncio.Task[None] | None = None
        self._listener: asyncio.Task[None] | None = None

    # --- what a cluster does ---------------------------------------------------------------------------------------------------

    def follow(self, following: Following) -> None:
        """Submit a task and follow its run, or follow one that exists."""
        run_id = following.submission.run_id
        earlier = self._following.get(run_id)
        if earlier is not None and earlier is not following:
            if _are_the_same(earlier.submission, following.submission):
                _also(earlier, following)
            else:
                message = f"run {run_id!r} is under way with another task or pipeline; use another run id, or another id for the task"
                self._fail(following, RunIdConflict(message, run_id=run_id))
            return
        self._following[run_id] = following
        self._queue.append(following)
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.get_running_loop().create_task(self._flush())
        if self._listener is None or self._listener.done():
            self._listener = asyncio.get_running_loop().create_task(self._listen())

    def forget(self, run_id: str) -> None:
        """Nobody waits for this run any more; it goes on all the same."""
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

    async def _flush(self) -> None:
        while self._queue:
            batch, self._queue = self._queue[:_BATCH_MAX], self._queue[_BATCH_MAX:]
            try:
                await self._submit(batch)
            except AgentRaftError as error:
                for one in batch:
                    self._fail(one, error)

    async def _submit(self, batch: Sequence[Following]) -> None:
        for fingerprint in {one.submission.definition for one in batch if one.submission.task is not None} - self._registered:
            loaded = await self.register(self._definitions(fingerprint))
            if loaded.error:
                raise error_of(loaded.error, loaded.message, {})
        data = encode([one.submission for one in batch])
        answers: list[Accepted] = decode(await self.call("submit", self._client, data), list[Accepted])
        unknown = False
        for one, accepted in zip(batch, answers, strict=True):
            if accepted.error == "UnknownDefinition":  # the shard has begun a new life since it was registered
                unknown = True
                self._registered.discard(one.submission.definition)
                self._queue.append(one)
            elif accepted.error:
                self._fail(one, error_of(accepted.error, accepted.message, dict(accepted.fields)))
            elif not one.accepted.done():
                one.accepted.set_result(accepted)
        if unknown:
            await asyncio.sleep(_PAUSES_S[0])

    def _fail(self, following: Following, error: AgentRaftError) -> None:
        if self._following.get(following.submission.run_id) is following:
            del self._following[following.submission.run_id]
        for future in (following.accepted, following.ended):
            if not future.done():
                future.set_exception(error)
                future.exception()  # whoever awaits one of them sees it

    # --- coming in -------------------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            try:
                collected: Collected = decode(await self._patiently(lambda: self._peer.call("collect", self._client)), Collected)
            except AgentRaftError as error:
                for following in list(self._following.values()):
                    self._fail(following, error)
                return
            if self._incarnation not in ("", collected.incarnation):
                self._submit_again()
            self._incarnation = collected.incarnation
            for notice in collected.notices:
                self._take(notice)
            if not self._following and not self._queue:
                return

    def _submit_again(self) -> None:
        """The shard knows nothing any more of what was submitted."""
        self._registered.clear()
        queued = {id(one) for one in self._queue}
        again = [one for one in self._following.values() if id(one) not in queued]
        _log.warning("%s has begun a new life; asking it for %d runs", self._peer.name, len(again))
        self._queue += again
        if self._queue and (self._flusher is None or self._flusher.done()):
            self._flusher = asyncio.get_running_loop().create_task(self._flush())

    def _take(self, notice: Notice) -> None:
        following = self._following.get(notice.run_id)
        if following is None:
            return
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
                del self._following[notice.run_id]
                if not following.ended.done():
                    following.ended.set_result(notice)

    async def _patiently(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        pauses: Iterator[float] = iter(_PAUSES_S)
        lost_since: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await call()
            except PeerLost as error:
                lost_since = lost_since or loop.time()
                if loop.time() - lost_since > _LOST_S_MAX:
                    message = f"{self._peer.name} has been gone for {_LOST_S_MAX:.0f} s ({error}); runs can be resumed on another cluster"
                    raise StoreUnavailable(message) from None
                await asyncio.sleep(next(pauses, 1.0))


def error_of(name: str, message: str, fields: dict[str, Any]) -> AgentRaftError:
    """An error that came as a value, as its class."""
    from agentraft_ray import errors  # noqa: PLC0415 - by name

    found = getattr(errors, name, None)
    kind = found if isinstance(found, type) and issubclass(found, AgentRaftError) else AgentRaftError
    return kind(message, **fields)


def _are_the_same(one: Submission, other: Submission) -> bool:
    """Whether two submissions under one id mean one run; whoever only follows means any."""
    return one.task is None or other.task is None or (one.definition, one.task) == (other.definition, other.task)


def _also(first: Following, second: Following) -> None:
    """Two in this program follow one run: what the first is told, the second is told too."""
    first.ended.add_done_callback(lambda done: _copy(done, second.ended))
    first.accepted.add_done_callback(lambda done: _copy(done, second.accepted))
    for name in ("on_waiting", "on_told", "on_attached"):
        one, other = getattr(first, name), getattr(second, name)
        if other is not None:
            setattr(first, name, other if one is None else _both(one, other))


def _both(one: Callable[[Any], None], other: Callable[[Any], None]) -> Callable[[Any], None]:
    def tell(notice: Any) -> None:
        one(notice)
        other(notice)

    return tell


def _copy(done: asyncio.Future[Any], other: asyncio.Future[Any]) -> None:
    if other.done() or done.cancelled():
        return
    error = done.exception()
    if error is not None:
        other.set_exception(error)
        other.exception()
    else:
        other.set_result(done.result())
