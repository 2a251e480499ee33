"""Verdicts of models in a run: what they cost is booked once and in full, budgets hold, and HIGH asks for fresh calibrations."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentraft_ray import (
    Budget,
    Cost,
    Criticality,
    EventType,
    FreshCalibration,
    InMemoryCheckpointStore,
    Limits,
    Pipeline,
    RunResult,
    Step,
    StepContext,
    Task,
    TieredVerifier,
    Verifier,
    VerifyInput,
    wrap,
)
from agentraft_ray.errors import ErrorType, InvalidConfig, VerifierUnavailable
from agentraft_ray.protocol.records import StepCommitted, decode_record
from agentraft_ray.taxonomy import FaultKind, VerificationResult, VerifierFault
from agentraft_ray.verifier import CachedVerifier, Calibration, HedgedVerifier, LabelledCase, QuorumVerifier
from tests.unit.judges import Model, judge, says

QUICK = Limits(verifier_retry_delay_s=0.001, drain_s=0.5, inbox_poll_s=0.02)
DOWN = VerifierFault(FaultKind.CONNECTION, "no route", "p:m")


async def run(steps: Any, verifier: Verifier, **options: Any) -> RunResult:
    pipeline = steps if isinstance(steps, Pipeline) else Pipeline(steps)
    return await wrap(pipeline, verifier=verifier, **{"store": "memory", "limits": QUICK, **options}).run(Task("t"))


def text(ctx: StepContext) -> str:
    return f"Text {ctx.step_name} {ctx.attempt}."


# --- what is booked ----------------------------------------------------------------------------------------------------------


async def test_a_verdict_a_step_and_a_run_say_what_they_cost() -> None:
    told = []
    verifier = judge(Model(says("GOAL_DRIFT"), says()))

    def work(ctx: StepContext) -> str:
        ctx.spend(tokens=5, usd=0.5)
        return text(ctx)

    result = await run([Step("a", work), Step("b", text)], verifier, on_event=told.append)
    assert (result.cost.tokens, result.cost.usd) == (3 * 1_010 + 10, pytest.approx(3 * 0.11 + 1.0))
    first = result.steps[0]
    assert first.verification is not None
    assert (first.verification.cost.tokens, first.verification.cost.usd) == (1_010, pytest.approx(0.11))
    assert (first.cost.tokens, first.cost.usd) == (1_015, pytest.approx(0.61))
    failed = next(one for one in told if one.type is EventType.STEP_FAILED)
    assert failed.verification.cost.usd == pytest.approx(0.11)


async def test_one_unknown_price_makes_the_sum_unknown_and_says_what_it_is_at_least() -> None:
    result = await run([text, Step("b", text)], judge(Model(DOWN, says())))
    assert (result.cost.usd, result.cost.usd_at_least) == (None, pytest.approx(0.22))


async def test_a_verdict_that_runs_out_of_the_runs_time_for_it_is_booked() -> None:
    class Deaf(Model):
        async def __call__(self, system: str, user: str) -> Any:
            if self.asked == 0:
                self.asked += 1
                await asyncio.Event().wait()
            return await super().__call__(system, user)

    class NoDeadline(Verifier):
        """Keeps no deadline of its own, so that the run must end it."""

        def __init__(self) -> None:
            self.inner = judge(Deaf())

        async def verify(self, request: VerifyInput) -> VerificationResult:
            return await self.inner.verify(replace(request, deadline_s=None))

    result = await run([text], NoDeadline(), limits=replace(QUICK, verifier_timeout_s=0.05))
    assert result.success
    assert (result.cost.usd, result.cost.usd_at_least) == (None, pytest.approx(0.11))
    assert result.cost.tokens > 1_010 + 400


async def test_a_verdict_under_way_when_the_run_is_cancelled_is_booked() -> None:
    model = Model(gate=asyncio.Event())
    store = InMemoryCheckpointStore()
    coordinator = wrap(Pipeline([Step("a", text)]), verifier=judge(model), store=store, limits=QUICK)
    going = asyncio.create_task(coordinator.run(Task("t", id="r")))
    while not model.asked:
        await asyncio.sleep(0)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    assert model.gate is not None
    model.gate.set()
    result = await wrap(Pipeline([Step("a", text)]), verifier=judge(model), store=store, limits=QUICK).resume("r")
    assert result.success
    assert (result.cost.usd, result.cost.usd_at_least) == (None, pytest.approx(0.11))
    assert result.cost.tokens > 1_010 + 400


async def test_panels_and_hedges_pay_for_what_they_cancel_in_a_run_too() -> None:
    slow = [Model(gate=asyncio.Event()) for _ in range(2)]
    panel = QuorumVerifier([judge(Model()), judge(Model()), judge(slow[0])], rule="k_of_n")
    hedge = HedgedVerifier(judge(slow[1]), judge(Model()), hedge_after_s=0.01)
    for verifier, known in ((panel, 0.22), (hedge, 0.11)):
        result = await run([text], verifier)
        assert (result.success, result.cost.usd, result.cost.usd_at_least) == (True, None, pytest.approx(known))
    assert [one.cancelled for one in slow] == [1, 1]


# --- repeated verdicts -------------------------------------------------------------------------------------------------------


async def test_the_certificate_of_a_repeated_verdict_says_so_and_it_costs_nothing() -> None:
    model = Model()
    verifier = CachedVerifier(judge(model), across_runs=True)
    for turn in range(2):
        store = InMemoryCheckpointStore()
        coordinator = wrap(Pipeline([Step("a", text)]), verifier=verifier, store=store, limits=QUICK)
        result = await coordinator.run(Task("t", id=f"r{turn}"))
        stored = [decode_record(one) for one in await store.read(f"r{turn}", 0, 100)]
        commit = next(one for one in stored if isinstance(one, StepCommitted))
        assert commit.certificate.cached is bool(turn)
        assert (commit.certificate.cost is None) is bool(turn)
        assert commit.certificate.prompt
        assert (result.cost.tokens, result.cost.usd) == (0 if turn else 1_010, 0.0 if turn else pytest.approx(0.11))
        assert result.steps[0].verification is not None
        assert result.steps[0].verification.cached is bool(turn)
    assert model.asked == 1


# --- budgets -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "resource"),
    [(Budget(tokens=2_500), "tokens"), (Budget(tokens=5_000), "tokens"), (Budget(usd=0.9), "usd"), (Budget(usd=0.1, tokens=5_000), "usd")],
)
async def test_no_verdict_is_begun_that_would_exceed_the_budget(budget: Budget, resource: str) -> None:
    model = Model()
    verifier = judge(model)
    result = await run(Pipeline.repeat(Step("work", text), 9), verifier, budget=budget)
    assert (result.status, result.error_kind, result.error_fields["resource"]) == ("failed", "BudgetExhausted", resource)
    assert model.asked == result.verified_count
    assert result.cost.usd is not None
    most = await verifier._billing.most("x" * 2_500)  # no prompt here is shorter
    for limit, spent in ((budget.tokens, result.cost.tokens), (budget.usd, result.cost.usd)):
        assert limit is None or spent <= limit
    if resource == "tokens":
        assert budget.tokens is not None
        assert budget.tokens - result.cost.tokens < most.tokens + 600  # it was not ended long before
    assert (model.asked == 0) == (budget.usd == 0.1)


async def test_rules_are_asked_also_when_nothing_is_left() -> None:
    def work(ctx: StepContext) -> str:
        ctx.spend(tokens=100)
        return text(ctx)

    result = await wrap(Pipeline([Step("a", work)]), store="memory", limits=QUICK, budget=Budget(tokens=100)).run(Task("t"))
    assert result.success


async def test_what_a_step_has_spent_is_not_there_for_its_verdict() -> None:
    def work(ctx: StepContext) -> str:
        ctx.spend(tokens=2_000)
        return text(ctx)

    model = Model()
    result = await run([Step("a", work)], judge(model), budget=Budget(tokens=3_000, reserve=Cost(tokens=2_000)))
    assert (result.error_fields["resource"], model.asked, result.cost.tokens) == ("tokens", 0, 2_000)
    result = await run([Step("a", work)], judge(model), budget=Budget(tokens=5_000, reserve=Cost(tokens=2_000)))
    assert (result.success, result.cost.tokens) == (True, 3_010)


async def test_many_windows_do_not_outrun_the_budget() -> None:
    model = Model()
    verifier = judge(model, window_chars=2_000, window_overlap_chars=0)
    result = await run([Step("a", lambda ctx: "word " * 20_000)], verifier, budget=Budget(tokens=10_000))
    assert (result.error_kind, result.cost.tokens) == ("BudgetExhausted", model.asked * 1_010)
    assert 5 < model.asked < 10


async def test_a_price_that_nobody_knows_is_refused_under_a_money_budget_without_a_reserve() -> None:
    model = Model()
    result = await run([Step("a", text)], judge(model, prices={}), budget=Budget(usd=1.0))
    assert (result.error_fields["resource"], model.asked) == ("usd", 0)
    steps = Pipeline.repeat(Step("a", text), 9)
    result = await run(steps, judge(model, prices={}), budget=Budget(usd=1.0, reserve=Cost(usd=0.3)))
    assert (result.error_fields["resource"], model.asked, result.verified_count) == ("usd", 3, 3)
    assert result.cost.usd is None


async def test_a_verdict_about_a_suspect_keeps_within_the_budget_too() -> None:
    class Accuses(Verifier):
        """Blames the first step, and pays for every verdict."""

        async def verify(self, request: VerifyInput) -> VerificationResult:
            with request.spending.call(Cost(tokens=100)) as call:
                call.cost = Cost(tokens=100)
            if request.step.name == "b":
                return VerificationResult.fail(ErrorType.CONTRADICTION, blame="a")
            return VerificationResult.ok()

    result = await run([Step("a", text), Step("b", text)], Accuses(), budget=Budget(tokens=250))
    assert (result.error_kind, result.cost.tokens) == ("BudgetExhausted", 200)


# --- calibrations ------------------------------------------------------------------------------------------------------------


async def calibration(model: Model, *, days_ago: float = 0.0) -> Calibration:
    cases = [LabelledCase.of(f"{n}") for n in range(10)] + [LabelledCase.of(f"{n}", "FORMAT") for n in range(10, 20)]
    made = await Calibration.measure(judge(model), cases)
    return replace(made, measured_at=datetime.now(UTC) - timedelta(days=days_ago))


HIGH = [Step("a", text, criticality=Criticality.HIGH)]
FRESH = FreshCalibration(max_age_days=30, cases_min=20)


async def test_high_steps_run_with_a_fresh_calibration_whose_version_is_in_the_certificate() -> None:
    made = await calibration(Model())
    verifier = TieredVerifier(l3=judge(Model(), calibration=made))
    result = await run(HIGH, verifier, require_calibration=FRESH)
    assert result.success
    assert result.steps[0].verification is not None
    assert result.steps[0].verification.calibration == made.version


async def test_without_a_fresh_one_wrap_refuses_and_says_how_to_measure() -> None:
    old, few = await calibration(Model(), days_ago=31), replace(FRESH, cases_min=21)
    for verifier, wanted, lack in (
        (judge(Model()), FRESH, "has a model without one"),
        (judge(Model(), calibration=old), FRESH, "within the last 30 days"),
        (judge(Model(), calibration=await calibration(Model())), few, "20 cases, fewer than 21"),
    ):
        with pytest.raises(InvalidConfig, match=lack) as refused:
            wrap(Pipeline(HIGH), verifier=TieredVerifier(l3=verifier), store="memory", require_calibration=wanted)
        assert "python -m agentraft_ray.verifier.calibration" in str(refused.value)
    with pytest.raises(InvalidConfig, match="rules alone"):
        wrap(Pipeline(HIGH), verifier=TieredVerifier(), store="memory", require_calibration=FRESH)


async def test_lower_steps_and_other_tiers_need_none() -> None:
    made = await calibration(Model())
    steps = [Step("a", text), Step("b", text, criticality=Criticality.HIGH)]
    assert (await run(steps, TieredVerifier(l2=judge(Model()), l3=judge(Model(), calibration=made)), require_calibration=FRESH)).success
    assert (await run([Step("a", text)], judge(Model()), require_calibration=FRESH)).success


async def test_one_that_becomes_too_old_while_runs_go_on_lets_no_high_step_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    verifier = judge(model, calibration=await calibration(Model()))
    coordinator = wrap(Pipeline(HIGH), verifier=verifier, store="memory", limits=QUICK, require_calibration=FRESH)
    now = time.time
    monkeypatch.setattr("agentraft_ray.runtime.judging.time.time", lambda: now() + 31 * 24 * 3600)
    result = await coordinator.run(Task("t", id="r"))
    assert (result.status, result.error_kind, model.asked) == ("waiting", "VerifierUnavailable", 0)
    assert "within the last 30 days" in str(result.error)
    with pytest.raises(VerifierUnavailable):
        result.raise_for_error()
