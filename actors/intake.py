"""How runs come to a shard: new ones are admitted and claimed in batches, others are claimed and read from their logs one by one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from agentraft_ray.actors.client_messages import SHARD_FULL, UNKNOWN_DEFINITION, Accepted, Attached, Submission, Submitted
from agentraft_ray.actors.desk import Desk
from agentraft_ray.actors.live import LiveRun, Program
from agentraft_ray.actors.outcomes import failure_of, outcome_of
from agentraft_ray.actors.pace import ShardPace
from agentraft_ray.actors.programs import Programs
from agentraft_ray.actors.shard import Shard
from agentraft_ray.checkpoint.base import Answer, AnswerKind, NewRun, RunMeta, RunStore
from agentraft_ray.errors import AgentRaftError, FingerprintMismatch, RunExpired, RunIdConflict, StoreError, StoreUnavailable
from agentraft_ray.protocol.records import RunParked
from agentraft_ray.protocol.state import RunState
from agentraft_ray.runtime.acknowledged import AcknowledgedLogs
from agentraft_ray.runtime.logs import RunLogs, admission_digest
from agentraft_ray.runtime.outputs import RunOutputs
from agentraft_ray.telemetry.tracing import RunTrace, traced, tracing

__all__ = ["Arrival", "Intake"]

_log = logging.getLogger("agentraft_ray")

_PICKUPS_MAX = 64  # runs whose logs are read at a time
_PAUSE_S = 0.05
_REWOUND = "rewound:"
_REASON_CHARS_MAX = 500

ATTACHED = "attached"
"""The type of an announcement that is none: from here on a client (its `detail`) hears the events of a run."""

Claim = tuple["Arrival", Program, RunState, RunMeta]


class Arrival:
    """A run on its way to this shard, and who wants to hear of it (True: of its events too)."""

    __slots__ = ("clients", "rewound", "run_id")

    def __init__(self, run_id: str, clients: dict[str, bool], rewound: str = "") -> None:
        self.run_id = run_id
        self.clients = clients
        self.rewound = rewound


class Intake:
    """Admits, claims and restores runs for a shard. `owner` is the shard's id for this life; `runs_max` bounds what it holds."""

    def __init__(
        self, shard: Shard, programs: Programs, logs: RunLogs, desk: Desk, owner: str, runs_max: int, pace: ShardPace | None = None
    ) -> None:
        self.shard = shard
        self.programs = programs
        self.logs = logs
        self.store: RunStore = logs.store
        self.desk = desk
        self.owner = owner
        self.runs_max = runs_max
        self.pace = pace or ShardPace()
        self.arriving: dict[str, Arrival] = {}
        self.stuck: dict[str, str] = {}  # runs whose pipeline is not known here -> why
        self.known = AcknowledgedLogs(runs_max)
        self.foreign: dict[str, Arrival] = {}  # runs that a living owner works on
        self._admitting = 0
        self._room = asyncio.Semaphore(_PICKUPS_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_left = asyncio.Event()

    @property
    def held(self) -> int:
        """Runs that are here or on their way."""
        return len(self.shard.runs) + len(self.arriving) + self._admitting

    # --- new runs ------------------------------------------------------------------------------------------------------------

    async def submit(self, client: str, submissions: Sequence[Submission]) -> Submitted:
        """Take in tasks; returns when each of them stands in the store, cannot, or finds the shard full for a while."""
        session = self.desk.welcome(client)
        answers: dict[int, Accepted] = {}
        tasks: list[tuple[int, Submission, Program]] = []
        for at, one in enumerate(submissions):
            program = self.programs.get(one.definition)
            if self.shard.is_draining:
                answers[at] = _refused(one.run_id, StoreUnavailable("this cluster is being shut down; submit the run to another one"))
            elif one.task is None:
                answers[at] = self.attach(one.run_id, client, one.listening)
            elif program is None:
                answers[at] = Accepted(one.run_id, False, UNKNOWN_DEFINITION, "register the definition first")
            elif one.run_id in self.shard.runs:
                answers[at] = self._attach_task(one, program, client)
            else:
                tasks.append((at, one, program))
        with_room = await self._with_room(tasks, is_patient=not answers)
        answers |= {at: Accepted(one.run_id, False, SHARD_FULL) for at, one, _ in tasks[len(with_room) :]}
        if with_room:
            answers |= await self._admit(client, with_room)
        return Submitted(session, [answers[at] for at in range(len(submissions))])

    async def _with_room(self, tasks: list[tuple[int, Submission, Program]], is_patient: bool) -> list[tuple[int, Submission, Program]]:
        """The first of these tasks, as many as may come in; waits a while for room for one of them."""
        deadline = asyncio.get_running_loop().time() + self.pace.room_wait_s
        while True:
            room, count = self.runs_max - self.held, 0
            for _, one, _ in tasks:
                room -= one.run_id not in self.arriving
                if room < 0:
                    break
                count += 1
            left_s = deadline - asyncio.get_running_loop().time()
            if count or not tasks or not is_patient or left_s <= 0:
                return tasks[:count]
            self._has_left.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._has_left.wait()

    async def _admit(self, client: str, tasks: Sequence[tuple[int, Submission, Program]]) -> dict[int, Accepted]:
        """Have the store decide about every task: it is new, it is the one that has the id already, or another one has it."""
        spans = tracing()
        roots = [None if spans is None else spans.admission(program.plan, one.run_id, one.trace) for _, one, program in tasks]
        made = [
            self.logs.admission(one.run_id, one.task, program.plan, one.trace if root is None else root.context)  # type: ignore[arg-type]
            for (_, one, program), root in zip(tasks, roots, strict=True)
        ]
        new = [NewRun(state.run_id, wanted, stored, state.head) for wanted, stored, state in made]
        self._admitting += len(new)
        try:
            admissions = await self.store.admit_many(new)
        finally:
            self._admitting -= len(new)
        answers: dict[int, Accepted] = {}
        claims: list[Claim] = []
        for (at, one, program), root, (wanted, _, state), admission in zip(tasks, roots, made, admissions, strict=True):
            try:
                if isinstance(admission, StoreError):
                    raise admission
                self.logs.check_admitted(one.run_id, wanted, admission.meta)
            except AgentRaftError as error:
                answers[at] = _refused(one.run_id, error)
                continue
            answers[at] = Accepted(one.run_id, admission.created)
            if root is not None and admission.created:
                root.end()
            is_here = one.run_id in self.shard.runs or one.run_id in self.arriving
            if admission.created and not is_here:
                arrival = self.arriving[one.run_id] = Arrival(one.run_id, {client: one.listening})
                claims.append((arrival, program, state, admission.meta))
            else:
                self.attach(one.run_id, client, one.listening)
        if claims:
            self._spawn(self._claim(claims))
        return answers

    async def _claim(self, claims: Sequence[Claim]) -> None:
        """Claim runs that were admitted just now; their logs need not be read."""
        traces = [traced(program.plan, arrival.run_id, state.trace) for arrival, program, state, _ in claims]
        made = [
            self.logs.claim_entry(arrival.run_id, self.owner, meta, 0, trace.context if trace is not None else "")
            for (arrival, _, _, meta), trace in zip(claims, traces, strict=True)
        ]
        answers: Sequence[object]
        try:
            answers = await self.store.append_many([entry for entry, _ in made])
        except AgentRaftError as error:
            _log.warning("%d new runs could not be claimed, their logs are read: %s", len(claims), error)
            answers = [error] * len(claims)
        for (arrival, program, state, _), trace, (entry, record), answer in zip(claims, traces, made, answers, strict=True):
            if isinstance(answer, Answer) and answer.kind is AnswerKind.APPENDED:
                state.apply(record, entry.records[0])
                self._adopt(arrival, program, state, trace)
            else:
                self._spawn(self._pick_up(arrival))

    # --- runs that exist -----------------------------------------------------------------------------------------------------

    def _attach_task(self, one: Submission, program: Program, client: str) -> Accepted:
        state = self.shard.runs[one.run_id].state
        assert one.task is not None
        if admission_digest(one.task, program.plan) != admission_digest(state.task, state.plan):
            return _refused(one.run_id, _conflict(one.run_id))
        return self.attach(one.run_id, client, one.listening)

    def attach(self, run_id: str, client: str, listening: bool = False) -> Accepted:
        """Tell `client` from now on how a run goes on; the run is picked up if it is not here."""
        live = self.shard.runs.get(run_id)
        if live is not None:
            self._attach_live(live, client, listening)
        else:
            self.pick_up([run_id], {client: listening})
        return Accepted(run_id)

    def _attach_live(self, live: LiveRun, client: str, listening: bool) -> None:
        live.clients[client] = listening or live.clients.get(client, False)
        told_waiting = live.told_waiting
        if listening:
            # What was decided before somebody listened was not announced, and may not stand in the log yet. So the client is attached
            # by a command that is carried out when it does: then the log tells all that is before, and the machine all that follows.
            live.machine.listening = True
            live.machine.announce(ATTACHED, -1, 0, client)
            self.shard.take(live.run_id, ())
        if told_waiting is not None and live.ready is None and not live.is_gone:
            self.desk.put(client, outcome_of(live.state, None))
        else:
            live.told_waiting = None  # if it still waits when the append under way stands, everybody is told

    def attached(self, live: LiveRun, client: str) -> None:
        """The events of a run are told to `client` from here on; what is before stands in the log."""
        if client not in live.listeners:
            live.listeners.append(client)
        self.desk.put(client, Attached(live.run_id, live.acknowledged.index))

    def pick_up(self, run_ids: Iterable[str], clients: dict[str, bool] | None = None, rewound: str = "") -> int:
        """Go on with runs where their logs end, as soon as nobody else does; how many of them were not here yet."""
        count = 0
        for run_id in run_ids:
            arrival = self.arriving.get(run_id)
            if arrival is not None:
                for client, listens in (clients or {}).items():
                    arrival.clients[client] = listens or arrival.clients.get(client, False)
            elif run_id not in self.shard.runs:
                arrival = self.arriving[run_id] = Arrival(run_id, dict(clients or {}), rewound)
                self._spawn(self._pick_up(arrival))
                count += 1
        return count

    def restart(self, run_id: str) -> None:
        """Begin a new life of a run that this shard has: what it waits for may have come."""
        live = self.shard.runs.get(run_id)
        if live is not None:
            self.shard.drop(live)
            self._remember(live)
            self.pick_up([run_id], live.clients)

    def refused(self, live: LiveRun, answer: Answer | StoreError) -> None:
        """The store did not take an append of this run: another owner has it, or the store was away. See what becomes of it."""
        rewound = ""
        if isinstance(answer, Answer):
            lost_records = answer.kind in {AnswerKind.MOVED, AnswerKind.MISSING} or answer.token.epoch < live.machine.token.epoch
            rewound = f"the store answered {answer.kind.value} to record {live.acknowledged.index}" if lost_records else ""
            about = {"run_id": live.run_id}
            _log.info("run %s: the store answered %s; looking at it again", live.run_id, answer.kind.value, extra=about)
        self._remember(live)  # a store that was away may come back with less than it had acknowledged
        self.pick_up([live.run_id], live.clients, rewound)

    async def let_go(self) -> int:
        """Drop the runs that have another owner by now, and follow them from afar; how many. Raises StoreError."""
        here, lost = list(self.shard.runs.values()), 0
        for live, meta in zip(here, await self.store.metas([live.run_id for live in here]), strict=True):
            if isinstance(meta, StoreError):
                raise meta
            if meta is not None and meta.token != live.machine.token and not live.is_gone:
                self.shard.drop(live)
                self.pick_up([live.run_id], live.clients)
                lost += 1
        return lost

    def left(self, live: LiveRun) -> None:
        """A run is over or was given up: there is room for another one."""
        self.known.forget(live.run_id)
        self._has_left.set()

    async def _pick_up(self, arrival: Arrival) -> None:
        async with self._room:
            try:
                await self._restore(arrival)
            except FingerprintMismatch as error:
                self.stuck[arrival.run_id] = str(error)
                self._give_up(arrival, FingerprintMismatch(f"run {arrival.run_id}: {error}", run_id=arrival.run_id))
            except StoreUnavailable as error:
                _log.warning("run %s waits for its store: %s", arrival.run_id, error, extra={"run_id": arrival.run_id})
                await asyncio.sleep(self.pace.foreign_poll_s)
                self._spawn(self._pick_up(arrival))
            except AgentRaftError as error:
                self._give_up(arrival, error)

    async def _restore(self, arrival: Arrival) -> None:
        run_id = arrival.run_id
        while True:
            meta = await self.logs.meta(run_id)
            if self.shard.is_draining:
                self._forget(arrival)
                return
            if meta.status == "finished":
                await self._tell_finished(arrival, meta)
                return
            admitted = await self.logs.admitted(run_id)
            program = await self.programs.find(admitted.fingerprint)
            trace = traced(program.plan, run_id, admitted.trace)
            known = self.known.get(run_id)
            if known is not None and not arrival.rewound:
                arrival.rewound = known.lost(meta)
            epoch = known.token.epoch if known is not None else 0
            entry, _ = self.logs.claim_entry(run_id, self.owner, meta, epoch, trace.context if trace is not None else "")
            answer = await self.store.append(entry)
            if answer.kind is AnswerKind.APPENDED:
                break
            if answer.kind is AnswerKind.FOREIGN:
                raise self.logs.refuse_foreign(run_id)
            if answer.kind is AnswerKind.LEASED:
                if arrival.clients:
                    self.foreign[run_id] = arrival
                else:  # whoever has it goes on with it, or whoever looks after that one
                    self._forget(arrival)
                return
            await asyncio.sleep(_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        state = await self.logs.fold(run_id)
        commands = await self.store.inbox(run_id)
        if arrival.rewound:
            self._park_rewound(arrival, program, state, trace)
        else:
            self._adopt(arrival, program, state, trace, commands)

    def _adopt(self, arrival: Arrival, program: Program, state: RunState, trace: RunTrace | None, commands: Iterable[Any] = ()) -> None:
        self.arriving.pop(arrival.run_id, None)
        self.stuck.pop(arrival.run_id, None)
        live = LiveRun(program, state, arrival.clients, self.store, self.logs.seal, trace)
        for client in live.listeners:
            self.attached(live, client)
        self.shard.adopt(live, commands)

    def _park_rewound(self, arrival: Arrival, program: Program, state: RunState, trace: RunTrace | None) -> None:
        """The log has lost what was acknowledged: the run is put aside, and the log says why."""
        self.arriving.pop(arrival.run_id, None)
        live = LiveRun(program, state, arrival.clients, self.store, self.logs.seal, trace)
        for client in live.listeners:
            self.attached(live, client)
        reason = f"{_REWOUND} {arrival.rewound}"[:_REASON_CHARS_MAX]
        self.known.forget(arrival.run_id)
        self.shard.put_aside(live, RunParked((reason,), self.shard.clock()))

    async def _tell_finished(self, arrival: Arrival, meta: RunMeta) -> None:
        run_id = arrival.run_id
        if arrival.clients:
            if meta.expired:
                message = f"run {run_id!r} has {meta.outcome} and its log has expired; use a new run id to run it again"
                raise RunExpired(message, run_id=run_id, outcome=meta.outcome)
            state = await self.logs.fold(run_id)
            outputs = RunOutputs(state, (None,), self.store, self.logs.seal, 0)
            last = state.plan.size - 1
            succeeded = state.finished is not None and state.finished.outcome == "succeeded"
            outcome = outcome_of(state, (await outputs.fetch((last,)))[last] if succeeded else None)
            for client, listens in arrival.clients.items():
                if listens:
                    self.desk.put(client, Attached(run_id, state.index))
                self.desk.put(client, outcome)
        self._forget(arrival)

    def _give_up(self, arrival: Arrival, error: AgentRaftError) -> None:
        for client in arrival.clients:
            self.desk.put(client, failure_of(arrival.run_id, error))
        if not arrival.clients:
            _log.warning("run %s cannot be gone on with here: %s", arrival.run_id, error, extra={"run_id": arrival.run_id})
        self._forget(arrival)

    def _forget(self, arrival: Arrival) -> None:
        self.arriving.pop(arrival.run_id, None)
        self.known.forget(arrival.run_id)
        self._has_left.set()

    def _remember(self, live: LiveRun) -> None:
        self.known.remember(live.run_id, live.acknowledged)

    # --- runs of others ------------------------------------------------------------------------------------------------------

    async def watch_foreign(self) -> None:
        """For ever: look whether runs that others work on have ended, or lost their owner."""
        while True:
            await asyncio.sleep(self.pace.foreign_poll_s)
            waiting, self.foreign = self.foreign, {}
            if not waiting:
                continue
            try:
                metas = await self.store.metas(list(waiting))
                owners = {meta.token.owner for meta in metas if isinstance(meta, RunMeta)}
                dead = {owner for owner in owners if not await self.store.lease_alive(owner)}
            except StoreError:
                self.foreign.update(waiting)
                continue
            for arrival, meta in zip(waiting.values(), metas, strict=True):
                if isinstance(meta, RunMeta) and meta.status == "open" and meta.token.owner not in dead:
                    self.foreign[arrival.run_id] = arrival
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


def _refused(run_id: str, error: AgentRaftError) -> Accepted:
    failure = failure_of(run_id, error)
    return Accepted(run_id, False, failure.error, failure.message, failure.fields)


def _conflict(run_id: str) -> RunIdConflict:
    message = f"run {run_id!r} was admitted before with another task or pipeline; use another run id, or resume that run"
    return RunIdConflict(message, run_id=run_id)
