"""Marks: what can be computed of how an output stands to its request, in a few words that a small classifier can read.

They say what is, never whether it is right: `first minus second` is right after "withdraw" and wrong after "deposit", and that is
the classifier's to learn. Deterministic, free of any task's format, linear in the output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal

from agentraft_ray.verifier.classifier.given import Given
from agentraft_ray.verifier.classifier.list_marks import marks_of_list
from agentraft_ray.verifier.classifier.place_marks import marks_of_places
from agentraft_ray.verifier.classifier.relations import calendar_relations, number_relations, size_relations
from agentraft_ray.verifier.classifier.stated import Field, Stated, stated_in
from agentraft_ray.verifier.classifier.words import Mention, mentions, number_of

__all__ = ["marks_of"]

_FIELDS_MAX = 8  # said one by one; the rest is counted
_CLAIMS_MAX = 6  # of a text that is no short value
_SAME, _OTHER = -1, -2
_SHORT_WORDS_MAX = 4
_UNUSED_MAX = 4
_LETTERS = frozenset("letter letters character characters length long".split())
_LONG = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}


def marks_of(request: str, output: str) -> str:
    """The marks of `output`, given `request`, as ``; ``-separated remarks.

    >>> marks_of("Balance: 18\\nTransaction: deposit 1\\nNew balance:", "17")
    'answer new, first minus second, one less than first'
    """
    given = Given(request)
    stated = stated_in(output)
    remarks = [*_form(stated)]
    if stated.form == "text":
        remarks += _of_text(stated.fields[0].text, given)
    elif stated.form == "list":
        remarks += marks_of_list([field.text for field in stated.fields], given)
    elif stated.form != "empty":
        remarks += _of_fields(stated, given)
    return "; ".join(remarks)


def _form(stated: Stated) -> Iterator[str]:
    if stated.form in ("empty", "broken"):
        yield f"form {stated.form}"
    for key in stated.twice[:2]:
        yield f"{key} twice"


def _of_text(text: str, given: Given) -> Iterator[str]:
    """A short value is looked at as one; of anything longer, what it mentions."""
    whole = list(mentions(text))
    if len(whole) <= 1 or (len(whole) <= _SHORT_WORDS_MAX and given.places(text)):
        yield f"answer {_said(text, given)}"
        return
    claims = [mention for mention in whole if mention.kind != "word"]
    words = [mention for mention in whole if mention.kind == "word"]
    if len(whole) <= _SHORT_WORDS_MAX:
        claims = whole
        words = []
    yield "short" if len(whole) <= _SHORT_WORDS_MAX else "long"
    seen: Counter[str] = Counter(mention.key for mention in whole if mention.kind != "word")
    for claim in list({mention.key: mention for mention in claims}.values())[:_CLAIMS_MAX]:
        yield f"{claim.text} {_said(claim.text, given)}"
    new = [mention.text for mention in words if len(mention.key) > 3 and not given.has(mention.text)]
    if new:
        yield f"new words {len(new)} of {len(words)}"
    yield from (f"{key} repeated" for key, count in seen.items() if count > 1 and count > len(given.places(key)))
    yield from _unused([mention.text for mention in whole], given)


def _of_fields(stated: Stated, given: Given) -> Iterator[str]:
    """Regular fields in one remark, the others one by one: what is odd is what matters, and room is short."""
    fields = stated.fields
    said = [(field, _said(field.text, given, field.key)) for field in fields]
    for field, remark in said[:_FIELDS_MAX]:
        named = " named" if field.key and given.times[field.key.casefold()] > 1 else ""
        yield f"{field.key or 'item'}{named} {remark}{_typed(field)}"
    if len(said) > _FIELDS_MAX:
        rest = [remark for _, remark in said[_FIELDS_MAX:]]
        yield f"{len(rest)} more, {sum(remark.startswith('new') for remark in rest)} new"
    lacking = [key for key in dict.fromkeys(given.keys) if key not in {field.key.casefold() for field in fields}]
    if lacking:
        yield f"lacks {' '.join(lacking[:_UNUSED_MAX])}"
    counts = Counter(field.text.casefold() for field in fields if field.text)
    yield from (f"{text} repeated" for text, count in counts.items() if count > 1 and count > len(given.places(text)))
    if any("own changed" in remark for _, remark in said):
        return  # a state that goes on: what changed need not be repeated
    yield from _unused([mention.text for field in fields for mention in mentions(f"{field.key} {field.text}")], given)


def _typed(field: Field) -> str:
    return " as text" if field.quoted and number_of(field.text) is not None else ""


def _said(text: str, given: Given, key: str = "") -> str:
    """The remarks on one value: whether it was given, where, beside what, and how it may follow from what was given."""
    if not text.strip():
        return "empty"
    places = given.places(text)
    own = _own(key, text, given) if key else None
    if own == _SAME:
        return "own same"
    remarks = _found(text, places, given, single=not key) if own is None else ["own changed", "given" if places else "new"]
    value = number_of(text)
    if value is not None:
        remarks += _of_number(value, own, key, given, is_given=bool(places))
    elif len(mentions(text)) == 1:
        remarks += _of_word(text, given, single=not key, is_given=bool(places))
    return ", ".join(remarks)


def _found(text: str, places: list[Mention], given: Given, *, single: bool) -> list[str]:
    """Whether the request has the value, and where."""
    if not places:
        stated = mentions(text)
        new = [mention for mention in stated if not given.has(mention.text)]
        if given.has(text):
            return ["given"]
        return ["in part new"] if len(stated) > 1 and len(new) < len(stated) else ["new"]
    remarks = ["given", *marks_of_places(places, given, single=single)]
    if text not in given.text:
        remarks.append("in capitals" if text.isupper() and len(text) > 1 else "in other case")
    return remarks


def _of_number(value: Decimal, own: int | None, key: str, given: Given, *, is_given: bool) -> Iterator[str]:
    if is_given and not key:
        yield from size_relations(value, given.numbers)
    if own is not None or not (is_given and key):
        relations = number_relations(value, given.numbers, own if own != _OTHER else None)
        yield from relations[: 2 if is_given else len(relations)]
    if not is_given:
        yield from _counts(value, given)


def _of_word(text: str, given: Given, *, single: bool, is_given: bool) -> Iterator[str]:
    stated = mentions(text)[0]
    if stated.kind in ("day", "month", "time", "date"):
        yield from calendar_relations(stated, given.mentions)
    elif not is_given:
        yield from _altered(text, given)
    if single and len(given.numbers) == 1 and stated.kind in ("word", "name"):
        yield "odd number" if given.numbers[0] % 2 else "even number"
    if single and len(given.numbers) == 2 and stated.kind in ("word", "name"):
        first, second = given.numbers
        yield f"first {'larger' if first > second else 'smaller' if first < second else 'same'}"


def _own(key: str, text: str, given: Given) -> int | None:
    """What the request says right after this very key: `_SAME` as `text`, else its place among the given numbers; None for nothing.

    What is no number counts only behind a sign, as in ``lamp=on``: any word may follow a word.
    """
    name = key.rpartition(".")[2].casefold()
    stated = mentions(text)
    place = -1
    for mention in given.mentions:
        place += mention.value is not None
        sign = given.text[: mention.start].rstrip()[-1:]
        if mention.before != name or not stated or sign in (",", ".", ";"):
            continue
        if mention.key == stated[0].key or (mention.value is not None and mention.value == number_of(text)):
            return _SAME
        if mention.value is not None:
            return place
        if sign in ("=", ":"):
            return _OTHER
    return None


def _counts(value: Decimal, given: Given) -> Iterator[str]:
    run = given.longest_list
    if len(run) >= 3 and value == len(run):
        yield "number of items"
    if any(mention.key in _LETTERS for mention in given.mentions):
        lengths = {len(mention.text) for mention in given.mentions if mention.kind in ("name", "word")}
        if value in lengths:
            yield "length of a word"
    if any(_LONG.get(mention.key) == value for mention in given.mentions):
        yield "given in words"


def _altered(text: str, given: Given) -> Iterator[str]:
    key = text.casefold()
    keys = [mention.key for mention in given.mentions if len(mention.key) > 1]
    if key[::-1] in keys and len(key) > 2:
        yield "reversed"
    if len(key) > 2 and any(other != key and other.startswith(key) for other in keys):
        yield "start of a given"
    if len(key) > 2 and any(other != key and len(other) > 2 and key.startswith(other) for other in keys):
        yield "longer than a given"
    initials = "".join(key[0] for key in keys)
    if 1 < len(key) <= 6 and key in initials:
        yield "initials"
    if any(len(other) == len(key) and other != key and sorted(other) == sorted(key) for other in keys):
        yield "letters of a given"


def _unused(stated: Sequence[str], given: Given) -> Iterator[str]:
    """What the request gives (names, numbers, times) and the output does not repeat."""
    repeated = {text.casefold() for text in stated}
    values = {number_of(text) for text in stated} - {None}
    left = [
        mention
        for mention in given.mentions
        if mention.kind != "word" and mention.key not in repeated and mention.value not in values and not _is_opener(mention, given)
    ]
    if left:
        named = list(dict.fromkeys(mention.text for mention in left))
        yield f"unused {' '.join(named[:_UNUSED_MAX])}" + (f" and {len(named) - _UNUSED_MAX}" if len(named) > _UNUSED_MAX else "")


def _is_opener(mention: Mention, given: Given) -> bool:
    """Whether a capital letter says nothing: the first word of a sentence or a label, unless a comma follows it, as in a row."""
    if mention.kind != "name":
        return False
    after = given.text[mention.start + len(mention.text) :][:1]
    return after == ":" or (mention.opens and after not in (",", "'", "’"))
