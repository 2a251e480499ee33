"""Every verifier of ours passes the suite that we publish."""

from agentraft_ray import Criticality
from agentraft_ray.testing.verifier_conformance import VerifierConformance
from agentraft_ray.verifier import (
    AllOf,
    CachedVerifier,
    CallableVerifier,
    CompletenessVerifier,
    GroundingVerifier,
    HedgedVerifier,
    LLMVerifier,
    MockVerifier,
    QuorumVerifier,
    RecomputeVerifier,
    RulesVerifier,
    SchemaVerifier,
    TieredVerifier,
)
from agentraft_ray.verifier.content import is_empty

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def judge(system, user):
    verdict = "PASS" if "Paris" in user.rpartition("OUTPUT TO JUDGE")[2] else "HALLUCINATION"
    return f'{{"verdict": "{verdict}", "confidence": 0.9, "hint": null, "reasoning": "looked at it"}}'


class TestRules(VerifierConformance):
    def verifier(self):
        return RulesVerifier(min_length=2, max_length=10_000, required_keywords=["a"])

    def test_rules_use_no_model(self):
        assert not self.verifier().uses_model(Criticality.HIGH)


class TestPlainRules(VerifierConformance):
    def verifier(self):
        return RulesVerifier()


class TestCached(VerifierConformance):
    def verifier(self):
        return CachedVerifier(LLMVerifier(complete_fn=judge))


class TestHedged(VerifierConformance):
    def verifier(self):
        return HedgedVerifier(LLMVerifier(complete_fn=judge), RulesVerifier(), hedge_after_s=60)


class TestGrounding(VerifierConformance):
    def verifier(self):
        return GroundingVerifier(slots={"city": "inputs.city"}, keys=True)


class TestCompleteness(VerifierConformance):
    def verifier(self):
        return CompletenessVerifier(["city"], values=["Paris"], sections=["Summary"], keys=["a.b"])


class TestJsonSchema(VerifierConformance):
    def verifier(self):
        return SchemaVerifier(SCHEMA)


class TestTypeSchema(VerifierConformance):
    strict = False  # an empty object has this form

    def verifier(self):
        return SchemaVerifier(dict[str, str | int])


class TestCallable(VerifierConformance):
    def verifier(self):
        return CallableVerifier(lambda request: not is_empty(request.output), "not-empty")


class TestRecompute(VerifierConformance):
    def verifier(self):
        return RecomputeVerifier(lambda request: {"city": request.task.inputs["city"]})


class TestMock(VerifierConformance):
    strict = False

    def verifier(self):
        return MockVerifier()


class TestTiered(VerifierConformance):
    def verifier(self):
        return TieredVerifier(l2=GroundingVerifier(), l3=LLMVerifier(complete_fn=judge, windows_max=4))


class TestLLM(VerifierConformance):
    def verifier(self):
        return LLMVerifier(complete_fn=judge)


class TestAllOf(VerifierConformance):
    def verifier(self):
        return AllOf(RulesVerifier(), SchemaVerifier(SCHEMA), GroundingVerifier())


class TestQuorum(VerifierConformance):
    def verifier(self):
        return QuorumVerifier([RulesVerifier(), GroundingVerifier(), CompletenessVerifier(values=["Paris"])], rule="k_of_n")


class TestAheadBy(VerifierConformance):
    def verifier(self):
        return QuorumVerifier([RulesVerifier()] * 3, rule="ahead_by")
