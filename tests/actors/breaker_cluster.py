"""A breaker actor with a store that can be made to fail, and peers that reach it, or do not."""

from __future__ import annotations

from typing import Any

from agentraft_ray.actors.breaker import BreakerActor
from agentraft_ray.actors.breaker_messages import Ask, Asked, BreakerSettings, Report, ScopeOutcomes, Settled
from agentraft_ray.actors.messages import encode
from agentraft_ray.actors.peers import PeerLost
from agentraft_ray.breaker import BreakerPolicy
from agentraft_ray.errors import StoreUnavailable
from agentraft_ray.identity import OwnerToken
from agentraft_ray.protocol.messages import AcquirePermit, Call

SCOPE = "report/draft"
POLICY = BreakerPolicy(failure_threshold=3, runs_min=1, cooldown_s=10.0, probe_ttl_s=20.0)


class Store:
    """Documents in memory. `is_lost` makes every call fail."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}
        self.is_lost = False
        self.writes = 0

    async def put_document(self, name: str, data: bytes) -> None:
        self._reach()
        self.writes += 1
        self.documents[name] = data

    async def document(self, name: str) -> bytes | None:
        self._reach()
        return self.documents.get(name)

    def _reach(self) -> None:
        if self.is_lost:
            raise StoreUnavailable("the store is away; wait for it", url="test", waited_s=0.0)


class Clock:
    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class Cluster:
    """One breaker actor over one store; `restart` kills it without a word and makes a new one."""

    def __init__(self, settings: BreakerSettings | None = None) -> None:
        self.clock, self.store = Clock(), Store()
        self.settings = encode(settings or BreakerSettings(write_every_s=0.02, store_wait_s=0.5))
        self.restart()

    def restart(self) -> None:
        store = self.store
        self.actor = BreakerActor(self.settings, lambda: store, clock=self.clock)


class ActorPeer:
    """The actor as seen by one shard. `is_cut_off`: calls are lost on the way; `lose_replies`: so many are lost on the way back."""

    name = "breaker"

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.is_cut_off = False
        self.lose_replies = 0
        self.calls: list[str] = []

    async def call(self, method: str, *args: Any) -> Any:
        self.calls.append(method)
        if self.is_cut_off:
            raise PeerLost("cut off", peer=self.name)
        reply = await getattr(self.cluster.actor, method)(*args)
        if self.lose_replies:
            self.lose_replies -= 1
            raise PeerLost("the reply was lost", peer=self.name)
        return reply


def command(attempt: int | str, scope: str = SCOPE, owner: str = "owner") -> AcquirePermit:
    number = attempt if isinstance(attempt, int) else 0
    return AcquirePermit(Call(OwnerToken(1, owner), number), scope, f"{owner}/{attempt}")


def report(
    number: int,
    *outcomes: tuple[str, str, bool],
    client: str = "shard",
    generation: int = 0,
    scope: str = SCOPE,
    policy: BreakerPolicy = POLICY,
    settled: tuple[Settled, ...] = (),
    watched: tuple[str, ...] = (),
    incarnation: str = "",
    version: int = 0,
) -> bytes:
    scopes = (ScopeOutcomes(scope, generation, outcomes),) if outcomes else ()
    return encode(Report(client, number, encode(policy), incarnation, version, scopes, settled, watched))


def asked(*attempts: str, scope: str = SCOPE) -> bytes:
    return encode(Asked(encode(POLICY), tuple(Ask(scope, attempt, "owner", "run") for attempt in attempts)))


def failures(count: int, prefix: str = "a") -> list[tuple[str, str, bool]]:
    return [(f"{prefix}{n}", f"run{n}", True) for n in range(count)]
