"""The values that say what happened: verdicts, costs, causes of failure. No behaviour beyond building and printing them."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Self

import msgspec

from agentraft_ray.errors import CORRECTION_HINTS, ErrorType

__all__ = [
    "CORRECTION_HINTS",
    "FREE",
    "Advice",
    "Allowance",
    "Cost",
    "ErrorType",
    "FailureCause",
    "FaultKind",
    "VerdictKind",
    "VerificationResult",
    "VerifierFault",
]


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


class Advice(str, Enum):
    """What helps against a verifier's fault."""

    AGAIN = "ask again after a moment"
    WAIT = "ask again when the time that it names has passed"
    FIX = "somebody has to change something: credentials, quota, the model's name, max_tokens"
    ASK_ANOTHER = "the same question gets the same answer; ask another verifier, or a person"


class FaultKind(str, Enum):
    """Why a model gave no verdict. Closed: a new kind only where something would treat it differently."""

    TIMEOUT = "timeout"  # no whole answer in time; it may have been made, and is paid for then
    CONNECTION = "connection"  # no connection, or one that broke off
    SERVER_ERROR = "server_error"
    OVERLOADED = "overloaded"  # the provider has no capacity now
    RATE_LIMITED = "rate_limited"  # this account sends too much
    QUOTA = "quota"  # money, or the quota of a day or a month, is used up
    AUTH = "auth"
    UNAVAILABLE = "unavailable"  # the package or the credentials are missing here
    BAD_REQUEST = "bad_request"  # an unknown model too
    TOO_LONG = "too_long"  # the prompt does not fit the model
    REFUSED = "refused"  # the model declined
    FILTERED = "filtered"  # a filter of the provider's cut in
    TRUNCATED = "truncated"  # the answer did not fit max_tokens
    MALFORMED = "malformed"  # the answer is no verdict, or empty
    CLOSED = "closed"  # the breaker of this provider and model is open: nothing was sent
    BUSY = "busy"  # there was no room among the requests to this provider and model: nothing was sent
    OTHER = "other"

    @property
    def advice(self) -> Advice:
        """What helps."""
        return _ADVICE[self]


_ADVICE = {
    FaultKind.TIMEOUT: Advice.AGAIN,
    FaultKind.CONNECTION: Advice.AGAIN,
    FaultKind.SERVER_ERROR: Advice.AGAIN,
    FaultKind.OVERLOADED: Advice.WAIT,
    FaultKind.RATE_LIMITED: Advice.WAIT,
    FaultKind.QUOTA: Advice.FIX,
    FaultKind.AUTH: Advice.FIX,
    FaultKind.UNAVAILABLE: Advice.FIX,
    FaultKind.BAD_REQUEST: Advice.FIX,
    FaultKind.TOO_LONG: Advice.ASK_ANOTHER,
    FaultKind.REFUSED: Advice.ASK_ANOTHER,
    FaultKind.FILTERED: Advice.ASK_ANOTHER,
    FaultKind.TRUNCATED: Advice.FIX,
    FaultKind.MALFORMED: Advice.AGAIN,
    FaultKind.CLOSED: Advice.WAIT,
    FaultKind.BUSY: Advice.WAIT,
    FaultKind.OTHER: Advice.AGAIN,
}


class VerifierFault(msgspec.Struct, frozen=True, gc=False):
    """Why a verifier gave no verdict, and when it makes sense to ask it again.

    `source` names what failed (``provider:model``). `retry_after_s` = seconds from now before which asking is pointless, None where
    nobody knows. `status` is that of the HTTP answer, 0 where there was none.
    """

    kind: FaultKind
    message: str = ""
    source: str = ""
    retry_after_s: float | None = None
    status: int = 0


@dataclass(frozen=True, slots=True)
class VerificationResult:
    """One verdict about one output.

    `confidence` is in [0, 1]. `blame` names the earlier step that the verifier suspects. `evidence` lists what it saw (offending
    values, places). `prompt` and `calibration` are the versions that the verdict was made with, "" where there are none. `failure`
    says of a FAULT, or of an abstention, what went wrong with the model that was asked; `short_of` of a FAULT, that the run's budget
    of "tokens" or "usd" does not allow the call. `cached`: it was given before about exactly the same, and is repeated.
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
    failure: VerifierFault | None = field(default=None, repr=False)  # `reasoning` says it in words
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
            "failure": None if self.failure is None else msgspec.to_builtins(self.failure),
            "cached": self.cached,
        }
