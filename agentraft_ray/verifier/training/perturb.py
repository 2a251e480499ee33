"""Answers made from right ones by known kinds of change: augmentation, never truth. What a change did is judged like any answer.

Each kind has a name, so that a test can keep it from training and measure what was learned without it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from agentraft_ray.errors import ErrorType
from agentraft_ray.verifier.training.families import Item, Pool, judge
from agentraft_ray.verifier.training.families.judging import record_of

__all__ = ["HARD_POSITIVES", "PERTURBATIONS", "Perturbed", "perturbed"]

_NUMBER = re.compile(r"\d+")
_WORD = re.compile(r"[^\W\d_]+")
_NAME = re.compile(r"\b[A-Z][a-z]+\b")


class Perturbed(NamedTuple):
    """An answer, the kind of change that made it, and its exact truth."""

    output: str
    kind: str
    truth: ErrorType


def perturbed(item: Item, other: Item, pool: Pool, rng: random.Random) -> list[Perturbed]:
    """One answer of every kind that applies to `item`; `other` is an item of the same family. Right ones among them are positives."""
    found: dict[str, Perturbed] = {}
    for kind, change in (*PERTURBATIONS.items(), *HARD_POSITIVES.items()):
        for output in change(item, other, pool, rng):
            if output is not None and output != item.gold:
                found.setdefault(output, Perturbed(output, kind, judge(item, output)))
    return list(found.values())


Change = Callable[[Item, Item, Pool, random.Random], Iterator[str | None]]


def _foil(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    yield from (foil for foil, _ in item.foils)


def _number_near(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    """A number of the answer, a little off."""
    off = rng.choice((-10, -2, -1, 1, 2, 10))
    yield _with_one(_NUMBER, item.gold, rng, lambda found: str(abs(int(found) + off)))


def _number_digits(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    """A number of the answer with a digit lost, doubled or exchanged."""

    def change(found: str) -> str:
        at = rng.randrange(len(found))
        return rng.choice((found[:at] + found[at + 1 :] or "0", found[:at] + found[at] + found[at:], found[::-1]))

    yield _with_one(_NUMBER, item.gold, rng, change)


def _number_given(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    """A number of the answer, replaced by another one of the request."""
    given = _NUMBER.findall(item.request)
    if given:
        yield _with_one(_NUMBER, item.gold, rng, lambda _: rng.choice(given))


def _entity_in(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    """A name of the answer, replaced by another one of the request."""
    given = sorted(set(_NAME.findall(item.request)))
    if len(given) > 1:
        yield _with_one(_NAME, item.gold, rng, lambda _: rng.choice(given))


def _entity_out(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    """A name of the answer, replaced by one of the same kind that stands nowhere."""

    def change(found: str) -> str:
        for kind in (pool.names, pool.cities, pool.firms, _DAYS):
            if found in kind:
                return rng.choice([one for one in kind if one not in item.request])
        return rng.choice(pool.names)

    yield _with_one(_NAME, item.gold, rng, change)


def _word_out(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    """A common word of the answer, replaced by one that stands nowhere."""
    for kind in (pool.goods, pool.acts, pool.things):
        present = [word for word in _WORD.findall(item.gold) if word in kind]
        if present:
            fresh = rng.choice([word for word in kind if word not in item.request])
            yield re.sub(rf"\b{rng.choice(present)}\b", fresh, item.gold, count=1)


def _misspelt(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    """A word of the answer, cut short or run on, as small models do."""
    yield _with_one(_WORD, item.gold, rng, lambda found: rng.choice((found[:-1], found[:2], found + "s", found + found[-2:])))


def _slot_swap(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    """Two slots of a record with each other's values."""
    record = _record(item)
    if len(record) > 1:
        first, second = rng.sample(list(record), 2)
        yield _as_text(item, record | {first: record[second], second: record[first]})


def _slot_copy(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    """A slot of a record that repeats another one's value."""
    record = _record(item)
    if len(record) > 1:
        first, second = rng.sample(list(record), 2)
        yield _as_text(item, record | {first: record[second]})


def _slot_dropped(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    record = _record(item)
    if len(record) > 1:
        lost = rng.choice(list(record))
        yield _as_text(item, {key: value for key, value in record.items() if key != lost})


def _slot_added(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    record = _record(item)
    if record:
        key = rng.choice(("note", "status", "country", "phone", "comment", "type", "kiwis"))
        yield _as_text(item, {**record, key: rng.choice((rng.choice(list(record.values())), rng.choice(pool.cities), rng.randint(1, 99)))})


def _clause_twice(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    """A part of the answer said again."""
    if item.form == "pairs":
        yield f"{item.gold}; {item.gold.split(';')[rng.randrange(item.gold.count(';') + 1)].strip()}"
    elif item.form == "state":
        yield f"{item.gold} {rng.choice(item.gold.split())}"
    elif item.form == "list" and not item.gold.startswith("["):
        yield f"{item.gold}, {rng.choice(item.gold.split(',')).strip()}"
    elif item.form == "sentence":
        yield f"{item.gold[:-1]} and {' '.join(item.gold[:-1].split()[-2:])}."


def _number_quoted(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    record = _record(item)
    if item.form == "json" and any(isinstance(value, int) for value in record.values()):
        yield json.dumps({key: str(value) if isinstance(value, int) else value for key, value in record.items()})


def _form_broken(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    """Cut short, or with a quote, comma or brace too few."""
    if item.form == "json":
        yield item.gold[: rng.randrange(len(item.gold) // 3, len(item.gold) - 1)]
        yield _with_one(re.compile(r'"'), item.gold, rng, lambda _: "")
    elif item.form in ("list", "sentence", "pairs", "state") and len(item.gold) > 6:
        yield item.gold[: rng.randrange(len(item.gold) // 3, len(item.gold) - 1)].rstrip()


def _items_moved(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    """The items of a list in another order, one lost, one exchanged."""
    if item.form != "list":
        return
    bracketed = item.gold.startswith("[")
    items = [part.strip() for part in item.gold.strip("[]").split(",")]
    shuffled = rng.sample(items, len(items))
    foreign = str(rng.randint(1, 99)) if bracketed else rng.choice((*pool.names, *pool.goods))
    lost = items[:]
    lost.pop(rng.randrange(len(lost)))
    exchanged = items[:]
    exchanged[rng.randrange(len(items))] = foreign
    for made in (shuffled, lost, exchanged):
        text = ", ".join(made)
        yield f"[{text}]" if bracketed else text


def _negated(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    if item.form == "sentence":
        yield re.sub(
            r" (works|meets|send) ", lambda found: f" {'do' if found[1] == 'send' else 'does'} not {found[1]} ", item.gold, count=1
        )
    elif item.gold in _OPPOSITES:
        yield _OPPOSITES[item.gold]


def _of_another(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    """The right answer to another request."""
    yield other.gold


def _echo(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    """A piece of the request instead of an answer, or nothing."""
    yield rng.choice(item.request.splitlines())
    yield ""


def _more_said(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    """The right answer and something that nobody asked for."""
    if item.form in ("value", "computed"):
        words = _WORD.findall(item.request) or [item.gold]
        yield f"{item.gold} {rng.choice(('and', 'or', 'in', '>', ','))} {rng.choice(words)}"
    elif item.form == "sentence":
        yield f"{item.gold} {rng.choice(pool.names)} lives in {rng.choice(pool.cities)}."


def _given_instead(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    """Another word or number of the request."""
    if item.form in ("value", "computed"):
        same_sort = _NUMBER if item.gold.isdigit() else _NAME if item.gold[:1].isupper() else _WORD
        yield from rng.sample(found, min(2, len(found))) if (found := sorted(set(same_sort.findall(item.request)) - {item.gold})) else ()


PERTURBATIONS: dict[str, Change] = {
    "foil": _foil,
    "number_near": _number_near,
    "number_digits": _number_digits,
    "number_given": _number_given,
    "entity_in": _entity_in,
    "entity_out": _entity_out,
    "word_out": _word_out,
    "misspelt": _misspelt,
    "slot_swap": _slot_swap,
    "slot_copy": _slot_copy,
    "slot_dropped": _slot_dropped,
    "slot_added": _slot_added,
    "clause_twice": _clause_twice,
    "number_quoted": _number_quoted,
    "form_broken": _form_broken,
    "items_moved": _items_moved,
    "negated": _negated,
    "of_another": _of_another,
    "echo": _echo,
    "more_said": _more_said,
    "given_instead": _given_instead,
}
"""Kind -> the change. Some leave an answer right by chance; `perturbed` says what is true."""


def _reordered(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    record = _record(item)
    if item.form == "json" and len(record) > 1:
        yield json.dumps({key: record[key] for key in rng.sample(list(record), len(record))})


def _respaced(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    if item.form == "json":
        yield json.dumps(_record(item), separators=rng.choice(((",", ":"), (" , ", " : "), (", ", ":"))))
    elif item.form == "pairs":
        yield re.sub(r";\s*", rng.choice((";", " ; ", ";  ")), item.gold)


def _recased(item: Item, other: Item, pool: Pool, rng: random.Random) -> Iterator[str | None]:
    if item.any_case or item.form == "pairs":
        yield rng.choice((item.gold.upper(), item.gold.capitalize()))


HARD_POSITIVES: dict[str, Change] = {"reordered": _reordered, "respaced": _respaced, "recased": _recased}
"""Changes after which an answer is as right as before."""

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_OPPOSITES = {"yes": "no", "no": "yes", "approve": "reject", "reject": "approve", "on": "off", "off": "on"}


def _record(item: Item) -> dict[str, object]:
    return (record_of(item.form, item.gold) or {}) if item.form in ("json", "pairs", "state") else {}


def _as_text(item: Item, record: dict[str, object]) -> str:
    if item.form == "json":
        return json.dumps(record)
    return ("; " if item.form == "pairs" else " ").join(f"{key}={value}" for key, value in record.items())


def _with_one(pattern: re.Pattern[str], text: str, rng: random.Random, change: Callable[[str], str]) -> str | None:
    """`text` with one of the places that match changed; None where nothing matches."""
    places = list(pattern.finditer(text))
    if not places:
        return None
    place = rng.choice(places)
    return text[: place.start()] + change(place.group()) + text[place.end() :]
