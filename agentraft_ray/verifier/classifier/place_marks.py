"""Marks of places: where in its request a value stands, beside what, how far from what is asked about, and how it ranks there."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from agentraft_ray.verifier.classifier.given import Given
from agentraft_ray.verifier.classifier.relations import minutes_of, ordinal
from agentraft_ray.verifier.classifier.words import Mention

__all__ = ["marks_of_places"]

_OTHER_PART = 1000  # mentions: another line or sentence is farther than any distance within one


def marks_of_places(places: list[Mention], given: Given, *, single: bool) -> Iterator[str]:
    """The remarks on where a value stands; all of them for one that is the whole answer (`single`)."""
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


def _beside(places: list[Mention], given: Given) -> list[str]:
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


def _is_nearest(places: list[Mention], word: str, given: Given) -> bool:
    """Whether no value of the same kind stands closer to the first place of `word`; another line or sentence is far away."""
    order = {mention.start: at for at, mention in enumerate(given.mentions)}
    here = next(mention for mention in given.mentions if mention.key == word)
    kind = places[0].kind

    def far(mention: Mention) -> int:
        return abs(order[mention.start] - order[here.start]) + _OTHER_PART * (mention.part != here.part)

    own = min(far(place) for place in places)
    rivals = [far(one) for one in given.mentions if one.kind == kind and one.key not in (word, places[0].key) and given.times[one.key] == 1]
    return all(own < rival for rival in rivals)


def _in_sequence(places: list[Mention], given: Given) -> Iterator[str]:
    """Its place in a list of cells, and how far it is from one that is named again."""
    run = given.longest_list
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


def _ranked(places: list[Mention], given: Given) -> Iterator[str]:
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
