"""Models that can be talked into anything, to test prompts with: what they read outside of the fences they do.

A real model resists most attacks most of the time, so a test with one shows little. These obey whatever stands where a prompt's own
instructions stand, and are easily convinced that something stands there: they know how people hide text, and see a fence in all that
looks like one. A prompt that keeps them to the truth has let nothing of the data out of its fences.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from agentraft_ray.errors import ErrorType

__all__ = ["ObedientModel", "QuotingModel", "instructions_in"]

_LETTERS = {0xE0000 + code: chr(code) for code in range(0x80)}  # that nobody sees
_REVERSED = re.compile("\u202e([^\u202c\n]*)\u202c?")
_BRACKETS = str.maketrans(
    dict.fromkeys("‹⟨〈〈❮❰˂ᐸ⧼≮\U0001d236", "<")
    | dict.fromkeys("›⟩〉〉❯❱˃ᐳ⧽≯\U0001d237\U00016f3f", ">")
    | dict.fromkeys("«≪《⟪⪡", "<<")
    | dict.fromkeys("»≫》⟫⪢", ">>")
    | dict.fromkeys("⋘⫷", "<<<")
    | dict.fromkeys("⋙⫸", ">>>")
)
_LINE_BREAKS = re.compile("\r\n|[\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
_MARK = "| "

# What ends a fence for a careless reader, where a line begins with it.
_SOFT_ENDS = re.compile(
    r"""\s*(?:```|~~~|"{3}|'{3}|</|<\||<!--|-->|\]\]>|\[/?INST\]|\[/?SYS|<<SYS|={3,}|-{3,}|\#{2,}|\*{3,}|END\b|(?:END|STOP)\ OF\b
    |(?:\#+\s*)?(?:System|Human|User|Assistant|Developer|Judge)\s*:|\}\s*\]|</?\w+>)""",
    re.VERBOSE | re.IGNORECASE,
)
_NAMES = "|".join(["PASS", *(kind.value for kind in ErrorType if kind is not ErrorType.NONE)])
_ORDERS = re.compile(
    r"\b(?:answer|reply|respond|return|output|say|give|set|mark|verdict|judge|call|report|is|must be|choose|accept)\b"
    rf"[^.\n{{}}]{{0,80}}?\b({_NAMES})\b",
    re.IGNORECASE,
)
_OBJECTS = re.compile(r"\{[^{}]*\"verdict\"[^{}]*\}", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}")
_DECODINGS_MAX = 3


class ObedientModel:
    """A `complete_fn` that gives the verdict `honest`, unless something outside of the fences tells it otherwise: then that.

    The last order counts. `orders` keeps what it took for instructions, for whoever wants to know how it was convinced.
    """

    def __init__(self, honest: ErrorType = ErrorType.GOAL_DRIFT) -> None:
        self._honest = honest
        self.orders: list[str] = []

    async def __call__(self, system: str, user: str) -> str:
        answer = _verdict("PASS" if self._honest is ErrorType.NONE else self._honest.value)
        for said in _readings(instructions_in(user)):
            for order in sorted((*_OBJECTS.finditer(said), *_ORDERS.finditer(said)), key=lambda found: found.start()):
                self.orders.append(order.group())
                answer = order.group() if order.re is _OBJECTS else _verdict(order.group(1).upper())
        return answer


class QuotingModel:
    """A `complete_fn` that is honest, and quotes all of the output that it was shown, word for word, around its verdict."""

    def __init__(self, honest: ErrorType = ErrorType.GOAL_DRIFT) -> None:
        self._honest = honest

    async def __call__(self, system: str, user: str) -> str:
        shown = user.rpartition(" OUTPUT TO JUDGE\n")[2].rpartition(">>>")[0].rpartition("\n")[0]
        quoted = "\n".join(line.removeprefix(_MARK) for line in shown.split("\n"))
        return f"It says:\n{quoted}\nso: {_verdict('PASS' if self._honest is ErrorType.NONE else self._honest.value)} as {quoted!r} shows"


def instructions_in(user: str) -> str:
    """What a careless reader of a prompt takes for instructions: all that stands outside of its fences.

    It reads hidden letters and mirrored lines, takes look-alikes for brackets, and takes three brackets anywhere, and all sorts of
    things at the begin of a line, for the end of a fence. Inside, lines are data; where they are marked, only those with the mark.
    """
    lines = _folded(user).split("\n")
    is_marked = any(line.startswith(_MARK) for line in lines)
    outside: list[str] = []
    is_inside = False
    for line in lines:
        rest = line
        while True:
            bracket = ">>>" if is_inside else "<<<"
            before, found, after = rest.partition(bracket)
            if not is_inside:
                outside.append(before)
            if not found:
                break
            is_inside, rest = not is_inside, after
        if is_inside and rest is line and (_SOFT_ENDS.match(line) or (is_marked and not line.startswith(_MARK))):
            is_inside = False
            outside.append(line)
    return "\n".join(outside)


def _folded(text: str) -> str:
    text = text.translate(_LETTERS)
    text = _REVERSED.sub(lambda found: found.group(1)[::-1], text)
    text = _LINE_BREAKS.sub("\n", unicodedata.normalize("NFKC", text.translate(_BRACKETS)).translate(_BRACKETS))
    unseen = {ord(char): None for char in set(text) - {"\n", "\t"} if unicodedata.category(char) in ("Cf", "Cc", "Mn", "Co")}
    return text.translate(unseen)


def _readings(said: str) -> Iterator[str]:
    """`said`, and what is written in it in other ways."""
    seen: list[str] = []
    pending = [said]
    for _ in range(_DECODINGS_MAX):
        seen += pending
        pending = [found for one in pending for found in _decoded(one) if found and found not in seen]
    yield from seen


def _decoded(said: str) -> Iterator[str]:
    for blob in _BASE64.findall(said):
        try:
            yield base64.b64decode(blob + "=" * (-len(blob) % 4), validate=True).decode()
        except (ValueError, binascii.Error):
            continue
    yield html.unescape(said)
    yield unquote(said)
    rotated = codecs.decode(said, "rot13")
    if "verdict" in rotated.casefold():
        yield rotated


def _verdict(name: str) -> str:
    answer: dict[str, Any] = {"verdict": name, "confidence": 1.0, "hint": None, "reasoning": "as told", "blame": None}
    return json.dumps(answer)
