"""The actors of the bare loop as plain classes: a coordinator, its workers and the one script that they append with.

No protocol, no recovery, no verdict that anybody could doubt. `loop` makes Ray actors of them; nothing here imports Ray.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

__all__ = ["APPEND", "BATCH_MAX", "BareCoordinator", "BareWorker", "Place"]

BATCH_MAX = 256  # steps in one message and in one append
LANES = 2  # batches of a worker that may be under way at once: one at the worker while the other is at the server
_UNLINKED_AT_ONCE = 1_000
_REFUSED = -1

# Per run: append only if the log is as long as the step expects. Each run is answered alone.
APPEND = """
local answers = {}
for i = 1, #KEYS do
  if redis.call('LLEN', KEYS[i]) == tonumber(ARGV[2 * i - 1]) then
    answers[i] = redis.call('RPUSH', KEYS[i], ARGV[2 * i])
  else
    answers[i] = -1
  end
end
return answers"""

Place = tuple[str, int]  # the log of a run, and the index of the step that it does next
Done = tuple[str, int, str, bool]  # ... with the output and whether it passed


class BareWorker:
    """Runs trivial steps and judges them."""

    async def run(self, places: Sequence[Place]) -> list[Done]:
        """One result a step, in the same order."""
        results = []
        for log, index in places:
            output = "step output about the goal."
            passed = bool(output) and "Traceback" not in output and output.rstrip()[-1] in ".!?"
            results.append((log, index, output, passed))
        return results

    async def pid(self) -> int:
        return os.getpid()


class BareCoordinator:
    """Keeps `runs` runs going on its workers; every step is one compare-and-append before the next one starts."""

    def __init__(self, workers: Sequence[Any], socket: str) -> None:
        """`workers` = handles whose `run.remote` is `BareWorker.run`. No I/O yet."""
        self._workers = workers
        self._client = redis.asyncio.Redis(unix_socket_path=socket, retry=Retry(NoBackoff(), 0))  # a repeated append would be refused
        self._append = self._client.register_script(APPEND)

    async def pid(self) -> int:
        return os.getpid()

    async def seconds(self, prefix: str, runs: int, steps: int, rounds: int) -> float:
        """Seconds for `rounds` x `runs` runs of `steps` steps, `runs` of them at a time. Their logs are PREFIX0, PREFIX1, ..."""
        logs = (f"{prefix}{number}" for number in range(runs * rounds))
        queues: list[asyncio.Queue[Place]] = [asyncio.Queue() for _ in self._workers]
        for queue, log in zip(itertools.cycle(queues), itertools.islice(logs, runs), strict=False):
            queue.put_nowait((log, 0))
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            pairs = list(zip(self._workers, queues, strict=True)) * LANES
            lanes = [group.create_task(self._lane(worker, queue, logs, steps)) for worker, queue in pairs]
            for queue in queues:
                await queue.join()
            elapsed = time.perf_counter() - started
            for lane in lanes:
                lane.cancel()
        return elapsed

    async def unlink(self, prefix: str, runs: int) -> None:
        """Remove the logs of a measurement."""
        for first in range(0, runs, _UNLINKED_AT_ONCE):
            await self._client.unlink(*(f"{prefix}{number}" for number in range(first, min(first + _UNLINKED_AT_ONCE, runs))))

    async def _lane(self, worker: Any, queue: asyncio.Queue[Place], logs: Iterator[str], steps: int) -> None:
        while True:
            batch = [await queue.get()]
            while len(batch) < BATCH_MAX and not queue.empty():
                batch.append(queue.get_nowait())
            results = await worker.run.remote(batch)
            await self._commit(results)
            for log, index, _, _ in results:
                if index + 1 < steps:
                    queue.put_nowait((log, index + 1))
                elif (fresh := next(logs, None)) is not None:
                    queue.put_nowait((fresh, 0))
                queue.task_done()

    async def _commit(self, results: Sequence[Done]) -> None:
        words: list[int | str] = []
        for log, index, output, passed in results:
            if not passed:
                raise RuntimeError(f"step {index} of {log} was rejected: the bare loop knows no retry, so its figures would be wrong")
            words += (index, json.dumps({"index": index, "output": output, "epoch": 1}))
        answers = await self._append(keys=[log for log, *_ in results], args=words)
        if _REFUSED in answers:
            raise RuntimeError(f"an append to {results[answers.index(_REFUSED)][0]} was refused: somebody else writes these keys")
