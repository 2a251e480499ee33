"""The ledger: every log of a store, for people and programs that look at runs and decide about them. Runs no step.

It reads the store and writes to inboxes, from any process, whoever drives the runs; only a cancellation of a run that nobody drives,
a fork and pruning change logs from here, each under the store's own rules.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

from agentraft_ray.checkpoint.base import Command, RunStore
from agentraft_ray.checkpoint.codec import decode_output
from agentraft_ray.checkpoint.retention import PruneReport, prune
from agentraft_ray.checkpoint.seal import PlainSeal, Seal
from agentraft_ray.config import Limits
from agentraft_ray.errors import AgentRaftError, InvalidConfig, RunIdConflict
from agentraft_ray.events import Event
from agentraft_ray.identity import check_run_id
from agentraft_ray.ledger import audit as auditing
from agentraft_ray.ledger.folds import Folds, RunFold
from agentraft_ray.ledger.following import Watch, follow, refuse_absent
from agentraft_ray.ledger.listing import RunFilter, list_page
from agentraft_ray.ledger.plain import json_value
from agentraft_ray.ledger.pulse import Pulse
from agentraft_ray.ledger.summaries import Summaries
from agentraft_ray.ledger.timeline import timeline
from agentraft_ray.ledger.view import STEPS_SHOWN_MAX, run_view
from agentraft_ray.ledger.views import OutputView, RunPage, RunSummary, RunView, Timeline
from agentraft_ray.protocol.records import StepCommitted
from agentraft_ray.protocol.state import RunState
from agentraft_ray.runtime.commands import approval_command, cancel_command
from agentraft_ray.runtime.ending import end_unattended
from agentraft_ray.runtime.logged_events import logged_events
from agentraft_ray.runtime.logs import RunLogs
from agentraft_ray.runtime.outputs import RunOutputs
from agentraft_ray.runtime.owner import Owner

__all__ = ["Ledger"]

_FOLDS_MAX = 64
_SHOWN_BYTES_MAX = 256 * 1024
_ANY = RunFilter()


class Ledger:
    """Looks at the runs of `store`, which whoever made it opens and closes; `seal` opens its logs. For one event loop.

    Every call raises InvalidConfig for a run id that cannot be one, RunNotFound for one that is not there, RunExpired where only a
    tombstone is left, and StoreUnavailable.
    """

    def __init__(self, store: RunStore, seal: Seal | None = None, limits: Limits | None = None) -> None:
        self.store = store
        self.logs = RunLogs(store, seal or PlainSeal())
        self.limits = limits or Limits()
        self.watch = Watch(store, self.limits.inbox_poll_s)
        self.pulse = Pulse(self.logs)
        self._summaries = Summaries(self.logs)
        self._folds = Folds(self.logs, _FOLDS_MAX)

    async def close(self) -> None:
        """Stop watching. The store stays open."""
        await self.watch.close()
        await self.pulse.close()

    # --- looking ---------------------------------------------------------------------------------------------------------------

    async def page(self, wanted: RunFilter = _ANY, *, limit: int = 50, after: str | None = None) -> RunPage:
        """Runs, newest first, those that have not finished before the others; `after` = `next` of the page before."""
        return await list_page(self.logs, self._summaries, wanted, limit, after)

    async def summary(self, run_id: str) -> RunSummary:
        """One run on one line."""
        meta = await refuse_absent(self.logs, check_run_id(run_id))
        [found] = await self._summaries.of([(run_id, meta)])
        return found

    async def view(self, run_id: str, *, steps_from: int = 0, steps_count: int = 100) -> RunView:
        """One run in full, with `steps_count` of its steps. Raises LogCorrupted."""
        if steps_from < 0 or not 0 <= steps_count <= STEPS_SHOWN_MAX:
            raise InvalidConfig(f"a view shows up to {STEPS_SHOWN_MAX} steps from some step on, not {steps_count} from {steps_from}")
        meta = await refuse_absent(self.logs, check_run_id(run_id))
        owner_alive = meta.status == "open" and await self.store.lease_alive(meta.token.owner)
        fold = await self._current(run_id)
        return run_view(fold, meta, owner_alive=owner_alive, steps_from=steps_from, steps_count=steps_count)

    async def timeline(self, run_id: str, *, start: int = 0, count: int = 200) -> Timeline:
        """The records of a run from a position on. Raises LogCorrupted."""
        return await timeline(self.logs, check_run_id(run_id), start, count)

    async def output(self, run_id: str, step: str) -> OutputView:
        """What a step has made: the output that waits for a decision, else the one that is committed. Raises AgentRaftError for none."""
        await refuse_absent(self.logs, check_run_id(run_id))
        state = (await self._current(run_id)).state
        index = _index_of(state, step)
        proposal = state.proposed.get(index)
        outputs = RunOutputs(state, [None] * state.plan.width, self.store, self.logs.seal, 0)
        if proposal is not None:
            payload, position = proposal.output, -1
        elif state.is_committed(index):
            position = state.position(index)
            record = await outputs.fetch_record(position)
            assert isinstance(record, StepCommitted)
            payload = record.output
        else:
            raise AgentRaftError(f"run {run_id}: step {step!r} has no output now", run_id=run_id, step=step)
        is_shown = payload.size <= _SHOWN_BYTES_MAX
        value = json_value(decode_output(await outputs.fetch_payload(payload, position))) if is_shown else None
        return OutputView(
            step=step,
            state="committed" if proposal is None else "proposed",
            digest=payload.digest.hex(),
            size_bytes=payload.size,
            is_shown=is_shown,
            value=value,
        )

    async def events(self, run_id: str, after: str | None = None) -> AsyncIterator[Event]:
        """The events of a run as its log has them now; see `Coordinator.events`."""
        async for event in logged_events(self.logs, check_run_id(run_id), after):
            yield event

    def follow(self, run_id: str, after: str | None = None) -> AsyncIterator[Event]:
        """The events of a run and those that come, to its end; `after` = the id of the last one that is known. Each comes once."""
        return follow(self.logs, self.watch, check_run_id(run_id), after)

    async def audit(self, run_id: str) -> auditing.AuditReport:
        """See `ledger.audit`; what is wrong with the log is in the report."""
        return await auditing.audit(self.logs, check_run_id(run_id))

    async def export(self, run_id: str) -> str:
        """The log as text that can be audited anywhere. Raises LogCorrupted."""
        return await auditing.export(self.logs, check_run_id(run_id))

    # --- deciding --------------------------------------------------------------------------------------------------------------

    async def approve(self, run_id: str, step: str, *, by: str = "", note: str = "", digest: str = "", command_id: str = "") -> None:
        """Approve what the run waits for at `step`; with `digest` (hex) only if it is that output. Whoever drives the run finds it.

        Raises AgentRaftError when the step waits for nobody, or for a decision about another output. A `command_id` of the caller's
        own makes it safe to ask again.
        """
        await self._decide(run_id, "approve", step, by, note, digest, command_id)

    async def deny(self, run_id: str, step: str, *, by: str = "", note: str = "", digest: str = "", command_id: str = "") -> None:
        """Refuse it: the output is thrown away and `note` becomes the hint of the retry; a step that may not run ends the run."""
        await self._decide(run_id, "deny", step, by, note, digest, command_id)

    async def cancel(self, run_id: str, *, by: str = "", command_id: str = "") -> bool:
        """End a run. True: it has ended now. False: whoever drives it will end it when that one reads its inbox."""
        meta = await refuse_absent(self.logs, check_run_id(run_id))
        if meta.status == "finished":
            return True
        await self.store.push_command(run_id, _named(cancel_command(by), command_id))
        if meta.status == "open" and await self.store.lease_alive(meta.token.owner):
            return False
        async with Owner(self.store, self.limits.lease_ttl_s, "ledger-") as owner:
            return await end_unattended(self.logs, owner.id, run_id, poll_s=self.limits.inbox_poll_s)

    async def fork(self, run_id: str, step: str, *, new_id: str | None = None) -> str:
        """A new run of the same pipeline that shares the log of `run_id` up to before `step`; its id. It runs when it is resumed.

        With a `new_id` it is safe to ask again. Raises RunIdConflict where that is another run, AgentRaftError for an unknown step.
        """
        await refuse_absent(self.logs, check_run_id(run_id))
        plan = await self.logs.admitted_plan(run_id)
        if plan.index_of(step) is None:
            raise AgentRaftError(f"run {run_id}: pipeline {plan.spec.name!r} has no step {step!r} to fork at", run_id=run_id, step=step)
        wanted = check_run_id(new_id or f"{run_id[:115]}-{uuid.uuid4().hex[:12]}")
        async with Owner(self.store, self.limits.lease_ttl_s, "ledger-") as owner:
            try:
                await self.logs.fork(run_id, step, wanted, plan, owner.id)
            except RunIdConflict:
                if new_id is None or not await self._is_fork_of(wanted, run_id):
                    raise
        return wanted

    async def prune(self, *, older_than_s: float = 0, dry_run: bool = False) -> PruneReport:
        """Remove the logs of finished runs; their tombstones stay."""
        return await prune(self.store, older_than_s=older_than_s, dry_run=dry_run)

    # --- what they are made of -------------------------------------------------------------------------------------------------

    async def _current(self, run_id: str) -> RunFold:
        fold = await self._folds.current(run_id)
        if not fold.state.index:
            await refuse_absent(self.logs, run_id)  # it has expired since it was looked at
            raise AgentRaftError(f"run {run_id}: its log is gone from the store", run_id=run_id)
        return fold

    async def _decide(self, run_id: str, kind: str, step: str, by: str, note: str, digest: str, command_id: str) -> None:
        await refuse_absent(self.logs, check_run_id(run_id))
        state = (await self._current(run_id)).state
        if command_id and command_id in state.commands:
            return
        if state.finished is not None:
            raise AgentRaftError(f"run {run_id} has finished; there is nothing left to {kind}", run_id=run_id)
        command = _named(approval_command(state, kind, step, by, note), command_id)
        proposal = state.proposed.get(_index_of(state, step))
        if digest and (proposal is None or proposal.output.digest.hex() != digest):
            raise AgentRaftError(
                f"run {run_id}: step {step!r} waits for a decision about another output than {digest[:16]}...; look at it first",
                run_id=run_id,
                step=step,
            )
        if not await self.store.push_command(run_id, command) and not command_id:
            raise AgentRaftError(f"run {run_id} has finished; there is nothing left to {kind}", run_id=run_id)

    async def _is_fork_of(self, run_id: str, origin: str) -> bool:
        summary = await self.summary(run_id)
        return summary.forked_from == origin


def _index_of(state: RunState, step: str) -> int:
    index = state.plan.index_of(step)
    if index is None:
        raise AgentRaftError(f"run {state.run_id}: pipeline {state.plan.spec.name!r} has no step {step!r}", run_id=state.run_id, step=step)
    return index


def _named(command: Command, command_id: str) -> Command:
    return command._replace(id=command_id) if command_id else command
