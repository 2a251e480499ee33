"""The index of runs on a Redis server, read: which runs there are, in what order, and what in it has to be put right.

The index is written apart from the logs and may lag behind them or dangle; whoever reads it compares it with the runs themselves and
notes what has to be moved. The log of a run is never changed from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from agentraft_ray.checkpoint.base import RunPart, RunPlace
from agentraft_ray.checkpoint.calls import Here, ServerCalls
from agentraft_ray.checkpoint.keys import Keys

__all__ = ["RunIndex"]

_CHUNK = 500  # runs looked at in one round trip of a sweep


class RunIndex:
    """Two sorted sets, scored by the server's time in microseconds: the runs that are not finished, and those that are."""

    def __init__(self, calls: ServerCalls, keys: Keys) -> None:
        self._calls = calls
        self._keys = keys

    async def open_runs(self) -> list[str]:
        """See `RunStore.open_runs`."""
        here = await self._settled()
        key = self._keys.open
        found: list[str] = []
        for names in _chunks(await self._calls.read(lambda client: client.zrange(key, 0, -1), key)):
            found += await self._standing(here, "unfinished", names)
        return found

    async def finished_runs(self, older_than_s: float) -> list[str]:
        """See `RunStore.finished_runs`."""
        here = await self._settled()
        seconds, micros = await self._calls.read(lambda client: client.time(), "")
        before = seconds * 1_000_000 + micros - int(older_than_s * 1_000_000)
        key = self._keys.finished
        found: list[str] = []
        for names in _chunks(await self._calls.read(lambda client: client.zrangebyscore(key, "-inf", before), key)):
            found += await self._standing(here, "finished", names)
        return found

    async def list_runs(self, part: RunPart, count: int, before: RunPlace | None) -> list[RunPlace]:
        """See `RunStore.list_runs`."""
        here = await self._settled()
        found: list[RunPlace] = []
        while len(found) < count:
            places = await self._places(self._key(part), min(_CHUNK, count), before)
            if not places:
                break
            before = places[-1]
            standing = set(await self._standing(here, part, [place.run_id for place in places]))
            found += [place for place in places if place.run_id in standing]
        return found[:count]

    async def _settled(self) -> Here:
        """With all that this process has noted standing in the index."""
        here = await self._calls.here()
        await here.writer.settled()
        return here

    def _key(self, part: RunPart) -> str:
        return self._keys.open if part == "unfinished" else self._keys.finished

    async def _places(self, key: str, count: int, before: RunPlace | None) -> list[RunPlace]:
        """The next entries of the index, whatever they are worth; those of one score go by their names."""
        if before is None:
            return await self._range(key, "+inf", "-inf", count)
        level = [place for place in await self._range(key, before.number, before.number, -1) if place < before]
        return (level + await self._range(key, f"({before.number}", "-inf", count))[:count]

    async def _range(self, key: str, newest: str | int, oldest: str | int, count: int) -> list[RunPlace]:
        words: Any = {"desc": True, "byscore": True, "withscores": True, "offset": 0, "num": count}
        found = await self._calls.read(lambda client: client.zrange(key, newest, oldest, **words), key)
        return [RunPlace(int(score), name.decode()) for name, score in found]

    async def _standing(self, here: Here, part: RunPart, run_ids: Sequence[str]) -> list[str]:
        """Those that belong to this part; the others are noted for their move."""
        found: list[str] = []
        for run_id, status in zip(run_ids, await self._statuses(run_ids), strict=True):
            if part == "finished":
                if status == b"finished":
                    found.append(run_id)
                else:
                    here.writer.note("drop", run_id)
            elif status is None:
                here.writer.note("sweep", run_id)
            elif status == b"finished":
                here.writer.note("finish", run_id)
            else:
                found.append(run_id)
        return found

    async def _statuses(self, run_ids: Sequence[str]) -> list[bytes | None]:
        async def ask(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for run_id in run_ids:
                pipeline.hget(self._keys.run(run_id).meta, "status")
            return list(await pipeline.execute(raise_on_error=False))

        # A foreign value at one run's key must not hide the others; that run shows its ForeignKey when it is asked for.
        return [None if isinstance(one, Exception) else one for one in await self._calls.read(ask, "")]


def _chunks(names: Sequence[bytes]) -> Iterator[list[str]]:
    """Names as text, as many at a time as one round trip carries."""
    for start in range(0, len(names), _CHUNK):
        yield [name.decode() for name in names[start : start + _CHUNK]]
