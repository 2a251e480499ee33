"""The values that say what happened: verdicts, costs, causes of failure. No behaviour beyond building and printing them."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Self

import msgspec

from agentraft_ray.errors import CORRECTION_HINTS, ErrorType

__all__ = ["CORRECTION_HINTS", "FREE", "Allowance", "Cost", "ErrorType", "FailureCause", "VerdictKind", "VerificationResult"]


_AMOUNT_MAX = 2**53  # of tokens, dollars or seconds in one cost; sums of a run's costs then fit where they are stored


class Cost(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What something cost: model tokens, US dollars and seconds of wall time.

    `usd` is None where a price is unknown, also that of a part of a sum; it is never a silent 0. `known_usd` is then the sum of the
    prices that are known, and 0 otherwise; `usd_at_least` is what to show.
    """

    tokens: int = 0
    usd: float | None = 0.0
    seconds: float = 0.0
    known_usd: int | float = 0  # an int takes one byte of every record, a float nine

    @classmethod
    def of(cls, tokens: Any, usd: Any, seconds: Any = 0.0, known_usd: Any = 0) -> Cost:
        """A cost of whatever numbers a caller has, numpy's too. Raises TypeError or ValueError for what nothing can cost."""
        known = float(known_usd) if usd is None and known_usd else 0
        cost = cls(int(operator.index(tokens)), None if usd is None else float(usd), float(seconds), known)
        amounts = (cost.tokens, cost.usd_at_least, cost.seconds)
        if all(0 <= amount <= _AMOUNT_MAX for amount in amounts):
            return cost
        raise ValueError(f"a cost takes finite numbers from 0 up, not {tokens!r} tokens, {usd!r} dollars and {seconds!r} seconds")

    @property
    def usd_at_least(self) -> float:
        """The price, or as much of it as is known."""
        return self.known_usd if self.usd is None else self.usd

    def __add__(self, other: Cost) -> Cost:
        if other is FREE:
            return self
        tokens, seconds = self.tokens + other.tokens, self.seconds + other.seconds
        if self.usd is None or other.usd is None:
            return Cost(tokens, None, seconds, self.usd_at_least + other.usd_at_least)
        return Cost(tokens, self.usd + other.usd, seconds)

    def less(self, part: Cost) -> Cost:
        """This cost without `part` of it."""
        tokens, seconds = self.tokens - part.tokens, self.seconds - part.seconds
        if self.usd is None or part.usd is None:
            return Cost(tokens, None, seconds, self.usd_at_least - part.usd_at_least)
        return Cost(tokens, self.usd - part.usd, seconds)


FREE = Cost()


class Allowance(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What may still be spent, of tokens and of US dollars; None = not limited.

    An unknown price could be any, so it is refused, unless something was set aside for it (`unpriced`): then it counts as known.
    """

    tokens: int | None = None
    usd: float | None = None
    unpriced: bool = False

    def short_of(self, cost: Cost) -> str:
        """The first resource ("tokens", "usd") of which `cost` takes more than there is, "" if none."""
        if self.tokens is not None and cost.tokens > self.tokens:
            return "tokens"
        if self.usd is None or (cost.usd is None and self.unpriced and cost.known_usd <= self.usd):
            return ""
        return "usd" if cost.usd is None or cost.usd > self.usd else ""


class VerdictKind(str, Enum):
    """PASS and REJECT judge the output; ABSTAIN says that this verifier cannot tell; FAULT that it failed to answer."""

    PASS = "pass"
    REJECT = "reject"
    ABSTAIN = "abstain"
    FAULT = "fault"


class FailureCause(str, Enum):
    """Why an attempt ended without an output that could be judged."""

    RAISED = "raised"
    TIMED_OUT = "timed_out"
    NOT_ENCODABLE = "not_encodable"
    TOO_LARGE = "too_large"
    WORKER_LOST = "worker_lost"
    NO_MAJORITY = "no_majority"


@dataclass(frozen=True, slots=True)
class VerificationResult:
    """One verdict about one output.

    `confidence` is in [0, 1]. `blame` names the earlier step that the verifier suspects. `evidence` lists what it saw (offending
    values, places). `prompt` and `calibration` are the versions that the verdict was made with, "" where there are none. `cached`:
    it was given before about exactly the same and is repeated. `short_of` says of a FAULT that the run's budget of "tokens" or "usd"
    does not allow the call that it would take.
    """

    passed: bool
    error_type: ErrorType = ErrorType.NONE
    confidence: float = 1.0
    hint: str | None = None
    reasoning: str = ""
    verifier: str = ""
    kind: VerdictKind | None = None
    evidence: tuple[str, ...] = ()
    blame: str | None = None
    cost: Cost = FREE
    prompt: str = ""
    calibration: str = ""
    cached: bool = False
    short_of: str = ""

    def __post_init__(self) -> None:
        if self.kind is None:
            object.__setattr__(self, "kind", VerdictKind.PASS if self.passed else VerdictKind.REJECT)

    @classmethod
    def ok(cls, *, confidence: float = 1.0, reasoning: str = "", verifier: str = "", **more: Any) -> Self:
        """A passing verdict."""
        return cls(True, ErrorType.NONE, confidence, None, reasoning, verifier, VerdictKind.PASS, **more)

    @classmethod
    def fail(
        cls,
        error_type: ErrorType,
        *,
        confidence: float = 1.0,
        hint: str | None = None,
        reasoning: str = "",
        verifier: str = "",
        **more: Any,
    ) -> Self:
        """A rejection; without `hint`, the correction hint of its class."""
        hint = hint if hint is not None else CORRECTION_HINTS.get(error_type)
        return cls(False, error_type, confidence, hint, reasoning, verifier, VerdictKind.REJECT, **more)

    @classmethod
    def abstain(cls, reasoning: str = "", *, verifier: str = "", **more: Any) -> Self:
        """This verifier cannot tell: neither a pass nor billed to the agent."""
        return cls(False, ErrorType.NONE, 0.0, None, reasoning, verifier, VerdictKind.ABSTAIN, **more)

    @classmethod
    def fault(cls, reasoning: str, *, verifier: str = "", **more: Any) -> Self:
        """The verifier failed to answer: neither a pass nor billed to the agent."""
        return cls(False, ErrorType.NONE, 0.0, None, reasoning, verifier, VerdictKind.FAULT, **more)

    def by(self, verifier: str) -> Self:
        """The same verdict under the name of `verifier`."""
        return replace(self, verifier=verifier)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON and for the seed's `Checkpoint.verification`."""
        return {
            "passed": self.passed,
            "error_type": self.error_type.value,
            "confidence": self.confidence,
            "hint": self.hint,
            "reasoning": self.reasoning,
            "verifier": self.verifier,
            "kind": self.kind.value if self.kind else None,
            "evidence": list(self.evidence),
            "blame": self.blame,
            "cost": {
                "tokens": self.cost.tokens,
                "usd": self.cost.usd,
                "seconds": self.cost.seconds,
                "usd_at_least": self.cost.usd_at_least,
            },
            "cached": self.cached,
        }
