"""A scripted verifier, for tests of pipelines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.taxonomy import ErrorType, VerificationResult
from agentraft_ray.verifier.asking import answer_of
from agentraft_ray.verifier.base import Verifier, VerifyInput
from agentraft_ray.verifier.callable import verdict_of

__all__ = ["MockVerifier"]

Scripted = ErrorType | VerificationResult


class MockVerifier(Verifier):
    """Answers from a script: step name -> verdicts indexed by attempt, of which the last one repeats.

    A step that is not in `script` gets what ``fn(request)`` returns (an ErrorType, a bool or a VerificationResult, sync or async;
    None leaves it to the default), and without `fn` the `default`.

    >>> drifts_once = MockVerifier({"draft": [ErrorType.GOAL_DRIFT, ErrorType.NONE]})
    """

    def __init__(
        self,
        script: Mapping[str, Scripted | Sequence[Scripted]] | None = None,
        *,
        default: ErrorType = ErrorType.NONE,
        fn: Callable[[VerifyInput], Any] | None = None,
    ) -> None:
        self._script: dict[str, tuple[Scripted, ...]] = {}
        for step, answers in (script or {}).items():
            listed = (answers,) if isinstance(answers, (ErrorType, VerificationResult)) else tuple(answers)
            if not all(isinstance(answer, (ErrorType, VerificationResult)) for answer in listed):
                raise InvalidConfig(f"the script of step {step!r} must list ErrorTypes, not {listed!r}")
            self._script[step] = listed
        self._default = default
        self._fn = fn

    @property
    def name(self) -> str:
        return "mock"

    async def verify(self, request: VerifyInput) -> VerificationResult:
        answers = self._script.get(request.step.name, ())
        if answers:
            return verdict_of(answers[min(request.attempt, len(answers) - 1)], self.name, self._default)
        answer = await answer_of(self._fn, request) if self._fn is not None else None
        return verdict_of(self._default if answer is None else answer, self.name, ErrorType.INCOMPLETE)

    async def second_opinion(self, request: VerifyInput, previous: str) -> VerificationResult | None:
        """The script's own answer for this attempt: it goes by attempts, so a repeated output may well get another verdict."""
        return await self.verify(request) if request.step.name in self._script else None
