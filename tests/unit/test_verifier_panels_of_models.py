"""Panels, tiers, hedges and memories of model verifiers: no call too many, none unpaid, no pass that nobody gave."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from agentraft_ray.errors import ErrorType, InvalidConfig
from agentraft_ray.pipeline import Criticality, Step, Task
from agentraft_ray.taxonomy import Allowance, Cost, FaultKind, VerdictKind, VerificationResult, VerifierFault
from agentraft_ray.verifier import CachedVerifier, CallableVerifier, HedgedVerifier, QuorumVerifier, RulesVerifier, Spending, TieredVerifier
from tests.unit.judges import Model, judge, request, says, until

DOWN = VerifierFault(FaultKind.CONNECTION, "no route", "p:m")


# --- panels ------------------------------------------------------------------------------------------------------------------


async def test_a_settled_panel_cancels_the_other_calls_and_books_what_they_may_have_cost() -> None:
    slow = Model(gate=asyncio.Event())
    panel = QuorumVerifier([judge(Model()), judge(Model(), name="dear"), judge(slow)], rule="k_of_n")
    verdict = await panel.verify(request())
    assert (verdict.passed, slow.asked, slow.cancelled) == (True, 1, 1)
    assert (verdict.cost.usd, verdict.cost.usd_at_least) == (None, pytest.approx(1.21))
    assert verdict.cost.tokens > 2_020 + 400  # the cancelled call may have taken its max_tokens


async def test_the_windows_that_a_cancelled_member_had_paid_for_are_booked_as_they_were() -> None:
    gate = asyncio.Event()

    class Stops(Model):
        async def __call__(self, system: str, user: str) -> Any:
            self.gate = gate if self.asked == 1 else None
            return await super().__call__(system, user)

    stopping = Stops()
    first, second = Model(gate=asyncio.Event()), Model(gate=asyncio.Event())
    windows = {"window_chars": 1_000, "window_overlap_chars": 0}
    panel = QuorumVerifier([judge(first), judge(second), judge(stopping, **windows)], rule="k_of_n")
    asked = asyncio.create_task(panel.verify(request("word " * 300)))
    await until(lambda: stopping.asked == 2)
    for one in (first, second):
        assert one.gate is not None
        one.gate.set()
    verdict = await asked
    assert (verdict.passed, stopping.cancelled, verdict.cost.usd) == (True, 1, None)
    assert verdict.cost.usd_at_least == pytest.approx(0.33)


async def test_a_provider_that_fails_has_no_vote_and_without_enough_others_there_is_no_pass() -> None:
    down = [judge(Model(DOWN), name=f"down{n}") for n in range(2)]
    two_of_three = QuorumVerifier([judge(Model()), judge(Model()), down[0]], rule="k_of_n")
    assert (await two_of_three.verify(request())).passed
    verdict = await QuorumVerifier([judge(Model()), *down], rule="k_of_n").verify(request())
    assert (verdict.passed, verdict.kind) == (False, VerdictKind.FAULT)
    assert verdict.failure is not None
    assert "down0" in verdict.reasoning


async def test_a_panel_stops_as_soon_as_neither_outcome_can_be_reached() -> None:
    slow = Model(gate=asyncio.Event())
    panel = QuorumVerifier([judge(Model(DOWN)), judge(Model(DOWN)), judge(slow)], rule="k_of_n")
    async with asyncio.timeout(10):
        verdict = await panel.verify(request())
    assert (verdict.kind, slow.cancelled) == (VerdictKind.FAULT, 1)


async def test_a_panel_names_the_prompts_and_keeps_within_one_allowance() -> None:
    members = [judge(Model()) for _ in range(3)]
    verdict = await QuorumVerifier(members, rule="k_of_n").verify(request())
    assert verdict.prompt == members[0].identity.partition("prompt=")[2].partition(",")[0]
    most = (await members[0]._billing.most("x" * 3_000)).tokens
    models = [Model(), Model(), Model()]
    panel = QuorumVerifier([judge(one) for one in models], rule="k_of_n")
    verdict = await panel.verify(request(spending=Spending(Allowance(tokens=most))))
    assert (verdict.passed, verdict.short_of) == (False, "tokens")
    assert sum(one.asked for one in models) < 3


async def test_a_cancelled_member_that_keeps_no_books_costs_nobody_knows_what() -> None:
    gate = asyncio.Event()

    async def own(_: Any) -> bool:
        return await gate.wait()

    panel = QuorumVerifier([judge(Model()), judge(Model()), CallableVerifier(own)], rule="k_of_n")
    assert (await panel.verify(request())).cost.usd is None
    rules = QuorumVerifier([judge(Model()), RulesVerifier(), RulesVerifier()], rule="k_of_n")
    assert (await rules.verify(request())).passed


async def test_tiers_of_two_providers_escalate_and_pay_for_both() -> None:
    tiers = TieredVerifier(l2=judge(Model(says(confidence=0.6))), l3=judge(Model(says("GOAL_DRIFT")), name="dear"))
    verdict = await tiers.verify(request())
    assert (verdict.error_type, verdict.verifier, verdict.cost.usd) == (ErrorType.GOAL_DRIFT, "llm-custom:dear", pytest.approx(1.21))
    handed_on = await TieredVerifier(l2=judge(Model(DOWN)), l3=judge(Model())).verify(request())
    assert handed_on.passed
    closed = await TieredVerifier(l3=judge(Model(DOWN)), on_fault="l1").verify(request(criticality=Criticality.HIGH))
    assert closed.kind is VerdictKind.FAULT


# --- hedges ------------------------------------------------------------------------------------------------------------------


async def test_an_answer_in_time_is_asked_for_once() -> None:
    first, other = Model(), Model()
    verdict = await HedgedVerifier(judge(first), judge(other), hedge_after_s=30).verify(request())
    assert (verdict.passed, first.asked, other.asked, verdict.cost.usd) == (True, 1, 0, pytest.approx(0.11))


async def test_a_slow_answer_is_asked_for_twice_the_loser_is_cancelled_and_both_are_paid_for() -> None:
    slow, quick = Model(gate=asyncio.Event()), Model(says("GOAL_DRIFT"))
    verdict = await HedgedVerifier(judge(slow), judge(quick, name="dear"), hedge_after_s=0.01).verify(request())
    assert (verdict.error_type, verdict.verifier, slow.cancelled) == (ErrorType.GOAL_DRIFT, "llm-custom:dear", 1)
    assert (verdict.cost.usd, verdict.cost.usd_at_least) == (None, pytest.approx(1.1))


async def test_the_first_one_may_still_win_and_then_the_second_is_cancelled() -> None:
    first, other = Model(gate=asyncio.Event()), Model(gate=asyncio.Event())
    hedged = HedgedVerifier(judge(first), judge(other), hedge_after_s=0.01)
    asked = asyncio.create_task(hedged.verify(request()))
    await until(lambda: other.asked)
    assert first.gate is not None
    first.gate.set()
    verdict = await asked
    assert (verdict.passed, other.cancelled, verdict.cost.usd) == (True, 1, None)


async def test_a_hedge_waits_for_the_other_where_one_fails_and_both_failing_is_no_pass() -> None:
    slow = Model(gate=asyncio.Event())
    hedged = HedgedVerifier(judge(slow), judge(Model(DOWN)), hedge_after_s=0.01)
    asked = asyncio.create_task(hedged.verify(request()))
    await until(lambda: slow.asked)
    await asyncio.sleep(0.05)
    assert slow.gate is not None
    slow.gate.set()
    assert (await asked).passed
    slow_and_down = Model(DOWN, gate=slow.gate)
    slow.gate.clear()
    asked = asyncio.create_task(HedgedVerifier(judge(slow_and_down), judge(Model(DOWN)), hedge_after_s=0.01).verify(request()))
    await until(lambda: slow_and_down.asked)
    await asyncio.sleep(0.05)
    slow.gate.set()
    assert (await asked).kind is VerdictKind.FAULT


async def test_a_failure_before_the_hedge_is_not_asked_again() -> None:
    other = Model()
    verdict = await HedgedVerifier(judge(Model(DOWN)), judge(other), hedge_after_s=30).verify(request())
    assert (verdict.kind, other.asked) == (VerdictKind.FAULT, 0)


async def test_cancelling_a_hedge_cancels_both_requests() -> None:
    first, other = Model(gate=asyncio.Event()), Model(gate=asyncio.Event())
    spending = Spending()
    asked = asyncio.create_task(HedgedVerifier(judge(first), judge(other), hedge_after_s=0.01).verify(request(spending=spending)))
    await until(lambda: other.asked)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert (first.cancelled, other.cancelled) == (1, 1)
    assert spending.so_far().tokens > 800


def test_a_hedge_of_one_verifier_is_that_verifier() -> None:
    one, other = judge(Model()), judge(Model(), name="dear")
    assert HedgedVerifier(one, hedge_after_s=1).identity == one.identity
    assert one.identity in HedgedVerifier(one, other, hedge_after_s=1).identity
    assert other.identity in HedgedVerifier(one, other, hedge_after_s=1).identity
    with pytest.raises(InvalidConfig):
        HedgedVerifier(one, hedge_after_s=0)


# --- memories ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [says(), says("GOAL_DRIFT", hint="re-read", blame="extract")])
async def test_a_verdict_about_exactly_the_same_is_repeated_says_so_and_costs_nothing(reply: str) -> None:
    model = Model(reply)
    cached = CachedVerifier(judge(model))
    first, again = await cached.verify(request()), await cached.verify(request())
    assert (model.asked, first.cached, again.cached, again.cost) == (1, False, True, Cost())
    assert replace(again, cached=False, cost=first.cost) == first
    assert not again.passed or again.to_dict()["cached"]


CHANGED: dict[str, Any] = {
    "output": {"output": "Rome is new."},
    "a type": {"output": {"n": 1.0}},
    "an order": {"output": {"b": 1, "a": 2}},
    "attempt": {"attempt": 1},
    "history": {"history": [("extract", {"people": 2_800_001})]},
    "a name in it": {"history": [("extracted", {"people": 2_800_000})]},
    "more of it": {"history": [("extract", {"people": 2_800_000}), ("x", None)]},
    "task goal": {"task": Task("Describe towns", {"city": "Rome"}, id="t")},
    "inputs": {"task": Task("Describe cities", {"city": "Rom"}, id="t")},
    "task id": {"task": Task("Describe cities", {"city": "Rome"}, id="u")},
    "step": {"step": Step("draft2", print, goal="Write about Rome")},
    "step goal": {"step": Step("draft", print, goal="Write about Roma")},
    "criticality": {"step": Step("draft", print, goal="Write about Rome", criticality=Criticality.HIGH)},
    "version": {"step": Step("draft", print, goal="Write about Rome", version="2")},
}


@pytest.mark.parametrize("changed", CHANGED.values(), ids=CHANGED)
async def test_whatever_is_another_is_judged_anew(changed: dict[str, Any]) -> None:
    model = Model()
    cached = CachedVerifier(judge(model))
    for output in ("Rome is old.", {"n": 1}, {"a": 2, "b": 1}):
        await cached.verify(request(output))
    await cached.verify(replace(request(), **changed))
    assert model.asked == 4


async def test_dates_are_not_their_texts_and_what_is_no_data_is_judged_each_time() -> None:
    model = Model()
    cached = CachedVerifier(judge(model))
    outputs: list[Any] = [date(2026, 1, 2), "2026-01-02", {"at": date(2026, 1, 2)}, {"at": "2026-01-02"}, object(), "\ud800", object()]
    for output in outputs:
        await cached.verify(request(output))
    assert (model.asked, cached.remembered) == (7, 4)


async def test_what_a_verdict_may_cost_or_how_long_it_may_take_is_no_part_of_the_question() -> None:
    model = Model()
    cached = CachedVerifier(judge(model))
    await cached.verify(request(deadline_s=5.0))
    await cached.verify(request(deadline_s=7.0, spending=Spending(Allowance(tokens=0))))
    assert model.asked == 1


async def test_faults_and_abstentions_are_never_remembered() -> None:
    model = Model(DOWN, VerifierFault(FaultKind.REFUSED, "no"), "no verdict", says())
    cached = CachedVerifier(judge(model))
    kinds = [(await cached.verify(request())).kind for _ in range(5)]
    assert kinds == [VerdictKind.FAULT, VerdictKind.ABSTAIN, VerdictKind.FAULT, VerdictKind.PASS, VerdictKind.PASS]
    assert model.asked == 4
    broken = CachedVerifier(CallableVerifier(lambda _: VerificationResult(True, ErrorType.GOAL_DRIFT)))
    await broken.verify(request())
    assert broken.remembered == 0


async def test_the_memory_is_bounded_and_forgets_what_was_used_longest_ago() -> None:
    model = Model()
    cached = CachedVerifier(judge(model), verdicts_max=2)
    for output in ("a", "b", "a", "c", "a", "b"):
        await cached.verify(request(output))
    assert (model.asked, cached.remembered) == (4, 2)
    with pytest.raises(InvalidConfig):
        CachedVerifier(judge(model), verdicts_max=0)


async def test_across_runs_the_id_of_a_task_does_not_count() -> None:
    model = Model()
    cached = CachedVerifier(judge(model), across_runs=True)
    for task_id in ("a", "b"):
        await cached.verify(replace(request(), task=Task("Describe cities", {"city": "Rome"}, id=task_id)))
    assert model.asked == 1
    assert cached.identity != CachedVerifier(judge(model)).identity


async def test_a_long_history_is_read_for_no_key() -> None:
    model = Model()
    cached = CachedVerifier(judge(model))
    for _ in range(2):
        await cached.verify(replace(request(), history=[(f"s{n}", n) for n in range(257)]))
    assert (model.asked, cached.remembered) == (2, 0)


async def test_what_is_remembered_does_not_travel() -> None:
    cached = CachedVerifier(RulesVerifier())
    await cached.verify(request())
    assert (cached.remembered, pickle.loads(pickle.dumps(cached)).remembered) == (1, 0)


async def test_a_panel_wholly_from_memory_says_so() -> None:
    members = [CachedVerifier(judge(Model())) for _ in range(2)]
    panel = QuorumVerifier(members)
    first, again = await panel.verify(request()), await panel.verify(request())
    assert (first.cached, again.cached, again.cost.tokens, again.cost.usd) == (False, True, 0, 0.0)
    await members[0].verify(request("another"))
    assert not (await panel.verify(request("another"))).cached
