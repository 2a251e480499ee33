"""L1: fixed rules about the bare form of an output. On the hot path of every step, so one passing verdict is shared."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.pipeline import Criticality
from agentraft_ray.taxonomy import ErrorType, VerificationResult
from agentraft_ray.verifier.base import Verifier, VerifyInput
from agentraft_ray.verifier.content import is_empty, leaves, render

__all__ = ["RulesVerifier", "error_signature"]

_TRACEBACK = "Traceback (most recent call last)"
_TRACEBACK_LINE = re.compile(rf"(?:^|\n)[ \t>|]*(?:\w{{1,20}}: ?)?{re.escape(_TRACEBACK)}|{re.escape(_TRACEBACK)}:\s*\n\s*File ")

# How programs begin when they report their own failure. Anchored: prose that mentions an error does not start like this.
_HEAD = re.compile(
    r"\s*(?:"
    r"(?i:(?:error|fatal(?: error)?|(?:unhandled |uncaught )?exception|internal error|panic|uncaught \(in promise\))\s*:\s)"
    r"|(?:[A-Za-z_]\w{0,60}\.){0,8}[A-Z]\w{0,60}(?:Error|Exception)(?::\s|\s*\Z)"
    r"|Exception in thread \S|thread '[^'\n]{0,80}' panicked at|Segmentation fault\b|\[object Object\]\s*\Z"
    r"|(?i:(?:HTTP(?:/\d(?:\.\d)?)? )?[45]\d\d:? (?:bad request|unauthorized|forbidden|not found|too many requests"
    r"|internal server error|bad gateway|service unavailable|gateway time-?out)[.!]?\s*\Z)"
    r"|(?i:internal server error[.!]?\s*\Z)"
    r")"
)


def error_signature(text: str) -> str | None:
    """What in `text` shows that a program failed instead of answering (a traceback, an ``XyzError:`` head ...), or None.

    Looks at how the text begins and for tracebacks anywhere; a sentence that mentions an error has no signature.
    """
    if _TRACEBACK in text and _TRACEBACK_LINE.search(text):
        return "a Python traceback"
    head = _HEAD.match(text)
    return f"an error message ({' '.join(head.group().split())[:60]})" if head else None


class RulesVerifier(Verifier):
    """Rejects empty, failed, too short, too long outputs, and those without a required keyword; everything else passes.

    Empty (None, blank text, an empty container), an error signature and a missing keyword are INCOMPLETE, too long is
    SCOPE_CREEP. Lengths are in characters of the text, or of the JSON of data; numbers and booleans have none. Keywords match
    without case. Raises InvalidConfig for limits that contradict each other.

    >>> import asyncio; from agentraft_ray import Step, Task
    >>> request = VerifyInput(Task("greet"), Step("a", print), "ValueError: no name")
    >>> asyncio.run(RulesVerifier().verify(request)).error_type.value
    'INCOMPLETE'
    """

    def __init__(
        self,
        *,
        min_length: int = 1,
        max_length: int | None = None,
        required_keywords: Iterable[str] | None = None,
        forbid_error_signatures: bool = True,
    ) -> None:
        if min_length < 0 or (max_length is not None and max_length < max(1, min_length)):
            raise InvalidConfig(f"rules need 0 <= min_length <= max_length, not min_length={min_length}, max_length={max_length}")
        keywords = (required_keywords,) if isinstance(required_keywords, str) else tuple(required_keywords or ())
        self._min_length = min_length
        self._max_length = max_length
        self._keywords = tuple((keyword, keyword.casefold()) for keyword in keywords)
        self._forbid_errors = forbid_error_signatures
        self._measures_data = min_length > 1 or max_length is not None or bool(keywords)
        self._pass = VerificationResult.ok(reasoning="the rules hold", verifier=self.name)

    @property
    def name(self) -> str:
        return "rules-l1"

    @property
    def identity(self) -> str:
        keywords = [keyword for keyword, _ in self._keywords]
        return (
            f"rules-l1(min_length={self._min_length}, max_length={self._max_length}, required_keywords={keywords},"
            f" forbid_error_signatures={self._forbid_errors})"
        )

    async def verify(self, request: VerifyInput) -> VerificationResult:
        return self.verify_now(request)

    def verify_now(self, request: VerifyInput) -> VerificationResult:
        output = request.output
        if is_empty(output):
            return self._reject("the output is empty", "The output is empty. Return the result that the step asks for.")
        if isinstance(output, str):
            return self._judge_failure(output) or self._judge_length(output) or self._judge_keywords(output) or self._pass
        return self._judge_data(output) or self._pass

    def uses_model(self, criticality: Criticality) -> bool:
        return False

    def _judge_data(self, output: Any) -> VerificationResult | None:
        if isinstance(output, (bool, int, float)):
            return self._judge_keywords(str(output)) if self._keywords else None
        if self._forbid_errors:
            for place, leaf in leaves(output):
                found = self._judge_failure(leaf, place) if isinstance(leaf, str) else None
                if found:
                    return found
        if not self._measures_data:
            return None
        text = render(output)
        return self._judge_length(text) or self._judge_keywords(text)

    def _judge_failure(self, text: str, place: str = "") -> VerificationResult | None:
        found = error_signature(text) if self._forbid_errors else None
        if found is None:
            return None
        where = f" at {place}" if place else ""
        return self._reject(f"the output is {found}{where}", f"The output reports a failure{where} instead of a result.")

    def _judge_length(self, text: str) -> VerificationResult | None:
        if len(text) < self._min_length or (self._min_length > 1 and len(text.strip()) < self._min_length):
            return self._reject(
                f"{len(text.strip())} characters, fewer than {self._min_length}",
                f"The output is too short: it needs at least {self._min_length} characters.",
            )
        if self._max_length is not None and len(text) > self._max_length:
            return VerificationResult.fail(
                ErrorType.SCOPE_CREEP,
                hint=f"The output is too long: at most {self._max_length} characters. Keep to what the step asks for.",
                reasoning=f"{len(text)} characters, more than {self._max_length}",
                verifier=self.name,
            )
        return None

    def _judge_keywords(self, text: str) -> VerificationResult | None:
        if not self._keywords:
            return None
        folded = text.casefold()
        missing = [keyword for keyword, key in self._keywords if key not in folded]
        if not missing:
            return None
        named = ", ".join(missing)
        return self._reject(f"without the required {named}", f"The output is incomplete: it must speak of {named}.", tuple(missing))

    def _reject(self, reasoning: str, hint: str, evidence: tuple[str, ...] = ()) -> VerificationResult:
        return VerificationResult.fail(ErrorType.INCOMPLETE, hint=hint, reasoning=reasoning, verifier=self.name, evidence=evidence)
