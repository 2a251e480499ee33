"""Where what users' code hands in is made fit for a log: the texts of its errors, and its verdicts."""

from __future__ import annotations

import numbers
import traceback

from agentraft_ray.config import Limits
from agentraft_ray.errors import ErrorType
from agentraft_ray.taxonomy import FREE, Cost, FaultKind, VerdictKind, VerificationResult, VerifierFault

__all__ = ["checked_verdict", "described", "plain_text"]

_DESCRIPTION_CHARS_MAX = 2_000
_FAULT_CHARS_MAX = 500
_RESOURCES = ("tokens", "usd")
_SOURCE_CHARS_MAX = 200


def plain_text(text: str, chars_max: int | None = None) -> str:
    """`text` as every log can hold it: lone surrogates become question marks, and subclasses of str lose their class."""
    if type(text) is not str or not text.isascii():
        text = str.encode(text, "utf-8", "replace").decode()
    return text if chars_max is None else text[:chars_max]


def described(error: BaseException) -> str:
    """Class and message of an exception, as text for a log."""
    return plain_text("".join(traceback.format_exception_only(error)).strip(), _DESCRIPTION_CHARS_MAX)


def checked_verdict(result: object, verifier: str, limits: Limits) -> VerificationResult:
    """A verdict that makes sense, fits a log and says who gave it; what does not make sense is a fault of `verifier`."""
    if not isinstance(result, VerificationResult):
        return VerificationResult.fault(f"the verifier returned {type(result).__name__}, not a VerificationResult", verifier=verifier)
    cost = FREE
    try:
        given = result.cost
        cost = FREE if given is FREE else Cost.of(given.tokens, given.usd, given.seconds, given.known_usd)
        return _plain(result, cost, verifier, limits)
    except Exception as error:  # noqa: BLE001 - the boundary to the user's code: any of these values may be a class of theirs
        why = f"the verifier returned a verdict that makes no sense: {described(error)}"
        return VerificationResult.fault(why[:_FAULT_CHARS_MAX], verifier=verifier, cost=cost)


def _plain(result: VerificationResult, cost: Cost, verifier: str, limits: Limits) -> VerificationResult:
    """The same verdict in plain texts and numbers. Raises TypeError or ValueError where it contradicts its types or itself."""
    kind, error_type, confidence, evidence = result.kind, result.error_type, result.confidence, result.evidence
    if not isinstance(kind, VerdictKind) or result.passed is not (kind is VerdictKind.PASS):
        raise ValueError(f"passed={result.passed!r} contradicts kind={kind!r}")
    if not isinstance(error_type, ErrorType) or (result.passed and error_type is not ErrorType.NONE):
        raise ValueError(f"passed={result.passed!r} contradicts error_type={error_type!r}")
    if type(confidence) is not float and not isinstance(confidence, numbers.Real):
        raise TypeError(f"confidence is a {type(confidence).__name__}, not a number")
    if not 0.0 <= confidence <= 1.0:
        raise ValueError(f"confidence={confidence!r} is not between 0 and 1")
    if not isinstance(evidence, (tuple, list)):
        raise TypeError(f"evidence is a {type(evidence).__name__}, not a tuple")
    return VerificationResult(
        result.passed,
        error_type,
        float(confidence),
        None if result.hint is None else plain_text(result.hint, limits.hint_chars_max),
        plain_text(result.reasoning, limits.hint_chars_max),
        plain_text(result.verifier) or verifier,
        kind,
        tuple([plain_text(item, limits.evidence_chars_max) for item in evidence[: limits.evidence_max]]),
        None if result.blame is None else plain_text(result.blame),
        cost,
        plain_text(result.prompt),
        plain_text(result.calibration),
        failure=None if result.failure is None else _plain_failure(result.failure),
        cached=result.cached is True,
        short_of=result.short_of if kind is VerdictKind.FAULT and result.short_of in _RESOURCES else "",
    )


def _plain_failure(failure: object) -> VerifierFault:
    """Raises TypeError or ValueError where it contradicts its types."""
    if not isinstance(failure, VerifierFault) or not isinstance(failure.kind, FaultKind):
        raise TypeError(f"failure is {failure!r}, not a VerifierFault")
    retry_after_s = None if failure.retry_after_s is None else float(failure.retry_after_s)
    if retry_after_s is not None and not 0.0 <= retry_after_s < float("inf"):
        raise ValueError(f"retry_after_s={retry_after_s!r} is no time from now")
    message, source = plain_text(failure.message, _FAULT_CHARS_MAX), plain_text(failure.source, _SOURCE_CHARS_MAX)
    return VerifierFault(failure.kind, message, source, retry_after_s, int(failure.status))
