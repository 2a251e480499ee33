"""Looks at logs on the server while the campaign goes on, with a plain client that never waits long: what has come to which run."""

from __future__ import annotations

import time
from collections.abc import Iterable

import redis

from agentraft_ray.checkpoint.keys import Keys
from agentraft_ray.protocol.records import OwnerClaimed, Record, RunFinished, StepCommitted, decode_record

__all__ = ["Watch", "is_progress"]

_TIMEOUT_S = 0.5
_POLL_S = 0.02


class Watch:
    """Reads from the server's socket. Every method raises redis.RedisError while the server is away, but those that wait."""

    def __init__(self, socket: str, prefix: str = "agentraft") -> None:
        self._client = redis.Redis(unix_socket_path=socket, socket_timeout=_TIMEOUT_S, protocol=2)
        self._keys = Keys(prefix)

    def close(self) -> None:
        """Let go of the server."""
        self._client.close()

    def flush_scripts(self) -> None:
        """Take the server's memory of our scripts."""
        self._client.script_flush()

    def _lengths(self, runs: Iterable[str]) -> dict[str, int]:
        """How many records each run has."""
        wanted = sorted(runs)
        with self._client.pipeline(transaction=False) as batch:
            for run in wanted:
                batch.llen(self._keys.run(run).log)
            return dict(zip(wanted, batch.execute(), strict=True))

    def lasts(self, runs: Iterable[str]) -> dict[str, tuple[int, bytes]]:
        """Each run's number of records and the last one as it is stored; without those that have none."""
        lengths = {run: count for run, count in self._lengths(runs).items() if count}
        with self._client.pipeline(transaction=False) as batch:
            for run, count in lengths.items():
                batch.lindex(self._keys.run(run).log, count - 1)
            return {run: (count, last) for (run, count), last in zip(lengths.items(), batch.execute(), strict=True)}

    def unfinished(self, runs: Iterable[str]) -> dict[str, int]:
        """How many records each run has, of those that have not ended: something of a run that has may still be under way."""
        found = self.lasts(runs).items()
        return {run: count for run, (count, last) in found if not isinstance(decode_record(last), RunFinished)}

    def owners(self, runs: Iterable[str]) -> dict[str, str]:
        """Who owns each run now; not the runs that nobody does."""
        wanted = sorted(runs)
        with self._client.pipeline(transaction=False) as batch:
            for run in wanted:
                batch.hget(self._keys.run(run).meta, "token")
            found = zip(wanted, batch.execute(), strict=True)
            return {run: owner for run, token in found if token and (owner := token.decode().partition(":")[2])}

    def after(self, lengths: dict[str, int]) -> dict[str, list[Record]]:
        """The records that have come since, of the runs that have any."""
        with self._client.pipeline(transaction=False) as batch:
            for run, count in lengths.items():
                batch.lrange(self._keys.run(run).log, count, -1)
            found = zip(lengths, batch.execute(), strict=True)
            return {run: [decode_record(stored) for stored in records] for run, records in found if records}

    def wait_for(self, lengths: dict[str, int], kind: type[Record], wait_s: float, *, claimed: bool = False) -> float | None:
        """Wait until a record of `kind` has come to one of the runs, or a run has ended; when that was seen. `claimed`: only what
        follows a claim counts. None after `wait_s`. The server may be away meanwhile."""
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            try:
                if any(is_progress(records, kind, claimed=claimed) for records in self.after(lengths).values()):
                    return time.monotonic()
            except redis.RedisError:
                pass
            time.sleep(_POLL_S)
        return None


def is_progress(records: Iterable[Record], kind: type[Record] = StepCommitted, *, claimed: bool = False) -> bool:
    """Whether there is one of `kind`, or, unless that is a claim, the end of the run; with `claimed`, after a claim."""
    wanted = OwnerClaimed if kind is OwnerClaimed else (kind, RunFinished)
    for record in records:
        if not claimed and isinstance(record, wanted):
            return True
        if isinstance(record, OwnerClaimed):
            claimed = False
    return False
