"""A whole cluster in one process on one event loop: real actors over a real store, joined by peers that can fail, and no Ray.

An actor lives in a `_Life`. Killing it cancels every task that it began, loses every call that is under way there, and makes a new
object with the same arguments under the same name, as Ray does with a process. Its threads go on; test steps are coroutines.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from agentraft_ray import Event, Pipeline, RulesVerifier, RunResult, Step, Task, Verifier
from agentraft_ray.actors import names
from agentraft_ray.actors.breaker import BreakerActor
from agentraft_ray.actors.breaker_messages import BreakerSettings
from agentraft_ray.actors.breaker_shard import Pace as BreakerPace
from agentraft_ray.actors.checkpoint_store import CheckpointStoreActor
from agentraft_ray.actors.client_messages import Submission
from agentraft_ray.actors.coordinator import CoordinatorActor, ShardSettings
from agentraft_ray.actors.definitions import Definition, load_blueprint
from agentraft_ray.actors.hosting import ExchangeHost
from agentraft_ray.actors.messages import decode, encode
from agentraft_ray.actors.pace import ShardPace
from agentraft_ray.actors.peers import PeerLost
from agentraft_ray.actors.remote_store import ClusterStore
from agentraft_ray.actors.store_messages import answers_from
from agentraft_ray.actors.store_spec import StoreSpec, open_store
from agentraft_ray.actors.verifier import VerifierActor, VerifierSettings
from agentraft_ray.actors.worker import WorkerActor, WorkerSettings
from agentraft_ray.checkpoint.base import Answer, AnswerKind, AppendEntry
from agentraft_ray.checkpoint.redis import RedisCheckpointStore
from agentraft_ray.checkpoint.seal import PlainSeal
from agentraft_ray.cluster.following import Follower
from agentraft_ray.cluster.links import Link
from agentraft_ray.config import Limits
from agentraft_ray.errors import AgentRaftError
from agentraft_ray.pipeline import StepContext
from agentraft_ray.protocol.records import Record, RunFinished, StepCommitted, decode_record
from agentraft_ray.protocol.state import RunState, fold
from agentraft_ray.runtime.blueprint import Blueprint, RunSettings
from agentraft_ray.runtime.commands import approval_command, cancel_command
from agentraft_ray.runtime.hooks import EventSink
from agentraft_ray.runtime.logs import task_record
from agentraft_ray.telemetry.context import current_trace

WAIT_S = 20.0
QUICK = ShardPace(
    tick_s=0.005,
    foreign_poll_s=0.03,
    others_poll_s=0.05,
    collect_hold_s=0.2,
    room_wait_s=0.1,
    load_wait_s=0.5,
    stall_s=0.3,
    ping_s=0.1,
    return_pauses_s=(0.005, 0.01, 0.02),
    rest_s=0.02,
    breakers=BreakerPace(report_s=0.01, poll_s=0.05, poll_half_open_s=0.02, retry_s=0.02),
)
LIMITS = Limits(lease_ttl_s=5.0, inbox_poll_s=0.02, store_wait_s=5.0, drain_s=2.0, verifier_park_retry_s=0.05, verifier_retry_delay_s=0.005)

_life: contextvars.ContextVar[_Life | None] = contextvars.ContextVar("life", default=None)


# --- pipelines by path: every actor imports them from here ------------------------------------------------------------------------

_named: dict[str, Any] = {}


def __getattr__(name: str) -> Any:
    try:
        return _named[name]
    except KeyError:
        raise AttributeError(name) from None


def path_to(value: object) -> str:
    """An import path under which every actor finds `value`."""
    name = f"named_{len(_named)}"
    _named[name] = value
    return f"{__name__}:{name}"


# --- what really happened ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Ran:
    """One execution of a step function, in the `life` of some actor."""

    run_id: str
    step: str
    lineage: int
    attempt: int
    sample: int
    life: str
    is_over: bool = False


class Tally:
    """The steps' own notes, made outside of every actor."""

    def __init__(self) -> None:
        self.ran: list[Ran] = []
        self.acknowledged: dict[tuple[str, int, int], int] = {}  # (run, step, lineage) -> executions that had begun by then

    @contextmanager
    def note(self, ctx: StepContext) -> Iterator[Ran]:
        life = _life.get()
        ran = Ran(ctx.run_id, ctx.step_name, ctx.lineage, ctx.attempt, ctx.sample, life.name if life else "")
        self.ran.append(ran)
        try:
            yield ran
        finally:
            ran.is_over = True

    def note_commits(self, batch: bytes, reply: bytes) -> None:
        """The store actor has answered a batch of appends."""
        entries = decode(batch, list[AppendEntry])
        for entry, answer in zip(entries, answers_from(entries, reply) if reply else (), strict=False):
            if isinstance(answer, Answer) and answer.kind is AnswerKind.APPENDED:
                for record in map(decode_record, entry.records):
                    if isinstance(record, StepCommitted):
                        place = (entry.run_id, record.certificate.step, record.certificate.lineage)
                        self.acknowledged.setdefault(place, len(self.ran))

    def count(self, step: str, run_id: str | None = None) -> int:
        return sum(one.step == step and run_id in {None, one.run_id} for one in self.ran)


# --- actors and the way between them ----------------------------------------------------------------------------------------------


class _Life:
    """One incarnation of one actor: the object, and every task that it began."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.actor: Any = None
        self.tasks: set[asyncio.Task[Any]] = set()
        self.is_dead = False
        self.stores: list[RedisCheckpointStore] = []
        self.thaws: asyncio.Event | None = None  # while it is frozen

    def stop(self) -> None:
        """Cancel all that it does."""
        self.is_dead = True
        if isinstance(self.actor, ExchangeHost):
            self.actor._lanes.take_back()  # or its lanes, each of which is cancelled at once, would go on to begin others
        for task in list(self.tasks):
            task.cancel()

    def adopt(self, task: asyncio.Task[Any]) -> None:
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        if self.is_dead:
            task.cancel()


@dataclass
class Faults:
    """What goes wrong on the way. Each entry of `lose_before` and `lose_after` loses so many calls of (name, method)."""

    lose_before: Counter[tuple[str, str]] = field(default_factory=Counter)
    lose_after: Counter[tuple[str, str]] = field(default_factory=Counter)
    chance: random.Random | None = None
    lose_share: float = 0.0
    delay_s_max: float = 0.0
    kill_at: list[tuple[str, str, str, Callable[[], object]]] = field(default_factory=list)  # (name, method, before/after, what to do)

    async def before(self, name: str, method: str) -> None:
        await self._delay()
        self._act(name, method, "before")
        if self.lose_before[name, method] > 0:
            self.lose_before[name, method] -= 1
            raise PeerLost(f"{name}.{method} was lost on its way there", peer=name)
        self._maybe_lose(name, method)

    async def after(self, name: str, method: str) -> None:
        self._act(name, method, "after")
        if self.lose_after[name, method] > 0:
            self.lose_after[name, method] -= 1
            raise PeerLost(f"{name}.{method} was lost on its way back", peer=name)
        self._maybe_lose(name, method)
        await self._delay()

    def _act(self, name: str, method: str, when: str) -> None:
        for one in list(self.kill_at):
            if one[:3] == (name, method, when):
                self.kill_at.remove(one)
                one[3]()

    def _maybe_lose(self, name: str, method: str) -> None:
        if self.chance is not None and self.chance.random() < self.lose_share:
            raise PeerLost(f"{name}.{method} was lost by chance", peer=name)

    async def _delay(self) -> None:
        if self.chance is not None and self.delay_s_max:
            await asyncio.sleep(self.chance.random() * self.delay_s_max)


class LocalPeer:
    """Another actor by its name, as `caller` sees it."""

    def __init__(self, cluster: LocalCluster, name: str, caller: _Life | None) -> None:
        self.cluster = cluster
        self.name = name
        self.caller = caller

    async def call(self, method: str, *args: Any) -> Any:
        cluster = self.cluster
        cluster.calls[self.name, method] += 1
        await self._frozen(self.caller)
        await cluster.faults.before(self.name, method)
        life = cluster.lives.get(self.name)
        if life is None or life.is_dead:
            raise PeerLost(f"there is no actor {self.name} now", peer=self.name)
        await self._frozen(life)
        if (self.name, method) in cluster.hung:
            await asyncio.Event().wait()
        task = cluster.within(life, getattr(life.actor, method)(*args))
        await asyncio.wait([task])  # as with Ray, a caller that gives up stops nothing
        if life.is_dead or task.cancelled():
            raise PeerLost(f"actor {self.name} died in {method}", peer=self.name)
        error = task.exception()
        if error is not None:
            cluster.errors.append(error)
            raise AgentRaftError(f"actor {self.name} failed in {method}: {error!r}")
        await self._frozen(life)
        if method == "append":
            cluster.tally.note_commits(args[0], task.result())
        await cluster.faults.after(self.name, method)
        await self._frozen(self.caller)
        return task.result()

    async def _frozen(self, life: _Life | None) -> None:
        while life is not None and life.thaws is not None:
            await life.thaws.wait()


class LocalCluster:
    """The actors of one deployment. Made by `running`."""

    def __init__(self, spec: StoreSpec, **words: Any) -> None:
        self.spec = spec
        self.name = words.pop("name", "local")
        self.shards: int = words.pop("shards", 1)
        self.limits: Limits = words.pop("limits", LIMITS)
        self.pace: ShardPace = words.pop("pace", QUICK)
        self.runs_max: int = words.pop("runs_max", 20_000)
        self.cluster_id: str = words.pop("cluster_id", "c1")
        workers, verifiers = words.pop("workers", 2), words.pop("verifiers", 1)
        self.worker_slots: int | None = words.pop("slots", None)
        assert not words, words
        self.workers = [names.worker(self.name, "", number) for number in range(workers)]
        self.verifiers = [names.verifier(self.name, number) for number in range(verifiers)]
        self.coordinators = [names.coordinator(self.name, index) for index in range(self.shards)]
        self.faults = Faults()
        self.tally = Tally()
        self.calls: Counter[tuple[str, str]] = Counter()
        self.hung: set[tuple[str, str]] = set()
        self.errors: list[BaseException] = []  # what actors raised over their boundaries: always a bug
        self.left: list[str] = []  # actors that ended themselves
        self.lives: dict[str, _Life] = {}
        self.clients: list[Client] = []
        self._makers: dict[str, Callable[[_Life], Any]] = {}
        self._graves: list[_Life] = []
        self._task_factory_before: Any = None

    # --- life and death ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._task_factory_before = loop.get_task_factory()
        loop.set_task_factory(_task_factory)
        make = self._makers
        make[names.store(self.name)] = lambda _: CheckpointStoreActor(encode(self.spec))
        make[names.breaker(self.name)] = lambda life: BreakerActor(
            encode(BreakerSettings("breakers", write_every_s=0.05, store_wait_s=1.0)), lambda: self._store_of(life)
        )
        reads = {"store": b"store", "hold_s": 0.2}
        for name in self.workers:
            make[name] = lambda life: WorkerActor(
                encode(WorkerSettings(slots=self.worker_slots, **reads)), open_store=lambda _: self._reader_of(life)
            )
        for name in self.verifiers:
            make[name] = lambda life: VerifierActor(encode(VerifierSettings(**reads)), open_store=lambda _: self._reader_of(life))
        for index, name in enumerate(self.coordinators):
            make[name] = lambda life, index=index: self._coordinator(life, index)  # type: ignore[misc]
        for name in make:
            self.begin(name)

    def _coordinator(self, life: _Life, index: int) -> CoordinatorActor:
        settings = ShardSettings(
            self.name, self.cluster_id, index, self.shards, self.spec, {"": self.workers}, self.verifiers, self.runs_max, "", self.limits
        )
        actor = CoordinatorActor(
            encode(settings), peer=lambda name: LocalPeer(self, name, life), leave=lambda _: self._leave(life), pace=self.pace
        )
        life.stores.append(actor.store.reader)
        return actor

    def _store_of(self, life: _Life) -> ClusterStore:
        made = ClusterStore(self.spec, LocalPeer(self, names.store(self.name), life))
        life.stores.append(made.reader)
        return made

    def _reader_of(self, life: _Life) -> RedisCheckpointStore:
        made = open_store(self.spec, reader=True)
        life.stores.append(made)
        return made

    def begin(self, name: str) -> None:
        """Make an actor."""
        life = self.lives[name] = _Life(name)

        def make() -> None:
            _life.set(life)
            life.actor = self._makers[name](life)

        contextvars.copy_context().run(make)

    def kill(self, name: str, *, again: bool = True) -> None:
        """End an actor without a word; it is there again at once, with no memory."""
        life = self.lives.pop(name)
        life.is_dead = True
        self._graves.append(life)
        if isinstance(life.actor, CheckpointStoreActor) and life.actor._store is not None:
            life.stores.append(life.actor._store)
        life.stop()
        if again:
            self.begin(name)

    def _leave(self, life: _Life) -> None:
        self.left.append(life.name)
        life.is_dead = True
        for task in list(life.tasks):
            task.cancel()

    def replaced(self, name: str) -> _Life:
        """Give an actor's name to a new object; the old one goes on as a zombie. The zombie's life."""
        zombie = self.lives.pop(name)
        self._graves.append(zombie)
        self.begin(name)
        return zombie

    def freeze(self, name: str) -> _Life:
        """Nothing that this actor says or hears gets through until `thaw`."""
        life = self.lives[name]
        life.thaws = asyncio.Event()
        return life

    def thaw(self, life: _Life) -> None:
        assert life.thaws is not None
        life.thaws, thaws = None, life.thaws
        thaws.set()

    def within(self, life: _Life, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        context = contextvars.copy_context()
        context.run(_life.set, life)
        return asyncio.get_running_loop().create_task(work, context=context)

    def actor(self, name: str) -> Any:
        return self.lives[name].actor

    def shard_of(self, run_id: str) -> str:
        return self.coordinators[names.shard_of(run_id, self.shards)]

    async def end(self) -> None:
        for client in self.clients:
            await client.close()
        for life in list(self.lives.values()):
            if isinstance(life.actor, CheckpointStoreActor) and life.actor._store is not None:
                life.stores.append(life.actor._store)
        self._graves += self.lives.values()
        tasks: set[asyncio.Task[Any]] = set()
        for life in self._graves:
            tasks |= life.tasks
            if life.thaws is not None:
                life.thaws.set()
            life.stop()
        if tasks:
            _, stubborn = await asyncio.wait(tasks, timeout=WAIT_S)
            assert not stubborn, f"these do not end: {stubborn}"
        for life in self._graves:
            for store in life.stores:
                await store.close()
        asyncio.get_running_loop().set_task_factory(self._task_factory_before)

    # --- programs ----------------------------------------------------------------------------------------------------------------

    async def client(self, name: str = "") -> Client:
        made = Client(self, name or f"client{len(self.clients)}")
        await made.store.open()
        self.clients.append(made)
        return made

    def steps(self, *made: Step | Callable[[StepContext], Any]) -> list[Step]:
        """Steps that note in the tally when they run."""
        return [self.noted(one if isinstance(one, Step) else Step(one.__name__, one)) for one in made]

    def noted(self, step: Step) -> Step:
        fn, tally = step.fn, self.tally

        async def run(ctx: StepContext) -> Any:
            with tally.note(ctx):
                made = fn(ctx)
                return await made if asyncio.iscoroutine(made) else made

        run.__name__ = step.name
        return replace(step, fn=run)

    # --- the laws ----------------------------------------------------------------------------------------------------------------

    async def records(self, run_id: str) -> list[tuple[Record, bytes]]:
        """The log of a run as the store has it."""
        reader = open_store(self.spec, reader=True)
        try:
            stored = await reader.read(run_id)
        finally:
            await reader.close()
        seal = PlainSeal()
        return [(decode_record(seal.open(run_id, at, one)), one) for at, one in enumerate(stored)]

    async def state(self, run_id: str) -> RunState:
        return fold(run_id, await self.records(run_id))

    async def check(self, *run_ids: str, outcome: str | None = "succeeded", strict: bool = True) -> None:
        """The laws, from the store's logs and the tally alone. Without `strict`, an owner that was frozen may have begun steps late."""
        assert not self.errors, f"actors raised over their boundaries: {self.errors!r}"
        for run_id in run_ids:
            records = await self.records(run_id)
            state = fold(run_id, records)  # law 2: it refuses a commit without a passing certificate for exactly itself
            assert state.finished is not None, f"{run_id} has not finished: parked on {state.parked}, {state.committed} commits"
            assert outcome is None or state.finished.outcome == outcome, f"{run_id}: {state.finished}"
            assert sum(isinstance(record, RunFinished) for record, _ in records) == 1, run_id
            seen: set[tuple[int, int]] = set()
            for record, _ in records:
                if not isinstance(record, StepCommitted):
                    continue
                step, lineage = record.certificate.step, record.certificate.lineage
                assert (step, lineage) not in seen, f"{run_id}: step {step} is committed twice in lineage {lineage}"
                seen.add((step, lineage))
                name = state.plan.name(step)
                ran = [at for at, one in enumerate(self.tally.ran) if (one.run_id, one.step, one.lineage) == (run_id, name, lineage)]
                assert ran or state.forked_from is not None, f"{run_id}: {name} is committed and never ran"
                acknowledged = self.tally.acknowledged.get((run_id, step, lineage), len(self.tally.ran))
                assert not strict or all(at < acknowledged for at in ran), f"{run_id}: {name} ran again after its commit was acknowledged"


class Client:
    """A program that uses the cluster: links to every shard, and what `Cluster` does with them."""

    def __init__(self, cluster: LocalCluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.store = ClusterStore(cluster.spec, LocalPeer(cluster, names.store(cluster.name), None))
        self.definitions: dict[bytes, bytes] = {}
        peers = [LocalPeer(cluster, one, None) for one in cluster.coordinators]
        self.links = [Link(name, peer, self.definitions.__getitem__, pauses_s=(0.005, 0.01, 0.02)) for peer in peers]
        self.events: dict[str, list[Event]] = {}

    def link(self, run_id: str) -> Link:
        return self.links[names.shard_of(run_id, len(self.links))]

    def host(self, steps: Iterable[Step] | Pipeline, verifier: Verifier | None = None, **settings: Any) -> Blueprint:
        """Make a pipeline known to this program, by path."""
        pipeline = steps if isinstance(steps, Pipeline) else Pipeline(self.cluster.steps(*steps))
        words = {"on_open": "park", "limits": self.cluster.limits} | settings
        definition = encode(Definition(path_to(pipeline), path_to(verifier or RulesVerifier()), RunSettings(**words)))
        blueprint = load_blueprint(definition)
        self.definitions[blueprint.plan.fingerprint] = definition
        return blueprint

    def follower(
        self, blueprint: Blueprint, run_id: str, task: Task | None, *, listens: bool = False, until_waiting: bool = False
    ) -> Follower:
        record = None if task is None else task_record(task, self.cluster.limits)
        sink = EventSink(self.events.setdefault(run_id, []).append) if listens else None
        submission = Submission(run_id, blueprint.plan.fingerprint, record, listens, current_trace())
        return Follower(blueprint, self.store, PlainSeal(), submission, sink, until_waiting=until_waiting)

    async def submit(self, blueprint: Blueprint, run_id: str, goal: str | None = "goal", **words: Any) -> Follower:
        """Submit a run (`goal` None: follow one that exists); returns when it is accepted."""
        inputs = words.pop("inputs", None) or {}
        task = None if goal is None else Task(goal, inputs, id=run_id)
        follower = self.follower(blueprint, run_id, task, **words)
        async with asyncio.timeout(WAIT_S):
            await follower.accepted(self.link(run_id))
        return follower

    async def result(self, follower: Follower) -> RunResult:
        async with asyncio.timeout(WAIT_S):
            return await follower.result(self.link(follower.run_id))

    async def run(self, blueprint: Blueprint, run_id: str, goal: str | None = "goal", **words: Any) -> RunResult:
        return await self.result(await self.submit(blueprint, run_id, goal, **words))

    async def decide(self, run_id: str, kind: str, step: str, *, look: bool = True, note: str = "") -> None:
        """Approve or deny through the store; `look` says so to the shard."""
        state = await self.cluster.state(run_id)
        assert await self.store.push_command(run_id, approval_command(state, kind, step, "somebody", note))
        if look:
            await self.link(run_id).call("look", [run_id])

    async def cancel(self, run_id: str, *, look: bool = True) -> None:
        assert await self.store.push_command(run_id, cancel_command("somebody"))
        if look:
            await self.link(run_id).call("look", [run_id])

    async def close(self) -> None:
        for link in self.links:
            await link.close()
        await self.store.close()


@asynccontextmanager
async def running(spec: StoreSpec, **words: Any) -> AsyncIterator[LocalCluster]:
    """A cluster that is ended afterwards, with all of its lives."""
    cluster = LocalCluster(spec, **words)
    cluster.start()
    try:
        yield cluster
    finally:
        await cluster.end()


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition; fails after a while."""
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"{what}: not within {WAIT_S} s"
        await asyncio.sleep(0.002)


def _task_factory(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **words: Any) -> asyncio.Task[Any]:
    """Every task belongs to the actor whose task or callback began it, also one that is begun in a context of its own."""
    life = _life.get()
    context = words.get("context")
    if context is not None:
        life = context.get(_life) or life
        if life is not None:
            context.run(_life.set, life)
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **words)
    if life is not None:
        life.adopt(task)
    return task
