"""What a text claims that can be looked up: its numbers, names and quotations. Pure functions, linear in the length of the text.

Numbers are compared by value: ``1,000``, ``1000`` and ``1000.0`` are the same, so are ``45%`` and ``0.45``, or ``$2M`` and
``2 million``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

__all__ = ["WORD", "Name", "Number", "bare", "exact", "names", "numbers", "quotations"]

_NUMBER = re.compile(
    r"(?<!\w)(?<!\w\.)(?:"
    r"(?P<code>[^\W\d_](?=[\w.-]{0,64}\d)\w*(?:[.-]\w+)*)"
    r"|(?P<sign>[-+\u2212])?[$€£¥]?(?P<sign_within>[-\u2212])?"
    r"(?P<digits>\d+(?:[,.'\u2019_\u00a0\u202f\u2009]\d+)*|\.\d+)"
    r"(?P<unit>\s?%|\s?(?i:percent|thousand|million|billion|trillion)\b|(?:bn|[kKMB])\b|[^\W\d_]+)?"
    r"(?P<rest>[\w-]*\d[\w.:/-]*|[:/]\d[\w.:/-]*)?)"
)
_ENGLISH = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*(?:\.\d+)|\d+")
_CONTINENTAL = re.compile(r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}|\d+,\d+")
_SPACED = re.compile(r"\d{1,3}(?:(?P<group>['\u2019_\u00a0\u202f\u2009])\d{3})(?:(?P=group)\d{3})*(?:[.,]\d+)?")
_GROUPS = re.compile(r"['\u2019_\u00a0\u202f\u2009]")
_DIGITS = re.compile(r"\d+")
_DIGITS_MAX = 64  # longer ones are compared as text: a decimal has a largest exponent
_THOUSAND = Decimal(1_000)
_SCALE = {
    **dict.fromkeys(("thousand", "k", "K"), _THOUSAND),
    **dict.fromkeys(("million", "M"), _THOUSAND**2),
    **dict.fromkeys(("billion", "B", "bn"), _THOUSAND**3),
    "trillion": _THOUSAND**4,
}
_LIST_MARK = re.compile(r"^[ \t]*(?:#{1,6}[ \t]+|[-*>][ \t]+)?(\d{1,3})[.)](?=[ \t]+\S)", re.MULTILINE)

WORD = re.compile(r"[^\W_]+(?:['\u2019&-][^\W_]+)*")
_SENTENCE_ENDS = frozenset(".!?\n|\u2022")
_PROSE_WORDS_MIN = 6
_NEVER_NAMES = frozenset(
    (
        "a about above according across additionally after again against all also although among an and any are around as "
        "at be because before below besides between beyond both but by can consequently currently despite did do does "
        "during each earlier either especially even eventually every few finally first for from furthermore generally "
        "given had has have he hence her here his how however i i'd i'll i'm i've if in initially instead is it it's its "
        "last later least less like many may meanwhile more moreover most much my near nearly neither never nevertheless "
        "new next no none not note now of ok on once one only or other otherwise our overall per perhaps please recently "
        "regarding same second several she should similarly since so some sometimes soon still subsequently such than "
        "that the their then there therefore these they this those though through throughout thus to today together "
        "tomorrow too toward two ultimately under unless unlike until up upon us usually very via was we well were what "
        "when where whether which while who why will with within without would yes yesterday yet you your"
    ).split()
)

_QUOTED = re.compile(r'(?<![\w"])"(?=[^\s"])([^"]+)"(?!\w)|\u201c([^\u201c\u201d]+)\u201d|«([^«»]+)»')
_BLOCK_QUOTE = re.compile(r"(?:^[ ]{0,3}>[^\n]*(?:\n|\Z))+", re.MULTILINE)


class Number(NamedTuple):
    """A number as written and where it starts. `value` is None for what has none: codes (``v2.3.1``), dates, ranges.

    `readings` are all values that a source with this text gives: ``5 million`` gives 5 and 5000000, a date its parts.
    """

    text: str
    start: int
    value: Decimal | None
    readings: frozenset[Decimal]

    @property
    def is_percentage(self) -> bool:
        """Whether it is written with a percent sign or word."""
        return self.text.endswith("%") or self.text.casefold().endswith("percent")


class Name(NamedTuple):
    """A run of capitalised words and where it starts.

    `without_opener` is the name without the word that opens the sentence (``Contact Jane Smith``), where two words are left;
    a single one would let ``Bob Smith`` stand for ``Smith``.
    """

    text: str
    start: int
    without_opener: str = ""


def exact(value: int | float | Decimal) -> Decimal:
    """The decimal that `value` is printed as."""
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


def numbers(text: str, *, list_marks: bool = False) -> Iterator[Number]:
    """The numbers of `text`, in order. Marks of numbered lists (1., 2., 3. at line starts) are no numbers unless `list_marks`."""
    marks = frozenset() if list_marks else _list_marks(text)
    for found in _NUMBER.finditer(text):
        if found.start("digits") not in marks:
            yield _number(found)


def _list_marks(text: str) -> frozenset[int]:
    """Where the marks of numbered lists start: those that begin at 1 or continue the mark before."""
    expected, marks = 1, set()
    for found in _LIST_MARK.finditer(text):
        position = int(found.group(1))
        if position in (1, expected):
            marks.add(found.start(1))
            expected = position + 1
    return frozenset(marks)


def _number(found: re.Match[str]) -> Number:
    text, start = found.group().strip().rstrip(".:/-"), found.start()
    digits, unit = found.group("digits"), (found.group("unit") or "").strip()
    magnitude = None if found.group("code") or found.group("rest") else _decimal(digits)
    if magnitude is None:
        return Number(text, start, None, _parts(text))
    if (found.group("sign") or found.group("sign_within") or "+") != "+":
        magnitude = -magnitude
    if unit == "%" or unit.casefold() == "percent":
        return Number(text, start, magnitude, frozenset((magnitude, magnitude / 100)))
    scaled = magnitude * _SCALE.get(unit if len(unit) < 3 else unit.casefold(), Decimal(1))
    readings = frozenset((magnitude, scaled))
    return Number(text, start, scaled, readings | _parts(digits) if _in_table_row(found) else readings)


def _parts(text: str) -> frozenset[Decimal]:
    return frozenset(Decimal(part) for part in _DIGITS.findall(text))


def _in_table_row(found: re.Match[str]) -> bool:
    """Whether commas stand right before or after, as in ``Oslo,70,248``: the commas within may then separate fields."""
    return found.string[found.start() - 1 : found.start()] == "," or found.string[found.end() : found.end() + 1] == ","


def _decimal(digits: str) -> Decimal | None:
    """The English reading (``1,000.5``), else groups of other marks (``1'000``), else the continental one (``1.000,5``)."""
    if len(digits) > _DIGITS_MAX:
        return None
    if _ENGLISH.fullmatch(digits):
        return Decimal(digits.replace(",", ""))
    if _SPACED.fullmatch(digits):
        return Decimal(_GROUPS.sub("", digits).replace(",", "."))
    if _CONTINENTAL.fullmatch(digits):
        return Decimal(digits.replace(".", "").replace(",", "."))
    return None


def names(text: str) -> Iterator[Name]:
    """The names in `text`: runs of capitalised words, without common function words, and not in Markdown headings.

    In prose a single word that opens a sentence is capitalised anyway and does not count; in a short value (``Eva``) it does.
    """
    prose = len(text) > 1 and (text.rstrip()[-1:] in (".", "!", "?") or len(text.split(None, _PROSE_WORDS_MIN)) > _PROSE_WORDS_MIN)
    run: list[re.Match[str]] = []
    end, opens, heading = 0, True, text.startswith("#")
    for word in WORD.finditer(text):
        between = text[end : word.start()]
        end = word.end()
        fresh = word.start() == len(between) or not _SENTENCE_ENDS.isdisjoint(between)
        capital = word.group()[0].isupper() and word.group().casefold() not in _NEVER_NAMES
        if run and capital and (between in (" ", "\u00a0") or (len(run[-1].group()) == 1 and between in (". ", "."))):
            run.append(word)
            continue
        if run and not heading:
            yield from _name(text, run, opens and prose)
        if "\n" in between or word.start() == len(between):
            heading = between.rpartition("\n")[2].lstrip(" ").startswith("#")
        run, opens = ([word], fresh) if capital else ([], fresh)
    if run and not heading:
        yield from _name(text, run, opens and prose)


def _name(text: str, run: list[re.Match[str]], opens: bool) -> Iterator[Name]:
    if opens and len(run) == 1:
        return
    start, end = run[0].start(), run[-1].end()
    yield Name(text[start:end], start, text[run[1].start() : end] if opens and len(run) > 2 else "")


def bare(word: str) -> str:
    """A word without a possessive ending."""
    return word[:-2] if word.endswith(("'s", "\u2019s")) else word


def quotations(text: str) -> Iterator[tuple[str, int]]:
    """(quoted text, where it starts) of what stands in double quotes of any kind within a paragraph, and in ``>`` blocks."""
    for found in _QUOTED.finditer(text):
        quoted = next(group for group in found.groups() if group is not None)
        if "\n\n" not in quoted:
            yield quoted, found.start()
    for found in _BLOCK_QUOTE.finditer(text):
        lines = [line.lstrip(" >").strip() for line in found.group().splitlines()]
        yield " ".join(line for line in lines if line), found.start()
