"""How runs come to a shard: new ones are admitted and claimed in batches, others are claimed and read from their logs one by one."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from agentraft_ray.actors.client_messages import Accepted, Attached, Submission
from agentraft_ray.actors.desk import Desk
from agentraft_ray.actors.live import LiveRun, Program
from agentraft_ray.actors.outcomes import failure_of, outcome_of
from agentraft_ray.actors.programs import Programs
from agentraft_ray.actors.shard import Shard
from agentraft_ray.checkpoint.base import Answer, AnswerKind, NewRun, RunMeta, RunStore
from agentraft_ray.errors import AgentRaftError, FingerprintMismatch, RunExpired, RunIdConflict, RunNotFound, StoreError, StoreUnavailable
from agentraft_ray.protocol.records import RunAdmitted, RunParked, decode_record
from agentraft_ray.protocol.state import RunState
from agentraft_ray.runtime.acknowledged import AcknowledgedLogs
from agentraft_ray.runtime.logs import RunLogs, admission_digest
from agentraft_ray.runtime.outputs import RunOutputs

__all__ = ["Arrival", "Intake"]

_log = logging.getLogger("agentraft_ray")

_PICKUPS_MAX = 64  # runs whose logs are read at a time
_FOREIGN_POLL_S = 0.5  # how often runs that somebody else works on are looked at
_PAUSE_S = 0.05
_REWOUND = "rewound:"
_REASON_CHARS_MAX = 500


class Arrival:
    """A run on its way to this shard, and who wants to hear of it ("" = nobody). `wanted` = the admission that the client meant."""

    __slots__ = ("client", "listening", "rewound", "run_id", "wanted")

    def __init__(self, run_id: str, client: str = "", listening: bool = False, rewound: str = "", wanted: bytes = b"") -> None:
        self.run_id = run_id
        self.client = client
        self.listening = listening
        self.rewound = rewound
        self.wanted = wanted


class Intake:
    """Admits, claims and restores runs for a shard. `owner` is the shard's id for this life; `runs_max` bounds what it holds."""

    def __init__(self, shard: Shard, programs: Programs, logs: RunLogs, desk: Desk, owner: str, runs_max: int) -> None:
        self.shard = shard
        self.programs = programs
        self.logs = logs
        self.store: RunStore = logs.store
        self.desk = desk
        self.owner = owner
        self.runs_max = runs_max
        self.arriving: dict[str, Arrival] = {}
        self.stuck: dict[str, str] = {}  # runs whose pipeline is not known here -> why
        self._known = AcknowledgedLogs(runs_max)
        self._foreign: dict[str, Arrival] = {}  # runs that a living owner works on
        self._room = asyncio.Semaphore(_PICKUPS_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_left = asyncio.Event()

    @property
    def held(self) -> int:
        """Runs that are here or on their way."""
        return len(self.shard.runs) + len(self.arriving)

    # --- new runs ------------------------------------------------------------------------------------------------------------

    async def submit(self, client: str, submissions: Sequence[Submission]) -> list[Accepted]:
        """Take in tasks; returns when each of them stands in the store, or cannot. Waits while the shard is full."""
        self.desk.welcome(client)
        while self.held >= self.runs_max:
            self._has_left.clear()
            await self._has_left.wait()
        accepted: dict[str, Accepted] = {}
        new: list[tuple[Submission, Program, bytes, RunState]] = []
        batch: list[NewRun] = []
        for one in submissions:
            program = self.programs.get(one.definition)
            if one.task is not None and program is None:
                accepted[one.run_id] = Accepted(one.run_id, False, "UnknownDefinition", "register the definition first")
            elif one.task is None or program is None or one.run_id in self.shard.runs or one.run_id in self.arriving:
                wanted = admission_digest(one.task, program.plan) if one.task is not None and program is not None else b""
                accepted[one.run_id] = self.attach(one.run_id, client, one.listening, wanted)
            else:
                wanted, stored, state = self.logs.admission(one.run_id, one.task, program.plan)
                self.arriving[one.run_id] = Arrival(one.run_id, client, one.listening, wanted=wanted)
                new.append((one, program, wanted, state))
                batch.append(NewRun(one.run_id, wanted, stored, state.head))
        claims: list[tuple[Arrival, Program, RunState, RunMeta]] = []
        for (one, program, wanted, state), admission in zip(new, await self.store.admit_many(batch) if batch else (), strict=True):
            arrival = self.arriving[one.run_id]
            try:
                if isinstance(admission, StoreError):
                    raise admission
                self.logs.check_admitted(one.run_id, wanted, admission.meta)
            except AgentRaftError as error:
                del self.arriving[one.run_id]
                failure = failure_of(one.run_id, error)
                accepted[one.run_id] = Accepted(one.run_id, False, failure.error, failure.message, failure.fields)
                continue
            accepted[one.run_id] = Accepted(one.run_id, admission.created)
            if admission.created:
                claims.append((arrival, program, state, admission.meta))
            else:
                self._spawn(self._pick_up(arrival))
        if claims:
            self._spawn(self._claim(claims))
        return [accepted[one.run_id] for one in submissions]

    async def _claim(self, claims: Sequence[tuple[Arrival, Program, RunState, RunMeta]]) -> None:
        """Claim runs that were admitted just now; their logs need not be read."""
        made = [self.logs.claim_entry(arrival.run_id, self.owner, meta, 0) for arrival, _, _, meta in claims]
        answers = await self.store.append_many([entry for entry, _ in made])
        for (arrival, program, state, _), (entry, record), answer in zip(claims, made, answers, strict=True):
            if isinstance(answer, Answer) and answer.kind is AnswerKind.APPENDED:
                state.apply(record, entry.records[0])
                self._adopt(arrival, program, state)
            else:
                self._spawn(self._pick_up(arrival))

    # --- runs that exist -----------------------------------------------------------------------------------------------------

    def attach(self, run_id: str, client: str, listening: bool = False, wanted: bytes = b"") -> Accepted:
        """Tell `client` from now on how a run goes on; the run is picked up if it is not here. `wanted` = what it must have been
        admitted as, if that matters."""
        live = self.shard.runs.get(run_id)
        arrival = self.arriving.get(run_id)
        present = admission_digest(live.state.task, live.state.plan) if live is not None else arrival.wanted if arrival is not None else b""
        if wanted and present and wanted != present:
            error = _conflict(run_id)
            return Accepted(run_id, False, type(error).__name__, str(error), {"run_id": run_id})
        if live is not None:
            self._attach_live(live, client, listening)
        elif arrival is not None:
            arrival.client, arrival.listening, arrival.wanted = client, listening or arrival.listening, wanted or arrival.wanted
        else:
            self.arriving[run_id] = arrival = Arrival(run_id, client, listening, wanted=wanted)
            self._spawn(self._pick_up(arrival))
        return Accepted(run_id)

    def _attach_live(self, live: LiveRun, client: str, listening: bool) -> None:
        live.client = client
        if listening:
            live.listening = live.machine.listening = True
            self.desk.put(client, Attached(live.run_id, live.acknowledged.index))
        if live.told_waiting is not None:
            self.desk.put(client, outcome_of(live.state, None))

    def pick_up(self, run_ids: Iterable[str], client: str = "", listening: bool = False, rewound: str = "") -> int:
        """Go on with runs where their logs end, as soon as nobody else does; how many of them were not here yet."""
        count = 0
        for run_id in run_ids:
            if run_id not in self.shard.runs and run_id not in self.arriving:
                arrival = self.arriving[run_id] = Arrival(run_id, client, listening, rewound)
                self._spawn(self._pick_up(arrival))
                count += 1
        return count

    def restart(self, run_id: str) -> None:
        """Begin a new life of a run that this shard has: what it waits for may have come."""
        live = self.shard.runs.get(run_id)
        if live is not None:
            self.shard.drop(live)
            self._remember(live)
            self.pick_up([run_id], live.client, live.listening)

    def refused(self, live: LiveRun, answer: Answer | StoreError) -> None:
        """The store did not take an append of this run: another owner has it, or the store was away. See what becomes of it."""
        rewound = ""
        if isinstance(answer, Answer):
            lost_records = answer.kind in {AnswerKind.MOVED, AnswerKind.MISSING} or answer.token.epoch < live.machine.token.epoch
            rewound = f"the store answered {answer.kind.value} to record {live.acknowledged.index}" if lost_records else ""
            _log.info("run %s: the store answered %s; looking at it again", live.run_id, answer.kind.value)
        if rewound:
            self._remember(live)
        self.pick_up([live.run_id], live.client, live.listening, rewound)

    async def let_go(self) -> int:
        """Drop the runs that have another owner by now, and follow them from afar; how many. Raises StoreError."""
        here, lost = list(self.shard.runs.values()), 0
        for live, meta in zip(here, await self.store.metas([live.run_id for live in here]), strict=True):
            if isinstance(meta, StoreError):
                raise meta
            if meta is not None and meta.token != live.machine.token and not live.is_gone:
                self.shard.drop(live)
                self.pick_up([live.run_id], live.client, live.listening)
                lost += 1
        return lost

    def left(self, live: LiveRun) -> None:
        """A run is over or was given up: there is room for another one."""
        self._known.forget(live.run_id)
        self._has_left.set()

    async def _pick_up(self, arrival: Arrival) -> None:
        async with self._room:
            try:
                await self._restore(arrival)
            except FingerprintMismatch as error:
                self.stuck[arrival.run_id] = str(error)
                self._give_up(arrival, FingerprintMismatch(f"run {arrival.run_id}: {error}", run_id=arrival.run_id))
            except StoreUnavailable as error:
                _log.warning("run %s waits for its store: %s", arrival.run_id, error)
                await asyncio.sleep(_FOREIGN_POLL_S)
                self._spawn(self._pick_up(arrival))
            except AgentRaftError as error:
                self._give_up(arrival, error)

    async def _restore(self, arrival: Arrival) -> None:
        run_id = arrival.run_id
        while True:
            meta = await self.logs.meta(run_id)
            if arrival.wanted and arrival.wanted != meta.admission:
                self.desk.put(arrival.client, failure_of(run_id, _conflict(run_id)))
                arrival.client = ""  # whoever asked meant another run
            if meta.status == "finished":
                await self._tell_finished(arrival, meta)
                return
            program = await self.programs.find((await self._admitted(run_id)).fingerprint)
            known = self._known.get(run_id)
            if known is not None and not arrival.rewound:
                arrival.rewound = known.lost(meta)
            entry, _ = self.logs.claim_entry(run_id, self.owner, meta, known.token.epoch if known is not None else 0)
            answer = await self.store.append(entry)
            if answer.kind is AnswerKind.APPENDED:
                break
            if answer.kind is AnswerKind.FOREIGN:
                raise self.logs.refuse_foreign(run_id)
            if answer.kind is AnswerKind.LEASED:
                self._foreign[run_id] = arrival
                return
            await asyncio.sleep(_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        state = await self.logs.fold(run_id)
        commands = await self.store.inbox(run_id)
        if arrival.rewound:
            self._park_rewound(arrival, program, state)
        else:
            self._adopt(arrival, program, state, commands)

    async def _admitted(self, run_id: str) -> RunAdmitted:
        stored = await self.store.read(run_id, 0, 1)
        record = decode_record(self.logs.seal.open(run_id, 0, stored[0])) if stored else None
        if not isinstance(record, RunAdmitted):
            raise RunNotFound(f"no log of run {run_id!r} in this store", run_id=run_id)
        return record

    def _adopt(self, arrival: Arrival, program: Program, state: RunState, commands: Iterable[Any] = ()) -> None:
        self.arriving.pop(arrival.run_id, None)
        self.stuck.pop(arrival.run_id, None)
        live = LiveRun(program, state, arrival.client, arrival.listening, self.store, self.logs.seal)
        if arrival.listening:
            self.desk.put(arrival.client, Attached(arrival.run_id, state.index))
        self.shard.adopt(live, commands)

    def _park_rewound(self, arrival: Arrival, program: Program, state: RunState) -> None:
        """The log has lost what was acknowledged: the run is put aside, and the log says why."""
        self.arriving.pop(arrival.run_id, None)
        live = LiveRun(program, state, arrival.client, arrival.listening, self.store, self.logs.seal)
        reason = f"{_REWOUND} {arrival.rewound}"[:_REASON_CHARS_MAX]
        self._known.forget(arrival.run_id)
        self.shard.put_aside(live, RunParked((reason,), self.shard.clock()))

    async def _tell_finished(self, arrival: Arrival, meta: RunMeta) -> None:
        run_id = arrival.run_id
        if arrival.client:
            if meta.expired:
                message = f"run {run_id!r} has {meta.outcome} and its log has expired; use a new run id to run it again"
                raise RunExpired(message, run_id=run_id, outcome=meta.outcome)
            state = await self.logs.fold(run_id)
            outputs = RunOutputs(state, (None,), self.store, self.logs.seal, 0)
            last = state.plan.size - 1
            succeeded = state.finished is not None and state.finished.outcome == "succeeded"
            output = (await outputs.fetch((last,)))[last] if succeeded else None
            if arrival.listening:
                self.desk.put(arrival.client, Attached(run_id, state.index))
            self.desk.put(arrival.client, outcome_of(state, output))
        self._forget(arrival)

    def _give_up(self, arrival: Arrival, error: AgentRaftError) -> None:
        if arrival.client:
            self.desk.put(arrival.client, failure_of(arrival.run_id, error))
        else:
            _log.warning("run %s cannot be gone on with here: %s", arrival.run_id, error)
        self._forget(arrival)

    def _forget(self, arrival: Arrival) -> None:
        self.arriving.pop(arrival.run_id, None)
        self._known.forget(arrival.run_id)
        self._has_left.set()

    def _remember(self, live: LiveRun) -> None:
        self._known.remember(live.run_id, live.acknowledged)

    # --- runs of others ------------------------------------------------------------------------------------------------------

    async def watch_foreign(self) -> None:
        """For ever: look whether runs that others work on have ended, or lost their owner."""
        while True:
            await asyncio.sleep(_FOREIGN_POLL_S)
            waiting, self._foreign = self._foreign, {}
            if not waiting:
                continue
            try:
                metas = await self.store.metas(list(waiting))
                owners = {meta.token.owner for meta in metas if isinstance(meta, RunMeta)}
                dead = {owner for owner in owners if not await self.store.lease_alive(owner)}
            except StoreError:
                self._foreign.update(waiting)
                continue
            for arrival, meta in zip(waiting.values(), metas, strict=True):
                if isinstance(meta, RunMeta) and meta.status == "open" and meta.token.owner not in dead:
                    self._foreign[arrival.run_id] = arrival
                else:
                    self._spawn(self._pick_up(arrival))

    def close(self) -> None:
        """Stop whatever is under way."""
        for task in self._tasks:
            task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("taking in a run failed", exc_info=task.exception())


def _conflict(run_id: str) -> RunIdConflict:
    message = f"run {run_id!r} was admitted before with another task or pipeline; use another run id, or resume that run"
    return RunIdConflict(message, run_id=run_id)
