"""On a cluster too: what verdicts cost is booked once and in full, budgets hold, and the cache is in the verifier actor."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentraft_ray import Budget, Cost, Criticality, FreshCalibration, Step
from agentraft_ray.actors import names
from agentraft_ray.actors.messages import Judged
from agentraft_ray.errors import ErrorType, InvalidConfig
from agentraft_ray.pipeline import StepContext
from agentraft_ray.protocol.records import StepCommitted
from agentraft_ray.taxonomy import Allowance, VerdictKind
from agentraft_ray.verifier import CachedVerifier, HedgedVerifier, QuorumVerifier
from tests.actors import hosted
from tests.actors.local_cluster import LocalCluster, until
from tests.unit.judges import Model, judge, says

server = pytest.mark.server


async def text(ctx: StepContext) -> str:
    return f"Text {ctx.attempt}."


def step(name: str, **words: Any) -> Step:
    return Step(name, text, **words)


# --- the verifier actor by itself ----------------------------------------------------------------------------------------------


async def actor(verifier: Any, **settings: Any) -> hosted.Client:
    of = hosted.blueprint([step("a")], verifier)
    made = hosted.Client(hosted.verifier(of, **settings), of)
    await made.load()
    return made


def answer(reply: Any) -> Judged:
    assert isinstance(reply, Judged)
    assert reply.result is not None
    return reply


async def test_the_actor_begins_no_call_that_the_allowance_does_not_cover() -> None:
    model = Model()
    here = await actor(judge(model))
    short = answer(await here.ask(here.judge(allowance=Allowance(tokens=300)))).result
    assert short is not None
    assert (short.kind, short.short_of, model.asked) == (VerdictKind.FAULT, "tokens", 0)
    enough = answer(await here.ask(here.judge(allowance=Allowance(tokens=30_000)))).result
    assert enough is not None
    assert (enough.passed, enough.cost.tokens, enough.cost.usd) == (True, 1_010, pytest.approx(0.11))


async def test_a_verdict_that_is_called_off_or_overdue_comes_back_with_its_bill() -> None:
    class Deaf(Model):
        """Answers nothing, and does not let itself be cancelled."""

        async def __call__(self, system: str, user: str) -> Any:
            self.asked += 1
            over = asyncio.get_running_loop().time() + 5
            while asyncio.get_running_loop().time() < over and not done.is_set():
                try:
                    await done.wait()
                except asyncio.CancelledError:
                    self.cancelled += 1
            return says()

    done = asyncio.Event()
    model = Deaf()
    here = await actor(judge(model), hold_s=0.01)
    called_off = here.judge()
    await here.exchange(called_off)
    await until(lambda: model.asked == 1, "the first call")
    await here.actor.cancel("client", [called_off.ticket])
    overdue = here.judge(timeout_s=0.05)
    for request in (called_off, overdue):
        result = answer(await here.ask(request) if request is overdue else await here.reply(request.ticket)).result
        assert result is not None
        assert (result.kind, result.cost.usd) == (VerdictKind.FAULT, None)
        assert result.cost.tokens > 400
    done.set()


async def test_the_cache_is_in_the_actor() -> None:
    model = Model()
    here = await actor(CachedVerifier(judge(model)))
    results = [answer(await here.ask(here.judge())).result for _ in range(3)]
    assert [result is not None and result.cached for result in results] == [False, True, True]
    assert model.asked == 1


# --- runs ----------------------------------------------------------------------------------------------------------------------


@server
async def test_a_run_books_what_its_verdicts_cost_and_its_certificates_say_so(cluster: LocalCluster) -> None:
    client = await cluster.client()
    verifier = judge(Model(says("GOAL_DRIFT"), says()))
    result = await client.run(client.host([step("a"), step("b")], verifier), "run")
    assert (result.success, result.cost.tokens, result.cost.usd) == (True, 3_030, pytest.approx(0.33))
    assert result.steps[0].verification is not None
    assert (result.steps[0].verification.cost.tokens, result.steps[0].cost.tokens) == (1_010, 1_010)
    assert (await cluster.state("run")).cost.usd == pytest.approx(0.33)
    await cluster.check("run")


@server
async def test_a_run_on_a_cluster_begins_no_verdict_that_would_exceed_its_budget(cluster: LocalCluster) -> None:
    client = await cluster.client()
    for budget, resource in ((Budget(tokens=3_500), "tokens"), (Budget(usd=0.9, reserve=Cost(usd=0.1)), "usd")):
        model = Model()
        result = await client.run(client.host([step(f"s{n}") for n in range(9)], judge(model), budget=budget), f"run-{resource}")
        assert (result.error_kind, result.error_fields["resource"]) == ("BudgetExhausted", resource)
        assert model.asked == result.verified_count > 0
        assert result.cost.tokens <= (budget.tokens or 10**9)
        assert result.cost.usd is not None
        assert result.cost.usd <= (budget.usd or 10**9)
        await cluster.check(f"run-{resource}", outcome="failed")


@server
async def test_panels_and_hedges_pay_for_what_they_cancel_on_a_cluster_too(cluster: LocalCluster) -> None:
    client = await cluster.client()
    slow = [Model(gate=asyncio.Event()) for _ in range(2)]
    panel = QuorumVerifier([judge(Model()), judge(Model()), judge(slow[0])], rule="k_of_n")
    hedge = HedgedVerifier(judge(slow[1]), judge(Model()), hedge_after_s=0.01)
    for number, (verifier, known) in enumerate(((panel, 0.22), (hedge, 0.11))):
        result = await client.run(client.host([step("a")], verifier), f"run{number}")
        assert (result.success, result.cost.usd, result.cost.usd_at_least) == (True, None, pytest.approx(known))


@server
async def test_a_verdict_that_is_remembered_serves_the_next_run_and_is_free(cluster: LocalCluster) -> None:
    client, model = await cluster.client(), Model()
    blueprint = client.host([step("a")], CachedVerifier(judge(model), across_runs=True))
    results = [await client.run(blueprint, f"run{number}") for number in range(3)]
    assert [result.cost.tokens for result in results] == [1_010, 0, 0]
    assert model.asked == 1
    for number in range(3):
        commit = next(record for record, _ in await cluster.records(f"run{number}") if isinstance(record, StepCommitted))
        assert commit.certificate.cached is (number > 0)
        await cluster.check(f"run{number}")


@server
async def test_a_verdict_whose_verifier_died_makes_the_cost_unknown(cluster: LocalCluster) -> None:
    client, model = await cluster.client(), Model(gate=asyncio.Event())
    follower = await client.submit(client.host([step("a")], judge(model)), "run")
    await until(lambda: model.asked == 1, "the verdict")
    cluster.kill(names.verifier("local", 0))
    await until(lambda: model.asked == 2, "the verdict, once more")
    assert model.gate is not None
    model.gate.set()
    result = await client.result(follower)
    assert (result.success, result.cost.usd, result.cost.usd_at_least) == (True, None, pytest.approx(0.11))
    await cluster.check("run")


@server
async def test_a_verdict_under_way_for_an_attempt_that_a_rollback_closes_is_booked(cluster: LocalCluster) -> None:
    model = Model(gate=asyncio.Event())

    class Both(type(judge(model))):  # type: ignore[misc]
        """Step "slow" is with the model when "b" accuses the source of both."""

        async def verify(self, request: Any) -> Any:
            from agentraft_ray.taxonomy import VerificationResult

            if request.step.name == "slow" and not model.asked:
                return await super().verify(request)
            if request.step.name == "b" and not seen:
                await until(lambda: model.asked, "the slow verdict")
                seen.append(1)
                return VerificationResult.fail(ErrorType.CONTRADICTION, blame="source")
            if request.step.name == "source" and len(seen) == 1:
                seen.append(2)
                return VerificationResult.fail(ErrorType.HALLUCINATION)
            return VerificationResult.ok()

    seen: list[int] = []
    verifier = Both(complete_fn=model, model="m")
    client = await cluster.client()
    steps = [step("source"), step("slow", after=("source",)), step("b", after=("source",)), step("end", after=("slow", "b"))]
    result = await client.run(client.host(steps, verifier), "run")
    assert (result.success, result.rollbacks > 0, model.cancelled) == (True, True, 1)
    assert (result.cost.usd, result.cost.tokens > 400) == (None, True)
    await cluster.check("run")


@server
async def test_high_steps_on_a_cluster_need_their_calibration_too(cluster: LocalCluster) -> None:
    client = await cluster.client()
    with pytest.raises(InvalidConfig, match="calibrated models only"):
        client.host([step("a", criticality=Criticality.HIGH)], judge(Model()), require_calibration=FreshCalibration())
