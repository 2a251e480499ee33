"""Who goes on with the runs of a coordinator that died: its own restart at once, the other shards when its lease is gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from agentraft_ray.actors.intake import Intake
from agentraft_ray.actors.messages import decode, encode
from agentraft_ray.actors.names import shard_of
from agentraft_ray.checkpoint.base import RunMeta, RunStore
from agentraft_ray.errors import StoreError

__all__ = ["Succession"]

_log = logging.getLogger("agentraft_ray")

_CHUNK = 500


class Succession:
    """Looks after shard `index` of `shards` in a deployment: notes in the store who it is, and finds runs without an owner.

    `disown` tells the workers that nobody waits any more for what a shard had asked them, before its runs are taken over.

    Nothing here decides about ownership: that does the claim, in the store. An owner's id begins with its cluster's.
    """

    def __init__(
        self,
        store: RunStore,
        intake: Intake,
        deployment: str,
        cluster: str,
        index: int,
        shards: int,
        disown: Callable[[int], Awaitable[None]],
        poll_s: float = 1.0,
    ) -> None:
        self._store = store
        self._disown = disown
        self._intake = intake
        self._deployment = deployment
        self._cluster = cluster
        self._index = index
        self._shards = shards
        self._poll_s = poll_s
        self._former = ""

    async def begin(self, owner: str) -> bool:
        """Note who this shard is from now on, and end the lease of who it was; whether that was in this very cluster.

        A predecessor that still lives is a zombie: Ray has given its name to us. Its lease cannot come back, and its appends are
        refused as soon as its runs are claimed.
        """
        noted = (await self._store.document(self._note(self._index)) or b"").decode()
        if noted != owner:  # else this was begun before, and the store went away on the way
            self._former = noted
        is_restart = self._is_of_this_cluster(self._former)
        if is_restart:
            await self._store.revoke_lease(self._former)
        if noted != owner:
            await self._store.put_document(self._note(self._index), owner.encode())
        return is_restart

    async def note_groups(self, groups: dict[str, list[str]]) -> None:
        """Note the workers of each group for whoever comes after us: Ray restarts a coordinator with the arguments of its first life."""
        await self._store.put_document(self._groups_note, encode((self._cluster, groups)))

    async def noted_groups(self) -> dict[str, list[str]]:
        """The groups that were noted in this very cluster; none where there is no such note."""
        noted = await self._store.document(self._groups_note)
        if noted is None:
            return {}
        note: tuple[str, dict[str, list[str]]] = decode(noted, tuple[str, dict[str, list[str]]])
        cluster, groups = note
        return groups if cluster == self._cluster else {}

    async def sweep(self, index: int, *, anybodys: bool = False) -> int:
        """Pick up the open runs of shard `index` whose owner is gone; how many. Without `anybodys`, only those of this cluster.

        Its runs are those that its number is for, and those that it had taken over from other shards.
        """
        count = 0
        alive: dict[str, bool] = {"": False}
        its_own = f"{self._cluster}.{index}."
        open_runs = await self._store.open_runs()
        for start in range(0, len(open_runs), _CHUNK):
            part = open_runs[start : start + _CHUNK]
            for run_id, meta in zip(part, await self._store.metas(part), strict=True):
                if not isinstance(meta, RunMeta) or meta.status == "finished":
                    continue
                owner = meta.token.owner
                if shard_of(run_id, self._shards) != index and not owner.startswith(its_own):
                    continue
                if not anybodys and owner and not self._is_of_this_cluster(owner):
                    continue
                if owner not in alive:
                    alive[owner] = await self._store.lease_alive(owner)
                if not alive[owner]:
                    count += self._intake.pick_up([run_id])
        return count

    async def watch_others(self) -> None:
        """For ever: take over the runs of another shard whose lease is gone for longer than a moment."""
        missing: dict[int, str] = {}
        while True:
            await asyncio.sleep(self._poll_s)
            for index in range(self._shards):
                if index == self._index:
                    continue
                try:
                    owner = (await self._store.document(self._note(index)) or b"").decode()
                    if not self._is_of_this_cluster(owner) or await self._store.lease_alive(owner):
                        missing.pop(index, None)
                    elif missing.get(index) != owner:
                        missing[index] = owner  # its restart may be about to take over by itself
                    else:
                        await self._disown(index)
                        found = await self.sweep(index)
                        if found:
                            _log.warning("the lease of coordinator %d is gone; %d of its runs go on here", index, found)
                except StoreError as error:
                    _log.debug("other shards cannot be looked after now: %s", error)

    @property
    def _groups_note(self) -> str:
        return f"groups:{self._deployment}"

    def _note(self, index: int) -> str:
        return f"shard:{self._deployment}:{index}"

    def _is_of_this_cluster(self, owner: str) -> bool:
        return owner.startswith(f"{self._cluster}.")
