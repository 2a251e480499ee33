"""What coordinator shards and the breaker actor tell each other. Times travel as seconds from now: two machines share no clock."""

from __future__ import annotations

import msgspec

from agentraft_ray.breaker import BreakerState, Outcome, Permit

__all__ = ["Answer", "Ask", "Asked", "BreakerSettings", "Listen", "Report", "Reported", "ScopeOutcomes", "ScopeWord", "Settled", "Shut"]


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The base of all messages."""


class BreakerSettings(_Message, frozen=True):
    """What a `BreakerActor` is made with. `document` = the name under which the store keeps its memory."""

    document: str = "breakers"
    write_every_s: float = 1.0  # how old the written window may be; what changes a scope is written at once
    store_wait_s: float = 2.0  # how long a reply waits for the store
    policies_max: int = 256  # policies remembered; the one unused for longest that has nothing open makes room
    document_bytes_max: int = 1024 * 1024  # as in `Limits`
    clients_max: int = 1_000  # shards of which the last report's number is remembered
    listen_s: float = 5.0  # who listens for news is answered at the latest after this


class ScopeOutcomes(_Message, frozen=True):
    """Outcomes under a closed scope in one generation, oldest first: (attempt, run, failed)."""

    scope: str
    generation: int
    outcomes: tuple[tuple[str, str, bool], ...]


class Settled(_Message, frozen=True):
    """How the work under a permit of this actor ended."""

    permit: Permit
    outcome: Outcome


class Shut(_Message, frozen=True):
    """A scope that shall be open for so long, because somebody has said that it takes that."""

    scope: str
    for_s: float


class Report(_Message, frozen=True):
    """What one shard saw under one policy. Sent again with the same `number` until it is answered; it counts once.

    `incarnation` and `version` say up to where the sender knows this actor's changes. `watched` are scopes that it wants to hear of
    besides those of `scopes` and `settled`. `policy` = an encoded BreakerPolicy.
    """

    client: str
    number: int
    policy: bytes
    incarnation: str
    version: int
    scopes: tuple[ScopeOutcomes, ...]
    settled: tuple[Settled, ...]
    watched: tuple[str, ...]
    shut: tuple[Shut, ...] = ()


class Listen(_Message, frozen=True):
    """Tell me what has changed after this version of this incarnation, as soon as something does. `policy` as in `Report`."""

    policy: bytes
    incarnation: str
    version: int


class ScopeWord(_Message, frozen=True):
    """How a scope stands. `retry_in_s`: until the cooldown is over, or in a half-open scope until the probe under way is given up."""

    scope: str
    generation: int
    state: BreakerState
    retry_in_s: float


class Reported(_Message, frozen=True):
    """The answer to a report: every scope that it mentions, and every one that has changed since the version it names.

    `first_generation` = that of a closed scope of which nothing is known.
    """

    incarnation: str
    version: int
    first_generation: int
    words: tuple[ScopeWord, ...]


class Ask(_Message, frozen=True):
    """An attempt that would be the probe of a half-open scope."""

    scope: str
    attempt_id: str
    owner: str
    run_id: str


class Asked(_Message, frozen=True):
    """Questions of one shard under one policy."""

    policy: bytes
    asks: tuple[Ask, ...]


class Answer(_Message, frozen=True):
    """The answers to `Asked`, in its order: how each scope stands now, and the permit if this attempt is its probe."""

    incarnation: str
    version: int
    answers: tuple[tuple[ScopeWord, Permit | None], ...]
