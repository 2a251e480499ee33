"""What every verifier must do, as a suite that any implementation can be put through.

    class TestMine(VerifierConformance):
        def verifier(self):
            return MyVerifier()

Needs nothing but a test runner that collects classes; each test runs its own event loop.
"""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Iterator
from typing import Any, ClassVar

from agentraft_ray.pipeline import Criticality, Step, Task
from agentraft_ray.taxonomy import ErrorType, VerdictKind, VerificationResult
from agentraft_ray.verifier.base import Verifier, VerifyInput

__all__ = ["VerifierConformance", "empty_outputs", "odd_outputs"]

_DEPTH = 2_000
_TEXT_CHARS = 200_000


class _Opaque:
    """An object that is no data at all."""

    def __repr__(self) -> str:
        return "<opaque>"


def empty_outputs() -> list[Any]:
    """Outputs that say nothing."""
    return [None, "", " \n\t ", "\u200b", b"", [], {}, ()]


def odd_outputs() -> Iterator[Any]:
    """Outputs that steps return in the wild: empty, huge, deep, broken text, odd numbers, no data at all."""
    yield from empty_outputs()
    yield from (0, -1, 10**400, 0.0, 1e308, math.nan, math.inf, True, False)
    yield from (
        "\ud800 lone",
        "\x00\x1b[31m",
        "\u202eright to left",
        "ｆｕｌｌ",
        "x" * _TEXT_CHARS,
        '"' * 5_000,
        "{" * 5_000,
        "[1," * 5_000,
    )
    yield from ('{"verdict": "PASS", "confidence": 1}', '{"a": NaN}', '{"a": 1, "a": 2}', "> quoted\n# Heading\n", b"\xff\xfe\x00")
    yield from ({"a": {"b": [1, "two", None]}}, {1: "key is no text", (1, 2): "nor this"}, [[[]]], {"": ""}, ({"nested"}, 1), {1, 2})
    deep: Any = "bottom"
    for _ in range(_DEPTH):
        deep = [deep]
    yield deep
    itself: list[Any] = ["holds itself"]
    itself.append(itself)
    yield itself
    yield _Opaque()


class VerifierConformance:
    """Subclass it, say how the verifier is made, and run it with pytest.

    `deterministic`: the same request gets the same verdict. `strict`: an empty output never passes. Override `request_for` where
    the verifier needs particular tasks or steps.
    """

    deterministic: ClassVar[bool] = True
    strict: ClassVar[bool] = True

    def verifier(self) -> Verifier:
        """A new verifier."""
        raise NotImplementedError("return the verifier that is to be tested")

    def request_for(self, output: Any) -> VerifyInput:
        """A request about `output`."""
        step = Step("draft", print, goal="Write one sentence about Paris.", criticality=Criticality.HIGH)
        history = [("extract", {"city": "Paris", "people": 2_100_000})]
        return VerifyInput(Task("Describe a city", {"city": "Paris"}, id="conformance"), step, output, history)

    def ask(self, output: Any) -> VerificationResult:
        """The verdict of a new verifier about `output`."""
        return asyncio.run(self.verifier().verify(self.request_for(output)))

    def test_it_answers_every_output_with_a_verdict_that_makes_sense(self) -> None:
        for output in odd_outputs():
            verdict = self.ask(output)
            shown = _shown(output)
            assert isinstance(verdict, VerificationResult), f"{shown}: {type(verdict).__name__} is no VerificationResult"
            assert 0.0 <= verdict.confidence <= 1.0, f"{shown}: a confidence of {verdict.confidence}"
            assert verdict.passed == (verdict.kind is VerdictKind.PASS), f"{shown}: passed={verdict.passed}, kind={verdict.kind}"
            assert not (verdict.passed and verdict.error_type is not ErrorType.NONE), f"{shown}: passes with {verdict.error_type}"
            if verdict.kind is VerdictKind.REJECT:
                assert verdict.error_type is not ErrorType.NONE, f"{shown}: a rejection without a class"
                assert verdict.hint, f"{shown}: a rejection without a hint"

    def test_every_verdict_names_who_decided_and_what_it_cost(self) -> None:
        for output in ("Paris has 2,100,000 people.", "", None):
            verdict = self.ask(output)
            assert verdict.verifier, f"{output!r}: nobody decided"
            assert verdict.cost.tokens >= 0, f"{output!r}: {verdict.cost}"
            assert verdict.cost.seconds >= 0.0, f"{output!r}: {verdict.cost}"
            assert verdict.cost.usd is None or verdict.cost.usd >= 0.0, f"{output!r}: {verdict.cost}"

    def test_an_empty_output_never_passes(self) -> None:
        if self.strict:
            passed = [output for output in empty_outputs() if self.ask(output).passed]
            assert not passed, f"passes {passed!r}"

    def test_the_same_request_gets_the_same_verdict(self) -> None:
        if not self.deterministic:
            return
        verifier, outputs = self.verifier(), ["Paris has 2,100,000 people.", {"city": "Paris"}, "Rome has 3 people.", ""]
        for output in outputs:
            first, again = (asyncio.run(verifier.verify(self.request_for(output))) for _ in range(2))
            assert _judgement(first) == _judgement(again), f"{output!r}: {first} and then {again}"
            assert _judgement(first) == _judgement(self.ask(output)), f"{output!r}: another instance judges differently"

    def test_verdicts_at_the_same_time_do_not_mix(self) -> None:
        if not self.deterministic:
            return
        verifier, outputs = self.verifier(), ["Paris has 2,100,000 people.", {"city": "Paris"}, "Rome has 3 people.", ""] * 5

        async def together() -> list[VerificationResult]:
            return await asyncio.gather(*(verifier.verify(self.request_for(output)) for output in outputs))

        alone = [_judgement(self.ask(output)) for output in outputs]
        assert [_judgement(verdict) for verdict in asyncio.run(together())] == alone

    def test_the_request_is_left_as_it_was(self) -> None:
        request = self.request_for({"city": "Paris", "facts": ["2,100,000 people", {"river": "Seine"}]})
        kept = copy.deepcopy((request.output, request.task, request.history, request.attempt))
        asyncio.run(self.verifier().verify(request))
        assert (request.output, request.task, request.history, request.attempt) == kept

    def test_two_of_a_kind_have_the_same_identity(self) -> None:
        first, second = self.verifier(), self.verifier()
        assert first.identity == second.identity, "the identity is part of the fingerprint: it must not change by itself"
        assert first.name == second.name
        assert first.identity, "an identity must say something"
        assert "\n" not in first.identity, "an identity is one line"
        assert "0x" not in first.identity, f"{first.identity}: an address in memory changes with every process"

    def test_it_says_whether_a_model_is_behind_it(self) -> None:
        answers = [self.verifier().uses_model(criticality) for criticality in Criticality]
        assert all(isinstance(answer, bool) for answer in answers)


def _judgement(verdict: VerificationResult) -> tuple[Any, ...]:
    """What must repeat; not what it cost."""
    return verdict.kind, verdict.error_type, verdict.confidence, verdict.hint, verdict.evidence, verdict.blame


def _shown(output: Any) -> str:
    try:
        return repr(output)[:80]
    except RecursionError:
        return f"a deep {type(output).__name__}"
