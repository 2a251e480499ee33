"""How often a coordinator looks at what it is not told, and how long it waits for others. Seconds; tests use a quicker pace."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agentraft_ray.actors import breaker_shard

__all__ = ["ShardPace"]


@dataclass(frozen=True)
class ShardPace:
    """The times of one coordinator, and the clock by which silence is measured."""

    tick_s: float = 0.05
    foreign_poll_s: float = 0.5  # runs that somebody else works on are looked at
    others_poll_s: float = 1.0  # the leases of the other shards are looked at
    collect_hold_s: float = 2.0  # a client that asks for notices is answered at the latest
    room_wait_s: float = 1.0  # a submission to a full shard is answered at the latest, to be made again
    silent_s_max: float = 60.0  # a client that has not asked for so long is gone; it asks for its runs anew when it comes back
    load_wait_s: float = 30.0  # a definition is not taken in while none of the workers that must load it answers for so long
    stall_s: float = 10.0  # an exchange that is not back after this makes us ask whether its peer lives
    ping_s: float = 5.0  # a ping that is not answered within this: the peer is given up
    return_pauses_s: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)  # between looks for a peer that was lost, then every second
    disown_s: float = 1.0  # a worker is told whose requests to forget, before runs are taken over
    rest_s: float = 0.5  # a worker that hands requests back gets none for so long
    clock: Callable[[], float] = time.monotonic
    breakers: breaker_shard.Pace = field(default_factory=breaker_shard.Pace)
