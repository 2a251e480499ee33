"""Keeps runs under way on a live cluster while the faults of a plan strike; then reads the logs and the tally, and judges."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import unquote

import msgspec
import redis

from agentraft_ray import Pipeline
from agentraft_ray.checkpoint.embedded import EmbeddedServer
from agentraft_ray.checkpoint.redis import RedisCheckpointStore
from agentraft_ray.checkpoint.seal import PlainSeal
from agentraft_ray.cluster import Cluster
from agentraft_ray.identity import digest
from agentraft_ray.runtime.logs import RunLogs
from benchmarks.chaos.audit import Audited, Case, audit
from benchmarks.chaos.plan import Fault, faults, trouble_of
from benchmarks.chaos.runs import FAILURE_THRESHOLD, LEASE_TTL_S, MAX_RETRIES, Runs
from benchmarks.chaos.strikes import SHARDS, VERIFIERS, WORKERS, Strike, Striker
from benchmarks.chaos.tally import TROUBLE, Line, Tally, read_all
from benchmarks.chaos.watch import Watch
from benchmarks.chaos.work import NODE_PIPELINE, PIPELINE, expected_values

__all__ = ["Campaign", "Findings", "cases_of", "run_campaign"]

AT_A_TIME = 10
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


class Campaign:
    """One cluster and what is done to it. `directory` is its own and empty."""

    def __init__(self, directory: Path, *, count: int, runs: int, seed: int, tell: Callable[[str], None]) -> None:
        self._count = count
        self._plan = faults(seed)
        self._tell = tell
        self.server = EmbeddedServer(directory / "data")
        self.runs = Runs.under(directory, lambda number: trouble_of(seed, number), runs, "chaos")
        self._tally = Tally(self.runs.tally)
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
            for run, (index, last) in watch.lasts(self.runs.live()).items():
                self.runs.seen[run].append((index, digest(last)))
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


async def cases_of(server: EmbeddedServer, runs: Runs, pipeline: Pipeline, *, node: bool = False) -> AsyncIterator[Case]:
    """Everything that is known of every run, one after another, its log read from the server, which must run."""
    lines: dict[str, list[Line]] = defaultdict(list)
    for line in read_all(runs.tally):
        lines[line.run].append(line)
    store = RedisCheckpointStore(server.url)
    logs = RunLogs(store, PlainSeal())
    try:
        for run, trouble in runs.made.items():
            meta = await store.meta(run)
            records = await logs.records(run)
            yield Case(
                run, pipeline, records, lines[run], expected_values(run, node), trouble is not None and trouble[1] == "huge",
                meta.head if meta is not None else b"", runs.seen[run], runs.told.get(run, ""),
            )  # fmt: skip
    finally:
        await store.close()


async def _judge(total: Audited, server: EmbeddedServer, runs: Runs, pipeline: Pipeline, *, node: bool = False) -> None:
    async for case in cases_of(server, runs, pipeline, node=node):
        audit([case], total)


def run_campaign(directory: Path, *, count: int, runs: int, nodes: int, seed: int, tell: Callable[[str], None]) -> Findings:
    """Bring about `count` effective faults over at least `runs` runs, and remove a node `nodes` times; then judge every log."""
    campaign = Campaign(directory / "cluster", count=count, runs=runs, seed=seed, tell=tell)
    found = campaign.run()
    with campaign.server:  # the cluster was its last user; the audit needs it
        asyncio.run(_judge(found.audited, campaign.server, campaign.runs, PIPELINE))
    found.troubles = dict(Counter(line.word for line in read_all(campaign.runs.tally) if line.kind == TROUBLE))
    if nodes:
        from benchmarks.chaos.nodes import remove_nodes  # noqa: PLC0415 - Ray's test tools, which nothing else needs

        server, removed, strikes, stuck = remove_nodes(directory / "nodes", count=nodes, tell=tell)
        found.strikes += strikes
        found.stuck += stuck
        with server:
            asyncio.run(_judge(found.audited, server, removed, NODE_PIPELINE, node=True))
    return found
