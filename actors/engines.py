"""The engines of a cluster, as the verifiers of one actor ask them: by exchange with the engine actors, in batches.

Which models were asked for stands in the actor's figures, so that whoever started the cluster can start engines for them.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence

from agentraft_ray.actors import names
from agentraft_ray.actors.messages import Reply, Score, Scored
from agentraft_ray.actors.pace import ShardPace
from agentraft_ray.actors.peers import Peer
from agentraft_ray.actors.pools import Pool, Request
from agentraft_ray.taxonomy import FaultKind, VerifierFault
from agentraft_ray.verifier.engine.port import Scores
from agentraft_ray.verifier.engine.settings import EngineSettings

__all__ = ["ClusterEngines"]

_LOSSES_MAX = 3  # of one request, with as many engines that were lost; then it is the request that must not be sent again
_SOURCE = "vllm"


class ClusterEngines:
    """See `verifier.engine.port.Engines`. Belongs to one event loop. `client` names this life of its process; each model has `count`
    engine actors, which share its requests. A request whose engine is lost is sent again: scoring has no effects."""

    def __init__(self, client: str, deployment: str, count: int, peer: Callable[[str], Peer], pace: ShardPace | None = None) -> None:
        self._client = client
        self._deployment = deployment
        self._count = count
        self._peer = peer
        self._pace = pace
        self._pools: dict[EngineSettings, Pool] = {}
        self._tickets = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Scores | VerifierFault]] = {}
        self._losses: dict[int, int] = {}

    @property
    def wanted(self) -> tuple[EngineSettings, ...]:
        """The engines that were asked for."""
        return tuple(self._pools)

    async def score(self, settings: EngineSettings, texts: Sequence[str]) -> Scores | VerifierFault:
        """See `Engines.score`."""
        pool = self._pools.get(settings) or self._pools.setdefault(settings, self._pool(settings))
        ticket = next(self._tickets)
        future: asyncio.Future[Scores | VerifierFault] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = future
        pool.send(Score(ticket, list(texts)))
        try:
            return await future
        except asyncio.CancelledError:
            pool.cancel(ticket)
            raise
        finally:
            self._waiting.pop(ticket, None)
            self._losses.pop(ticket, None)

    def want(self, settings: EngineSettings) -> None:
        """An engine with these settings will be asked."""
        if settings not in self._pools:
            self._pools[settings] = self._pool(settings)

    def _pool(self, settings: EngineSettings) -> Pool:
        peers = [self._peer(names.engine(self._deployment, settings.key, number)) for number in range(self._count)]

        def lost(requests: Sequence[Request]) -> None:
            self._lost(pool, requests)

        pool = Pool(self._client, peers, lambda _: None, self._replied, lost, pace=self._pace)
        return pool

    def _replied(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            assert isinstance(reply, Scored)
            self._settle(reply.ticket, reply.scores or reply.fault or VerifierFault(FaultKind.OTHER, "an empty answer", _SOURCE))

    def _lost(self, pool: Pool, requests: Sequence[Request]) -> None:
        for request in requests:
            losses = self._losses[request.ticket] = self._losses.get(request.ticket, 0) + 1
            if request.ticket not in self._waiting:
                self._losses.pop(request.ticket, None)
            elif losses < _LOSSES_MAX:
                pool.send(request)
            else:
                why = f"{losses} engines were lost while they worked on it"
                self._settle(request.ticket, VerifierFault(FaultKind.SERVER_ERROR, why, _SOURCE))

    def _settle(self, ticket: int, answer: Scores | VerifierFault) -> None:
        future = self._waiting.get(ticket)
        if future is not None and not future.done():
            future.set_result(answer)
