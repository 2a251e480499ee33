"""The caller's side of an exchange: requests wait in one queue per pool, every peer of the pool takes as many as it has room for.

A lone request goes at once to the peer with the least to do; batches form only while the last ones are on their way. Whatever is
open at a peer that is lost comes back as lost; the pool waits for the peer and goes on with the others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from agentraft_ray.actors.messages import Judge, Loaded, Pong, Raised, Reply, Returning, Score, Unloaded, Welcome, Work, decode, encode
from agentraft_ray.actors.pace import ShardPace
from agentraft_ray.actors.peers import Peer, PeerLost
from agentraft_ray.errors import AgentRaftError
from agentraft_ray.taxonomy import FailureCause

__all__ = ["Pool"]

_log = logging.getLogger("agentraft_ray")

Request = Work | Judge | Score

_BATCH_MAX = 256
_IN_FLIGHT_MAX = 2  # one exchange is worked on while the next one is on its way
_GATHER_S = 0.003  # requests gather for so long before a second exchange goes to a peer, unless they fill one: a message costs
# as much CPU as twenty steps, and a peer that is quick will have answered by then


class Pool:
    """Sends requests to any of its peers and hands replies on as they come.

    `on_replies` gets what came back, `on_lost` the requests that were open at a peer that was lost. `definitions` gives the encoded
    definition to load at a peer that does not know it. `credits_max` bounds what one peer holds at a time. Nothing new is sent while
    `is_late` holds: a coordinator whose lease is late must not start what others may own by now. A peer that gets a message later
    than `good_for_s` after it was sent (0: never mind) hands its requests back: its sender may have been stopped meanwhile.
    """

    def __init__(
        self,
        client: str,
        peers: Sequence[Peer],
        definitions: Callable[[bytes], bytes | None],
        on_replies: Callable[[Sequence[Reply]], None],
        on_lost: Callable[[Sequence[Any]], None],
        *,
        credits_max: int = 2_000,
        pace: ShardPace | None = None,
        is_late: Callable[[], bool] = lambda: False,
        good_for_s: float = 0.0,
    ) -> None:
        self.good_for_s = good_for_s
        self.pace = pace or ShardPace()
        self._is_late = is_late
        self.client = client
        self.definitions = definitions
        self.on_replies = on_replies
        self.on_lost = on_lost
        self.credits_max = credits_max
        self.queue: deque[Request] = deque()
        self.alone: deque[Request] = deque()
        self.messages = 0
        self.is_held = False
        self._lanes = [_Lane(self, peer) for peer in peers]
        self._kept_free: _Lane | None = None
        self._is_waking = False
        self._is_gathering = False

    @property
    def peers(self) -> list[str]:
        """The names of the peers, without those that are leaving."""
        return [lane.peer.name for lane in self._lanes if not lane.is_leaving]

    @property
    def waiting(self) -> int:
        """Requests for which no peer has had room."""
        return len(self.queue) + len(self.alone)

    @property
    def open(self) -> int:
        """Requests that are with a peer or wait for one."""
        return self.waiting + sum(len(lane.open) for lane in self._lanes)

    def send(self, request: Request, *, alone: bool = False) -> None:
        """Queue a request; it leaves when the caller has queued all that it has now. `alone`: to a peer that does nothing else."""
        (self.alone if alone else self.queue).append(request)
        if not self._is_waking:
            self._is_waking = True
            asyncio.get_running_loop().call_soon(self._wake)

    def cancel(self, ticket: int) -> bool:
        """Nobody waits for this request any more. True: it was never sent; else it is stopped, and its reply still comes."""
        for lane in self._lanes:
            if ticket in lane.open:
                lane.cancel(ticket)
                return False
        for queue in (self.queue, self.alone):
            for request in queue:
                if request.ticket == ticket:
                    queue.remove(request)
                    return True
        return False

    def replace_peers(self, peers: Iterable[Peer]) -> None:
        """These are the peers from now on. One that is not among them gets nothing new; what is open there still comes back."""
        named = {peer.name: peer for peer in peers}
        for lane in self._lanes:
            lane.is_leaving = named.pop(lane.peer.name, None) is None
        self._lanes += [_Lane(self, peer) for peer in named.values()]
        self._forget_left()
        self._wake()

    def _forget_left(self) -> None:
        left = [lane for lane in self._lanes if lane.is_leaving and not lane.open]
        for lane in left:
            self._lanes.remove(lane)
            lane.close()

    def hold(self, is_held: bool) -> None:
        """Send nothing new, or go on sending."""
        self.is_held = is_held
        if not is_held:
            self._wake()

    def is_quiet(self) -> bool:
        """Whether nothing may leave. Asked right before it would: a process that was stopped wakes up with what it was about to send."""
        self.is_held = self.is_held or self._is_late()
        return self.is_held

    def close(self) -> None:
        """Stop everything; what is open is nobody's business any more."""
        for lane in self._lanes:
            lane.close()

    def _wake(self) -> None:
        self._is_waking = False
        if self.is_quiet():
            return
        reserved = next((lane for lane in self._lanes if lane.is_ready and not lane.open), None) if self.alone else None
        if reserved is not None:
            reserved.push([self.alone.popleft()], is_alone=True)
        # While something waits for a peer of its own, the first one that is there takes nothing new until it is free for it.
        self._kept_free = next((lane for lane in self._lanes if lane.is_ready and not lane.is_exclusive), None) if self.alone else None
        if not self.queue:
            return
        for lane in sorted((lane for lane in self._lanes if lane.has_room), key=_Lane.load):
            if not self.queue:
                break
            share = -(-len(self.queue) // max(1, sum(other.has_room for other in self._lanes)))
            lane.push([self.queue.popleft() for _ in range(min(share, _BATCH_MAX, lane.room, len(self.queue)))])
        if self.queue and not self._is_gathering and any(lane.is_ready for lane in self._lanes):
            self._is_gathering = True
            asyncio.get_running_loop().call_later(_GATHER_S, self._gathered)

    def _gathered(self) -> None:
        self._is_gathering = False
        self._wake()


class _Lane:
    """One peer: what is open there, and the exchanges that are on their way."""

    def __init__(self, pool: Pool, peer: Peer) -> None:
        self.pool = pool
        self.peer = peer
        self.open: dict[int, Request] = {}
        self.is_up = True
        self.is_exclusive = False
        self.is_leaving = False
        self._is_resting = False  # it has handed requests back
        self._session = ""  # the peer has not said yet
        self._in_flight = 0
        self._sent_at = 0.0
        self._on_their_way: list[list[Request]] = []
        self._cancelled: set[int] = set()
        self._life = 0  # counts the times that the peer was lost; replies and failures of an earlier life mean nothing
        self._tasks: set[asyncio.Task[None]] = set()

    def load(self) -> int:
        return len(self.open)

    @property
    def room(self) -> int:
        return self.pool.credits_max - len(self.open)

    @property
    def has_room(self) -> bool:
        is_free = self.is_ready and not self.is_exclusive and self is not self.pool._kept_free
        if not is_free or self.room <= 0 or self._in_flight >= _IN_FLIGHT_MAX:
            return False
        return not self._in_flight or len(self.pool.queue) >= _BATCH_MAX or time.monotonic() - self._sent_at >= _GATHER_S

    @property
    def is_ready(self) -> bool:
        """Whether it is there and takes requests at all."""
        return self.is_up and not self._is_resting and not self.is_leaving

    def push(self, requests: list[Request], *, is_alone: bool = False) -> None:
        self.is_exclusive = is_alone
        for request in requests:
            self.open[request.ticket] = request
        self._start(requests)

    def cancel(self, ticket: int) -> None:
        self._cancelled.add(ticket)
        self._spawn(self._cancel(ticket))

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _start(self, requests: list[Request]) -> None:
        self._in_flight += 1
        self._sent_at = time.monotonic()
        self._spawn(self._exchange(requests, self._life))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _exchange(self, requests: list[Request], life: int) -> None:
        if life != self._life:  # the peer was lost before this could begin, and the requests with it
            return
        sent_at = time.monotonic()  # before the look at the lease: a stop between the two makes this message an old one
        if requests and self.pool.is_quiet():
            self._in_flight -= 1
            self._give_back(requests)
            return
        self.pool.messages += 1
        self._on_their_way.append(requests)
        try:
            replies = await self._call(requests, sent_at)
        except (PeerLost, AgentRaftError) as error:
            if life == self._life:
                self._lost(error)
            return
        if life != self._life:
            return
        self._in_flight -= 1
        if replies and isinstance(replies[0], Welcome) and replies[0].session != self._session:
            self._session = replies[0].session
            self._begin_anew()
        self._on_their_way.remove(requests)
        self._take(replies)
        self._settle()
        if self.open and not self._in_flight:
            self._start([])

    def _settle(self) -> None:
        """Something has come back: there may be room for more."""
        if not self.open:
            self.is_exclusive = False
            if self.is_leaving:
                self.pool._forget_left()
        self.pool._wake()

    async def _call(self, requests: list[Request], sent_at: float) -> list[Reply | Welcome]:
        pool = self.pool
        call = asyncio.ensure_future(self.peer.call("exchange", pool.client, encode(requests), sent_at, pool.good_for_s, self._session))
        try:
            while True:
                done, _ = await asyncio.wait([call], timeout=self.pool.pace.stall_s)
                if done:
                    return decode(call.result(), list[Reply | Welcome])
                await self._ping()
        finally:
            call.cancel()

    async def _ping(self) -> None:
        """Raises PeerLost when the peer does not even say that it is busy."""
        try:
            async with asyncio.timeout(self.pool.pace.ping_s):
                decode(await self.peer.call("ping"), Pong)
        except TimeoutError:
            raise PeerLost(f"actor {self.peer.name} does not answer", peer=self.peer.name) from None

    def _take(self, replies: list[Reply | Welcome]) -> None:
        good: list[Reply] = []
        unloaded: dict[bytes, list[Request]] = {}
        for reply in replies:
            if isinstance(reply, Welcome):
                continue
            request = self.open.get(reply.ticket)
            if request is None:
                continue
            kind = type(reply)
            if kind is Unloaded:
                unloaded.setdefault(request.definition, []).append(request)
                continue
            del self.open[reply.ticket]
            is_cancelled = bool(self._cancelled) and reply.ticket in self._cancelled
            if is_cancelled:
                self._cancelled.discard(reply.ticket)
            if kind is Returning and not is_cancelled:
                (self.pool.alone if self.is_exclusive else self.pool.queue).appendleft(request)
                self._rest()
            else:
                good.append(reply)
        for definition, requests in unloaded.items():
            self._spawn(self._load(definition, requests))
        if good:
            self.pool.on_replies(good)

    def _rest(self) -> None:
        """It drains, or cannot read what it needs: leave it alone for a moment, or requests would go to and fro at full speed."""
        if not self._is_resting:
            self._is_resting = True
            asyncio.get_running_loop().call_later(self.pool.pace.rest_s, self._rested)

    def _rested(self) -> None:
        self._is_resting = False
        self.pool._wake()

    async def _load(self, definition: bytes, requests: list[Request]) -> None:
        """Have the peer load a definition, then send again what it could not do without it."""
        life, data = self._life, self.pool.definitions(definition)
        try:
            loaded = Loaded(b"", "InvalidConfig", "its definition is not known here any more") if data is None else None
            loaded = loaded or decode(await self.peer.call("load", data), Loaded)
        except (PeerLost, AgentRaftError) as error:
            if life == self._life:
                self._lost(error)
            return
        if life != self._life:
            return
        again = [request for request in requests if request.ticket in self.open]
        if loaded.fingerprint == definition:
            if again and self.pool.is_quiet():
                self._give_back(again)
            elif again:
                self._start(again)
            return
        why = loaded.message or "its modules make another pipeline than the one that was admitted"
        text = f"worker {self.peer.name} cannot load the pipeline: {loaded.error or 'FingerprintMismatch'}: {why}"
        for request in again:
            del self.open[request.ticket]
        self.pool.on_replies([Raised(request.ticket, FailureCause.RAISED.value, text, final=True) for request in again])
        self._settle()

    def _give_back(self, requests: list[Request]) -> None:
        """They were not begun here, and must not be now: they wait with the others, where they can still be called off."""
        waiting = self.pool.alone if self.is_exclusive else self.pool.queue
        for request in reversed(requests):
            del self.open[request.ticket]
            waiting.appendleft(request)
        self._settle()

    def _lost(self, error: Exception) -> None:
        """The peer is gone: what was open there is lost; come back to it when it answers again."""
        self._life += 1
        self._in_flight, self.is_up, self.is_exclusive = 0, False, False
        lost, self.open = list(self.open.values()), {}
        self._on_their_way.clear()
        self._cancelled.clear()
        _log.warning("%s; %d requests that were open there are sent again", error, len(lost))
        if self.is_leaving:
            self.pool._forget_left()
        else:
            self._spawn(self._come_back())
        self.pool.on_lost(lost)

    def _begin_anew(self) -> None:
        """The peer knows nothing of what was sent before: it died and came back while no exchange was on its way to tell."""
        here = {request.ticket for requests in self._on_their_way for request in requests}
        lost = [request for request in self.open.values() if request.ticket not in here]
        if lost:
            _log.warning("%s has begun a new life; %d requests that were open there are sent again", self.peer.name, len(lost))
            for request in lost:
                del self.open[request.ticket]
            self.pool.on_lost(lost)

    async def _come_back(self) -> None:
        pauses = iter(self.pool.pace.return_pauses_s)
        down_since = time.monotonic()
        while True:
            await asyncio.sleep(next(pauses, 1.0))
            try:
                await self._ping()
                break
            except (PeerLost, AgentRaftError):
                continue
        _log.info("%s is back after %.1f s", self.peer.name, time.monotonic() - down_since)
        self.is_up = True
        self.pool._wake()

    async def _cancel(self, ticket: int) -> None:
        try:
            await self.peer.call("cancel", self.pool.client, [ticket])
        except (PeerLost, AgentRaftError) as error:
            _log.debug("a cancelled request may still run: %s", error)
