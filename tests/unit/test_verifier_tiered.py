"""Tiers: who is asked, whose verdict stands, and what happens when a tier cannot answer."""

import asyncio

import pytest

from agentraft_ray.errors import ErrorType, InvalidConfig
from agentraft_ray.pipeline import Criticality, Step, Task
from agentraft_ray.taxonomy import Cost, VerdictKind, VerificationResult
from agentraft_ray.verifier import RulesVerifier, TieredVerifier, Verifier, VerifyInput

LOW, MEDIUM, HIGH = Criticality.LOW, Criticality.MEDIUM, Criticality.HIGH


class Tier(Verifier):
    """Gives one verdict, or raises it, and counts how often it was asked."""

    def __init__(self, name, verdict=None, confidence=1.0, cost=7):
        self._name = name
        self.asked = 0
        self.verdict = verdict
        self.confidence = confidence
        self.cost = Cost(cost, 0.5, 0.25)

    @property
    def name(self):
        return self._name

    async def verify(self, request):
        self.asked += 1
        if isinstance(self.verdict, Exception):
            raise self.verdict
        if isinstance(self.verdict, VerificationResult):
            return self.verdict
        if isinstance(self.verdict, ErrorType):
            return VerificationResult.fail(self.verdict, confidence=self.confidence, cost=self.cost)
        if self.verdict == "hang":
            await asyncio.Event().wait()
        return VerificationResult.ok(confidence=self.confidence, cost=self.cost)


def request(criticality=MEDIUM, output="fine", deadline_s=None):
    return VerifyInput(Task("t"), Step("s", print, criticality=criticality), output, deadline_s=deadline_s)


@pytest.mark.parametrize(
    ("criticality", "present", "who"),
    [
        (LOW, "23", "rules-l1"),
        (MEDIUM, "23", "l2"),
        (HIGH, "23", "l3"),
        (MEDIUM, "2", "l2"),
        (HIGH, "2", "l2"),
        (MEDIUM, "3", "l3"),
        (HIGH, "3", "l3"),
        (HIGH, "", "rules-l1"),
    ],
)
async def test_criticality_decides_who_is_asked(criticality, present, who):
    tiers = {f"l{level}": Tier(f"l{level}") for level in present}
    verdict = await TieredVerifier(**tiers).verify(request(criticality))
    assert (verdict.passed, verdict.verifier) == (True, who)
    assert sum(tier.asked for tier in tiers.values()) == (who != "rules-l1")


async def test_what_the_rules_reject_reaches_no_model():
    l2 = Tier("l2")
    verdict = await TieredVerifier(l2=l2).verify(request(output=""))
    assert (verdict.verifier, verdict.error_type, l2.asked) == ("rules-l1", ErrorType.INCOMPLETE, 0)


@pytest.mark.parametrize("doubtful", [None, ErrorType.GOAL_DRIFT])
async def test_a_doubtful_verdict_goes_to_the_next_tier_whose_verdict_stands(doubtful):
    l2, l3 = Tier("l2", doubtful, confidence=0.69), Tier("l3", ErrorType.HALLUCINATION, confidence=0.1)
    verdict = await TieredVerifier(l2=l2, l3=l3).verify(request())
    assert (verdict.verifier, verdict.error_type) == ("l3", ErrorType.HALLUCINATION)
    assert (verdict.cost.tokens, verdict.cost.usd, verdict.cost.seconds) == (14, 1.0, 0.5)
    l2.confidence = 0.7
    assert (await TieredVerifier(l2=l2, l3=l3).verify(request())).verifier == "l2"


async def test_the_last_tier_stands_even_if_in_doubt():
    assert (await TieredVerifier(l2=Tier("l2", confidence=0.55)).verify(request())).passed
    verdict = await TieredVerifier(l2=Tier("l2"), l3=Tier("l3", ErrorType.GOAL_DRIFT, confidence=0.2)).verify(request(HIGH))
    assert verdict.error_type is ErrorType.GOAL_DRIFT


UNABLE = [
    RuntimeError("down"),
    VerificationResult.fault("down"),
    VerificationResult.abstain("who knows"),
    VerificationResult(True, confidence=2.0),
]


@pytest.mark.parametrize("unable", UNABLE)
@pytest.mark.parametrize("on_fault", ["closed", "l1"])
async def test_a_tier_that_cannot_answer_fails_high_closed(unable, on_fault):
    verdict = await TieredVerifier(l2=Tier("l2"), l3=Tier("l3", unable), on_fault=on_fault).verify(request(HIGH))
    assert not verdict.passed
    assert verdict.kind in (VerdictKind.FAULT, VerdictKind.ABSTAIN)
    assert verdict.verifier == "l3"


@pytest.mark.parametrize("unable", UNABLE)
async def test_below_high_the_policy_decides(unable):
    closed = await TieredVerifier(l2=Tier("l2", unable)).verify(request())
    assert closed.kind in (VerdictKind.FAULT, VerdictKind.ABSTAIN)
    on_rules = await TieredVerifier(l2=Tier("l2", unable), on_fault="l1").verify(request())
    assert (on_rules.passed, on_rules.verifier) == (True, "rules-l1")
    assert "l2 could not answer" in on_rules.reasoning
    assert (await TieredVerifier(l2=Tier("l2", unable), l3=Tier("l3")).verify(request())).verifier == "l3"
    rejected = TieredVerifier(l2=Tier("l2", ErrorType.GOAL_DRIFT, confidence=0.5), l3=Tier("l3", unable), on_fault="l1")
    assert (await rejected.verify(request())).error_type is ErrorType.GOAL_DRIFT


async def test_a_fault_of_the_first_tier_is_never_a_pass():
    verdict = await TieredVerifier(l1=Tier("l1", ValueError("x")), l2=Tier("l2"), on_fault="l1").verify(request())
    assert verdict.kind is VerdictKind.FAULT


async def test_a_tier_that_hangs_is_a_fault_at_the_deadline():
    verdict = await TieredVerifier(l2=Tier("l2", "hang")).verify(request(deadline_s=0.02))
    assert verdict.kind is VerdictKind.FAULT
    assert "did not answer" in verdict.reasoning


async def test_a_second_opinion_comes_from_another_tier_and_never_past_the_rules():
    l2, l3 = Tier("l2"), Tier("l3")
    tiered = TieredVerifier(l2=l2, l3=l3)
    assert (await tiered.second_opinion(request(LOW), "l2")).verifier == "l3"
    assert (await tiered.second_opinion(request(), "l3")).verifier == "l2"
    assert (await tiered.second_opinion(request(), "rules-l1")).verifier == "l3"
    assert (await tiered.second_opinion(request(output=""), "l2")).verifier == "rules-l1"
    assert await TieredVerifier(l2=l2).second_opinion(request(), "l2") is None
    assert await TieredVerifier().second_opinion(request(), "rules-l1") is None


def test_it_knows_whether_a_model_is_behind_a_criticality():
    assert not TieredVerifier().uses_model(HIGH)
    assert not TieredVerifier(l2=RulesVerifier()).uses_model(HIGH)
    assert TieredVerifier(l2=Tier("l2")).uses_model(HIGH)
    assert TieredVerifier(l3=Tier("l3")).uses_model(MEDIUM)


def test_its_identity_holds_those_of_its_tiers():
    one, other = (TieredVerifier(l1=RulesVerifier(min_length=length)).identity for length in (1, 2))
    assert one != other
    assert TieredVerifier(on_fault="l1").identity != TieredVerifier().identity


def test_settings_out_of_range_are_refused():
    for settings in ({"borderline_below": 1.5}, {"on_fault": "open"}):
        with pytest.raises(InvalidConfig):
            TieredVerifier(**settings)


async def test_a_pass_of_the_rules_alone_is_not_copied():
    tiered = TieredVerifier()
    assert await tiered.verify(request()) is await tiered.verify(request(HIGH))
