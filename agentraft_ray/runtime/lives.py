"""The lives of runs in one event loop: claim, drive, and again while a run is taken from us or commands wait for it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

from agentraft_ray.checkpoint.base import Answer, AnswerKind, Command, RunMeta
from agentraft_ray.errors import (
    AgentRaftError,
    FingerprintMismatch,
    LogRewound,
    OwnershipLost,
    RunNotFound,
    RunWaiting,
    StoreError,
    StoreUnavailable,
)
from agentraft_ray.events import event_of
from agentraft_ray.protocol.messages import Announce
from agentraft_ray.protocol.records import Record, RunParked
from agentraft_ray.protocol.state import RunState
from agentraft_ray.result import RunResult
from agentraft_ray.runtime.acknowledged import Acknowledged, AcknowledgedLogs
from agentraft_ray.runtime.driver import RunDriver
from agentraft_ray.runtime.ending import end_unattended
from agentraft_ray.runtime.environment import Environment
from agentraft_ray.runtime.hooks import EventSink, resumed, told_of
from agentraft_ray.runtime.inboxes import Inboxes
from agentraft_ray.runtime.logs import changed_between
from agentraft_ray.runtime.news import News
from agentraft_ray.runtime.outputs import RunOutputs
from agentraft_ray.runtime.results import Commits, error_result, result_of
from agentraft_ray.telemetry.tracing import RunTrace, traced, tracing

__all__ = ["Lives"]

_log = logging.getLogger("agentraft_ray")

_REWOUND = "rewound:"
_REASON_CHARS_MAX = 500


class Lives:
    """Drives runs over one environment, each in one life at a time."""

    def __init__(self, environment: Environment, known: AcknowledgedLogs) -> None:
        self.environment = environment
        self.known = known
        self.drivers: dict[str, RunDriver] = {}
        self.inboxes = Inboxes(environment.store, environment.limits.inbox_poll_s, self.drivers)
        self.news = News(environment.store, environment.limits.inbox_poll_s)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._under_way = 0
        self._all_done = asyncio.Event()
        self._is_closing = False

    async def live(self, run_id: str, started: float, sink: EventSink | None, fresh: tuple[RunMeta, RunState] | None = None) -> RunResult:
        """Go on with a run until it has finished or waits. While another coordinator works on it this waits as long as the lease of
        that one lives, and then takes the run over.

        `fresh` = the run as it was just admitted. `started` = `time.perf_counter()` at the begin of the call. Store errors are
        results. Raises RunNotFound, RunExpired, FingerprintMismatch.
        """
        try:
            return await self._live(run_id, started, sink, fresh)
        except StoreError as error:
            return self._failed(run_id, error, started)

    async def to_the_end(self, run_id: str, sink: EventSink | None, reasons: tuple[str, ...] = ()) -> RunResult:
        """Go on with a run whenever what it waits for may have come, until it has finished. One that was parked as rewound, or
        whose store fails while it is driven, is given back: somebody has to look at it. An outage while it waits is waited out.

        `reasons` = what it is known to wait for; then there is nothing to do before that has come.
        """
        resume_at: float | None = None
        while True:
            if reasons:
                await self.news.of(run_id, self._asks_again_in_s(reasons, resume_at))
            started = time.perf_counter()
            try:
                result = await self._live(run_id, started, sink)
            except StoreError as error:
                if not reasons or not isinstance(error, StoreUnavailable):
                    return self._failed(run_id, error, started)
                resume_at = None
            else:
                if not result.is_parked or _is_rewound(result):
                    return result
                reasons, resume_at = result.waiting_for, result.resume_at

    async def look(self, run_id: str) -> bool:
        """Have what lies in the inbox of a run taken now; whether the run is driven or waited for here. Raises StoreError."""
        if run_id not in self.drivers:
            return self.news.tell(run_id)
        await self.inboxes.look(run_id)
        return True

    async def end(self, run_id: str, sink: EventSink | None) -> None:
        """Let a run that nobody drives take what lies in its inbox, a cancellation, without starting anything of it.

        One that another coordinator works on finds it there by itself. Raises StoreError, RunNotFound.
        """
        environment = self.environment
        turn = self._turns.setdefault(run_id, asyncio.Lock())
        tell = None if sink is None else lambda state, announce: sink.put(event_of(run_id, state.plan, announce))
        async with turn, environment.owner as owner:
            poll_s, epoch = environment.limits.inbox_poll_s, self._epoch(run_id)
            if await end_unattended(environment.logs, owner.id, run_id, poll_s=poll_s, epoch=epoch, tell=tell):
                self.known.forget(run_id)
            if sink is not None:
                await sink.flush()

    async def logged_result(self, run_id: str, started: float, sink: EventSink | None = None) -> RunResult:
        """How a run stands in its log; `sink` is told what it has not been told yet. Raises RunNotFound, RunExpired."""
        environment = self.environment
        commits = Commits(environment.limits.result_steps_max)
        told: list[Announce] = []
        after = None if sink is None else sink.position

        def note(state: RunState, record: Record) -> None:
            commits.note(record)
            if after is not None and state.index - 1 > after:
                told.extend(told_of(state, record))

        state = await environment.logs.fold(run_id, note)
        if sink is not None:
            for announce in told:
                sink.put(event_of(run_id, state.plan, announce))
        outputs = RunOutputs(
            state, environment.output_types, environment.store, environment.seal, environment.limits.cached_outputs_bytes_max
        )
        return await result_of(state, outputs, commits, started)

    async def close(self) -> None:
        """Drain every run that is under way: its step is stopped, its log says that it waits for an owner, and its caller gets
        that as its result. Returns when all have ended, or after twice `Limits.drain_s`."""
        self._is_closing = True
        for driver in list(self.drivers.values()):
            driver.drain()
        if self._under_way:
            self._all_done.clear()
            try:
                async with asyncio.timeout(2 * self.environment.limits.drain_s):
                    await self._all_done.wait()
            except TimeoutError:
                _log.warning("%d runs did not end when their coordinator was closed; their store is closed under them", self._under_way)

    # --- one life ------------------------------------------------------------------------------------------------------------

    async def _live(self, run_id: str, started: float, sink: EventSink | None, fresh: tuple[RunMeta, RunState] | None = None) -> RunResult:
        """`live`, which raises what the store does as long as nothing is driven."""
        turn = self._turns.setdefault(run_id, asyncio.Lock())  # claims do not keep one owner from itself
        is_ours = fresh is not None
        self._under_way += 1
        try:
            async with turn, self.environment.owner:
                is_ours = is_ours or self.known.get(run_id) is not None
                return await self._one_after_another(run_id, started, sink, fresh)
        except RunNotFound:
            if not is_ours:
                raise
            raise LogRewound(f"run {run_id}: its log is gone from the store; restore the store", run_id=run_id, found=0) from None
        finally:
            if sink is not None:
                await sink.flush()
            self._under_way -= 1
            if not self._under_way:
                self._all_done.set()

    async def _one_after_another(
        self, run_id: str, started: float, sink: EventSink | None, fresh: tuple[RunMeta, RunState] | None
    ) -> RunResult:
        logs, owner = self.environment.logs, self.environment.owner
        rewound = ""
        waits = False
        trace: RunTrace | None = None
        while True:
            if fresh is not None:
                meta, admitted = fresh
                fresh = None
            else:
                meta, admitted = await logs.meta(run_id), None
                if meta.status == "finished":
                    self.known.forget(run_id)
                    return await self.logged_result(run_id, started, sink)
                if not waits and self.known.get(run_id) is None:
                    await self.refuse_changed(run_id)
            known = self.known.get(run_id)
            if known is not None and not rewound:
                rewound = known.lost(meta)
            trace = trace or await self._traced(run_id, admitted)
            answer = await logs.claim(run_id, owner.id, meta, self._epoch(run_id), admitted, trace.context if trace is not None else "")
            if answer.kind is not AnswerKind.APPENDED:
                if self._is_closing:
                    return self._failed(run_id, RunWaiting(f"run {run_id}: another coordinator works on it", run_id=run_id), started)
                if answer.kind is AnswerKind.LEASED and not waits:
                    words = "run %s: coordinator %s works on it; waiting for as long as its lease lives"
                    _log.info(words, run_id, answer.token.owner, extra={"run_id": run_id})
                    waits = True
                await self._pause(run_id, answer)
                continue
            try:
                (lived, trace) = (trace, None)
                result = await self._life(run_id, admitted, answer, started, sink, rewound, lived)
            except OwnershipLost as lost:
                rewound = str(lost) if lost.fields.get("rewound") else ""
                continue
            if not result.is_parked or _is_rewound(result) or self._is_closing or not await self._has_commands(run_id):
                return result
            rewound = ""

    async def _life(
        self,
        run_id: str,
        admitted: RunState | None,
        claimed: Answer,
        started: float,
        sink: EventSink | None,
        rewound: str,
        trace: RunTrace | None,
    ) -> RunResult:
        commits = Commits(self.environment.limits.result_steps_max)
        commits.expect(self.environment.plan.size)
        if admitted is not None:
            state = admitted
            if sink is not None:
                sink.put(event_of(run_id, state.plan, Announce("run_start", -1, 0, 0, 0, at=state.admitted_at)))
        else:
            state, other = await self._read(run_id, claimed, sink, commits)
            rewound = rewound or other
        commands = [] if admitted is not None else await self.environment.store.inbox(run_id)
        if trace is not None:
            trace.follow(state.token.epoch, state.traced_lives[0])
        driver = RunDriver(self.environment, state, commits, None if sink is None else _teller(sink, run_id, state), trace)
        try:
            if rewound or self._is_closing:
                reason = f"{_REWOUND} {rewound}"[:_REASON_CHARS_MAX] if rewound else "drained"
                await driver.park(RunParked((reason,), time.time()))
            else:
                await self._drive(driver, commands)
        except OwnershipLost:
            raise
        except StoreError as error:
            return error_result(run_id, error, state.plan.size, started, commits)
        finally:
            if trace is not None:
                trace.end()
            log = Acknowledged(*driver.acknowledged)
            if state.finished is not None and log.index == state.index:
                self.known.forget(run_id)
            elif not rewound or log.index > claimed.index:  # as long as it is not parked, a rewind must not be forgotten
                self.known.remember(run_id, log)
        result = await result_of(state, driver.outputs, commits, started)
        result.resume_at = driver.resume_at
        return result

    async def _read(self, run_id: str, claimed: Answer, sink: EventSink | None, commits: Commits) -> tuple[RunState, str]:
        """The state of a run that was claimed, and what makes its log another one than was acknowledged before, if anything."""
        known, other = self.known.get(run_id), ""
        told: list[Announce] = []
        first = _first_to_tell(sink, claimed)

        def note(state: RunState, record: Record) -> None:
            nonlocal other
            commits.note(record)
            if known is not None and state.index == known.index and state.head != known.head:
                other = known.other
            if sink is not None and state.index > first:
                told.extend(told_of(state, record))

        state = await self.environment.logs.fold(run_id, note)
        if sink is not None:
            tell = _teller(sink, run_id, state)
            if not sink.has_begun and first > 0:
                tell(Announce("run_start", -1, 0, detail=resumed(state), at=state.admitted_at))
            for announce in told:
                tell(announce)
        return state, other

    async def _drive(self, driver: RunDriver, commands: Sequence[Command]) -> None:
        run_id = driver.state.run_id
        self.drivers[run_id] = driver
        self.inboxes.watch()
        try:
            await driver.drive(commands)
        finally:
            self.drivers.pop(run_id, None)
            if not self.drivers:
                await self.inboxes.rest()

    # --- what they are made of -----------------------------------------------------------------------------------------------

    def _asks_again_in_s(self, reasons: tuple[str, ...], resume_at: float | None) -> float | None:
        """When a verifier that could not answer is asked again, in seconds from now; None where only news can help."""
        if not any(reason.startswith("verifier:") for reason in reasons):
            return None
        return self.environment.limits.verifier_park_retry_s if resume_at is None else max(0.0, resume_at - time.time())

    async def _has_commands(self, run_id: str) -> bool:
        try:
            return bool(await self.environment.store.inbox(run_id))
        except StoreError:  # the run is parked in good order: what may have come is found when the store is back
            return False

    async def refuse_changed(self, run_id: str) -> None:
        """Raise FingerprintMismatch where a run was admitted with another pipeline than this one; RunNotFound."""
        stored, plan = await self.environment.logs.admitted_plan(run_id), self.environment.plan
        if stored.fingerprint != plan.fingerprint:
            changed = changed_between(stored, plan)
            raise FingerprintMismatch(
                f"run {run_id!r} was admitted with another pipeline: {changed}; resume it with the first one, or fork it",
                run_id=run_id,
                changed=changed,
            )

    async def _traced(self, run_id: str, admitted: RunState | None) -> RunTrace | None:
        """The spans of the life that begins now, in the trace that the run was admitted with."""
        if tracing() is None:  # else the log need not be asked
            return None
        root = admitted.trace if admitted is not None else (await self.environment.logs.admitted(run_id)).trace
        return traced(self.environment.plan, run_id, root)

    async def _pause(self, run_id: str, refused: Answer) -> None:
        """Somebody else was first, or works on it: see again what becomes of the run."""
        if refused.kind is AnswerKind.FOREIGN:
            raise self.environment.logs.refuse_foreign(run_id)
        await asyncio.sleep(self.environment.limits.inbox_poll_s)

    def _epoch(self, run_id: str) -> int:
        known = self.known.get(run_id)
        return known.token.epoch if known is not None else 0

    def _failed(self, run_id: str, error: AgentRaftError, started: float) -> RunResult:
        return error_result(run_id, error, self.environment.plan.size, started)


def _is_rewound(result: RunResult) -> bool:
    return any(reason.startswith(_REWOUND) for reason in result.waiting_for)


def _teller(sink: EventSink, run_id: str, state: RunState) -> Callable[[Announce], None]:
    return lambda announce: sink.put(event_of(run_id, state.plan, announce))


def _first_to_tell(sink: EventSink | None, claimed: Answer) -> int:
    """The log position from which a life tells: what came after the last thing told, else its own claim. The life that claims a
    run first also tells of its admission."""
    if sink is not None and sink.position >= 0:
        return sink.position + 1
    claim = claimed.index - 1
    return 0 if claim == 1 else claim
