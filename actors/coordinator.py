"""A coordinator shard: it owns runs by token, and moves them on in batches. This file is the actor: settings, start, calls, tasks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import msgspec

from agentraft_ray.actors import names
from agentraft_ray.actors.breaker_client import ClusterBreakers
from agentraft_ray.actors.client_messages import Submission, Told
from agentraft_ray.actors.control import Controlled, Figures
from agentraft_ray.actors.desk import Desk
from agentraft_ray.actors.intake import ATTACHED, Intake
from agentraft_ray.actors.live import LiveRun, Program
from agentraft_ray.actors.loading import load_at_workers
from agentraft_ray.actors.messages import Judge, Loaded, Reply, Work, decode, encode
from agentraft_ray.actors.outcomes import outcome_of
from agentraft_ray.actors.pace import ShardPace
from agentraft_ray.actors.peers import Peer, PeerLost
from agentraft_ray.actors.pools import Pool
from agentraft_ray.actors.programs import Programs
from agentraft_ray.actors.remote_store import ClusterStore
from agentraft_ray.actors.shard import Shard
from agentraft_ray.actors.store_spec import StoreSpec
from agentraft_ray.actors.succession import Succession
from agentraft_ray.breaker import BreakerPolicy
from agentraft_ray.checkpoint.base import Answer, AppendEntry
from agentraft_ray.checkpoint.seal import EncryptingSeal, PlainSeal
from agentraft_ray.config import Limits
from agentraft_ray.errors import AgentRaftError, StoreError, StoreUnavailable
from agentraft_ray.protocol.messages import Announce
from agentraft_ray.runtime.logs import RunLogs
from agentraft_ray.runtime.owner import Owner

__all__ = ["CoordinatorActor", "ShardSettings"]

_log = logging.getLogger("agentraft_ray")

_APPENDS_IN_FLIGHT_MAX = 2
_GATHER_S = 0.003  # see `pools`
_CREDITS_MAX = 2_000  # requests that this shard has at one worker
_RESERVED_CREDITS_MAX = 2  # the same for one that does one step at a time: that step and the next one; what waits can still go to another
_INBOXES_PER_LOOK = 50
_GC_THRESHOLD = 50_000  # a shard holds a great many live objects, which the collector would visit over and over


class ShardSettings(msgspec.Struct, frozen=True):
    """What a coordinator is started with. `cluster` is random per launch; `groups` = the names of the workers of each group."""

    deployment: str
    cluster: str
    index: int
    shards: int
    store: StoreSpec
    groups: dict[str, list[str]]
    verifiers: list[str]
    runs_max: int = 20_000
    encryption_key: str = ""
    limits: Limits = Limits()


class CoordinatorActor(Controlled):
    """Thousands of runs in one process. Its memory may be lost at any time: what counts is in the log, and a restart reads it.

    `peer` makes a way to call an actor by its name; `leave` ends the process.
    """

    def __init__(
        self,
        settings: bytes,
        *,
        peer: Callable[[str], Peer] | None = None,
        leave: Callable[[int], Any] = os._exit,
        pace: ShardPace | None = None,
        observing: bytes | None = None,
    ) -> None:
        super().__init__(observing)
        self.pace = pace or ShardPace()
        spec: ShardSettings = decode(settings, ShardSettings)
        self.settings = spec
        self._client = _client_stem(spec, spec.index) + self.incarnation
        self._make_peer = peer or _ray_peer
        self._leave = leave
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening = asyncio.Lock()
        self._is_open = False
        self._appends_in_flight = 0
        self._append_messages = 0
        self._appends_wanted = False
        self._lapses_seen = 0
        self.desk = Desk(self.incarnation, hold_s=self.pace.collect_hold_s, silent_s_max=self.pace.silent_s_max, clock=self.pace.clock)
        seal = EncryptingSeal(spec.encryption_key) if spec.encryption_key else PlainSeal()
        self.store = ClusterStore(spec.store, self._make_peer(names.store(spec.deployment)))
        self.owner = Owner(self.store, spec.limits.lease_ttl_s, f"{spec.cluster}.{spec.index}.")
        self.programs = Programs(self.store)
        self.judges = self._pool("", spec.verifiers)
        self.pools = {group: self._pool(group, workers) for group, workers in spec.groups.items()}
        self.shard = Shard(time.time, seal, self._pool_of, self.judges)
        logs = RunLogs(self.store, seal)
        self.intake = Intake(self.shard, self.programs, logs, self.desk, self.owner.id, spec.runs_max, self.pace)
        self.succession = Succession(
            self.store, self.intake, spec.deployment, spec.cluster, spec.index, spec.shards, self._disown, self.pace.others_poll_s
        )
        self._breakers: dict[BreakerPolicy, ClusterBreakers] = {}
        self._connect_shard()
        if self._work_loop is not None:  # a restarted actor goes on with its runs before anybody calls it
            self._spawn(self._ready())

    def _connect_shard(self) -> None:
        shard = self.shard
        shard.on_append = self._want_append
        shard.on_told = self._told
        shard.on_finished = self._finished
        shard.on_waiting = self._waiting
        shard.on_refused = self.intake.refused
        self.programs.on_loaded = self._host

    # --- for clients -----------------------------------------------------------------------------------------------------------

    async def register(self, definition: bytes) -> bytes:
        """Load a definition here and at one worker of each of its groups; `Loaded` with its fingerprint, or what is wrong."""
        await self._ready()
        try:
            program = await self.programs.load(definition)
            loaded = await load_at_workers(program, lambda group: self._pool_of(group).peers, self._make_peer, self.pace)
            if not loaded.error:  # else nobody gets to know it, and nothing was written
                await self.programs.keep(program)
            return encode(loaded)
        except AgentRaftError as error:
            return encode(Loaded(b"", type(error).__name__, str(error)))
        except Exception as error:  # noqa: BLE001 - the boundary to the user's modules
            return encode(Loaded(b"", "InvalidConfig", f"{type(error).__name__}: {error}"))

    async def submit(self, client: str, batch: bytes) -> bytes:
        """Admit tasks; list[Submission] -> `Submitted`. What is accepted stands in the store."""
        await self._ready()
        return encode(await self.intake.submit(client, decode(batch, list[Submission])))

    async def collect(self, client: str, session: str, seen: int, waits: bool = True) -> bytes:
        """The notices for a client, waiting for some; `Collected`. It has `seen` notices of `session`, which are forgotten here."""
        await self._ready()
        return encode(await self.desk.collect(client, session, seen, waits=waits))

    async def describe(self) -> bytes:
        """The settings of this shard, with the groups of workers that there are by now: all that a program must know."""
        groups = {group: pool.peers for group, pool in self.pools.items() if pool.peers}
        return encode(msgspec.structs.replace(self.settings, groups=groups))

    async def resume(self, run_ids: list[str]) -> None:
        """Begin a new life of runs that wait here, or pick them up."""
        await self._ready()
        for run_id in run_ids:
            live = self.shard.runs.get(run_id)
            if live is None:
                self.intake.pick_up([run_id])
            elif live.state.parked is not None:
                self.intake.restart(run_id)

    async def resume_all(self) -> int:
        """Pick up every run of this shard's part that nobody works on; how many."""
        await self._ready()
        return await self.succession.sweep(self.settings.index, anybodys=True)

    async def look(self, run_ids: list[str]) -> None:
        """Commands may wait in the inboxes of these runs."""
        await self._ready()
        with contextlib.suppress(StoreError):  # they are found when the store is back
            for run_id in run_ids:
                if run_id in self.shard.runs:
                    self.shard.take(run_id, await self.store.inbox(run_id))

    async def configure(self, groups: dict[str, list[str]], verifiers: list[str]) -> None:
        """These are the workers and verifiers from now on."""
        await self._ready()
        self._know_workers(groups)
        await self.succession.note_groups(groups)
        self.judges.replace_peers([self._make_peer(name) for name in verifiers])

    async def shut_down(self) -> int:
        """Give every run up in good order and the lease back; how many runs could not be."""
        self._draining = True
        if self._is_open:
            self.shard.drain()
            deadline = time.monotonic() + 2 * self.settings.limits.drain_s
            while self.intake.held > len(self.intake.foreign) and time.monotonic() < deadline:  # noqa: ASYNC110 - many ways to leave
                await asyncio.sleep(self.pace.tick_s / 5)
            self.intake.close()
            self.desk.release()
            for breakers in self._breakers.values():
                await breakers.close()
            await self.owner.__aexit__()
            for task in list(self._tasks):
                if task is not asyncio.current_task():
                    task.cancel()
            for pool in (self.judges, *self.pools.values()):
                pool.close()
        return len(self.shard.runs)

    def _know_workers(self, groups: dict[str, list[str]]) -> None:
        for group, workers in groups.items():
            self._pool_of(group).replace_peers([self._make_peer(name) for name in workers])

    # --- start -----------------------------------------------------------------------------------------------------------------

    async def _ready(self) -> None:
        self.at_work()
        if self._is_open:
            return
        async with self._opening:
            if self._is_open:
                return
            gc.set_threshold(_GC_THRESHOLD)
            is_restart = await self._open()
            self._is_open = True
            for work in (self._tick(), self._look_around(), self.intake.watch_foreign(), self.succession.watch_others()):
                self._spawn(work)
            if is_restart:
                self._spawn(self._take_up())

    async def _open(self) -> bool:
        """Whether a predecessor of this shard was found. A store that is away is waited for: whoever calls waits as well."""
        while True:
            try:
                await self.store.open()
                is_restart = await self.succession.begin(self.owner.id)
                self._know_workers(await self.succession.noted_groups())
                await self.owner.__aenter__()
            except StoreUnavailable as error:
                _log.warning("coordinator %d cannot begin yet: %s", self.settings.index, error)
                await asyncio.sleep(self.pace.others_poll_s)
            else:
                return is_restart

    async def _take_up(self) -> None:
        """Go on with what this shard's last life left."""
        while True:
            try:
                await self._disown(self.settings.index)
                found = await self.succession.sweep(self.settings.index)
                _log.warning("coordinator %d is back; it goes on with %d runs", self.settings.index, found)
                return
            except StoreError as error:
                _log.warning("coordinator %d cannot look for its runs yet: %s", self.settings.index, error)
                await asyncio.sleep(self.pace.others_poll_s)

    async def _disown(self, index: int) -> None:
        """Have workers and verifiers end what a coordinator that is gone had asked them, as far as they can be reached at once."""
        stem = _client_stem(self.settings, index)

        async def ask(name: str) -> None:
            with contextlib.suppress(PeerLost, TimeoutError):  # what is gone itself has nothing left to end
                async with asyncio.timeout(self.pace.disown_s):
                    await self._make_peer(name).call("disown", stem, self._client)

        await asyncio.gather(*(ask(name) for pool in (self.judges, *self.pools.values()) for name in pool.peers))

    def _pool(self, group: str, workers: list[str]) -> Pool:
        peers = [self._make_peer(name) for name in workers]
        credits_max = _RESERVED_CREDITS_MAX if group else _CREDITS_MAX
        return Pool(
            self._client, peers, self._definition, self._replied, self._lost, credits_max=credits_max,
            pace=self.pace, is_late=self._is_late, good_for_s=self.settings.limits.lease_ttl_s / 2,
        )  # fmt: skip

    def _pool_of(self, group: str) -> Pool:
        pool = self.pools.get(group)
        if pool is None:  # its workers are made known by `configure`; until then its steps wait
            pool = self.pools[group] = self._pool(group, [])
        return pool

    def _definition(self, fingerprint: bytes) -> bytes | None:
        return self.programs.definition(fingerprint)

    def _replied(self, replies: Sequence[Reply]) -> None:
        self.shard.replied(replies)

    def _lost(self, requests: Sequence[Work | Judge]) -> None:
        self.shard.lost(requests)

    def _host(self, program: Program) -> None:
        """Give a program its breakers."""
        policy = program.blueprint.policy
        breakers = self._breakers.get(policy)
        if breakers is None:
            peer = self._make_peer(names.breaker(self.settings.deployment))
            breakers = self._breakers[policy] = ClusterBreakers(peer, policy, self.owner.id, self.shard.permitted, pace=self.pace.breakers)
            breakers.start()
        program.breakers = breakers

    # --- what goes out ---------------------------------------------------------------------------------------------------------

    def _want_append(self) -> None:
        if self._appends_wanted or self._appends_in_flight >= _APPENDS_IN_FLIGHT_MAX:
            return
        self._appends_wanted = True
        loop = asyncio.get_running_loop()
        if self._appends_in_flight:  # a second message while the first one is on its way: not for less than it costs
            loop.call_later(_GATHER_S, self._start_append)
        else:
            loop.call_soon(self._start_append)

    def _start_append(self) -> None:
        self._appends_wanted = False
        if self.shard.appends and self._appends_in_flight < _APPENDS_IN_FLIGHT_MAX:
            self._appends_in_flight += 1
            self._spawn(self._append())

    async def _append(self) -> None:
        """One batch to the store; what has come together meanwhile makes the next one."""
        taken = self.shard.take_appends(self.settings.limits.batch_runs_max)
        self._append_messages += 1
        try:
            answers = await self._answers([entry for _, entry in taken])
            self.shard.appended(taken, answers)
        finally:
            self._appends_in_flight -= 1
            if self.shard.appends and not self._appends_in_flight:
                self._start_append()
            elif self.shard.appends:
                self._want_append()

    async def _answers(self, entries: list[AppendEntry]) -> list[Answer | StoreError]:
        try:
            return await self.store.append_many(entries)
        except StoreError:
            raise
        except AgentRaftError as error:  # a fault of the store actor's own: whether anything was written, the logs will tell
            return [StoreError(str(error)) for _ in entries]

    def _told(self, live: LiveRun, announce: Announce) -> None:
        if announce.type == ATTACHED:
            self.intake.attached(live, announce.detail)
            return
        told = Told(live.run_id, announce)
        for client in live.listeners:
            self.desk.put(client, told)

    def _finished(self, live: LiveRun) -> None:
        self.intake.left(live)
        if not live.clients:
            return
        last = live.state.plan.size - 1
        near = live.outputs.at_hand((last,)) if live.state.committed == live.state.plan.size else {}
        if near or live.state.finished is None or live.state.finished.outcome != "succeeded":
            self._tell(live, near.get(last))
        else:  # the output has left memory: it is read like that of any run that has finished
            self.intake.pick_up([live.run_id], dict.fromkeys(live.clients, False))

    def _tell(self, live: LiveRun, output: bytes | None) -> None:
        if live.clients:
            outcome = outcome_of(live.state, output, live.machine.wake_at if live.state.finished is None else None)
            for client in live.clients:
                self.desk.put(client, outcome)

    def _waiting(self, live: LiveRun) -> None:
        self._tell(live, None)
        if live.is_gone:
            self.intake.left(live)
        elif live.machine.wake_at is None and any(reason.startswith("verifier:") for reason in live.state.parked or ()):
            delay = live.program.blueprint.limits.verifier_park_retry_s
            asyncio.get_running_loop().call_later(delay, self._ask_again, live)

    def _ask_again(self, live: LiveRun) -> None:
        """A run waits for a verifier: a new life of it asks that once more."""
        if not live.is_gone and live.state.parked is not None:
            self.intake.restart(live.run_id)

    # --- time ------------------------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.pace.tick_s)
            if self.owner.is_revoked:
                _log.error("coordinator %d was replaced while it did not answer; it ends", self.settings.index)
                self._leave(1)
                return
            if self.owner.lapses != self._lapses_seen and not self.owner.is_late:
                await self._see_what_is_left()
            is_late = self._is_late()
            for pool in (self.judges, *self.pools.values()):
                if pool.is_held != is_late:
                    pool.hold(is_late)
            self.shard.tick()
            self.desk.forget_silent()

    def _is_late(self) -> bool:
        """Whether others may own our runs by now: then nothing of them may be started."""
        return self.owner.is_late or self.owner.lapses != self._lapses_seen

    async def _see_what_is_left(self) -> None:
        """The lease had ended before it was renewed, as after a stop of this process: see which runs are still ours."""
        lapses = self.owner.lapses
        try:
            lost = await self.intake.let_go()
        except StoreError as error:
            _log.debug("it cannot be seen yet whose runs these are: %s", error)
            return
        self._lapses_seen = lapses
        if lost:
            _log.warning("coordinator %d was away for longer than its lease; %d of its runs go on elsewhere", self.settings.index, lost)

    async def _look_around(self) -> None:
        """Find commands that came into inboxes without a word to us."""
        turn = 0
        while True:
            await asyncio.sleep(self.settings.limits.inbox_poll_s)
            runs = list(self.shard.runs)
            turn = turn if turn < len(runs) else 0
            for run_id in runs[turn : turn + _INBOXES_PER_LOOK]:
                try:
                    commands = await self.store.inbox(run_id)
                except StoreError:
                    break
                if commands:
                    self.shard.take(run_id, commands)
            turn += _INBOXES_PER_LOOK

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(_report, self._tasks))

    def _figures(self) -> Figures:
        pools = [self.judges, *self.pools.values()]
        figures: Figures = {
            "runs": len(self.shard.runs),
            "waiting": sum(live.state.parked is not None for live in list(self.shard.runs.values())),
            "arriving": len(self.intake.arriving),
            "stuck": len(self.intake.stuck),
            "commits": sum(program.committed for program in self.programs.all()),
            "append_messages": self._append_messages,
            "worker_messages": sum(pool.messages for pool in pools),
            "open_requests": sum(pool.open for pool in pools),
            "waiting_appends": len(self.shard.appends),
            "cpu_s": time.process_time(),
        }
        figures.update((f"waiting:{group}", pool.waiting) for group, pool in self.pools.items())
        return figures


def _client_stem(settings: ShardSettings, index: int) -> str:
    """How the names begin under which all lives of a coordinator are known to workers."""
    return f"{settings.deployment}/{index}:"


def _report(tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
    tasks.discard(task)
    if not task.cancelled() and task.exception() is not None:
        _log.error("a task of the coordinator failed", exc_info=task.exception())


def _ray_peer(name: str) -> Peer:
    from agentraft_ray.actors.gateway import RayPeer  # noqa: PLC0415 - the class works without Ray as well

    return RayPeer(name)
