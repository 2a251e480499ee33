"""Marks: what can be computed of how an output stands to its request, in a few words that a small classifier can read.

They say what is, never whether it is right: `first minus second` is right after "withdraw" and wrong after "deposit", and that is
the classifier's to learn. Deterministic, free of any task's format, linear in the output.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import cached_property

from agentraft_ray.verifier.classifier.relations import calendar_relations, minutes_of, number_relations, ordinal, size_relations
from agentraft_ray.verifier.classifier.stated import Field, Stated, stated_in
from agentraft_ray.verifier.classifier.words import Mention, mentions, number_of
from agentraft_ray.verifier.content import normalised

__all__ = ["marks_of"]

_KEYS = re.compile(r"([A-Za-z_]\w*)\s?=\s?(?=\w)")
_FIELDS_MAX = 8  # said one by one; the rest is counted
_CLAIMS_MAX = 6  # of a text that is no short value
_SAME, _OTHER = -1, -2
_SHORT_WORDS_MAX = 4
_UNUSED_MAX = 4
_OTHER_PART = 1000  # mentions: another line or sentence is farther than any distance within one
_LETTERS = frozenset("letter letters character characters length long".split())
_STOP = frozenset("the and for are was from with what which who does than that this you has have its answer question".split())
_LONG = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}


def marks_of(request: str, output: str) -> str:
    """The marks of `output`, given `request`, as ``; ``-separated remarks.

    >>> marks_of("Balance: 18\\nTransaction: deposit 1\\nNew balance:", "17")
    'answer new, first minus second, one less than first'
    """
    given = _Given(request)
    stated = stated_in(output)
    remarks = [*_form(stated)]
    if stated.form == "text":
        remarks += _of_text(stated.fields[0].text, given)
    elif stated.form == "list":
        remarks += _of_list([field.text for field in stated.fields], given)
    elif stated.form != "empty":
        remarks += _of_fields(stated, given)
    return "; ".join(remarks)


class _Given:
    """The request, indexed."""

    def __init__(self, request: str) -> None:
        self.text = request
        self.folded = f" {normalised(request)} "
        self.mentions = mentions(request)
        self.numbers = [mention.value for mention in self.mentions if mention.value is not None]

    @cached_property
    def asked(self) -> frozenset[str]:
        """The words of the last part but stop-words: what the request asks about, most often."""
        last = max((mention.part for mention in self.mentions), default=0)
        parts = {last, last - 1}
        return frozenset(mention.key for mention in self.mentions if mention.part in parts and len(mention.key) > 2) - _STOP

    @cached_property
    def times(self) -> Counter[str]:
        """How often each word stands in the request."""
        return Counter(mention.key for mention in self.mentions)

    @cached_property
    def keys(self) -> list[str]:
        """The keys of what the request spells out as ``key=value``."""
        return [found.casefold() for found in _KEYS.findall(self.text)]

    def places(self, text: str) -> list[Mention]:
        """The mentions at which `text` stands as a whole phrase, apart from case."""
        keys = [mention.key for mention in mentions(text)]
        if not keys:
            return []
        spans = range(len(self.mentions) - len(keys) + 1)
        return [self.mentions[at] for at in spans if all(self.mentions[at + step].key == key for step, key in enumerate(keys))]

    def has(self, text: str) -> bool:
        folded = normalised(text)
        at = self.folded.find(folded)
        while folded and at >= 0:
            before, after = self.folded[at - 1 : at], self.folded[at + len(folded) : at + len(folded) + 1]
            if not (before.isalnum() and folded[0].isalnum()) and not (after.isalnum() and folded[-1].isalnum()):
                return True
            at = self.folded.find(folded, at + 1)
        return False


def _form(stated: Stated) -> Iterator[str]:
    if stated.form in ("empty", "broken"):
        yield f"form {stated.form}"
    for key in stated.twice[:2]:
        yield f"{key} twice"


def _of_text(text: str, given: _Given) -> Iterator[str]:
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


def _of_list(items: list[str], given: _Given) -> Iterator[str]:
    source = _list_in(given)
    folded = [item.casefold() for item in items]
    wanted = [mention.key for mention in source]
    missing, added = Counter(wanted) - Counter(folded), Counter(folded) - Counter(wanted)
    yield f"list of {len(items)}, given {len(wanted)}"
    if not missing and not added:
        yield "same items"
    if missing:
        yield f"lacks {sum(missing.values())}"
        yield from _choice(source, folded, given)
    if added:
        outside = sum(count for item, count in added.items() if not given.has(item))
        yield f"adds {sum(added.values())}, {outside} new"
    yield from _order(items, [item for item in wanted if item in folded])
    if any(count > max(1, wanted.count(item)) for item, count in Counter(folded).items()):
        yield "items repeated"


def _choice(source: list[Mention], kept: list[str], given: _Given) -> Iterator[str]:
    """By what those that were kept could have been chosen: their place, whether they are named again, their size."""
    keys = [mention.key for mention in source]
    if kept == keys[-len(kept) :]:
        yield "the end of the list"
    elif kept == keys[: len(kept)]:
        yield "the start of the list"
    named = [key for key in kept if given.times[key] > 1]
    if any(given.times[key] > 1 for key in keys):
        yield "none named again" if not named else "all named again" if len(named) == len(kept) else "some named again"
    values = [mention.value for mention in source if mention.value is not None]
    limits = [number for number in given.numbers if number not in values]
    if values and len(values) == len(source) and limits:
        stated = sorted(value for value in (number_of(item) for item in kept) if value is not None)
        if stated == sorted(value for value in values if value > limits[0]):
            yield "all above the limit"
        elif stated == sorted(value for value in values if value < limits[0]):
            yield "all below the limit"
        else:
            yield "not by the limit"


def _order(items: list[str], given: list[str]) -> Iterator[str]:
    values = [number_of(item) for item in items]
    keys: list[Decimal] | list[str]
    numbers = [value for value in values if value is not None]
    keys = numbers if len(numbers) == len(items) else [item.casefold() for item in items]
    if len(items) > 1:
        if list(keys) == sorted(keys):
            yield "ascending"
        elif list(keys) == sorted(keys, reverse=True):
            yield "descending"
        else:
            yield "unordered"
        folded = [item.casefold() for item in items]
        if folded == given:
            yield "given order"
        elif folded == given[::-1]:
            yield "reversed order"


def _list_in(given: _Given) -> list[Mention]:
    """The longest run of mentions in the request that stand in cells of their own, one beside the other."""
    best: list[Mention] = []
    run: list[Mention] = []
    for mention in given.mentions:
        run = [*run, mention] if run and mention.part == run[-1].part and mention.cell == run[-1].cell + 1 else [mention]
        if len(run) > len(best):
            best = run
    return best


def _of_fields(stated: Stated, given: _Given) -> Iterator[str]:
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


def _said(text: str, given: _Given, key: str = "") -> str:
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


def _found(text: str, places: list[Mention], given: _Given, *, single: bool) -> list[str]:
    """Whether the request has the value, and where."""
    if not places:
        stated = mentions(text)
        new = [mention for mention in stated if not given.has(mention.text)]
        if given.has(text):
            return ["given"]
        return ["in part new"] if len(stated) > 1 and len(new) < len(stated) else ["new"]
    remarks = ["given", *_where(places, given, single=single)]
    if text not in given.text:
        remarks.append("in capitals" if text.isupper() and len(text) > 1 else "in other case")
    return remarks


def _of_number(value: Decimal, own: int | None, key: str, given: _Given, *, is_given: bool) -> Iterator[str]:
    if is_given and not key:
        yield from size_relations(value, given.numbers)
    if own is not None or not (is_given and key):
        relations = number_relations(value, given.numbers, own if own != _OTHER else None)
        yield from relations[: 2 if is_given else len(relations)]
    if not is_given:
        yield from _counts(value, given)


def _of_word(text: str, given: _Given, *, single: bool, is_given: bool) -> Iterator[str]:
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


def _where(places: list[Mention], given: _Given, *, single: bool) -> Iterator[str]:
    here = places[0]
    if not single:
        if here.before and len(places) == 1:
            yield f"after {here.before}"
        return
    asked = [place.before for place in places if place.before in given.asked and given.times[place.before] > 1]
    if asked:
        yield f"after the asked {asked[0]}"
    elif here.before and len(places) == 1:
        yield f"after {here.before}"
    if len(places) > 1:
        yield f"{len(places)} times"
    near = _beside(places, given)
    nearest = [word for word in near if _is_nearest(places, word, given)]
    beside = [word for word in near if word not in nearest]
    if nearest:
        yield f"nearest to {' '.join(nearest)}"
    if beside:
        yield f"beside {' '.join(beside)}"
    yield from _in_sequence(places, given)
    yield from _ranked(places, given)


def _beside(places: list[Mention], given: _Given) -> list[str]:
    """The words in the same part as the value that the end of the request names again."""
    parts = {place.part for place in places}
    again = given.times
    last = max(mention.part for mention in given.mentions)
    near = [
        mention.key
        for mention in given.mentions
        if mention.part in parts and mention.part < last and again[mention.key] > 1 and mention.key in given.asked
    ]
    return list(dict.fromkeys(key for key in near if key not in {place.key for place in places}))[:3]


def _is_nearest(places: list[Mention], word: str, given: _Given) -> bool:
    """Whether no value of the same kind stands closer to the first place of `word`; another line or sentence is far away."""
    order = {mention.start: at for at, mention in enumerate(given.mentions)}
    here = next(mention for mention in given.mentions if mention.key == word)
    kind = places[0].kind

    def far(mention: Mention) -> int:
        return abs(order[mention.start] - order[here.start]) + _OTHER_PART * (mention.part != here.part)

    own = min(far(place) for place in places)
    rivals = [far(one) for one in given.mentions if one.kind == kind and one.key not in (word, places[0].key) and given.times[one.key] == 1]
    return all(own < rival for rival in rivals)


def _in_sequence(places: list[Mention], given: _Given) -> Iterator[str]:
    """Its place in a list of cells, and how far it is from one that is named again."""
    run = _list_in(given)
    keys = [mention.key for mention in run]
    if len(run) < 3 or places[0].key not in keys:
        return
    at = keys.index(places[0].key)
    yield f"{ordinal(at)} of {len(run)}" if at < len(run) - 1 else f"last of {len(run)}"
    again = given.times
    named = [keys.index(key) for key in keys if again[key] > 1]
    for other in named[:2]:
        distance = at - other
        if distance == 0:
            yield "itself named again"
        else:
            steps = "right" if abs(distance) == 1 else f"{abs(distance)}"
            yield f"{steps} {'after' if distance > 0 else 'before'} the named"


def _ranked(places: list[Mention], given: _Given) -> Iterator[str]:
    """For a name with one number or time in its cell: whether that is the largest or smallest of its kind."""
    if _measure(places[0]) is not None:
        return
    by_cell: dict[tuple[int, int], list[Decimal]] = {}
    for mention in given.mentions:
        if (measured := _measure(mention)) is not None:
            by_cell.setdefault((mention.part, mention.cell), []).append(measured)
    single = {cell: values[0] for cell, values in by_cell.items() if len(values) == 1}
    mine = next((single[place.part, place.cell] for place in places if (place.part, place.cell) in single), None)
    if mine is not None and len(single) > 1:
        ranked = sorted(single.values())
        yield "its number largest" if mine == ranked[-1] else "its number smallest" if mine == ranked[0] else "its number between"


def _measure(mention: Mention) -> Decimal | None:
    return Decimal(minutes_of(mention.text)) if mention.kind == "time" else mention.value


def _own(key: str, text: str, given: _Given) -> int | None:
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


def _counts(value: Decimal, given: _Given) -> Iterator[str]:
    run = _list_in(given)
    if len(run) >= 3 and value == len(run):
        yield "number of items"
    if any(mention.key in _LETTERS for mention in given.mentions):
        lengths = {len(mention.text) for mention in given.mentions if mention.kind in ("name", "word")}
        if value in lengths:
            yield "length of a word"
    if any(_LONG.get(mention.key) == value for mention in given.mentions):
        yield "given in words"


def _altered(text: str, given: _Given) -> Iterator[str]:
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


def _unused(stated: Sequence[str], given: _Given) -> Iterator[str]:
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


def _is_opener(mention: Mention, given: _Given) -> bool:
    """Whether a capital letter says nothing: the first word of a sentence or a label, unless a comma follows it, as in a row."""
    if mention.kind != "name":
        return False
    after = given.text[mention.start + len(mention.text) :][:1]
    return after == ":" or (mention.opens and after not in (",", "'", "’"))
