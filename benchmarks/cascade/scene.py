"""Plays a cascade on a live cluster: run, break, let the breaker open, kill its actor, heal, and wait for everybody."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from agentraft_ray import RunResult, Task
from agentraft_ray.actors import names
from agentraft_ray.actors.gateway import RayPeer
from agentraft_ray.actors.messages import Pong, decode
from agentraft_ray.cluster import Cluster
from agentraft_ray.errors import AgentRaftError
from benchmarks.cascade.work import CONVERT, expected
from benchmarks.chaos.tally import Line, read_all

__all__ = ["COOLDOWN_S", "THRESHOLD", "Played", "play"]

THRESHOLD, COOLDOWN_S = 5, 1.0

_NAME = "cascade"
_MAX_RETRIES = 8  # a run may be the probe several times while the step is broken, and is to finish all the same
_STEADY_AT_A_TIME = 20
_BEFORE_S = 5.0
_POLL_S = 0.02
_WAIT_S = 120.0


class Played(msgspec.Struct):
    """What was seen. Times are `time.time()`; `lines` = the executions of both middle steps."""

    runs: int
    broken_at: float = 0.0
    opened_at: float = 0.0
    killed_at: float = 0.0
    back_at: float = 0.0
    healed_at: float = 0.0
    finished_at: float = 0.0
    succeeded: int = 0
    failed: list[str] = []
    wrong: list[str] = []  # runs whose output is not what it must be
    attempts: dict[str, int] = {}  # run -> attempts of its middle step, as its log says
    steady: list[tuple[float, float, int, bool]] = []  # began, took, attempts of the middle step, right
    lines: list[Line] = []


def play(directory: Path, *, runs: int, broken_s: float, tell: Callable[[str], None]) -> Played:
    """All of it, on a cluster of two coordinators and two workers in `directory`. Raises TimeoutError where nothing opens."""
    tally, flag = directory / "tally", directory / "broken"
    tally.mkdir(parents=True)
    found = Played(runs)
    with Cluster.launch(
        name=_NAME, shards=2, workers=2, worker_cpus=0.5, verifiers=1, directory=directory / "data", num_cpus=4, log_to_driver=False,
    ) as cluster:  # fmt: skip
        over = threading.Event()
        steady = threading.Thread(target=_run_steady, args=(cluster, tally, over, found), name="steady", daemon=True)
        script = threading.Thread(target=_follow_script, args=(found, tally, flag, broken_s, tell), name="script", daemon=True)
        steady.start()
        script.start()
        # Half of the runs come to the middle step before it breaks, the others while it is broken.
        tasks = [Task("cascade", _inputs(tally, flag, 2 * _BEFORE_S), f"fragile-{number:05}") for number in range(runs)]
        for result in _mapped(cluster, "FRAGILE", tasks, runs):
            _take(found, result)
        found.finished_at = time.time()
        script.join(_WAIT_S)
        over.set()
        steady.join(_WAIT_S)
    found.lines = read_all(tally)
    return found


def _inputs(tally: Path, flag: Path | None, spread_s: float) -> dict[str, object]:
    return {"tally": str(tally), "broken": "" if flag is None else str(flag), "spread_s": spread_s}


def _mapped(cluster: Cluster, pipeline: str, tasks: Iterator[Task] | list[Task], at_a_time: int) -> Iterator[RunResult]:
    yield from cluster.map(
        f"benchmarks.cascade.work:{pipeline}", tasks, at_a_time=at_a_time, verifier="benchmarks.cascade.work:JUDGE",
        max_retries=_MAX_RETRIES, failure_threshold=THRESHOLD, cooldown_seconds=COOLDOWN_S,
    )  # fmt: skip


def _take(found: Played, result: RunResult) -> None:
    if not result.success:
        found.failed.append(f"{result.task_id}: {result.error}")
        return
    found.succeeded += 1
    found.attempts[result.task_id] = result.steps[1].attempts
    if result.output != expected(result.task_id):
        found.wrong.append(result.task_id)


def _run_steady(cluster: Cluster, tally: Path, over: threading.Event, found: Played) -> None:
    began: dict[str, float] = {}

    def tasks() -> Iterator[Task]:
        while not over.is_set():
            run = f"steady-{len(began):05}"
            began[run] = time.time()
            yield Task("steady", _inputs(tally, None, 0.0), run)

    for result in _mapped(cluster, "STEADY", tasks(), _STEADY_AT_A_TIME):
        run = result.task_id
        found.steady.append((began[run], time.time() - began[run], result.steps[1].attempts, result.output == expected(run)))


def _follow_script(found: Played, tally: Path, flag: Path, broken_s: float, tell: Callable[[str], None]) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not any(line.run.startswith("fragile") for line in read_all(tally)):
        _check(deadline, "no run came to its middle step")
    time.sleep(_BEFORE_S)
    flag.touch()
    found.broken_at = time.time()
    tell(f"step {CONVERT!r} of {found.runs:,} runs is broken now")
    while not asyncio.run(_figure("scopes_open")):
        _check(deadline, "no breaker opened")
    found.opened_at = time.time()
    tell(f"its breaker is open after {found.opened_at - found.broken_at:.2f} s")
    time.sleep(broken_s / 2)
    os.kill(asyncio.run(_pid()), signal.SIGKILL)
    found.killed_at = time.time()
    while not asyncio.run(_pid()):
        _check(deadline, "the breaker actor does not come back")
    found.back_at = time.time()
    tell(f"the breaker actor was killed, and is back after {found.back_at - found.killed_at:.2f} s")
    time.sleep(broken_s / 2)
    flag.unlink()
    found.healed_at = time.time()
    tell("the step works again")


def _check(deadline: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"{what} within {_WAIT_S:.0f} s")
    time.sleep(_POLL_S)


async def _figure(name: str) -> float:
    with contextlib.suppress(AgentRaftError, TimeoutError):
        async with asyncio.timeout(5):
            return float((await RayPeer(names.breaker(_NAME)).call("stats"))[name])
    return 0.0


async def _pid() -> int:
    with contextlib.suppress(AgentRaftError, TimeoutError, msgspec.MsgspecError):
        async with asyncio.timeout(5):
            pong: Pong = decode(await RayPeer(names.breaker(_NAME)).call("ping"), Pong)
            return pong.pid
    return 0
