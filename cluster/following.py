"""From the notices of a shard to what a user sees of one run: its events, in order and none twice, and its result."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from agentraft_ray.actors.client_messages import Accepted, Attached, Outcome, Submission, Told
from agentraft_ray.actors.outcomes import StepsOnDemand, result_of
from agentraft_ray.checkpoint.base import RunStore
from agentraft_ray.checkpoint.seal import Seal
from agentraft_ray.cluster.links import Following, Link
from agentraft_ray.errors import AgentRaftError
from agentraft_ray.events import event_of
from agentraft_ray.protocol.messages import Announce
from agentraft_ray.protocol.records import OwnerClaimed, RunFinished, decode_record
from agentraft_ray.protocol.state import RunState
from agentraft_ray.result import RunResult, StepRun
from agentraft_ray.runtime.blueprint import Blueprint
from agentraft_ray.runtime.hooks import EventSink, resumed, told_of
from agentraft_ray.runtime.logs import RunLogs
from agentraft_ray.runtime.outputs import RunOutputs
from agentraft_ray.runtime.results import Commits, steps_of

__all__ = ["Follower"]

_log = logging.getLogger("agentraft_ray")

_READ_RECORDS_MAX = 5_000
_NOTHING = (-1, -1)  # the place before every event
_FIRST_CLAIM = 2  # records in a log whose last one is its first claim


class Follower:
    """Follows one run on the cluster's loop. `until_waiting`: a run that is parked has come to its end here."""

    def __init__(
        self,
        blueprint: Blueprint,
        store: RunStore,
        seal: Seal,
        submission: Submission,
        sink: EventSink | None,
        *,
        until_waiting: bool,
    ) -> None:
        self._blueprint = blueprint
        self._store = store
        self._seal = seal
        self._sink = sink
        self.run_id = submission.run_id
        self._started = time.perf_counter()
        self._began_at = time.time()
        self._told: asyncio.Queue[Attached | Told | None] = asyncio.Queue()  # None: that was all
        self._is_attached = False
        self._last = _NOTHING  # (position, n) of the last event that derives from the log
        loop = asyncio.get_running_loop()
        self._parked: asyncio.Future[Outcome] = loop.create_future()
        self.following = Following(submission, loop.create_future())
        if until_waiting:
            self.following.on_waiting = self._waits
        if sink is not None:
            self.following.on_told = self._told.put_nowait
            self.following.on_attached = self._told.put_nowait

    async def accepted(self, link: Link) -> Accepted:
        """Submit; returns when the run stands in the store. Raises what refused it."""
        link.follow(self.following)
        return await self.following.accepted

    async def result(self, link: Link) -> RunResult:
        """The result, when the run has ended or (with `until_waiting`) waits. Raises RunIdConflict, StoreUnavailable ..."""
        teller = asyncio.get_running_loop().create_task(self._tell()) if self._sink is not None else None
        try:
            await asyncio.wait([self.following.ended, self._parked], return_when=asyncio.FIRST_COMPLETED)
            if not self.following.ended.done():
                link.forget(self.following)
            outcome = self.following.ended.result() if self.following.ended.done() else self._parked.result()
            if teller is not None and self._sink is not None:
                self._told.put_nowait(None)
                await teller
                await self._sink.flush()
        finally:
            if teller is not None:
                teller.cancel()
        return self.result_from(outcome)

    def result_from(self, outcome: Outcome) -> RunResult:
        """What the user sees of an outcome; the steps are read from the log when somebody looks at them."""
        elapsed_ms = (time.perf_counter() - self._started) * 1000.0
        return result_of(outcome, self._blueprint.output_types[-1], StepsOnDemand(self._steps), elapsed_ms)

    def _waits(self, outcome: Outcome) -> None:
        if not self._parked.done():
            self._parked.set_result(outcome)

    def _steps(self) -> Sequence[StepRun]:
        """How each step went, read from the log; blocks."""
        state, limits = RunState(self.run_id), self._blueprint.limits
        commits = Commits(limits.result_steps_max)
        while True:
            batch = self._store.read_many_blocking(self.run_id, state.index, _READ_RECORDS_MAX)
            for stored in batch:
                record = decode_record(self._seal.open(self.run_id, state.index, stored))
                state.apply(record, stored)
                commits.note(record)
            if len(batch) < _READ_RECORDS_MAX:
                break
        outputs = RunOutputs(state, self._blueprint.output_types, self._store, self._seal, limits.cached_outputs_bytes_max)
        return steps_of(state, outputs, commits)

    # --- events ----------------------------------------------------------------------------------------------------------------

    async def _tell(self) -> None:
        while (notice := await self._told.get()) is not None:
            if isinstance(notice, Attached):
                await self._catch_up(notice.index)
                self._is_attached = True
            elif self._is_attached:  # else it is for another one in this program, and we shall read it in the log
                place = (notice.announce.position, notice.announce.n)
                if place[0] < 0 or place > self._last:
                    self._put(notice.announce)

    def _put(self, announce: Announce) -> None:
        assert self._sink is not None
        if announce.position >= 0:
            self._last = (announce.position, announce.n)
        self._sink.put(event_of(self.run_id, self._blueprint.plan, announce))

    async def _catch_up(self, index: int) -> None:
        """Tell what stands in the log before `index` and was not told yet.

        Who begins to follow a run that was there before hears of this life of it, as in one process: from its last claim on.
        """
        missed: list[Announce] = []
        begins, claim, resumed_from, started_at = self._last == _NOTHING, 0, "", 0.0
        try:
            async for state, record in RunLogs(self._store, self._seal).replay(self.run_id):
                if state.index > index:
                    break
                if type(record) is OwnerClaimed and state.index > _FIRST_CLAIM and state.admitted_at < self._began_at:
                    claim, resumed_from, started_at = state.index - 1, resumed(state), state.admitted_at
                elif type(record) is RunFinished:
                    claim = 0  # whoever asks for a run that is over is told all of it
                missed += told_of(state, record)
        except AgentRaftError as error:
            about = {"run_id": self.run_id}
            _log.warning("events of run %s that stand in its log could not be read: %s", self.run_id, error, extra=about)
        if begins and claim:
            self._put(Announce("run_start", -1, 0, detail=resumed_from, at=started_at))
        first = (claim, -1) if begins else self._last
        for announce in missed:
            if (announce.position, announce.n) > first:
                self._put(announce)
