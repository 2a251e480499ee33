"""Untrusted text inside a prompt: nothing in it can be seen outside of its fence, or be taken for the end of it. Pure functions.

Three layers, each enough against a reader that heeds it: a tag that the text does not contain, a mark at the begin of every line
(spotlighting, arXiv 2403.14720), and no run of brackets, of whatever script, that looks like a fence. What cannot be seen is written
as its code point, for a judge must read what a later step, or a person, would be given.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

__all__ = ["LINE_MARK", "Fence", "visible"]

LINE_MARK = "| "

_BREAKS = frozenset("\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
# Blank or ignored, though their category is that of letters, marks or symbols.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
_JOINERS = re.compile("[\u200c\u200d\ufe0e\ufe0f]")  # which the scripts of India and Persia, and emoji, are written with

# Characters that look like one, two or three angle brackets.
_OPENING = {1: "<≮＜﹤‹⟨〈〈❮❰˂ᐸ⧼\U0001d236", 2: "«≪《⟪⪡", 3: "⋘⫷"}
_CLOSING = {1: ">≯＞﹥›⟩〉〉❯❱˃ᐳ⧽\U0001d237\U00016f3f", 2: "»≫》⟫⪢", 3: "⋙⫸"}
_WEIGHT = {char: weight for kind in (_OPENING, _CLOSING) for weight, chars in kind.items() for char in chars}
_GAP = "[ \\t\u00a0\u0300-\u036f\u2000-\u200a\u202f\u205f\u20d0-\u20ff\u3000\ufe20-\ufe2f]*"
_LOOKALIKES = re.compile("|".join(f"[{chars}](?:{_GAP}[{chars}])*" for chars in ("".join(_OPENING.values()), "".join(_CLOSING.values()))))
_FENCE_WEIGHT = 3
_TAG_CHARS = 16


def visible(text: str) -> str:
    """`text` with what hides, and every third bracket of a run, written as its code point: ``[U+200B]``, ``[U+200B x12]``.

    Lines end with a newline only. What people write with joiners (Persian, Hindi, emoji) stays as it is.

    >>> visible("a\\u200bb >>> c")
    'a[U+200B]b >>[U+003E] c'
    """
    text = text.replace("\r\n", "\n")
    if not text.isascii() or not text.isprintable():
        text = _without_hidden(_JOINERS.sub(_joiner, text))
    return _LOOKALIKES.sub(_broken_up, text)


class Fence:
    """The delimiters of one prompt. Texts must be `visible`; the tag is one that none of them contains."""

    def __init__(self, texts: Iterable[str]) -> None:
        whole = "\n".join(texts)
        folded, number = whole.casefold(), 0
        self.tag = ""
        while not self.tag or self.tag in folded:
            self.tag = hashlib.sha256(f"{number}\n{whole}".encode("utf-8", "replace")).hexdigest()[:_TAG_CHARS]
            number += 1

    def block(self, title: str, text: str) -> str:
        """`text` between delimiters, under a title of ours."""
        marked = "\n".join([LINE_MARK + line for line in text.split("\n")])
        return f"<<<{self.tag} {title}\n{marked}\n{self.tag}>>>"


def _code(char: str, times: int = 1) -> str:
    return f"[U+{ord(char):04X}]" if times == 1 else f"[U+{ord(char):04X} x{times}]"


def _without_hidden(text: str) -> str:
    hidden = "".join(sorted(char for char in set(text) if _is_hidden(char)))
    return re.sub(f"([{re.escape(hidden)}])\\1*", _coded, text) if hidden else text


def _is_hidden(char: str) -> bool:
    if char in "\t\n" or _JOINERS.match(char):  # those joiners that are left are what scripts are written with
        return False
    return unicodedata.category(char) in _HIDDEN_CATEGORIES or bool(_BLANK.match(char))


def _coded(run: re.Match[str]) -> str:
    char = run.group(1)
    return _code(char, len(run.group())) + "\n" * (char in _BREAKS)


def _joiner(found: re.Match[str]) -> str:
    text, at, char = found.string, found.start(), found.group()
    before, after = text[at - 1 : at], text[at + 1 : at + 2]
    if char in "\ufe0e\ufe0f":  # the look of a symbol
        keeps = _is_symbol(before) or after == "\u20e3"
    else:
        if before in ("\ufe0e", "\ufe0f"):
            before = text[at - 2 : at - 1]
        keeps = (_is_symbol(before) and _is_symbol(after)) or (_is_joined_letter(before) and _is_joined_letter(after))
    return char if keeps else _code(char)


def _is_symbol(char: str) -> bool:
    return bool(char) and not char.isascii() and char not in _WEIGHT and unicodedata.category(char) in ("So", "Sk", "Sm")


def _is_joined_letter(char: str) -> bool:
    return bool(char) and not char.isascii() and char not in _WEIGHT and unicodedata.category(char)[0] in "LM" and not _BLANK.match(char)


def _broken_up(run: re.Match[str]) -> str:
    """The run with enough of its brackets written as code points that nothing of three is left."""
    pieces, weight = [], 0
    for char in run.group():
        weight += _WEIGHT.get(char, 0)
        if weight >= _FENCE_WEIGHT and char in _WEIGHT:
            pieces.append(_code(char))
            weight = 0
        else:
            pieces.append(char)
    return "".join(pieces)
