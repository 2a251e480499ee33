"""How a coordinator shard reaches the breaker actor: tasks around a `ShardBreakers`, which decides all that is decided here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from agentraft_ray.actors.breaker_shard import Pace, ShardBreakers
from agentraft_ray.actors.peers import Peer
from agentraft_ray.breaker import BreakerPolicy
from agentraft_ray.errors import AgentRaftError
from agentraft_ray.protocol.messages import AcquirePermit, PermitDenied, PermitGranted

__all__ = ["ClusterBreakers"]

_log = logging.getLogger("agentraft_ray")

_CALL_S = 10.0  # a call that takes longer is taken for lost and made again: the actor counts a report once
_BACK_OFF_S = (0.1, 0.2, 0.5, 1.0)  # between tries; the last one goes on
_QUESTION_S = 15.0  # an actor is restarted in about 2 s; a run that waits longer for its answer is told to ask again
_FLUSH_S = 2.0


class ClusterBreakers:
    """The cluster's breakers of one policy, for one shard. `acquire` and `settle` never wait; `answer` gets what comes later.

    `start` it in the shard's loop and `close` it at the end. `client` names this life of the shard. While the actor is out of reach
    scopes open by what was seen here, and none closes. With `listens` news come at once, else with the next report.

    `answer` may be given an event of a run that is gone by then: a permit that nobody uses is to be settled as "released", or it
    keeps the scope waiting until it expires.
    """

    def __init__(
        self,
        peer: Peer,
        policy: BreakerPolicy,
        client: str,
        answer: Callable[[PermitGranted | PermitDenied], None],
        *,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.time,
        listens: bool = False,
    ) -> None:
        self._peer = peer
        self._listens = listens
        self._answer = answer
        self._clock = clock
        self._report_wanted = asyncio.Event()
        self._question_wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_reachable = True
        self.shard = ShardBreakers(policy, client, self._wake, pace)
        self.acquire: Callable[[AcquirePermit, str, float], PermitGranted | PermitDenied | None] = self.shard.acquire

    def settle(self, permit: object, outcome: str) -> None:
        """Count how an attempt ended: "success", "failure" or "released"."""
        self.shard.settle(permit, outcome, self._clock())

    def shut(self, scope: str, for_s: float) -> None:
        """Nothing of this scope shall be done for so long, here and in the whole cluster."""
        self.shard.shut(scope, for_s, self._clock())

    def start(self) -> None:
        """Begin to report and to ask."""
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._send_reports()), loop.create_task(self._ask_questions())]
            if self._listens:
                self._tasks.append(loop.create_task(self._listen()))

    async def close(self) -> None:
        """Tell the actor what it does not know yet, as far as it can be reached within moments, and stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        try:
            async with asyncio.timeout(_FLUSH_S):
                if self.shard.report_in_flight is not None:
                    await self._send_report(self.shard.report_in_flight)
                while self.shard.has_news:
                    await self._send_report(self.shard.take_report(self._clock()))
        except TimeoutError:
            _log.warning("the breaker actor was not there to hear the last outcomes of this shard")

    def _wake(self) -> None:
        self._report_wanted.set()
        self._question_wanted.set()

    async def _send_reports(self) -> None:
        while True:
            self._report_wanted.clear()
            now_s = self._clock()
            due_s = self.shard.next_report_at(now_s)
            if due_s is not None and due_s <= now_s:
                await self._send_report(self.shard.take_report(now_s))
                continue
            try:
                async with asyncio.timeout(None if due_s is None else due_s - now_s):
                    await self._report_wanted.wait()
            except TimeoutError:
                continue

    async def _send_report(self, data: bytes) -> None:
        tries = 0
        while (reply := await self._call("report", data)) is None:
            await asyncio.sleep(_BACK_OFF_S[min(tries, len(_BACK_OFF_S) - 1)])
            tries += 1
        self.shard.reported(reply, self._clock())

    async def _listen(self) -> None:
        tries = 0
        while True:
            reply = await self._call("news", self.shard.listen())
            if reply is None:
                await asyncio.sleep(_BACK_OFF_S[min(tries, len(_BACK_OFF_S) - 1)])
                tries += 1
                continue
            tries = 0
            self.shard.told(reply, self._clock())

    async def _ask_questions(self) -> None:
        while True:
            data = self.shard.take_questions()
            if data is None:
                self._question_wanted.clear()
                await self._question_wanted.wait()
                continue
            for event in await self._ask(data):
                self._answer(event)

    async def _ask(self, data: bytes) -> list[PermitGranted | PermitDenied]:
        """The same question until it is answered: whoever asks again for the same attempt gets the same probe."""
        tries = 0
        try:
            async with asyncio.timeout(_QUESTION_S):
                while (reply := await self._call("acquire", data)) is None:
                    await asyncio.sleep(_BACK_OFF_S[min(tries, len(_BACK_OFF_S) - 1)])
                    tries += 1
        except TimeoutError:
            return self.shard.give_up(self._clock())
        return self.shard.answered(reply, self._clock())

    async def _call(self, method: str, data: bytes) -> bytes | None:
        try:
            async with asyncio.timeout(_CALL_S):
                reply: bytes = await self._peer.call(method, data)
        except (AgentRaftError, TimeoutError) as lost:
            if self._is_reachable:
                _log.warning("the breaker actor cannot be reached (%s); scopes open by what this shard sees itself", lost)
            self._is_reachable = False
            return None
        self._is_reachable = True
        return reply
