"""The cluster's breakers of the providers' models, as the lanes of one verifier process ask them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from agentraft_ray.actors.breaker_client import ClusterBreakers
from agentraft_ray.actors.breaker_shard import Pace
from agentraft_ray.actors.peers import Peer
from agentraft_ray.breaker import BreakerPolicy, provider_policy
from agentraft_ray.config import ProviderLimits
from agentraft_ray.identity import OwnerToken
from agentraft_ray.protocol.messages import AcquirePermit, Call, PermitDenied, PermitGranted
from agentraft_ray.verifier.providers.lanes import Outcome

__all__ = ["ClusterGuard"]

_LEAST_S = 0.01
_Event = PermitGranted | PermitDenied


class _Leave(NamedTuple):
    breakers: ClusterBreakers
    permit: object


class ClusterGuard:
    """Leave is given here while a lane is open to all; what shuts it, and who tries whether it is back, the breaker actor says.

    `client` names this life of the process. Belongs to one event loop.
    """

    def __init__(self, peer: Peer, client: str, *, pace: Pace | None = None, clock: Callable[[], float] = time.time) -> None:
        self._peer = peer
        self._token = OwnerToken(1, client)
        self._pace = pace
        self._clock = clock
        self._breakers: dict[BreakerPolicy, ClusterBreakers] = {}
        self._asked: dict[int, asyncio.Future[_Event]] = {}
        self._number = 0

    async def enter(self, lane: str, limits: ProviderLimits) -> object | float:
        """See `Guard`."""
        breakers = self._of(limits)
        self._number += 1
        number = self._number
        command = AcquirePermit(Call(self._token, number), lane, f"{self._token.owner}/{number}")
        answer = breakers.acquire(command, "", self._clock())
        if answer is None:  # the actor says who may try
            waiting = self._asked[number] = asyncio.get_running_loop().create_future()
            try:
                answer = await waiting
            except asyncio.CancelledError:
                if waiting.done() and not waiting.cancelled():
                    self._give_back(breakers, waiting.result())
                raise
            finally:
                self._asked.pop(number, None)
        if isinstance(answer, PermitGranted):
            return _Leave(breakers, answer.permit)
        return max(_LEAST_S, answer.retry_at - self._clock())

    def leave(self, leave: object, outcome: Outcome) -> None:
        """See `Guard`."""
        assert isinstance(leave, _Leave)
        leave.breakers.settle(leave.permit, outcome)

    def shut(self, lane: str, limits: ProviderLimits, for_s: float) -> None:
        """See `Guard`."""
        self._of(limits).shut(lane, for_s)

    async def close(self) -> None:
        """Tell the actor what it does not know yet, and stop."""
        for breakers in self._breakers.values():
            await breakers.close()

    def _of(self, limits: ProviderLimits) -> ClusterBreakers:
        policy = provider_policy(limits)
        found = self._breakers.get(policy)
        if found is None:
            made = ClusterBreakers(
                self._peer,
                policy,
                self._token.owner,
                lambda event: self._answered(made, event),
                pace=self._pace,
                clock=self._clock,
                listens=True,
            )
            found = self._breakers[policy] = made
            found.start()
        return found

    def _answered(self, breakers: ClusterBreakers, event: _Event) -> None:
        waiting = self._asked.get(event.call.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(event)
        else:
            self._give_back(breakers, event)

    def _give_back(self, breakers: ClusterBreakers, event: _Event) -> None:
        """Leave that nobody waits for any more: else the lane would wait for its probe until that expires."""
        if isinstance(event, PermitGranted):
            breakers.settle(event.permit, "released")
