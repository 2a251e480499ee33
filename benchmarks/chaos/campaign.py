"""Keeps runs under way on a live cluster while the faults of a plan strike; then reads the logs and the tally, and judges."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import msgspec
import redis

from agentraft_ray import Pipeline, RunResult, Task
from agentraft_ray.checkpoint.embedded import EmbeddedServer
from agentraft_ray.checkpoint.redis import RedisCheckpointStore
from agentraft_ray.checkpoint.seal import PlainSeal
from agentraft_ray.cluster import Cluster
from agentraft_ray.runtime.logs import RunLogs
from benchmarks.chaos.audit import Audited, Case, audit
from benchmarks.chaos.plan import Fault, faults, trouble_of
from benchmarks.chaos.strikes import SHARDS, VERIFIERS, WORKERS, Strike, Striker
from benchmarks.chaos.tally import Line, Tally, read_all
from benchmarks.chaos.watch import Watch
from benchmarks.chaos.work import GOAL, PIPELINE, expected_values, inputs_of

__all__ = ["LEASE_TTL_S", "Campaign", "Findings", "Runs", "cases_of", "run_campaign"]

LEASE_TTL_S = 4.0
AT_A_TIME = 10
MAX_RETRIES = 8  # killed workers and planned troubles use some up; a run must not fail for that
FAILURE_THRESHOLD = 10_000  # a quarter of all first attempts is rejected on purpose; no breaker is to open for it
_STRUCK_SHARE = 0.8  # of the faults; the others are troubles of steps

_log = logging.getLogger("agentraft_ray")


class Findings(msgspec.Struct):
    """What a campaign did and saw."""

    seed: int
    faults: int
    strikes: list[Strike] = []
    troubles: dict[str, int] = {}
    audited: Audited = msgspec.field(default_factory=Audited)
    stuck: list[str] = []  # what did not go on, or did not come back, in time
    seconds: float = 0.0

    @property
    def effective(self) -> int:
        """Faults that hit work in flight."""
        return sum(strike.affected > 0 for strike in self.strikes) + sum(self.troubles.values())


@dataclass
class Runs:
    """The runs of a campaign: handed out while faults are to come, and what became of each."""

    tally: Path
    trouble: Callable[[int], tuple[str, str] | None]
    count_min: int
    prefix: str = "chaos"
    enough: threading.Event = field(default_factory=threading.Event)
    made: dict[str, tuple[str, str] | None] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    seen: dict[str, list[tuple[int, bytes]]] = field(default_factory=lambda: defaultdict(list))

    def tasks(self) -> Iterator[Task]:
        """Tasks with ids of their own, until there were enough faults and runs."""
        while not self.enough.is_set() or len(self.made) < self.count_min:
            number = len(self.made)
            run, trouble = f"{self.prefix}-{number:05}", self.trouble(number)
            self.made[run] = trouble
            yield Task(GOAL, inputs_of(self.tally, trouble), run)

    def take(self, result: RunResult) -> None:
        """A run has ended, as the program is told."""
        self.told[result.run_id] = result.status

    def live(self) -> set[str]:
        """The runs under way."""
        return self.made.copy().keys() - self.told.copy().keys()  # copies: another thread hands out and takes in


class Campaign:
    """One cluster and what is done to it. `directory` is its own and empty."""

    def __init__(self, directory: Path, *, count: int, runs: int, seed: int, tell: Callable[[str], None]) -> None:
        self._count = count
        self._plan = faults(seed)
        self._tell = tell
        self.server = EmbeddedServer(directory / "data")
        tally = directory / "tally"
        for made in (tally, Path(f"{tally}.marks")):
            made.mkdir(parents=True)
        self._tally = Tally(tally)
        self.runs = Runs(tally, lambda number: trouble_of(seed, number), runs)
        self.found = Findings(seed, count)

    def run(self) -> Findings:
        """Strike until there were enough faults and runs, and let every run end; the logs are not judged yet."""
        started = time.monotonic()
        with Cluster.launch(
            name="chaos", shards=SHARDS, workers=WORKERS, worker_cpus=0.5, verifiers=VERIFIERS, directory=self.server.directory,
            num_cpus=4, lease_ttl_s=LEASE_TTL_S, hung_s=60.0, worker_hung_s=120.0, restarts_max=1_000_000, log_to_driver=False,
        ) as cluster:  # fmt: skip
            striking = threading.Thread(target=self._strike_all, name="faults", daemon=True)
            striking.start()
            results = cluster.map(
                "benchmarks.chaos.work:PIPELINE", self.runs.tasks(), at_a_time=AT_A_TIME, verifier="benchmarks.chaos.work:JUDGE",
                max_retries=MAX_RETRIES, failure_threshold=FAILURE_THRESHOLD,
            )  # fmt: skip
            for result in results:
                self.runs.take(result)
            striking.join()
        self.found.seconds = time.monotonic() - started
        return self.found

    def _strike_all(self) -> None:
        try:
            asyncio.run(self._striking())
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to; the report says it
            _log.exception("the faults ended early")
            self.found.stuck.append(f"the faults ended early: {type(error).__name__}: {error}")
        finally:
            self.runs.enough.set()

    async def _striking(self) -> None:
        watch = Watch(unquote(self.server.url.removeprefix("unix://")))
        striker = Striker("chaos", self.server, self._tally, watch, self.runs.live)
        try:
            while not self._has_enough():
                await self._strike(striker, watch, next(self._plan))
            await striker.settle()
        finally:
            watch.close()

    async def _strike(self, striker: Striker, watch: Watch, fault: Fault) -> None:
        strike = await striker.strike(fault)
        self.found.strikes.append(strike)
        self._tell(_line(len(self.found.strikes), strike, len(self.runs.told)))
        if strike.affected and strike.recovery_s is None:
            self.found.stuck.append(f"{strike.kind} ({strike.victim}): none of {strike.affected} affected runs went on")
        if not fault.overlaps:
            await striker.settle()
        try:
            for run, last in watch.lasts(self.runs.live()).items():
                self.runs.seen[run].append(last)
        except redis.RedisError:  # the server is away: the next look will do
            pass

    def _has_enough(self) -> bool:
        self._tally.look()
        self.found.troubles = dict(self._tally.troubles)
        struck = sum(strike.affected > 0 for strike in self.found.strikes)
        is_lost = len(self.found.stuck) >= 3
        return is_lost or (struck >= _STRUCK_SHARE * self._count and struck + self._tally.troubles.total() >= self._count)


def _line(number: int, strike: Strike, ended: int) -> str:
    hit = f"hit {strike.affected} runs" if strike.affected else "hit nothing"
    stalled = f", stopped for {strike.stalled_s:.1f} s" if strike.stalled_s else ""
    went_on = (
        "" if not strike.affected else ", never went on" if strike.recovery_s is None else f", went on after {strike.recovery_s:.2f} s"
    )
    return f"{number:>5} {strike.kind:<12} {strike.victim}: {hit}{stalled}{went_on}; {ended} runs have ended"


async def cases_of(server: EmbeddedServer, runs: Runs, pipeline: Pipeline, *, node: bool = False) -> list[Case]:
    """Everything that is known of every run, the logs read from the server that runs."""
    lines: dict[str, list[Line]] = defaultdict(list)
    for line in read_all(runs.tally):
        lines[line.run].append(line)
    store = RedisCheckpointStore(server.url)
    logs, cases = RunLogs(store, PlainSeal()), []
    try:
        for run, trouble in runs.made.items():
            meta = await store.meta(run)
            records = await logs.records(run)
            must_fail = trouble is not None and trouble[1] == "huge"
            cases.append(
                Case(
                    run, pipeline, records, lines[run], expected_values(run, node), must_fail,
                    meta.head if meta is not None else b"", runs.seen[run], runs.told.get(run, ""),
                )
            )  # fmt: skip
    finally:
        await store.close()
    return cases


def run_campaign(directory: Path, *, count: int, runs: int, seed: int, tell: Callable[[str], None]) -> Findings:
    """Bring about `count` effective faults over at least `runs` runs, then judge every log."""
    campaign = Campaign(directory, count=count, runs=runs, seed=seed, tell=tell)
    found = campaign.run()
    with campaign.server:  # the cluster was its last user; the audit needs it
        found.audited = audit(asyncio.run(cases_of(campaign.server, campaign.runs, PIPELINE)))
    found.troubles = dict(Counter(line.word for line in read_all(campaign.runs.tally) if line.kind == "trouble"))
    return found
