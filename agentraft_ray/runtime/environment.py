"""What all runs of one coordinator share: store, verifier, breakers, threads, lease, limits."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

from agentraft_ray.breaker import BreakerPolicy, CircuitBreaker, Permit, ScopedBreakers, Standing
from agentraft_ray.checkpoint.base import Checkpoint, CheckpointStore, RunStore
from agentraft_ray.checkpoint.seal import Seal
from agentraft_ray.config import Limits
from agentraft_ray.errors import CircuitBreakerOpen
from agentraft_ray.events import verdict_of
from agentraft_ray.pipeline import Pipeline
from agentraft_ray.protocol.messages import AcquirePermit, PermitDenied, PermitGranted
from agentraft_ray.protocol.plan import Plan
from agentraft_ray.protocol.records import Record, RolledBack, StepCommitted
from agentraft_ray.protocol.state import RunState
from agentraft_ray.runtime.blueprint import Blueprint
from agentraft_ray.runtime.boundary import checked_verdict
from agentraft_ray.runtime.logs import RunLogs
from agentraft_ray.runtime.outputs import RunOutputs
from agentraft_ray.runtime.owner import Owner
from agentraft_ray.runtime.steps import StepThreads
from agentraft_ray.taxonomy import VerificationResult
from agentraft_ray.telemetry.counting import PipelineCounter
from agentraft_ray.verifier.base import Verifier

_log = logging.getLogger("agentraft_ray")

__all__ = ["Breakers", "Environment", "Mirror"]


class Breakers:
    """The breakers of one process: the scoped ones, and the plain one of the seed where the user passed it."""

    def __init__(self, policy: BreakerPolicy, plain: CircuitBreaker | None) -> None:
        self._scoped = ScopedBreakers(policy)
        self._plain = plain

    def acquire(self, command: AcquirePermit, run_id: str, now: float) -> PermitGranted | PermitDenied:
        """Leave for an attempt to start, or when to ask again."""
        if self._plain is not None:
            try:
                self._plain.check()
            except CircuitBreakerOpen as refused:
                return PermitDenied(command.call, "run", now + refused.fields["retry_after_s"])
        answer = self._scoped.acquire(command.scope, command.attempt_id, command.call.token.owner, run_id, now)
        if isinstance(answer, Permit):
            return PermitGranted(command.call, answer)
        return PermitDenied(command.call, answer.scope, answer.retry_at_s)

    def standings(self, now: float) -> dict[str, tuple[Standing, int, int]]:
        """See `ScopedBreakers.standings`."""
        return self._scoped.standings(now)

    def settle(self, permit: Any, outcome: Any) -> None:
        """Count how an attempt ended."""
        self._scoped.settle(permit, outcome, time.time())
        if self._plain is not None and outcome == "success":
            self._plain.record_success()
        elif self._plain is not None and outcome == "failure":
            self._plain.record_failure()


class Mirror:
    """Keeps a user's own checkpoint store in step with the log. It is never read back; what it raises is reported, not obeyed.

    A store that does not answer within `wait_s` seconds is treated as one that raises.
    """

    def __init__(self, store: CheckpointStore, wait_s: float) -> None:
        self._store = store
        self._wait_s = wait_s

    async def follow(self, state: RunState, outputs: RunOutputs, records: tuple[Record, ...]) -> None:
        """Repeat commits and rollbacks that now stand in the log."""
        try:
            async with asyncio.timeout(self._wait_s):
                await self._repeat(state, outputs, records)
        except Exception:  # noqa: BLE001 - the boundary to the user's code
            what, run_id = type(self._store).__name__, state.run_id
            _log.exception("the checkpoint store %s failed to mirror run %s", what, run_id, extra={"run_id": run_id})

    async def _repeat(self, state: RunState, outputs: RunOutputs, records: tuple[Record, ...]) -> None:
        for record in records:
            if isinstance(record, StepCommitted):
                await self._save(state, outputs, record)
            elif isinstance(record, RolledBack):
                # The seed's call removes everything behind a step; what a rollback in a DAG leaves standing is saved again.
                await self._store.rollback_to(state.run_id, record.suspect - 1)
                for step in range(record.suspect, state.plan.size):
                    if state.is_committed(step):
                        await self._save(state, outputs, await outputs.fetch_record(state.position(step)))

    async def _save(self, state: RunState, outputs: RunOutputs, record: StepCommitted) -> None:
        certificate = record.certificate
        step = certificate.step
        output = outputs.decode(step, await outputs.fetch_payload(record.output))
        verdict = verdict_of(certificate).to_dict()
        name = state.plan.name(step)
        await self._store.save(Checkpoint(state.run_id, step, name, output, certificate.attempt, verdict, record.at))


@dataclass
class Environment:
    """One coordinator in one event loop: a blueprint over a store."""

    blueprint: Blueprint
    store: RunStore
    seal: Seal
    logs: RunLogs
    breakers: Breakers
    threads: StepThreads
    owner: Owner
    mirror: Mirror | None = None
    counter: PipelineCounter | None = None
    _checked: tuple[VerificationResult, VerificationResult] | None = None

    @property
    def pipeline(self) -> Pipeline:
        return self.blueprint.pipeline

    @property
    def plan(self) -> Plan:
        return self.blueprint.plan

    @property
    def verifier(self) -> Verifier:
        return self.blueprint.verifier

    @property
    def limits(self) -> Limits:
        return self.blueprint.limits

    @property
    def output_types(self) -> list[Any]:
        """The type that each step of the block declares for its output, or None."""
        return self.blueprint.output_types

    def checked(self, result: object) -> VerificationResult:
        """A verdict that makes sense, fits a log and says who gave it; what does not is a verifier fault."""
        if self._checked is not None and self._checked[0] is result:  # fixed rules answer with one shared verdict
            return self._checked[1]
        verdict = checked_verdict(result, self.verifier.name, self.limits)
        if isinstance(result, VerificationResult) and type(result.evidence) is tuple:
            self._checked = (result, verdict)
        return verdict
