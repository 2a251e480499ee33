"""Workers and verifiers as plain objects, a client that talks to them, and logs for them to read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from agentraft_ray import Pipeline, RulesVerifier, Verifier
from agentraft_ray.actors.messages import Judge, Loaded, Reply, Welcome, Work, decode, encode
from agentraft_ray.actors.verifier import VerifierActor, VerifierSettings
from agentraft_ray.actors.worker import WorkerActor, WorkerSettings
from agentraft_ray.checkpoint.base import RunStore
from agentraft_ray.checkpoint.codec import encode_output
from agentraft_ray.config import Limits
from agentraft_ray.identity import digest
from agentraft_ray.protocol.records import Payload, TaskRecord
from agentraft_ray.runtime.blueprint import Blueprint, RunSettings, blueprint_of

WAIT_S = 10.0
TASK = TaskRecord("the goal", encode_output({"n": 1}), "task-1")


def blueprint(steps: Iterable[Any], verifier: Verifier | None = None, limits: Limits | None = None) -> Blueprint:
    """What a definition becomes."""
    return blueprint_of(Pipeline(list(steps)), verifier or RulesVerifier(), RunSettings(limits=limits or Limits()))


def worker(of: Blueprint, store: RunStore | None = None, **settings: Any) -> WorkerActor:
    """A worker to which every definition means `of`."""
    chosen = WorkerSettings(store=None if store is None else b"the store", **settings)
    return WorkerActor(encode(chosen), load=lambda _: of, open_store=lambda _: store)  # type: ignore[arg-type, return-value]


def verifier(of: Blueprint, store: RunStore | None = None, **settings: Any) -> VerifierActor:
    """A verifier to which every definition means `of`."""
    chosen = VerifierSettings(store=None if store is None else b"the store", **settings)
    return VerifierActor(encode(chosen), load=lambda _: of, open_store=lambda _: store)  # type: ignore[arg-type, return-value]


class Client:
    """One coordinator as an actor sees it: requests under tickets of its own, replies by ticket."""

    def __init__(self, actor: WorkerActor | VerifierActor, of: Blueprint, name: str = "client") -> None:
        self.actor = actor
        self.blueprint = of
        self.name = name
        self.session = ""
        self.replies: dict[int, Reply] = {}
        self.tickets = 0

    async def load(self) -> Loaded:
        return decode(await self.actor.load(b"a definition"), Loaded)

    def work(self, step: int = 0, *, parents: tuple[tuple[int, bytes | None], ...] = (), **fields: Any) -> Work:
        self.tickets += 1
        values: dict[str, Any] = {
            "ticket": self.tickets,
            "definition": self.blueprint.plan.fingerprint,
            "run_id": "run",
            "step": step,
            "lineage": 0,
            "attempt": 0,
            "sample": 0,
            "hint": None,
            "timeout_s": None,
            "task": TASK,
            "parents": parents,
        }
        return Work(**values | fields)

    def judge(self, output: Any = "a sentence.", step: int = 0, **fields: Any) -> Judge:
        self.tickets += 1
        data = b"" if isinstance(output, Payload) else encode_output(output)
        values: dict[str, Any] = {
            "ticket": self.tickets,
            "definition": self.blueprint.plan.fingerprint,
            "run_id": "run",
            "step": step,
            "attempt": 0,
            "output": output if isinstance(output, Payload) else Payload(digest(data), len(data), data),
            "position": -1,
            "previous": "",
            "timeout_s": 60.0,
            "task": TASK,
            "parents": (),
        }
        return Judge(**values | fields)

    async def exchange(self, *requests: Work | Judge) -> list[Reply]:
        came = decode(await self.actor.exchange(self.name, encode(list(requests)), session=self.session), list[Reply | Welcome])
        if came and isinstance(came[0], Welcome):
            self.session = came[0].session
            if len(came) == 1:
                return await self.exchange()
        replies = [reply for reply in came if not isinstance(reply, Welcome)]
        self.replies |= {reply.ticket: reply for reply in replies}
        return replies

    async def ask(self, request: Work | Judge) -> Reply:
        """The reply to one request."""
        await self.exchange(request)
        return await self.reply(request.ticket)

    async def reply(self, ticket: int) -> Reply:
        async with asyncio.timeout(WAIT_S):
            while ticket not in self.replies:
                await self.exchange()
        return self.replies[ticket]


@asynccontextmanager
async def at_work(of: Blueprint, store: RunStore | None = None, **settings: Any) -> AsyncIterator[Client]:
    """A client of a worker that knows its definition."""
    client = Client(worker(of, store, **settings), of)
    await client.load()
    yield client


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition; fails after a while."""
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"{what}: not within {WAIT_S} s"
        await asyncio.sleep(0.005)
