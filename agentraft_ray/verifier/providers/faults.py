"""From what a provider's package raises to a `VerifierFault`: one table of HTTP statuses, and what bodies and classes add to it.

Packages raise their own classes for what a server answered, and let those of their HTTP libraries through for what never came.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from agentraft_ray.errors import VerifierUnavailable
from agentraft_ray.taxonomy import FaultKind, VerifierFault
from agentraft_ray.verifier.asking import describe
from agentraft_ray.verifier.providers.completion import Completion
from agentraft_ray.verifier.providers.retry_after import retry_after_s

__all__ = ["MAY_BE_BILLED", "fault_of_raise", "fault_of_status", "read"]

MAY_BE_BILLED = frozenset({FaultKind.TIMEOUT, FaultKind.CONNECTION, FaultKind.SERVER_ERROR, FaultKind.OTHER})
"""The request may have been worked on: its price is unknown, never nothing."""

_MESSAGE_CHARS_MAX = 300
_STATUSES = {
    400: FaultKind.BAD_REQUEST,
    401: FaultKind.AUTH,
    402: FaultKind.QUOTA,
    403: FaultKind.AUTH,
    404: FaultKind.BAD_REQUEST,
    408: FaultKind.TIMEOUT,
    409: FaultKind.SERVER_ERROR,
    413: FaultKind.TOO_LONG,
    424: FaultKind.SERVER_ERROR,  # Bedrock: the model failed
    425: FaultKind.SERVER_ERROR,
    429: FaultKind.RATE_LIMITED,
    499: FaultKind.TIMEOUT,
    503: FaultKind.OVERLOADED,
    504: FaultKind.TIMEOUT,
    529: FaultKind.OVERLOADED,
}
# Codes and types from error bodies that say more than the status.
_CODES = {
    "insufficient_quota": FaultKind.QUOTA,
    "billing_hard_limit_reached": FaultKind.QUOTA,
    "billing_error": FaultKind.QUOTA,
    "enforced_spend_limit_reached": FaultKind.QUOTA,
    "contract_spend_limit_reached": FaultKind.QUOTA,
    "ServiceQuotaExceededException": FaultKind.QUOTA,
    "ModelNotReadyException": FaultKind.OVERLOADED,
    "ExpiredTokenException": FaultKind.AUTH,
    "ExpiredToken": FaultKind.AUTH,
    "API_KEY_INVALID": FaultKind.AUTH,
    "overloaded_error": FaultKind.OVERLOADED,
    "context_length_exceeded": FaultKind.TOO_LONG,
    "request_too_large": FaultKind.TOO_LONG,
    "content_filter": FaultKind.FILTERED,
    "content_policy_violation": FaultKind.FILTERED,
}
_TOO_LONG = re.compile(
    r"prompt is too long|input is too long|too many (?:input )?tokens|context (?:length|window)|exceeds? the maximum number of tokens",
    re.IGNORECASE,
)
_TRANSPORTS = ("aiohttp", "httpx", "httpx2", "httpcore", "httpcore2", "anyio", "ssl", "urllib3")


def fault_of_status(
    status: int, said: str, source: str, headers: Mapping[str, str], *, code: str = "", after_s: float | None = None
) -> VerifierFault:
    """The fault that an HTTP answer is. `said` = its message, `code` = what its body calls the error, `after_s` = when its body
    says to ask again; a header that says so counts more."""
    kind = _CODES.get(code) or _STATUSES.get(status)
    if kind is None:
        kind = FaultKind.SERVER_ERROR if status >= 500 else FaultKind.BAD_REQUEST if status >= 400 else FaultKind.MALFORMED
    if kind is FaultKind.BAD_REQUEST and _TOO_LONG.search(said):
        kind = FaultKind.TOO_LONG
    is_a_matter_of_time = kind in (FaultKind.RATE_LIMITED, FaultKind.QUOTA, FaultKind.OVERLOADED)
    found_s = retry_after_s({name.lower(): value for name, value in headers.items()}) if is_a_matter_of_time else None
    message = _line(" ".join(filter(None, (str(status), code, said))))
    return VerifierFault(kind, message, source, after_s if found_s is None else found_s, status)


def fault_of_raise(error: BaseException, source: str) -> VerifierFault:
    """The fault of anything else that was raised: it never got an answer, or none that could be read."""
    name, module = type(error).__name__.lower(), type(error).__module__.partition(".")[0]
    kind = FaultKind.OTHER
    if isinstance(error, TimeoutError) or "timeout" in name:
        kind = FaultKind.TIMEOUT
    elif isinstance(error, VerifierUnavailable):
        kind = FaultKind.UNAVAILABLE
    elif isinstance(error, OSError) or module in _TRANSPORTS or "connection" in name:
        kind = FaultKind.CONNECTION
    elif isinstance(error, (ValueError, AttributeError, LookupError, TypeError)):  # an answer of a form that the package cannot read
        kind = FaultKind.MALFORMED
    return VerifierFault(kind, _line(describe(error)), source)


def read(reader: Callable[[Any], Completion], answer: Any, source: str) -> Completion | VerifierFault:
    """The completion in an answer, or the fault that it has not the form that its provider describes."""
    try:
        return reader(answer)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        return VerifierFault(FaultKind.MALFORMED, f"the answer cannot be read: {describe(error)}"[:_MESSAGE_CHARS_MAX], source)


def _line(text: str) -> str:
    return " ".join(text.split())[:_MESSAGE_CHARS_MAX]
