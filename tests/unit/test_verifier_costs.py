"""What verdicts of models cost: tokens, money where the price is known, seconds; nothing is a silent zero."""

from __future__ import annotations

import asyncio
import math

import pytest

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.taxonomy import FREE, Allowance, Cost, FaultKind, VerdictKind, VerifierFault
from agentraft_ray.verifier import Completion, LLMVerifier, Price, Spending, TieredVerifier
from agentraft_ray.verifier.asking import ask
from agentraft_ray.verifier.billing import Billing
from agentraft_ray.verifier.prices import usd_of
from tests.unit.judges import PRICES, Model, judge, request, says

LIST_PRICES = {
    ("openai", "gpt-4o-mini"): 0.00021,
    ("anthropic", "claude-haiku-4-5"): 0.0015,
    ("bedrock", "anthropic.claude-3-5-sonnet-20241022-v2:0"): 0.0045,
    ("gemini", "gemini-2.5-flash-lite"): 0.00014,
}


@pytest.mark.parametrize(("where", "usd"), LIST_PRICES.items(), ids=lambda one: one[0] if isinstance(one, tuple) else "")
def test_list_prices_are_known_for_every_provider(where: tuple[str, str], usd: float) -> None:
    found = usd_of({}, *where, 1_000, 100)
    assert found == pytest.approx(usd, rel=0.5)  # providers change their prices


def test_what_nobody_knows_is_none() -> None:
    assert usd_of({}, "openai", "a-model-of-our-own", 10, 10) is None
    assert usd_of({}, "nobody", "gpt-4o-mini", 10, 10) is None
    assert usd_of({}, "openai", "gpt-4o-mini", 10, 10, base_url="http://localhost:8000/v1") is None


def test_ones_own_prices_come_first_also_by_provider_and_for_what_is_free() -> None:
    table = {"gpt-4o-mini": Price(1.0, 2.0), "bedrock:gpt-4o-mini": Price(0.0, 0.0), "cached": Price(10.0, 0.0, cached_input=1.0)}
    assert usd_of(table, "openai", "gpt-4o-mini", 1_000_000, 500_000) == 2.0
    assert usd_of(table, "bedrock", "gpt-4o-mini", 1_000_000, 500_000) == 0.0
    assert usd_of(table, "openai", "cached", 1_000_000, 0, 900_000) == pytest.approx(1.9)


def test_without_the_package_list_prices_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    from agentraft_ray.verifier import prices

    monkeypatch.setattr(prices, "_catalogue", lambda: None)
    assert usd_of({}, "openai", "gpt-4o-mini", 10, 10) is None


@pytest.mark.parametrize("price", [(-1.0, 0.0), (math.nan, 0.0), (0.0, math.inf), (1.0, 1.0, -1.0)])
def test_prices_that_cannot_be_are_refused(price: tuple[float, ...]) -> None:
    with pytest.raises(InvalidConfig):
        Price(*price)


async def test_a_verdict_carries_tokens_money_and_seconds_of_all_its_windows() -> None:
    model = Model()
    verdict = await judge(model, window_chars=1_000, window_overlap_chars=0).verify(request("word " * 500))
    assert (verdict.passed, model.asked) == (True, 3)
    assert (verdict.cost.tokens, verdict.cost.usd) == (3_030, pytest.approx(0.33))
    assert verdict.cost.seconds > 0


async def test_a_dated_name_of_the_model_finds_its_price() -> None:
    answers = [Completion(says(), 1_000, 10, model="m-2026-01-01"), Completion(says(), 1_000, 10, model="dear")]
    costs = [(await judge(Model(answer)).verify(request())).cost.usd for answer in answers]
    assert costs == [pytest.approx(0.11), pytest.approx(1.1)]


@pytest.mark.parametrize("kind", list(FaultKind))
async def test_a_refused_call_is_free_and_one_that_may_have_been_made_is_not(kind: FaultKind) -> None:
    verdict = await judge(Model(VerifierFault(kind, "no"))).verify(request())
    assert not verdict.passed
    if kind.value in {"timeout", "connection", "server_error", "other"}:
        assert verdict.cost.tokens > 0
        assert verdict.cost.usd is None
    else:
        assert (verdict.cost.tokens, verdict.cost.usd) == (0, 0.0)


async def test_tokens_of_a_plain_text_are_estimated_and_its_price_is_unknown() -> None:
    verdict = await LLMVerifier(complete_fn=lambda system, user: says(), model="m", prices=PRICES).verify(request())
    assert 300 < verdict.cost.tokens < 2_000
    assert verdict.cost.usd is None


async def test_an_unreported_usage_is_not_zero() -> None:
    verdict = await judge(Model(Completion(says(), 0, 0))).verify(request())
    assert verdict.cost.tokens > 300
    assert verdict.cost.usd is None


async def test_what_earlier_windows_cost_stays_known_when_a_later_one_fails() -> None:
    verifier = judge(Model(says(), RuntimeError("reset")), window_chars=1_000, window_overlap_chars=0)
    verdict = await verifier.verify(request("word " * 500))
    assert verdict.kind is VerdictKind.FAULT
    assert (verdict.cost.usd, verdict.cost.usd_at_least) == (None, pytest.approx(0.11))
    assert verdict.cost.tokens > 2_000


async def test_a_verifier_that_runs_out_of_time_is_paid_for() -> None:
    late = Model(says(), gate=asyncio.Event())
    verdict = await ask(judge(late), request(deadline_s=0.05))
    assert (verdict.kind, late.cancelled) == (VerdictKind.FAULT, 1)
    assert verdict.cost.usd is None
    assert verdict.cost.tokens > 400


async def test_no_call_begins_that_the_allowance_does_not_cover_and_the_verdict_says_so() -> None:
    for allowance, resource in ((Allowance(tokens=300), "tokens"), (Allowance(usd=0.01), "usd")):
        model = Model()
        verdict = await judge(model).verify(request(spending=Spending(allowance)))
        assert (verdict.kind, verdict.short_of, model.asked, verdict.cost.tokens) == (VerdictKind.FAULT, resource, 0, 0)


async def test_windows_stop_where_the_allowance_ends() -> None:
    model = Model()
    verifier = judge(model, window_chars=1_000, window_overlap_chars=0)
    verdict = await verifier.verify(request("word " * 500, spending=Spending(Allowance(tokens=3_100))))
    assert (verdict.short_of, model.asked, verdict.cost.tokens) == ("tokens", 2, 2_020)


async def test_a_model_without_a_known_price_may_be_asked_under_a_money_budget_only_with_something_set_aside() -> None:
    model = Model()
    verifier = judge(model, prices={})
    assert (await verifier.verify(request(spending=Spending(Allowance(usd=5.0))))).short_of == "usd"
    assert model.asked == 0
    assert (await verifier.verify(request(spending=Spending(Allowance(usd=5.0, unpriced=True))))).passed


async def test_a_tier_that_the_budget_does_not_allow_ends_it_whatever_the_policy_for_faults() -> None:
    small, large = Model(says(confidence=0.6)), Model()
    tiers = TieredVerifier(l2=judge(small), l3=judge(large, name="dear"), on_fault="l1")
    verdict = await tiers.verify(request(spending=Spending(Allowance(usd=0.5))))
    assert (verdict.passed, verdict.short_of, small.asked, large.asked) == (False, "usd", 1, 0)
    assert verdict.cost.usd == pytest.approx(0.11)


async def test_the_estimate_before_a_call_is_no_less_than_what_it_costs_then() -> None:
    billing = Billing("custom", "m", 400, PRICES)
    for text, tokens_in in (("word " * 1_000, 1_100), ("字" * 1_000, 1_000), ("x" * 9, 3)):
        most = await billing.most(text)
        spent = billing.cost(Completion("x", tokens_in, 400), text)
        assert spent is not None
        assert most.tokens >= spent.tokens
        assert (most.usd or 0.0) >= (spent.usd or 0.0)


def test_a_cost_of_nothing_is_nothing() -> None:
    assert FREE.usd == FREE.usd_at_least == 0.0
    assert Cost(0, None).usd_at_least == 0.0
