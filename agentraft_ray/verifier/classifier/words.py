"""What a short text mentions: numbers, times, dates, names of days and months, names, codes and plain words, each with its place.

Coarser and quicker than `verifier/mentions.py`, which must not miss a claim: here a mention is what a value may be compared with.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Literal, NamedTuple

__all__ = ["DAYS", "MONTHS", "Kind", "Mention", "mentions", "number_of"]

Kind = Literal["number", "time", "date", "day", "month", "name", "code", "word"]

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december",
)  # fmt: skip

_TOKEN = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2})"
    r"|(?P<time>\b\d{1,2}:\d{2}\b)"
    r"|(?P<code>\b(?=[A-Za-z0-9-]*\d)(?=[A-Za-z0-9-]*[A-Za-z])[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*\b)"
    r"|(?P<number>(?:(?<![\w.)])-)?(?:(?<!,)\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?)"
    r"|(?P<word>[^\W\d_]+(?:['’][^\W\d_]+)?)"
)
_PART_ENDS = re.compile(r"[\n;]|[.?!](?=\s|$)")
_CELL_ENDS = re.compile(r"[,>|]")
_BRACKETS = re.compile(r"[\[\]{}]")
_OPENS = re.compile(r"(?:^|[\n;:.?!])[\s\"'(]*$")
_MEASURED = re.compile(r"(\d+(?:\.\d+)?)([A-Za-z]{1,3}|%)")  # 15kg: a number, not a code


class Mention(NamedTuple):
    """One mention. `part` counts lines and sentences; `cell` the pieces of lists, of which neighbours follow one another; `opens` =
    it begins a sentence, a line or what a label names."""

    kind: Kind
    text: str
    key: str
    start: int
    part: int
    cell: int
    before: str
    opens: bool
    value: Decimal | None = None


def mentions(text: str) -> list[Mention]:
    """All mentions in `text`, in order."""
    found: list[Mention] = []
    part = cell = end = 0
    before = ""
    for token in _TOKEN.finditer(text):
        between = text[end : token.start()]
        ends = bool(found) and bool(_PART_ENDS.search(between))
        part += ends
        cell += 2 * (ends or bool(_BRACKETS.search(between))) or len(_CELL_ENDS.findall(between))
        opens = bool(_OPENS.search(text[max(0, token.start() - 4) : token.start()])) if token.start() else True
        end = token.end()
        kind, written = _kind_of(token)
        found.append(Mention(kind, written, written.casefold(), token.start(), part, cell, before, opens, number_of(written)))
        before = written.casefold()
    return found


def _kind_of(token: re.Match[str]) -> tuple[Kind, str]:
    text = token.group()
    group = token.lastgroup
    if group == "code" and (measured := _MEASURED.fullmatch(text)):
        return "number", measured.group(1)
    if group == "word":
        folded = text.casefold()
        if folded in DAYS:
            return "day", text
        if folded in MONTHS and text[0].isupper():
            return "month", text
        return ("name", text) if text[0].isupper() else ("word", text)
    for kind in ("date", "time", "code", "number"):
        if group == kind:
            return kind, text
    return "word", text


def number_of(text: str) -> Decimal | None:
    """The value of a plain number, thousands separated by commas or not; None for anything else."""
    if not re.fullmatch(r"[-+]?\d{1,30}(?:,\d{3})*(?:\.\d{1,30})?%?", text.strip()):
        return None
    try:
        return Decimal(text.strip().rstrip("%").replace(",", ""))
    except InvalidOperation:
        return None
