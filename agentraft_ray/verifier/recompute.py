"""Recomputation: the output is what a trusted function makes of the same request."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from agentraft_ray.config import Limits
from agentraft_ray.errors import CORRECTION_HINTS
from agentraft_ray.taxonomy import ErrorType, VerificationResult
from agentraft_ray.verifier.asking import answer_of, in_thread
from agentraft_ray.verifier.base import Verifier, VerifyInput

__all__ = ["NOT_COMPUTABLE", "RecomputeVerifier"]

_EVIDENCE_MAX = Limits().evidence_max
_RELATIVE_TOLERANCE = 1e-9  # the last digits of a float depend on the order of the additions


class _NotComputable:
    def __repr__(self) -> str:
        return "NOT_COMPUTABLE"


NOT_COMPUTABLE = _NotComputable()
"""What `fn` returns where there is nothing to recompute; the verifier then abstains."""


class RecomputeVerifier(Verifier):
    """Rejects as CONTRADICTION an output that differs from ``fn(request)`` (sync or async), and says where.

    `equal(expected, output)` decides; by default data is compared place by place, numbers by value (floats up to 1e-9 of their
    size), and a bool is not a number. The hint names places and never the expected value. `fn` may return NOT_COMPUTABLE, then
    the verifier abstains. An exception in `fn` comes through, which the runtime takes as a fault. `blocking=True` runs a sync
    `fn` in a thread. Change `version` when the function changes its meaning.
    """

    def __init__(
        self,
        fn: Callable[[VerifyInput], Any],
        equal: Callable[[Any, Any], bool] | None = None,
        *,
        name: str = "recompute",
        blocking: bool = False,
        version: str = "",
    ) -> None:
        self._fn = fn
        self._equal = equal
        self._name = name
        self._blocking = blocking
        self._version = version

    @property
    def name(self) -> str:
        return self._name

    @property
    def identity(self) -> str:
        fn = getattr(self._fn, "__name__", type(self._fn).__name__)
        return f"{self._name}({fn}, version={self._version!r})"

    async def verify(self, request: VerifyInput) -> VerificationResult:
        expected = await (in_thread if self._blocking else answer_of)(self._fn, request)
        if expected is NOT_COMPUTABLE:
            return VerificationResult.abstain("there is nothing to recompute", verifier=self._name)
        if self._equal is not None:
            same = await answer_of(self._equal, expected, request.output)
            places = [] if same is True else ["the output"]
        else:
            places = [place or "the output" for place in _differences(expected, request.output)]
        if not places:
            return VerificationResult.ok(reasoning="recomputed and equal", verifier=self._name)
        named = ", ".join(places[:5]) + (f" and {len(places) - 5} more places" if len(places) > 5 else "")
        return VerificationResult.fail(
            ErrorType.CONTRADICTION,
            hint=f"{CORRECTION_HINTS[ErrorType.CONTRADICTION]} Recomputing gives something else at: {named}.",
            reasoning=f"recomputing gives something else at {named}",
            verifier=self._name,
            evidence=tuple(places[:_EVIDENCE_MAX]),
        )


def _differences(expected: Any, output: Any) -> Iterator[str]:
    """The places where the two differ, in order; any depth."""
    stack: list[tuple[str, Any, Any]] = [("", expected, output)]
    while stack:
        place, left, right = stack.pop()
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from (f"{place}.{key}".lstrip(".") for key in [*left, *right] if (key in left) != (key in right))
            shared = [key for key in left if key in right]
            stack.extend((f"{place}.{key}".lstrip("."), left[key], right[key]) for key in reversed(shared))
        elif isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
            if len(left) != len(right):
                yield f"{place} (its length)".strip()
            pairs = list(enumerate(zip(left, right, strict=False)))
            stack.extend((f"{place}[{position}]", *pair) for position, pair in reversed(pairs))
        elif not _same(left, right):
            yield place


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if (isinstance(left, float) and isinstance(right, (int, float))) or (isinstance(right, float) and isinstance(left, int)):
        return left == right or (math.isnan(left) and math.isnan(right)) or _close(left, right)
    return bool(left == right)


def _close(left: float, right: float) -> bool:
    try:
        return math.isclose(left, right, rel_tol=_RELATIVE_TOLERANCE)
    except OverflowError:  # an int that no float can hold
        return False
