"""How a value follows from the values that a request gives: copied, computed, counted on along a calendar. Pure functions.

Operands are named by their place (``first``, ``second``), not by what they are: ``first plus second`` says the same of every pair.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from decimal import Decimal

from agentraft_ray.verifier.classifier.words import DAYS, MONTHS, Mention

__all__ = ["ORDINALS", "calendar_relations", "minutes_of", "number_relations", "ordinal", "size_relations"]

ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
_OPERANDS_MAX = 10  # of a request; pairs grow with the square
_RELATIONS_MAX = 4  # said of one value; more tell less
_FACTORS = {
    2: "twice",
    10: "ten times",
    12: "twelve times",
    24: "24 times",
    60: "sixty times",
    100: "hundred times",
    1000: "thousand times",
}
_FACTORS |= {7: "seven times", 3600: "3600 times", 3: "three times"}
_PARTS = {2: "half of", 10: "tenth of", 12: "twelfth of", 24: "24th of", 60: "sixtieth of", 100: "hundredth of", 1000: "thousandth of"}
_MINUTES_A_DAY = 24 * 60


def ordinal(position: int) -> str:
    """``first`` for 0, and so on; ``later`` beyond the tenth."""
    return ORDINALS[position] if position < len(ORDINALS) else "later"


def number_relations(value: Decimal, given: Sequence[Decimal], own: int | None = None) -> list[str]:
    """How `value` is computed from the numbers that are given, simplest first; `own` is the place of the one that it replaces.

    >>> number_relations(Decimal(17), [Decimal(18), Decimal(1)])
    ['first minus second', 'one less than first']
    """
    operands = list(given[:_OPERANDS_MAX])
    names = ["own" if place == own else ordinal(place) for place in range(len(operands))]
    found = itertools.chain(_of_two(value, operands, names), _of_all(value, given), _of_one(value, operands, names))
    return list(itertools.islice(dict.fromkeys(found), _RELATIONS_MAX))


def _of_two(value: Decimal, operands: list[Decimal], names: list[str]) -> Iterator[str]:
    for (left, a), (right, b) in itertools.permutations(zip(names, operands, strict=True), 2):
        if not a or not b:
            continue
        if value == a - b:
            yield f"{left} minus {right}"
        if names.index(left) < names.index(right):
            if value == a + b:
                yield f"{left} plus {right}"
            if value == a * b and 1 not in (a, b):
                yield f"{left} times {right}"
        if b != 1 and value * b == a:
            yield f"{left} divided by {right}"
        share = a * b / 100
        if value == share:
            yield f"{left} percent of {right}"
        elif value == b - share:
            yield f"{right} less {left} percent"
        elif value == b + share:
            yield f"{right} plus {left} percent"


def _of_all(value: Decimal, given: Sequence[Decimal]) -> Iterator[str]:
    if len(given) < 3:
        if len(given) == 2 and value * 2 == sum(given):
            yield "average"
        return
    if value == sum(given):
        yield "sum of all"
    if value * len(given) == sum(given):
        yield "average"
    if value == max(given) - min(given):
        yield "largest minus smallest"
    steps = [right - left for left, right in itertools.pairwise(given)]
    if len(set(steps)) == 1 and value == given[-1] + steps[-1]:
        yield "next in sequence"
    if all(given) and all(right / left == given[1] / given[0] for left, right in itertools.pairwise(given)):
        yield from ["next in sequence"] * (value == given[-1] * given[1] / given[0])
    first, second, third = given[:3]
    if len(given) == 3:
        made = {"plus": first * second + third, "minus": first * second - third}
        yield from (f"first times second {word} third" for word, result in made.items() if value == result)
        made = {"first plus second minus third": first + second - third, "first minus second plus third": first - second + third}
        made |= {"first minus second minus third": first - second - third}
        yield from (text for text, result in made.items() if value == result)


def _of_one(value: Decimal, operands: list[Decimal], names: list[str]) -> Iterator[str]:
    for name, operand in zip(names, operands, strict=True):
        if not operand:
            continue
        if value == operand + 1:
            yield f"one more than {name}"
        if value == operand - 1:
            yield f"one less than {name}"
        yield from (f"{text} {name}" for factor, text in _FACTORS.items() if value == operand * factor)
        yield from (f"{text} {name}" for factor, text in _PARTS.items() if value * factor == operand)


def size_relations(value: Decimal, given: Sequence[Decimal]) -> list[str]:
    """Where a given number stands among the given ones: its places, and whether it is the largest or smallest of several."""
    said = [ordinal(place) for place, number in enumerate(given) if number == value][:2]
    if len(set(given)) > 1:
        said += ["largest"] * (value == max(given)) + ["smallest"] * (value == min(given))
        if len(given) > 2 and len(given) % 2 and sorted(given)[len(given) // 2] == value:
            said.append("middle")
    return said


def calendar_relations(stated: Mention, given: Sequence[Mention]) -> list[str]:
    """How a day, month, time or date follows from a given one and the given numbers: ``day plus first``."""
    numbers = [mention.value for mention in given if mention.value is not None][:_OPERANDS_MAX]
    found: list[str] = []
    for start in given:
        if start.kind == stated.kind and start.key != stated.key:
            found.extend(_steps(stated, start, numbers))
        elif start.kind != stated.kind and _names_in(start, stated):
            found.append(f"{stated.kind} of given {start.kind}")
    return list(dict.fromkeys(found))[:_RELATIONS_MAX]


def _steps(stated: Mention, start: Mention, numbers: list[Decimal]) -> Iterator[str]:
    distance, round_trip, units = _distance(start, stated)
    if distance is None:
        return
    for place, number in enumerate(numbers):
        for unit, size in units.items():
            if number != int(number) or not number:
                continue
            moved = int(number) * size
            same = (moved - distance) % round_trip == 0 if round_trip else moved == distance
            back = (moved + distance) % round_trip == 0 if round_trip else moved == -distance
            what = f" {unit}" if len(units) > 1 else ""
            if same:
                yield f"{start.kind} plus {ordinal(place)}{what}"
            elif back:
                yield f"{start.kind} minus {ordinal(place)}{what}"
    if stated.kind in ("day", "month"):
        ahead = distance % round_trip if round_trip else distance
        yield {1: "next {}", round_trip - 1: "{} before", 2: "second next {}", round_trip - 2: "second {} before"}.get(
            ahead, "another {}"
        ).format(start.kind)
    else:
        yield f"later {start.kind}" if distance > 0 else f"earlier {start.kind}"


def _distance(start: Mention, stated: Mention) -> tuple[int | None, int, dict[str, int]]:
    """(how far apart, after how much it comes round again or 0, units of steps)."""
    if start.kind == "day":
        return DAYS.index(stated.key) - DAYS.index(start.key), 7, {"days": 1}
    if start.kind == "month":
        return MONTHS.index(stated.key) - MONTHS.index(start.key), 12, {"months": 1}
    if start.kind == "time":
        apart = minutes_of(stated.text) - minutes_of(start.text)
        return apart, _MINUTES_A_DAY, {"minutes": 1, "hours": 60}
    if start.kind == "date":
        first, second = _date(start.text), _date(stated.text)
        return (None if first is None or second is None else (second - first) // timedelta(days=1)), 0, {"days": 1, "weeks": 7}
    return None, 0, {}


def _names_in(start: Mention, stated: Mention) -> bool:
    when = _date(start.text) if start.kind == "date" else None
    if when is None:
        return False
    return (stated.kind == "day" and DAYS[when.weekday()] == stated.key) or (
        stated.kind == "month" and MONTHS[when.month - 1] == stated.key
    )


def minutes_of(text: str) -> int:
    """Minutes since midnight of ``9:30``."""
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None
