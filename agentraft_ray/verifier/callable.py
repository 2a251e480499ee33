"""A user's function as a verifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.taxonomy import ErrorType, VerificationResult
from agentraft_ray.verifier.asking import answer_of, in_thread
from agentraft_ray.verifier.base import Verifier, VerifyInput

__all__ = ["CallableVerifier", "verdict_of"]


class CallableVerifier(Verifier):
    """Judges by ``fn(request)``, sync or async, which returns a bool, an ErrorType (NONE passes) or a VerificationResult.

    False is a rejection of class `error_type`. Anything else, None too, is a verifier fault: a forgotten `return` never passes.
    An exception in `fn` comes through, which the runtime takes as a fault. A sync `fn` that blocks needs `blocking=True`: it then
    runs in a thread. Change `version` when the function changes its meaning; it is part of the identity.
    """

    def __init__(
        self,
        fn: Callable[[VerifyInput], Any],
        name: str | None = None,
        *,
        error_type: ErrorType = ErrorType.INCOMPLETE,
        blocking: bool = False,
        version: str = "",
    ) -> None:
        if not callable(fn) or error_type is ErrorType.NONE:
            raise InvalidConfig(f"a callable verifier needs a function and a failing class, not {fn!r} and {error_type}")
        self._fn = fn
        self._name = name or str(getattr(fn, "__name__", type(fn).__name__))
        self._error_type = error_type
        self._blocking = blocking
        self._version = version

    @property
    def name(self) -> str:
        return self._name

    @property
    def identity(self) -> str:
        return f"{self._name}(callable, error_type={self._error_type}, version={self._version!r})"

    async def verify(self, request: VerifyInput) -> VerificationResult:
        answer = await (in_thread if self._blocking else answer_of)(self._fn, request)
        return verdict_of(answer, self._name, self._error_type)


def verdict_of(answer: Any, name: str, error_type: ErrorType) -> VerificationResult:
    """The verdict that a user's function means; a fault for an answer that means none."""
    if isinstance(answer, VerificationResult):
        return answer if answer.verifier else answer.by(name)
    if isinstance(answer, ErrorType):
        error_type, answer = answer, answer is ErrorType.NONE
    if answer is True:
        return VerificationResult.ok(verifier=name)
    if answer is False:
        return VerificationResult.fail(error_type, verifier=name)
    said = f"{name} returned {type(answer).__name__}; return a bool, an ErrorType or a VerificationResult"
    return VerificationResult.fault(said, verifier=name)
