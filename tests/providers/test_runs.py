"""Runs in one process whose provider is limited, down or out of quota: they wait, nothing is billed to the agent, none goes unverified."""

from __future__ import annotations

import asyncio
import time

import pytest

from agentraft_ray import Coordinator, Criticality, Limits, Pipeline, Step, StepContext, Task, TieredVerifier, wrap
from agentraft_ray.breaker import BreakerState
from agentraft_ray.checkpoint.memory import InMemoryCheckpointStore
from agentraft_ray.config import ProviderLimits
from agentraft_ray.protocol.records import RunParked, RunResumed, decode_record
from agentraft_ray.runtime.provider_guard import ProcessGuard
from agentraft_ray.testing.model_server import PASS, Asked, ModelServer, Reply
from agentraft_ray.verifier.providers.connections import guard_process
from tests.providers.asking import verifier

QUICK = Limits(verifier_retry_delay_s=0.001, inbox_poll_s=0.005, verifier_park_retry_s=0.02)


class Steps:
    """A pipeline of one step that counts how often it ran."""

    def __init__(self, criticality: Criticality = Criticality.HIGH) -> None:
        self.ran: list[int] = []
        self.pipeline = Pipeline([Step("draft", self.draft, goal="Write about Rome", criticality=criticality)])

    def draft(self, ctx: StepContext) -> str:
        self.ran.append(ctx.attempt)
        return "Rome is a city in Italy."

    def coordinator(
        self, server: ModelServer, provider: str = "openai", limits: Limits = QUICK, provider_limits: ProviderLimits | None = None
    ) -> Coordinator:
        tiers = TieredVerifier(l2=verifier(server, provider, limits=provider_limits))
        self.store = InMemoryCheckpointStore()
        return wrap(self.pipeline, verifier=tiers, store=self.store, limits=limits)

    async def records(self, run_id: str) -> list[object]:
        return [decode_record(stored) for stored in await self.store.read(run_id)]


class Answers:
    """Answers in turn, the last one again and again."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)

    def __call__(self, asked: Asked) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def limited(after_s: float) -> Reply:
    return Reply(status=429, message="slow down", headers={"retry-after-ms": str(int(after_s * 1000))})


async def test_a_run_waits_for_the_time_that_its_provider_names_and_goes_on(server: ModelServer) -> None:
    server.script = Answers(limited(1.0), Reply(verdict=PASS))
    steps = Steps()
    started = time.monotonic()
    result = await steps.coordinator(server).run(Task("t", id="run"))
    assert result.success
    assert time.monotonic() - started >= 1.0
    assert (steps.ran, len(server.asked)) == ([0], 2)
    assert result.steps[0].attempts == 1
    assert result.cost.tokens == 150


async def test_a_run_that_would_wait_for_an_hour_is_given_back_and_goes_on_when_it_is_over(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead_s = [0.0]
    guard_process(ProcessGuard(lambda: time.time() + ahead_s[0]))
    server.script = Answers(limited(3600.0), Reply(verdict=PASS))
    steps = Steps()
    async with steps.coordinator(server) as coordinator:
        waiting = await coordinator.run(Task("t", id="run"))
        assert (waiting.status, waiting.error_kind) == ("waiting", "VerifierUnavailable")
        assert waiting.waiting_for == (f"verifier:draft: openai:gpt-6-luna@{server.address[7:]} rate_limited",)
        assert waiting.resume_at is not None
        assert 3500 < waiting.resume_at - time.time() < 3700
        again = await coordinator.resume("run")
        assert again.status == "waiting"
        assert len(server.asked) == 1  # nobody sends anything before the time has come
        ahead_s[0] = 3601.0
        result = await coordinator.resume("run")
    assert result.success
    assert (steps.ran, len(server.asked)) == ([0], 2)


async def test_a_submitted_run_goes_on_by_itself(server: ModelServer) -> None:
    server.script = Answers(limited(0.8), Reply(verdict=PASS))
    steps = Steps()
    limits = Limits(verifier_hold_s=0.0, verifier_wait_s=0.01, inbox_poll_s=0.005, verifier_park_retry_s=3600.0)
    async with steps.coordinator(server, limits=limits) as coordinator:
        handle = await coordinator.submit(Task("t", id="run"))
        async with asyncio.timeout(20):
            result = await handle.result()
    assert result.success
    assert (steps.ran, len(server.asked)) == ([0], 2)


async def test_a_log_does_not_grow_while_its_run_asks_again_and_again(server: ModelServer) -> None:
    server.script = Answers(*[limited(0.02)] * 6, Reply(verdict=PASS))
    steps = Steps()
    limits = Limits(verifier_hold_s=0.0)
    result = await steps.coordinator(server, limits=limits).run(Task("t", id="run"))
    assert result.success
    records = await steps.records("run")
    assert sum(isinstance(record, RunParked) for record in records) == 1
    assert not any(isinstance(record, RunResumed) for record in records)
    assert len(server.asked) == 7


async def test_what_needs_somebodys_help_is_said_at_once(server: ModelServer) -> None:
    server.script = Answers(Reply(status=401, message="Incorrect API key"))
    steps = Steps()
    result = await steps.coordinator(server).run(Task("t", id="run"))
    assert (result.status, len(server.asked), steps.ran) == ("waiting", 1, [0])
    assert "auth" in result.waiting_for[0]
    assert result.resume_at is None


async def test_a_refusal_is_for_a_person_to_decide(server: ModelServer) -> None:
    server.script = Answers(Reply(verdict=PASS, refusal="I'd rather not."))
    steps = Steps()
    async with steps.coordinator(server) as coordinator:
        waiting = await coordinator.run(Task("t", id="run"))
        assert waiting.waiting_for == ("approval:draft (the verifier abstained)",)
        await coordinator.approve("run", "draft", by="ann")
        assert (await coordinator.resume("run")).success


@pytest.mark.parametrize(
    "reply", [Reply(status=500), Reply(status=529), Reply(verdict=PASS, cut_after=5), Reply(text="fine"), limited(3600)]
)
@pytest.mark.parametrize("on_fault", ["closed", "l1"])
async def test_high_never_passes_unverified(server: ModelServer, reply: Reply, on_fault: str) -> None:
    server.script = Answers(reply)
    for criticality, passes in ((Criticality.HIGH, False), (Criticality.MEDIUM, on_fault == "l1")):
        steps = Steps(criticality)
        tiers = TieredVerifier(l2=verifier(server, "openai"), on_fault=on_fault)  # type: ignore[arg-type]
        result = await wrap(steps.pipeline, verifier=tiers, store="memory", limits=QUICK).run(Task("t"))
        assert result.success is passes
        assert steps.ran == [0]
        assert result.rollbacks == 0
        assert passes or result.error_kind == "VerifierUnavailable"


async def test_a_provider_that_is_down_is_known_to_all_runs_and_the_other_one_goes_on(server: ModelServer) -> None:
    now = [1000.0]
    guard = ProcessGuard(lambda: now[0])
    guard_process(guard)
    is_down = [True]
    server.script = lambda asked: Reply(status=500) if asked.provider == "openai" and is_down[0] else Reply(verdict=PASS)
    provider_limits = ProviderLimits(failure_threshold=5, cooldown_s=0.05, concurrency_max=1)
    limits = Limits(verifier_retry_delay_s=0.001, verifier_faults_max=1_000)
    down = Steps()
    lane = verifier(server, "openai")._config.lane
    async with (
        down.coordinator(server, limits=limits, provider_limits=provider_limits) as ill,
        Steps().coordinator(server, "anthropic") as well,
    ):
        waiting = asyncio.gather(*(ill.run(Task("t", id=f"down{n}")) for n in range(20)))
        async with asyncio.timeout(30):
            while guard.state(lane, provider_limits) is BreakerState.CLOSED:
                await asyncio.sleep(0.005)
        assert all(result.success for result in await asyncio.gather(*(well.run(Task("t", id=f"up{n}")) for n in range(20))))
        assert sum(one.provider == "openai" for one in server.asked) == 5  # all runs together
        is_down[0] = False
        now[0] += 1.0
        async with asyncio.timeout(30):
            results = await waiting
    assert all(result.success for result in results)
    assert down.ran == [0] * 20
    assert guard.state(lane, provider_limits) is BreakerState.CLOSED
