"""What workers and verifiers have in common: definitions, the exchange with its clients, draining, and the way to the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from agentraft_ray.actors.control import Controlled, Figures
from agentraft_ray.actors.exchange import Exchange, Outbox
from agentraft_ray.actors.lanes import Lanes, Request
from agentraft_ray.actors.messages import Loaded, Reply, Returning, Unloaded, Welcome, decode, encode
from agentraft_ray.actors.store_spec import StoreSpec, open_store
from agentraft_ray.checkpoint.base import RunStore
from agentraft_ray.checkpoint.memory import InMemoryCheckpointStore
from agentraft_ray.checkpoint.seal import EncryptingSeal, PlainSeal
from agentraft_ray.errors import AgentRaftError, InvalidPipeline
from agentraft_ray.protocol.records import TaskRecord
from agentraft_ray.runtime.blueprint import Blueprint
from agentraft_ray.runtime.boundary import described
from agentraft_ray.runtime.logged_outputs import LoggedOutputs, LoggedRuns
from agentraft_ray.telemetry import semantics
from agentraft_ray.telemetry.counting import PipelineCounter, counter_of
from agentraft_ray.telemetry.tracing import tracing

__all__ = ["ExchangeHost", "LoadDefinition", "OpenStore"]

T = TypeVar("T")

LoadDefinition = Callable[[bytes], Blueprint]
OpenStore = Callable[[bytes], RunStore]

DEFINITIONS_MAX = 256  # pipelines that a process knows at a time; the one loaded longest ago goes first
REQUESTS_MAX = 100_000  # without a reply, of one client; more are handed back


class ExchangeHost(Controlled):
    """The base of the actors that do requests in batches. Subclasses say what a request means.

    `load` makes a blueprint of a definition and `open_store` a store of its description; tests pass their own.
    """

    def __init__(
        self,
        *,
        slots: int | None,
        hold_s: float,
        store: bytes | None,
        encryption_key: bytes | None,
        load: LoadDefinition | None,
        open_store: OpenStore | None,
        client_ttl_s: float = 60.0,
        observing: bytes | None = None,
    ) -> None:
        super().__init__(observing)
        self._exchange: Exchange[Request] = Exchange(self._forget, hold_s=hold_s, client_ttl_s=client_ttl_s)
        self._lanes = Lanes(self, slots)
        self._definitions: dict[bytes, Blueprint] = {}
        self._counters: dict[bytes, PipelineCounter] = {}  # of the same definitions, where this process collects metrics
        self._store = store
        self._encryption_key = encryption_key
        self._load = load or _load_definition
        self._open_store = open_store or _open_store
        self._loading = asyncio.Lock()
        self._runs: LoggedRuns | None = None

    async def load(self, definition: bytes) -> bytes:
        """Learn a definition; a `Loaded`. What is known by its fingerprint already is replaced."""
        self.at_work()
        async with self._loading:
            try:
                blueprint = await asyncio.to_thread(self._load, definition)  # it imports, which may take its time
            except AgentRaftError as error:
                return encode(Loaded(b"", type(error).__name__, str(error)))
            except Exception as error:  # noqa: BLE001 - the boundary to the user's code: importing it runs it
                return encode(Loaded(b"", InvalidPipeline.__name__, f"a definition does not load here: {described(error)}"))
        fingerprint = blueprint.plan.fingerprint
        self._definitions.pop(fingerprint, None)
        self._definitions[fingerprint] = blueprint
        counter = counter_of(blueprint.plan)
        if counter is not None:
            self._counters[fingerprint] = counter
        if len(self._definitions) > DEFINITIONS_MAX:
            oldest = next(iter(self._definitions))
            del self._definitions[oldest]
            self._counters.pop(oldest, None)
        return encode(Loaded(fingerprint))

    async def cancel(self, client: str, tickets: list[int]) -> None:
        """End requests of a client. Each is answered, with what it has cost so far; those that are not here are ignored."""
        self.on_work_loop(lambda: self._cancel(client, tickets))

    async def disown(self, stem: str, heir: str) -> None:
        """End what coordinators whose names begin with `stem` have asked for, but `heir`: somebody else goes on with their runs, and
        a step that waits here must not begin after another one has committed it."""
        self.at_work()
        self._exchange.disown(stem, heir)

    # --- the exchange --------------------------------------------------------------------------------------------------------

    async def _exchanged(self, client: str, asks: Iterable[Any], sent_at: float, good_for_s: float, session: str) -> bytes:
        """Take requests in, and return the replies that are ready, once there are any. Those of an old message are handed back."""
        self.at_work()
        outbox = self._exchange.of(client)
        is_old = outbox.is_old(session, sent_at, good_for_s)
        for ask in asks:
            if is_old:
                outbox.put(Returning(ask.ticket))
            else:
                self._admit(outbox, ask)
        self._lanes.go()
        if session != outbox.session:  # at once: until the client knows it, what it sends cannot be told from what it sent long ago
            return encode([Welcome(outbox.session), *outbox.ready()])
        return encode(await self._exchange.take(outbox))

    def _admit(self, outbox: Outbox[Request], ask: Any) -> None:
        ticket = ask.ticket
        if ticket in outbox.open:  # sent twice
            return
        if self._draining or len(outbox.open) >= REQUESTS_MAX:
            outbox.put(Returning(ticket))
            return
        definition = self._definition_of(ask)
        if definition is None:
            outbox.put(Unloaded(ticket))
            return
        request = Request(outbox, ask, definition)
        if outbox.was_cancelled(ticket):
            outbox.put(self._called_off(request))
            return
        outbox.open[ticket] = request
        self._lanes.add(request)

    def _definition_of(self, ask: Any) -> Any:
        """What this process must know to do a request; None if it does not."""
        return self._definitions.get(ask.definition)

    def _cancel(self, client: str, tickets: list[int]) -> None:
        outbox = self._exchange.known(client)
        if outbox is None:
            return
        for ticket in tickets:
            request = outbox.open.get(ticket)
            if request is None:
                outbox.note_early(ticket)
            else:
                self._end(request, self._called_off(request))

    def _end(self, request: Request, reply: Reply) -> None:
        """Answer a request and stop it, if that is still to be done."""
        if not request.is_settled:
            request.settle(reply)
            self._lanes.stop(request)

    def _forget(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self._end(request, Returning(request.ask.ticket))

    # --- for subclasses: see `Host` ------------------------------------------------------------------------------------------

    def begin(self, request: Request) -> Awaitable[Any]:
        """Start with a request; awaiting what comes back does it."""
        raise NotImplementedError

    def _in_span(self, name: str, request: Request, work: Awaitable[T], flaw: Callable[[T], str]) -> Awaitable[T]:
        """`work` in a span of its own, where the request comes with a trace and this process makes spans."""
        ask = request.ask
        spans = tracing() if ask.trace else None
        if spans is None:
            return work
        plan = request.definition.plan
        attributes = {semantics.RUN_ID: ask.run_id, semantics.STEP_NAME: plan.name(ask.step), semantics.ATTEMPT_NUMBER: ask.attempt}
        return spans.within(name.format(step=plan.step(ask.step).name), ask.trace, attributes, work, flaw)

    def waits(self, request: Request) -> None:
        """A request has begun and does not end at once."""

    def reply(self, request: Request, done: Any) -> Reply:
        """The reply that says what came of it."""
        raise NotImplementedError

    def failed(self, request: Request, error: BaseException) -> Reply:
        """The reply that says what was raised instead."""
        raise NotImplementedError

    def _begin_drain(self) -> None:
        self._forget(self._lanes.take_back())

    def _called_off(self, request: Request) -> Reply:
        """The reply to a request that was cancelled."""
        raise NotImplementedError

    def _figures(self) -> Figures:
        lanes = self._lanes
        return {
            "clients": self._exchange.clients,
            "definitions": len(self._definitions),
            "done": lanes.done,
            "queued": lanes.queued,
            "running": lanes.busy,
        }

    # --- what lies in the store ----------------------------------------------------------------------------------------------

    def _outputs(self, blueprint: Blueprint, run_id: str) -> LoggedOutputs:
        """The committed outputs of a run, read from its log where they did not travel along."""
        if self._runs is None:
            seal = PlainSeal() if self._encryption_key is None else EncryptingSeal(self._encryption_key)
            self._runs = LoggedRuns(self._opened, seal)
        return LoggedOutputs(run_id, blueprint.plan, blueprint.output_types, self._runs)

    def _opened(self) -> RunStore:
        # Without a store there is nothing to read back, which is what an empty one says.
        return InMemoryCheckpointStore() if self._store is None else self._open_store(self._store)

    async def _fetched(self, ask: Any, outputs: LoggedOutputs) -> tuple[TaskRecord, dict[int, bytes]]:
        """The task and the direct parents' outputs of a request, read from the store where they did not travel along."""

        def read() -> tuple[TaskRecord, dict[int, bytes]]:
            task = outputs.task() if ask.task is None else ask.task
            return task, {step: outputs.data(step) if data is None else data for step, data in ask.parents}

        return await asyncio.to_thread(read)


def _load_definition(definition: bytes) -> Blueprint:
    from agentraft_ray.actors.definitions import load_blueprint  # noqa: PLC0415 - a host of definitions of its own does without

    return load_blueprint(definition)


def _open_store(description: bytes) -> RunStore:
    return open_store(decode(description, StoreSpec), reader=True)
