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
    """What something cost: model tokens, US dollars (None = unknown, never a silent 0) and seconds of wall time."""

    tokens: int = 0
    usd: float | None = 0.0
    seconds: float = 0.0

    @classmethod
    def of(cls, tokens: Any, usd: Any, seconds: Any = 0.0) -> Cost:
        """A cost of whatever numbers a caller has, numpy's too. Raises TypeError or ValueError for what nothing can cost."""
        cost = cls(int(operator.index(tokens)), None if usd is None else float(usd), float(seconds))
        if 0 <= cost.tokens <= _AMOUNT_MAX and 0 <= (cost.usd or 0.0) <= _AMOUNT_MAX and 0 <= cost.seconds <= _AMOUNT_MAX:
            return cost
        raise ValueError(f"a cost takes finite numbers from 0 up, not {tokens!r} tokens, {usd!r} dollars and {seconds!r} seconds")

    def __add__(self, other: Cost) -> Cost:
        if other is FREE:
            return self
        usd = None if self.usd is None or other.usd is None else self.usd + other.usd
        return Cost(self.tokens + other.tokens, usd, self.seconds + other.seconds)

    def less(self, part: Cost) -> Cost:
        """This cost without `part` of it."""
        usd = None if self.usd is None or part.usd is None else self.usd - part.usd
        return Cost(self.tokens - part.tokens, usd, self.seconds - part.seconds)


FREE = Cost()


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
    says of a FAULT, or of an abstention, what went wrong with the model that was asked.
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
            "cost": {"tokens": self.cost.tokens, "usd": self.cost.usd, "seconds": self.cost.seconds},
            "failure": None if self.failure is None else msgspec.to_builtins(self.failure),
        }
