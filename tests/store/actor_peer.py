"""The store actor in this process, behind a peer that can be lost. Its control calls run in another thread, as they do under Ray."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

from agentraft_ray.actors.checkpoint_store import CheckpointStoreActor
from agentraft_ray.actors.messages import encode
from agentraft_ray.actors.peers import PeerLost
from agentraft_ray.actors.store_spec import StoreSpec

CONTROL = {"ping", "drain", "stats", "renew_lease", "release_lease", "revoke_lease"}


class ActorPeer:
    """Calls an actor as another process would. `lose_before` and `lose_after` calls of a method are lost on their way there or back."""

    name = "store"

    def __init__(self, spec: StoreSpec) -> None:
        self.spec = spec
        self.actor = CheckpointStoreActor(encode(spec))
        self.lose_before: Counter[str] = Counter()
        self.lose_after: Counter[str] = Counter()
        self.restart_when_lost = False
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self._control = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._control.run_forever, daemon=True)
        self._thread.start()

    async def call(self, method: str, *args: Any) -> Any:
        self.calls.append((method, args))
        self._maybe_lose(self.lose_before, method)
        bound = getattr(self.actor, method)
        if method in CONTROL:
            reply = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(bound(*args), self._control))
        else:
            reply = await bound(*args)
        self._maybe_lose(self.lose_after, method)
        return reply

    def _maybe_lose(self, losses: Counter[str], method: str) -> None:
        if losses[method] > 0:
            losses[method] -= 1
            if self.restart_when_lost:
                self.restart()
            raise PeerLost(f"the actor {self.name} died", peer=self.name)

    def restart(self) -> None:
        """What Ray does with an actor process that died: the same constructor arguments, all memory gone."""
        self.actor = CheckpointStoreActor(encode(self.spec))

    async def close(self) -> None:
        """Drain the actor and end the control thread."""
        await self.call("drain")
        async with asyncio.timeout(20):
            while self.actor._store is not None and (self.actor._leaving is None or not self.actor._leaving.done()):
                self.actor._begin_drain()
                await asyncio.sleep(0.005)
        stopped = asyncio.run_coroutine_threadsafe(self._control.shutdown_asyncgens(), self._control)
        await asyncio.wrap_future(stopped)
        self._control.call_soon_threadsafe(self._control.stop)
        await asyncio.to_thread(self._thread.join)
        self._control.close()
