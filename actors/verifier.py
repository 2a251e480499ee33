"""The verifier: gives verdicts to coordinators. Whatever a verifier does, a verdict or a fault comes back within its time."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import msgspec

from agentraft_ray.actors.breaker_shard import Pace
from agentraft_ray.actors.control import Figures
from agentraft_ray.actors.engines import ClusterEngines
from agentraft_ray.actors.hosting import ExchangeHost, LoadDefinition, OpenStore
from agentraft_ray.actors.lanes import Request
from agentraft_ray.actors.messages import Judge, Judged, Loaded, Reply, Returning, decode, encode
from agentraft_ray.actors.peers import Peer
from agentraft_ray.actors.provider_guard import ClusterGuard
from agentraft_ray.errors import StoreUnavailable
from agentraft_ray.protocol.records import TaskRecord
from agentraft_ray.runtime.blueprint import Blueprint
from agentraft_ray.runtime.boundary import checked_verdict, described
from agentraft_ray.runtime.judging import RunningVerdict, opinion, task_copy
from agentraft_ray.runtime.logged_outputs import LoggedOutputs
from agentraft_ray.runtime.outputs import History
from agentraft_ray.runtime.provider_guard import ProcessGuard
from agentraft_ray.taxonomy import FREE, VerdictKind, VerificationResult
from agentraft_ray.telemetry import semantics
from agentraft_ray.verifier.base import VerifyInput
from agentraft_ray.verifier.providers.connections import Connections, Visit, visiting
from agentraft_ray.verifier.providers.lanes import Guard
from agentraft_ray.verifier.spending import Spending

__all__ = ["VerifierActor", "VerifierSettings"]

_GRACE_S = 0.25  # a verifier that keeps its own deadline answers for itself, with its bill


class VerifierSettings(msgspec.Struct, frozen=True):
    """How a verifier is made; `slots` = verdicts at a time, without those that wait for a provider; the others as for a worker.

    `breaker` = the name of the actor that keeps the cluster's breakers; without one this process has its own for providers.
    `deployment` and `engines`: the models that verifiers ask are served by so many engine actors each, of that deployment; without it
    engines are children of this process.
    """

    store: bytes | None = None
    slots: int | None = 256
    hold_s: float = 2.0
    encryption_key: bytes | None = None
    breaker: str = ""
    deployment: str = ""
    engines: int = 1


class VerifierActor(ExchangeHost):
    """Judges outputs. `settings` = encoded `VerifierSettings`. `peer` makes a way to call an actor by its name."""

    def __init__(
        self,
        settings: bytes,
        *,
        load: LoadDefinition | None = None,
        open_store: OpenStore | None = None,
        peer: Callable[[str], Peer] | None = None,
        pace: Pace | None = None,
        observing: bytes | None = None,
    ) -> None:
        chosen: VerifierSettings = decode(settings, VerifierSettings)
        super().__init__(
            slots=chosen.slots,
            hold_s=chosen.hold_s,
            store=chosen.store,
            encryption_key=chosen.encryption_key,
            load=load,
            open_store=open_store,
            observing=observing,
        )
        self._chosen = chosen
        self._peer = peer or _ray_peer
        self._engines: ClusterEngines | None = None
        self._pace = pace
        self._connections: Connections | None = None

    async def exchange(self, client: str, batch: bytes, sent_at: float = 0.0, good_for_s: float = 0.0, session: str = "") -> bytes:
        """Take in a batch of `Judge`; the verdicts that are ready, once there are any, at the latest after `hold_s`."""
        return await self._exchanged(client, decode(batch, list[Judge]), sent_at, good_for_s, session)

    # --- one verdict ---------------------------------------------------------------------------------------------------------

    def begin(self, request: Request) -> Awaitable[VerificationResult | None]:
        """Start with a verdict; what comes back gives it."""
        return self._in_span(semantics.JUDGE, request, self._judge(request), _flaw)

    async def _judge(self, request: Request) -> VerificationResult | None:
        ask: Judge = request.ask
        blueprint: Blueprint = request.definition
        outputs = self._outputs(blueprint, ask.run_id)
        running = request.running = RunningVerdict(ask.ticket, ask.allowance)
        task, near, data, previous = ask.task, dict(ask.parents), ask.output.data, ask.previous
        if task is None or data is None or None in near.values():
            task, near = await self._fetched(ask, outputs)  # type: ignore[assignment]
            if data is None:
                data, passed_by = await asyncio.to_thread(outputs.judged_data, ask.output, ask.position)
                previous = previous or passed_by  # only the commit itself says who has passed a suspect
        make = partial(_input, ask, blueprint, outputs, task, near, data, running.spending)  # type: ignore[arg-type]
        with visiting(Visit(self._to_providers(), self._lanes.leave_slot, self._lanes.take_slot)):
            return await opinion(blueprint, make, previous, partial(_checked, blueprint), is_suspect=ask.position >= 0)

    def _to_providers(self) -> Connections:
        """The connections of this actor: it shares neither clients nor what it knows of providers with others in its process."""
        if self._connections is None:
            guard: Guard
            if self._chosen.breaker:
                guard = ClusterGuard(self._peer(self._chosen.breaker), f"verifier.{self.incarnation}", pace=self._pace)
            else:
                guard = ProcessGuard()
            self._connections = Connections(guard, self._to_engines())
        return self._connections

    def _to_engines(self) -> ClusterEngines | None:
        """The engine actors of the cluster; None where this process has engines of its own."""
        chosen = self._chosen
        if self._engines is None and chosen.deployment:
            self._engines = ClusterEngines(f"verifier.{self.incarnation}", chosen.deployment, chosen.engines, self._peer)
        return self._engines

    async def load(self, definition: bytes) -> bytes:
        """See `ExchangeHost.load`; and note which engines its verifier will ask."""
        loaded = await super().load(definition)
        engines = self._to_engines()
        blueprint = self._definitions.get(decode(loaded, Loaded).fingerprint)
        if engines is not None and blueprint is not None:
            for settings in blueprint.verifier.engines():
                engines.want(settings)
        return loaded

    def _figures(self) -> Figures:
        wanted = self._engines.wanted if self._engines is not None else ()
        return super()._figures() | {"engines_wanted": base64.b64encode(encode(wanted)).decode() if wanted else ""}

    def waits(self, request: Request) -> None:
        """The verdict's time is bounded here, whatever the verifier does; most rules are done before that is needed."""
        left_s = request.ask.timeout_s + _GRACE_S - self._seconds(request)
        request.timer = asyncio.get_running_loop().call_later(left_s, self._overdue, request)

    def reply(self, request: Request, done: VerificationResult | None) -> Reply:
        """A verdict with the wall time that it took."""
        seconds = self._seconds(request)
        counter = self._counters.get(request.ask.definition)
        if counter is not None:
            counter.took(request.ask.step, seconds)
        return Judged(request.ask.ticket, done, seconds)

    def failed(self, request: Request, error: BaseException) -> Reply:
        """A verdict that there is not, because what is to be judged cannot be read, or because the verifier ended its own task."""
        if isinstance(error, StoreUnavailable):
            return Returning(request.ask.ticket)
        return self._fault(request, described(error))

    def _called_off(self, request: Request) -> Reply:
        return self._fault(request, "it was called off")

    def _overdue(self, request: Request) -> None:
        self._end(request, self._fault(request, f"no verdict within {request.ask.timeout_s:.3g} s"))

    def _fault(self, request: Request, why: str) -> Judged:
        name = request.definition.verifier.name
        running: RunningVerdict | None = request.running
        cost = running.bill() if running is not None else FREE
        return Judged(request.ask.ticket, VerificationResult.fault(why, verifier=name, cost=cost), cost.seconds)

    def _seconds(self, request: Request) -> float:
        running: RunningVerdict | None = request.running
        return running.seconds if running is not None else 0.0


def _flaw(done: VerificationResult | None) -> str:
    return "verifier_fault" if done is not None and done.kind is VerdictKind.FAULT else ""


def _ray_peer(name: str) -> Peer:
    from agentraft_ray.actors.gateway import RayPeer  # noqa: PLC0415 - the class works without Ray as well

    return RayPeer(name)


def _input(
    ask: Judge,
    blueprint: Blueprint,
    outputs: LoggedOutputs,
    task: TaskRecord,
    near: Mapping[int, bytes],
    data: bytes,
    spending: Spending,
) -> VerifyInput:
    return VerifyInput(
        task=task_copy(task),
        step=blueprint.pipeline.steps[ask.step],
        output=outputs.decode(ask.step, data),
        history=History(outputs, ask.step, near),
        attempt=ask.attempt,
        deadline_s=ask.timeout_s,
        spending=spending,
    )


def _checked(blueprint: Blueprint, result: object) -> VerificationResult:
    return checked_verdict(result, blueprint.verifier.name, blueprint.limits)
