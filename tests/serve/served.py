"""A server over a store in memory, and pipelines that it serves by their import paths."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from agentraft_ray import ErrorType, InMemoryCheckpointStore, Limits, MockVerifier, Pipeline, Step, StepContext
from agentraft_ray.cluster.offers import offer
from agentraft_ray.cluster.serve.host import Host, LocalHost, Nobody
from agentraft_ray.cluster.serve.server import serving
from agentraft_ray.cluster.serve.services import Services
from agentraft_ray.cluster.serve.settings import ServeSettings
from agentraft_ray.cluster.serve.tokens import new_token
from agentraft_ray.ledger import Ledger

LIMITS = Limits(inbox_poll_s=0.02, drain_s=0.5, lease_ttl_s=2.0)
HERE = "tests.serve.served"

_gates: dict[str, asyncio.Event] = {}


def gate(run_id: str) -> asyncio.Event:
    """What the "wait" step of a run waits for."""
    return _gates.setdefault(run_id, asyncio.Event())


async def wait(ctx: StepContext) -> str:
    await gate(ctx.run_id).wait()
    return "waited"


memo = Pipeline(
    [
        Step("research", lambda ctx: f"sources on {ctx.task.goal}", goal="Gather sources"),
        Step("draft", lambda ctx: {"text": f"draft from {ctx.outputs['research']}", "n": ctx.task.inputs.get("n", 0)}),
        Step("publish", lambda ctx: f"published {ctx.attempt}", needs_approval=True),
    ],
    name="memo",
)
quick = Pipeline([Step(f"s{number}", lambda ctx: ctx.step_name) for number in range(3)], name="quick")
slow = Pipeline([Step("before", lambda ctx: 1), Step("wait", wait), Step("after", lambda ctx: 2)], name="slow")
shaky = Pipeline([Step("say", lambda ctx: "something"), Step("more", lambda ctx: "more")], name="shaky")
shaky_verifier = MockVerifier({"say": [ErrorType.HALLUCINATION, ErrorType.NONE]})
PIPELINES: dict[str, Any] = {
    "memo": f"{HERE}:memo",
    "quick": f"{HERE}:quick",
    "slow": f"{HERE}:slow",
    "shaky": {"path": f"{HERE}:shaky", "verifier": f"{HERE}:shaky_verifier"},
}
SECRETS, _LINES = zip(
    new_token("reader", ["read"]), new_token("sender", ["submit"]), new_token("boss", ["read", "submit", "operate"]), strict=True
)
READER, SENDER, BOSS = SECRETS
TOKENS = ";".join(_LINES)


class Served:
    """A server that runs: its URL, a client of it, and what is behind it."""

    def __init__(self, url: str, client: httpx.AsyncClient, services: Services) -> None:
        self.url = url
        self.client = client
        self.services = services

    async def submit(self, pipeline: str = "quick", **words: Any) -> str:
        answer = await self.client.post("/v1/runs", json={"pipeline": pipeline, "goal": "a memo", **words})
        assert answer.status_code in {200, 201}, answer.text
        return str(answer.json()["run_id"])

    async def until(self, run_id: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The run, once it is as wanted."""
        async with asyncio.timeout(20):
            while True:
                answer = await self.client.get(f"/v1/runs/{run_id}")
                assert answer.status_code == 200, answer.text
                run: dict[str, Any] = answer.json()
                if wanted(run):
                    return run
                await asyncio.sleep(0.01)

    async def status(self, run_id: str, status: str) -> dict[str, Any]:
        return await self.until(run_id, lambda run: run["status"] == status)

    async def events(self, run_id: str, last: str | None = None, *, stop: int | None = None) -> list[dict[str, Any]]:
        """The events of a run behind `last`, to its end or `stop` of them, as their frames had them."""
        headers = {"Last-Event-ID": last} if last else {}
        found: list[dict[str, Any]] = []
        async with self.client.stream("GET", f"/v1/runs/{run_id}/events", headers=headers) as answer:
            if answer.status_code == 204:
                return found
            assert answer.status_code == 200, await answer.aread()
            async for one in frames_of(answer):
                if one["event"] == "end" or len(found) == stop:
                    break
                found.append(one)
        return found


async def frames_of(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream."""
    frame: dict[str, Any] = {}
    async for line in answer.aiter_lines():
        if line and not line.startswith("retry"):
            name, _, value = line.partition(":")
            frame[name] = value.removeprefix(" ")
        elif "event" in frame:
            yield {**frame, "data": json.loads(frame["data"])}
            frame = {}


@asynccontextmanager
async def served(
    store: InMemoryCheckpointStore | None = None,
    *,
    token: str = "",
    drives: bool = True,
    headers: dict[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[Served]:
    """A server on loopback and a client with `token`."""
    chosen = ServeSettings(**{"pipelines": PIPELINES if drives else {}, "adopt_s": 0.05, **settings})
    kept = InMemoryCheckpointStore(limits=LIMITS) if store is None else store
    made: list[Services] = []

    @asynccontextmanager
    async def opening() -> AsyncIterator[Services]:
        ledger = Ledger(kept, limits=LIMITS)
        ledger.pulse._beat_s = ledger.pulse._look_s = 0.02
        offers = {name: offer(one.path, one.verifier, one.run_settings()) for name, one in chosen.pipelines.items()}
        host: Host = LocalHost(ledger, offers, runs_max=chosen.runs_max, adopt_s=chosen.adopt_s) if drives else Nobody()
        await host.open()
        services = Services(ledger, host, chosen)
        made.append(services)
        try:
            yield services
        finally:
            await host.close()
            await ledger.close()

    chosen_headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with serving(chosen, opening) as url, httpx.AsyncClient(base_url=url, headers=chosen_headers, timeout=20) as client:
        yield Served(url, client, made[0])
