"""Panels: no pass without the passes that the rule needs, no more calls than it takes."""

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentraft_ray.errors import ErrorType, InvalidConfig
from agentraft_ray.pipeline import Step, Task
from agentraft_ray.taxonomy import Cost, VerdictKind, VerificationResult
from agentraft_ray.verifier import AllOf, QuorumVerifier, Verifier, VerifyInput

REQUEST = VerifyInput(Task("t"), Step("s", print), "fine")
PASS, REJECT, ABSTAIN, FAULT = VerdictKind


class Member(Verifier):
    def __init__(self, name, kind=PASS, error_type=ErrorType.GOAL_DRIFT, blame=None, gate=None):
        self._name = name
        self.kind = kind
        self.error_type = error_type
        self.blame = blame
        self.gate = gate
        self.asked = 0
        self.cancelled = False

    @property
    def name(self):
        return self._name

    async def verify(self, request):
        self.asked += 1
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        cost = Cost(3, 0.5, 0.25)
        if self.kind is FAULT:
            raise RuntimeError("down")
        if self.kind is ABSTAIN:
            return VerificationResult.abstain("who knows", cost=cost)
        if self.kind is PASS:
            return VerificationResult.ok(confidence=0.9, cost=cost)
        return VerificationResult.fail(self.error_type, hint=f"hint of {self.name}", evidence=(self.name,), blame=self.blame, cost=cost)


def panel(*kinds):
    return [Member(f"m{position}", kind) for position, kind in enumerate(kinds)]


async def test_a_veto_ends_it_and_dearer_members_are_not_asked():
    members = panel(PASS, REJECT, PASS)
    verdict = await AllOf(*members).verify(REQUEST)
    assert (verdict.kind, verdict.error_type, verdict.verifier) == (REJECT, ErrorType.GOAL_DRIFT, "all-of:m1")
    assert [member.asked for member in members] == [1, 1, 0]
    assert (verdict.cost.tokens, verdict.cost.usd) == (6, 1.0)


async def test_a_veto_panel_passes_only_with_all_the_passes_it_needs():
    assert (await AllOf(*panel(PASS, PASS, PASS)).verify(REQUEST)).passed
    assert (await AllOf(*panel(PASS, ABSTAIN, PASS)).verify(REQUEST)).kind is ABSTAIN
    assert (await AllOf(*panel(PASS, FAULT, PASS)).verify(REQUEST)).kind is FAULT
    two_of_three = QuorumVerifier(panel(PASS, ABSTAIN, PASS), k=2)
    assert (await two_of_three.verify(REQUEST)).passed
    assert (await QuorumVerifier(panel(PASS, ABSTAIN, REJECT), k=1).verify(REQUEST)).kind is REJECT


async def test_k_of_n_stops_early_cancels_the_rest_and_says_that_their_price_is_unknown():
    gate = asyncio.Event()
    slow = Member("slow", gate=gate)
    verdict = await QuorumVerifier([*panel(PASS, PASS), slow], rule="k_of_n").verify(REQUEST)
    assert verdict.passed
    assert slow.cancelled
    assert verdict.cost.usd is None
    assert verdict.cost.tokens == 6


async def test_cancelling_a_panel_cancels_its_members():
    gate = asyncio.Event()
    members = [Member("a", gate=gate), Member("b", gate=gate)]
    asked = asyncio.create_task(QuorumVerifier(members, rule="k_of_n").verify(REQUEST))
    while not all(member.asked for member in members):
        await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert all(member.cancelled for member in members)


async def test_first_to_ahead_by_k_asks_no_more_than_it_takes():
    members = panel(PASS, REJECT, PASS, PASS, PASS)
    verdict = await QuorumVerifier(members, k=2, rule="ahead_by").verify(REQUEST)
    assert verdict.passed
    assert [member.asked for member in members] == [1, 1, 1, 1, 0]
    assert (await QuorumVerifier(panel(REJECT, REJECT, PASS), k=2, rule="ahead_by").verify(REQUEST)).kind is REJECT
    undecided = panel(PASS, REJECT, PASS)
    assert (await QuorumVerifier(undecided, k=2, rule="ahead_by").verify(REQUEST)).kind is ABSTAIN
    assert [member.asked for member in undecided] == [1, 1, 0]  # a lead of two is out of reach


async def test_the_class_is_the_plurality_and_ties_go_to_the_earlier_member():
    members = [
        Member("a", REJECT, ErrorType.INCOMPLETE),
        Member("b", REJECT, ErrorType.HALLUCINATION),
        Member("c", REJECT, ErrorType.HALLUCINATION, blame="extract"),
    ]
    verdict = await QuorumVerifier(members, k=1, rule="k_of_n").verify(REQUEST)
    assert verdict.error_type is ErrorType.HALLUCINATION
    assert (verdict.hint, verdict.evidence, verdict.blame) == ("hint of b", ("b", "c"), "extract")
    tied = await QuorumVerifier(members[:2], k=1, rule="k_of_n").verify(REQUEST)
    assert tied.error_type is ErrorType.INCOMPLETE


@given(
    st.lists(st.sampled_from(list(VerdictKind)), min_size=1, max_size=5), st.integers(1, 5), st.sampled_from(["veto", "k_of_n", "ahead_by"])
)
@settings(max_examples=80, deadline=None)
def test_there_is_no_pass_without_the_passes_that_the_rule_needs(kinds, k, rule):
    k = min(k, len(kinds))
    verdict = asyncio.run(QuorumVerifier(panel(*kinds), k=k, rule=rule).verify(REQUEST))
    passes, rejections = kinds.count(PASS), kinds.count(REJECT)
    if rule == "veto":
        settled_by_others = any(kind in (ABSTAIN, FAULT) for kind in kinds) and len(kinds) - passes - rejections > len(kinds) - k
        assert verdict.passed == (rejections == 0 and passes >= k)
        assert rejections == 0 or settled_by_others or verdict.kind is REJECT
    elif rule == "k_of_n":
        assert verdict.passed == (passes >= k)
        assert (verdict.kind is REJECT) == (rejections > len(kinds) - k)
    else:
        leads = list(itertools.accumulate((kind is PASS) - (kind is REJECT) for kind in kinds))
        first = next((lead for lead in leads if abs(lead) >= k), 0)
        assert verdict.passed == (first >= k)
        assert (verdict.kind is REJECT) == (first <= -k)


@given(st.permutations([PASS, PASS, REJECT, REJECT, FAULT]))
@settings(max_examples=30, deadline=None)
def test_the_order_of_answers_does_not_change_a_vote_of_k_of_n(kinds):
    assert asyncio.run(QuorumVerifier(panel(*kinds), k=3, rule="k_of_n").verify(REQUEST)).kind is FAULT


def test_rules_that_cannot_be_met_are_refused():
    for verifiers, k, rule in (([], None, "veto"), (panel(PASS), 2, "veto"), (panel(PASS), 0, "k_of_n"), (panel(PASS), 1, "most")):
        with pytest.raises(InvalidConfig):
            QuorumVerifier(verifiers, k=k, rule=rule)


def test_its_identity_tells_rules_and_members_apart():
    members = panel(PASS, PASS, PASS)
    made = [QuorumVerifier(members), QuorumVerifier(members, k=2), QuorumVerifier(members, rule="k_of_n"), QuorumVerifier(members[::-1])]
    assert len({one.identity for one in made}) == 4
