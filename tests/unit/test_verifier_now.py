"""A verdict without waiting is the verdict that `verify` gives, or none at all."""

from __future__ import annotations

import asyncio

import pytest

from agentraft_ray import Criticality, ErrorType, MockVerifier, RulesVerifier, Step, Task, TieredVerifier, VerifyInput
from agentraft_ray.verifier.callable import CallableVerifier

OUTPUTS = ["A sentence.", "", None, {"a": 1}, "ValueError: no", [], 0, "Traceback (most recent call last)\n"]
MODEL = MockVerifier(default=ErrorType.GOAL_DRIFT)


def request(output: object, criticality: Criticality) -> VerifyInput:
    return VerifyInput(Task("goal"), Step("a", print, criticality=criticality), output)


@pytest.mark.parametrize("criticality", list(Criticality))
@pytest.mark.parametrize("output", OUTPUTS, ids=repr)
@pytest.mark.parametrize(
    "verifier",
    [RulesVerifier(), TieredVerifier(), TieredVerifier(l2=MODEL), TieredVerifier(l3=MODEL), TieredVerifier(l1=MODEL)],
    ids=lambda one: one.identity[:60],
)
def test_what_is_said_now_is_what_verify_says(verifier: object, output: object, criticality: Criticality) -> None:
    asked = request(output, criticality)
    now = verifier.verify_now(asked)
    if now is not None:
        assert now == asyncio.run(verifier.verify(asked))


def test_rules_always_answer_now_and_a_tier_above_never_does() -> None:
    assert RulesVerifier().verify_now(request("A sentence.", Criticality.HIGH)).passed
    tiered = TieredVerifier(l2=MODEL)
    assert tiered.verify_now(request("A sentence.", Criticality.LOW)).passed
    assert not tiered.verify_now(request("", Criticality.HIGH)).passed
    assert tiered.verify_now(request("A sentence.", Criticality.MEDIUM)) is None
    assert CallableVerifier(lambda asked: True).verify_now(request("A sentence.", Criticality.LOW)) is None
