"""Runs, kills, and lets live again, until all kills are spent; then says what was found."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from agentraft_ray.checkpoint.embedded import EmbeddedServer
from agentraft_ray.checkpoint.redis import RedisCheckpointStore
from agentraft_ray.checkpoint.seal import PlainSeal
from agentraft_ray.runtime.logs import RunLogs
from benchmarks.kill9.audit import Audit
from benchmarks.kill9.life import READY, WORKING
from benchmarks.kill9.work import executions, make_pipeline

__all__ = ["Findings", "Kill", "plan_kills", "run_campaign", "summary_lines"]

_ROOT = Path(__file__).resolve().parents[2]
_PATIENCE_S = 60.0  # for a life to say a word; a wedged one is a finding
_POLL_S = 0.005
_FASTER = 0.8
_SHARE = 0.5  # a kill comes at the latest after this share of the time that an undisturbed run takes

Kind = Literal["process", "server", "both"]


class Kill(NamedTuple):
    """`moment` in [0, 1) says when, as a share of the longest delay; `early` counts from before the claim, not from after it."""

    kind: Kind
    moment: float
    early: bool
    server_first: bool


class Findings(msgspec.Struct):
    """What a campaign did and saw. `violations` must be empty."""

    seed: int
    kills: dict[str, int]
    runs: int = 0
    lives: int = 0
    steps_committed: int = 0
    executions: int = 0
    executed_again: int = 0
    rollbacks: int = 0
    seconds: float = 0.0
    violations: list[str] = []


def plan_kills(kills: int, seed: int) -> list[Kill]:
    """As many kills, a third of each kind, in random order at random moments; the same for the same seed."""
    rng = random.Random(seed)
    kinds: list[Kind] = [("process", "server", "both")[index % 3] for index in range(kills)]
    rng.shuffle(kinds)
    return [Kill(kind, rng.random(), rng.random() < 0.15, rng.random() < 0.5) for kind in kinds]


async def run_campaign(directory: Path, *, kills: int, seed: int, tell: Callable[[str], None] = lambda _text: None) -> Findings:
    """Spend all kills on as many runs as that takes; every run is let live until it has finished."""
    started = time.monotonic()
    reference = _Run(directory / "undisturbed", "undisturbed", [], 0.0)
    expected = await reference.to_the_end()
    delay_s_max = _SHARE * reference.worked_s
    tell(f"undisturbed: {len(expected['outputs'])} steps in {reference.worked_s:.2f} s; kills come within {delay_s_max:.2f} s of a start")
    waiting = plan_kills(kills, seed)
    found = Findings(seed, dict.fromkeys(("process", "server", "both"), 0), violations=list(reference.audit.violations))
    while waiting:
        found.runs += 1
        run = _Run(directory / f"run{found.runs}", f"run{found.runs}", waiting, delay_s_max)
        result = await run.to_the_end()
        _add(found, run, result, expected)
        if not run.kills:  # the machine has become faster than it was undisturbed: what is planned came too late
            delay_s_max *= _FASTER
        tell(
            f"run {found.runs}: {result['status']} after {run.lives} lives and {sum(run.kills.values())} kills "
            f"({', '.join(f'{count} {kind}' for kind, count in run.kills.items()) or 'none'}); {len(waiting)} kills to come"
        )
        if found.violations:
            break
    found.seconds = time.monotonic() - started
    return found


def _add(found: Findings, run: _Run, result: dict[str, Any], expected: dict[str, Any]) -> None:
    for kind, count in run.kills.items():
        found.kills[kind] += count
    found.lives += run.lives
    found.steps_committed += len(result["outputs"])
    found.executions += run.audit.executed
    found.executed_again += run.audit.executed_again
    found.rollbacks += result["rollbacks"]
    violations = list(run.audit.violations)
    if result["status"] != "succeeded":
        violations.append(f"it ended {result['status']}: {result['error']}")
    elif result["outputs"] != expected["outputs"]:
        differing = [name for name, output in expected["outputs"].items() if result["outputs"].get(name) != output]
        violations.append(f"its outputs differ from the undisturbed ones at {', '.join(differing[:5])}")
    found.violations += [f"{run.run_id} ({run.directory}): {text}" for text in violations]


class _Run:
    """One run in a directory of its own, through all its lives. Takes kills from the front of `kills` as they come due."""

    def __init__(self, directory: Path, run_id: str, kills: list[Kill], delay_s_max: float) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.run_id = run_id
        self.lives = 0
        self.kills: Counter[str] = Counter()
        self.worked_s = 0.0
        self._planned = kills
        self._delay_s_max = delay_s_max
        self._tally = directory / "tally"
        self._result = directory / "result.json"
        self._server = EmbeddedServer(directory / "data")
        self.audit = Audit(make_pipeline(self._tally))

    async def to_the_end(self) -> dict[str, Any]:
        """Live until a life ends by itself; its result."""
        try:
            while not self._result.exists():
                if not await self._live():
                    break
            with EmbeddedServer(self.directory / "data"):  # it may have stopped with its last user; the last look needs it
                await self._look()
        finally:
            self._kill_server()
        if self._result.exists():
            found: dict[str, Any] = json.loads(self._result.read_text())
            return found
        return {"status": "lost", "error": "a life ended by itself without a result", "rollbacks": 0, "outputs": {}}

    async def _live(self) -> bool:
        """One life; False if it ended by itself without a result."""
        self.lives += 1
        words = [str(self._server.directory), self.run_id, str(self._tally), str(self._result)]
        with (self.directory / "stderr").open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks.kill9.life", *words, cwd=_ROOT,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=stderr,
            )  # fmt: skip
        assert process.stdin is not None
        try:
            if not await _heard(process, READY):
                return await self._ended_early(process)
            await self._look()
            process.stdin.write(b"go\n")
            early = bool(self._planned and self._planned[0].early)
            if not early and not await _heard(process, WORKING):
                return await self._ended_early(process)
            started = time.monotonic()
            killed = await self._disturb(process)
            self.worked_s = time.monotonic() - started
            return killed or self._result.exists()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            process.stdin.close()

    async def _ended_early(self, process: asyncio.subprocess.Process) -> bool:
        """Silent where it should speak: all right only if the run had finished before its last process was killed."""
        if await _ends_within(process, _PATIENCE_S) and self._result.exists():
            return True
        said = (self.directory / "stderr").read_text().strip().rpartition("\n")[2] or "nothing on stderr"
        self.audit.violations.append(f"life {self.lives} fell silent (exit code {process.returncode}): {said}")
        return False

    async def _disturb(self, process: asyncio.subprocess.Process) -> bool:
        """Kill as planned until the process is dead (True) or has ended by itself (False)."""
        while self._planned:
            delay_s = self._planned[0].moment * self._delay_s_max
            if await _ends_within(process, delay_s):
                return False
            kill = self._planned[0]
            if kill.kind != "process" and not await self._server_is_up(process):
                return False
            self._planned.pop(0)
            self.kills[kill.kind] += 1
            if kill.kind != "process" and kill.server_first:
                self._kill_server()
            if kill.kind != "server":
                process.kill()
                await process.wait()
            if kill.kind != "process" and not kill.server_first:
                self._kill_server()
            if kill.kind != "server":
                return True
        if not await _ends_within(process, _PATIENCE_S):
            self.audit.violations.append(f"life {self.lives} did nothing more for {_PATIENCE_S:.0f} s")
        return False

    async def _server_is_up(self, process: asyncio.subprocess.Process) -> bool:
        """Wait until there is a server to kill: one that was killed a moment ago may not be up again. False if the life ended first."""
        deadline = time.monotonic() + _PATIENCE_S
        while self._server.pid is None:
            if await _ends_within(process, _POLL_S):
                return False
            if time.monotonic() > deadline:
                self.audit.violations.append(f"life {self.lives}: the server was not started again for {_PATIENCE_S:.0f} s")
                return False
        return True

    def _kill_server(self) -> None:
        pid = self._server.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _look(self) -> None:
        """Read the log as it stands on the server, without becoming one of the server's users."""
        store = RedisCheckpointStore(self._server.url)
        try:
            logs = RunLogs(store, PlainSeal())
            records = [record for record, _ in await logs.records(self.run_id)]
            if records:
                await logs.fold(self.run_id)  # checks the hash chain
        finally:
            await store.close()
        self.audit.look(records, executions(self._tally))


async def _heard(process: asyncio.subprocess.Process, word: str) -> bool:
    """Whether the process says `word` next, in time."""
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), _PATIENCE_S)
    except TimeoutError:
        return False
    return line.decode().strip() == word


async def _ends_within(process: asyncio.subprocess.Process, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), seconds)
    return process.returncode is not None


def summary_lines(found: Findings) -> Iterator[str]:
    """The findings for people."""
    kills = ", ".join(f"{count} {kind}" for kind, count in found.kills.items())
    yield f"kills: {sum(found.kills.values())} ({kills}), seed {found.seed}; {found.runs} runs, {found.lives} lives, {found.seconds:,.0f} s"
    yield (
        f"steps committed at the end {found.steps_committed:,}, executions {found.executions:,}, of which {found.executed_again} again "
        "because the kill came before anything was recorded"
    )
    yield f"outputs thrown away and rolled back on the way: {found.rollbacks}"
    yield f"committed steps that ran again, outputs that differ, runs that did not finish: {len(found.violations)}"
    yield from (f"  {text}" for text in found.violations)
