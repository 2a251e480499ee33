"""Marks of lists: which items an output kept, lost, added and moved, and by what those that it kept could have been chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

from agentraft_ray.verifier.classifier.given import Given
from agentraft_ray.verifier.classifier.words import Mention, number_of

__all__ = ["marks_of_list"]


def marks_of_list(items: list[str], given: Given) -> Iterator[str]:
    """The remarks on a list of `items`."""
    source = given.longest_list
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


def _choice(source: list[Mention], kept: list[str], given: Given) -> Iterator[str]:
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
