"""Where claims are looked up: one index over all texts that an output may repeat. Built lazily, for one verdict."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from decimal import Decimal
from functools import cached_property
from typing import Any

from agentraft_ray.verifier.content import leaves, normalised
from agentraft_ray.verifier.mentions import WORD, Name, Number, bare, exact, numbers

__all__ = ["Sources"]

_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty"
).split()
_NAME_GAP_WORDS = 2  # "Jane Smith" may stand as "Jane Mary Smith" or "Smith, Dr Jane"


class Sources:
    """Texts and data that may be repeated. Numbers are found by value, names by their words, quotations word for word."""

    def __init__(self, given: Iterable[Any]) -> None:
        self._leaves = [leaf for one in given for _, leaf in leaves(one, keys=True)]
        self._text = "\n".join(leaf if isinstance(leaf, str) else _text_of(leaf) for leaf in self._leaves)

    def has_number(self, number: Number) -> bool:
        """Whether the value stands here; for what has no value (a code, a time) its very text, for a date or range also all parts."""
        if number.value is None:
            separable = not any(char.isalpha() or char in ".:" for char in number.text)  # dates, ranges, lists
            return self.has_phrase(number.text) or (separable and number.readings <= self._values)
        wanted = {number.value, abs(number.value) * -1 if number.value > 0 else number.value}
        if number.is_percentage:
            wanted |= number.readings
        return not self._values.isdisjoint(wanted)

    def has_value(self, value: int | float | Decimal) -> bool:
        """Whether the number stands here by value."""
        wanted = exact(value)
        if not wanted.is_finite():
            return False
        return wanted in self._values or (wanted > 0 and -wanted in self._values)

    def has_phrase(self, text: str) -> bool:
        """Whether `text` stands here as whole words, apart from case, spaces and the kind of quotes."""
        phrase = normalised(text)
        at = self._folded.find(phrase)
        while phrase and at >= 0:
            before, after = self._folded[at - 1 : at], self._folded[at + len(phrase) : at + len(phrase) + 1]
            if not (before.isalnum() and phrase[0].isalnum()) and not (after.isalnum() and phrase[-1].isalnum()):
                return True
            at = self._folded.find(phrase, at + 1)
        return False

    def has_quotation(self, quoted: str) -> bool:
        """Whether the quotation stands here word for word; a comma or full stop that the quotation ends with may be its own."""
        phrase = normalised(quoted)
        return phrase in self._folded or phrase.rstrip(".,;:!?") in self._folded

    def has_name(self, name: Name) -> bool:
        """Whether the words of `name` stand here close together, in any order."""
        return self._has_words(name.text) or bool(name.without_opener and self._has_words(name.without_opener))

    def _has_words(self, text: str) -> bool:
        found = [self._places.get(bare(word.group())) for word in WORD.finditer(normalised(text))]
        known = [places for places in found if places]
        if len(known) < len(found) or not known:
            return False
        reach = len(known) - 1 + _NAME_GAP_WORDS
        return any(all(_any_within(places, place, reach) for places in known) for place in min(known, key=len))

    @cached_property
    def _folded(self) -> str:
        return f" {normalised(self._text)} "

    @cached_property
    def _values(self) -> frozenset[Decimal]:
        values = {reading for number in numbers(self._text, list_marks=True) for reading in number.readings | _value_of(number)}
        values.update(exact(leaf) for leaf in self._leaves if isinstance(leaf, (int, float)) and math.isfinite(leaf))
        values.update(Decimal(value) for value, word in enumerate(_NUMBER_WORDS) if word in self._places)
        return frozenset(values)

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        places: dict[str, list[int]] = {}
        for position, word in enumerate(WORD.finditer(self._folded)):
            places.setdefault(bare(word.group()), []).append(position)
        return places


def _value_of(number: Number) -> frozenset[Decimal]:
    return frozenset() if number.value is None else frozenset((number.value,))


def _text_of(leaf: Any) -> str:
    if isinstance(leaf, (bytes, bytearray)):
        return bytes(leaf).decode("utf-8", "replace")
    return "" if leaf is None or isinstance(leaf, (bool, int, float)) else str(leaf)


def _any_within(places: list[int], place: int, reach: int) -> bool:
    at = bisect_left(places, place - reach)
    return at < len(places) and places[at] <= place + reach
