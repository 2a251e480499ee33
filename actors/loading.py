"""Before a coordinator takes in a pipeline: whether the workers that are to run it can load it, and mean the same by it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from agentraft_ray.actors.live import Program
from agentraft_ray.actors.messages import Loaded, decode
from agentraft_ray.actors.pace import ShardPace
from agentraft_ray.actors.peers import Peer, PeerLost
from agentraft_ray.errors import StoreUnavailable

__all__ = ["load_at_workers"]


async def load_at_workers(
    program: Program, workers_of: Callable[[str], Sequence[str]], peer: Callable[[str], Peer], pace: ShardPace
) -> Loaded:
    """Have one worker of each of the program's groups load it; its fingerprint, or what is wrong. Raises StoreUnavailable."""
    for group in sorted(set(program.groups)):
        loaded = await _load_at_one(group, program, workers_of, peer, pace)
        if loaded.error or loaded.fingerprint != program.fingerprint:
            return loaded
    return Loaded(program.fingerprint)


async def _load_at_one(
    group: str, program: Program, workers_of: Callable[[str], Sequence[str]], peer: Callable[[str], Peer], pace: ShardPace
) -> Loaded:
    """What the first worker of a group that answers makes of a program; one that is being restarted is waited for."""
    deadline = time.monotonic() + pace.load_wait_s
    while True:
        workers = workers_of(group)
        if not workers:  # its steps wait until there are some
            return Loaded(program.fingerprint)
        for name in workers:
            try:
                loaded: Loaded = decode(await peer(name).call("load", program.definition), Loaded)
            except PeerLost as error:
                lost = error
                continue
            if not loaded.error and loaded.fingerprint != program.fingerprint:
                why = f"worker {name} imports another pipeline under that name than this program has; its files differ"
                return Loaded(loaded.fingerprint, "FingerprintMismatch", why)
            return loaded
        if time.monotonic() >= deadline:
            raise StoreUnavailable(f"no worker of group {group!r} answers, so nobody knows whether it can load the pipeline: {lost}")
        await asyncio.sleep(pace.tick_s)
