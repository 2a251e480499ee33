"""A model's reply as a verdict. Strict: one verdict object, the right types, or no verdict. Linear in the length of the reply."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from agentraft_ray.errors import ErrorType
from agentraft_ray.verifier.content import strict_json

__all__ = ["REPLY_CHARS_MAX", "Judgement", "Unusable", "parse_reply"]

REPLY_CHARS_MAX = 200_000

_CLASSES = {kind.value: kind for kind in ErrorType if kind is not ErrorType.NONE}
_VERDICTS = {"PASS": ErrorType.NONE, **_CLASSES}
_BRACES_AND_QUOTES = re.compile(r'[{}"\\]')
_ESCAPED_ASCII = re.compile(r"\\u00([0-7][0-9a-fA-F])")
_VERDICT_KEY = re.compile(r'verdict\\*["\']\s*:', re.IGNORECASE)
_VERDICT_WORD = re.compile(r"verdict", re.IGNORECASE)
_REJECTING_PROSE = re.compile(rf"verdict\W{{1,8}}(?:{'|'.join(_CLASSES)}|FAIL)", re.IGNORECASE)


class Judgement(NamedTuple):
    """What the model said; `error_type` is NONE for a pass."""

    error_type: ErrorType
    confidence: float
    hint: str | None
    reasoning: str
    blame: str | None


class Unusable(NamedTuple):
    """Why the reply is no verdict. `malformed`: there is a verdict object, but a wrong one, or more than one."""

    reason: str
    malformed: bool


def parse_reply(reply: object) -> Judgement | Unusable:
    """The judgement in a reply, which may stand inside prose or a code fence. Never raises, and never repairs.

    Unusable: no object with a "verdict" in it (also when it is cut off), more than one, a key twice, an unknown class, a
    confidence that is missing, not a number, not finite or outside [0, 1], a hint, reasoning or blame that is neither text nor
    null. A PASS must also be the only thing in the reply that looks like a verdict, in strings and broken objects too.
    """
    if not isinstance(reply, str):
        return Unusable(f"the reply is {type(reply).__name__}, not text", malformed=False)
    if len(reply) > REPLY_CHARS_MAX:
        return Unusable(f"the reply has {len(reply)} characters, more than {REPLY_CHARS_MAX}", malformed=False)
    found: list[dict[str, Any]] = []
    for text in _objects(reply):
        try:
            value = strict_json(text)
        except ValueError as problem:
            if _VERDICT_WORD.search(_unescaped(text)):
                return Unusable(f"the verdict object is not valid: {problem}", malformed=True)
            continue
        if isinstance(value, dict) and "verdict" in value:
            found.append(value)
    if len(found) > 1:
        return Unusable(f"the reply has {len(found)} verdicts", malformed=True)
    if not found:
        return Unusable("the reply has no verdict object", malformed=False)
    judgement = _judgement(found[0])
    if isinstance(judgement, Judgement) and judgement.error_type is ErrorType.NONE and not _stands_alone(reply):
        return Unusable("the reply passes it but has more that looks like a verdict", malformed=True)
    return judgement


def _objects(reply: str) -> Iterator[str]:
    """The outermost balanced ``{...}`` of the reply, in one pass; quotes count only inside braces."""
    depth, start, quoted, skip = 0, 0, False, -1
    for mark in _BRACES_AND_QUOTES.finditer(reply):
        at, char = mark.start(), mark.group()
        if depth == 0:
            if char == "{":
                depth, start, quoted = 1, at, False
        elif at == skip:
            continue
        elif char == "\\":
            skip = at + 1 if quoted else -1
        elif char == '"':
            quoted = not quoted
        elif not quoted:
            depth += 1 if char == "{" else -1
            if depth == 0:
                yield reply[start : at + 1]


def _stands_alone(reply: str) -> bool:
    """Whether the one verdict object is all in the reply that looks like a verdict, however it is escaped."""
    text = _unescaped(reply)
    return sum(1 for _ in _VERDICT_KEY.finditer(text)) == 1 and not _REJECTING_PROSE.search(text)


def _unescaped(text: str) -> str:
    return _ESCAPED_ASCII.sub(lambda found: chr(int(found.group(1), 16)), text)


def _judgement(value: dict[str, Any]) -> Judgement | Unusable:
    verdict, confidence = value["verdict"], value.get("confidence")
    if not isinstance(verdict, str) or verdict not in _VERDICTS:
        return Unusable(f"the verdict is {_short(verdict)}, not PASS or a class", malformed=True)
    # A bool is an int in Python; NaN and infinities were refused by the reader.
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0 <= confidence <= 1:
        return Unusable(f"the confidence is {_short(confidence)}, not a number from 0 to 1", malformed=True)
    texts = {key: value.get(key) for key in ("hint", "reasoning", "blame")}
    wrong = [key for key, text in texts.items() if not (text is None or isinstance(text, str))]
    if wrong:
        return Unusable(f"{', '.join(wrong)} must be text or null", malformed=True)
    return Judgement(_VERDICTS[verdict], float(confidence), texts["hint"] or None, texts["reasoning"] or "", texts["blame"] or None)


def _short(value: object) -> str:
    return "missing" if value is None else repr(value)[:60]
