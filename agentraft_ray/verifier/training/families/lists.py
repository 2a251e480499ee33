"""Families about order: lists, plans, comparisons and choices among what is given."""

from __future__ import annotations

from agentraft_ray.errors import ErrorType
from agentraft_ray.verifier.training.families.item import Draw, Family, Item

__all__ = ["LISTS"]

_CONTRADICTION = ErrorType.CONTRADICTION


def _smallest(draw: Draw) -> Item:
    numbers = draw.numbers(10, 999, 3)
    asked, pick = draw.rng.choice((("Smallest", min), ("Biggest", max), ("Highest", max), ("Lowest", min)))
    shown = f"{numbers[0]}, {numbers[1]} and {numbers[2]}"
    return Item(f"Values: {shown}\n{asked}:", str(pick(numbers)), foils=tuple((str(number), _CONTRADICTION) for number in numbers))


def _superlative(draw: Draw) -> Item:
    names, values = draw.some(draw.pool.names, 3), draw.numbers(21, 89, 3)
    unit, most, least = draw.rng.choice(
        (
            ("years old", "oldest", "youngest"),
            ("kg", "heaviest", "lightest"),
            ("cm", "longest", "shortest"),
            ("km away", "farthest", "nearest"),
        )
    )
    asked, pick = draw.rng.choice(((most, max), (least, min)))
    told = ", ".join(f"{name} {value} {unit}" for name, value in zip(names, values, strict=True))
    gold = names[values.index(pick(values))]
    return Item(
        f"{told}.\nWho is the {asked}?\nName:".replace("Who", "Which") if unit == "cm" else f"{told}.\nWho is the {asked}?\nName:", gold
    )


def _cheaper(draw: Draw) -> Item:
    goods, prices = draw.some(draw.pool.goods, 2), draw.numbers(3, 90, 2)
    asked, pick = draw.rng.choice((("cheaper", min), ("more expensive", max)))
    return Item(f"Offer: {goods[0]} for {prices[0]}, {goods[1]} for {prices[1]}\nThe {asked} ones:", goods[prices.index(pick(prices))])


def _previous_stop(draw: Draw) -> Item:
    stops = draw.some(draw.pool.cities, 4)
    at = draw.number(1, 2)
    asked, to = draw.rng.choice((("Previous stop", -1), ("Next stop", 1), ("Stop before", -1), ("Stop after", 1)))
    foils = tuple((stop, _CONTRADICTION) for stop in stops)
    return Item(f"Route: {', '.join(stops)}\nNow in: {stops[at]}\n{asked}:", stops[at + to], foils=foils)


def _end_of_queue(draw: Draw) -> Item:
    queue = draw.some(draw.pool.names, draw.number(3, 5))
    asked, at = draw.rng.choice((("First", 0), ("Last", -1), ("Second", 1)))
    return Item(f"Queue: {', '.join(queue)}\n{asked} in the queue:", queue[at], foils=tuple((one, _CONTRADICTION) for one in queue))


def _remaining(draw: Draw) -> Item:
    tasks = draw.some(draw.pool.acts, 4)
    done = draw.number(1, 3)
    left = tasks[done:]
    foils = ((", ".join(tasks[:done]), _CONTRADICTION), (", ".join(tasks), ErrorType.SCOPE_CREEP))
    return Item(f"Tasks: {', '.join(tasks)}\nDone: {', '.join(tasks[:done])}\nLeft:", ", ".join(left), "list", foils)


def _descending(draw: Draw) -> Item:
    numbers = draw.numbers(1, 99, 3)
    foils = ((str(sorted(numbers)), _CONTRADICTION), (str(numbers), _CONTRADICTION))
    gold = sorted(numbers, reverse=True)
    return Item(f"List: {numbers}\nFrom high to low:", str(gold), "list", foils)


def _alphabet(draw: Draw) -> Item:
    names = draw.some(draw.pool.names, 3)
    foils = ((", ".join(names), _CONTRADICTION), (", ".join(sorted(names, reverse=True)), _CONTRADICTION))
    return Item(f"Names: {', '.join(names)}\nIn alphabetical order:", ", ".join(sorted(names)), "list", foils)


def _backwards(draw: Draw) -> Item:
    names = draw.some(draw.pool.goods, 3)
    foils = ((", ".join(names), _CONTRADICTION), (", ".join(sorted(names)), _CONTRADICTION))
    return Item(f"Words: {', '.join(names)}\nIn reverse order:", ", ".join(names[::-1]), "list", foils)


def _above(draw: Draw) -> Item:
    numbers, limit = draw.numbers(1, 99, 4), draw.number(30, 70)
    kept = [number for number in numbers if number > limit]
    foils = ((str(numbers), ErrorType.SCOPE_CREEP), (str([number for number in numbers if number <= limit]), _CONTRADICTION))
    return Item(f"Numbers: {numbers}\nKeep those above {limit}.\nKept:", str(kept), "list", foils) if kept else _above(draw)


def _count_items(draw: Draw) -> Item:
    goods = draw.some(draw.pool.goods, draw.number(3, 6))
    foils = tuple((str(len(goods) + off), _CONTRADICTION) for off in (-1, 1, 2))
    return Item(f"Words: {', '.join(goods)}\nHow many words?\nCount:", str(len(goods)), "computed", foils)


def _yes_or_no(draw: Draw) -> Item:
    first, second = draw.numbers(10, 99, 2)
    asked, true = draw.rng.choice((("larger", first > second), ("smaller", first < second)))
    gold, other = ("yes", "no") if true else ("no", "yes")
    return Item(f"Is {first} {asked} than {second}?\nYes or no:", gold, "computed", ((other, _CONTRADICTION),), any_case=True)


def _within_limit(draw: Draw) -> Item:
    limit, cost = draw.numbers(20, 99, 2)
    gold, other = ("approve", "reject") if cost <= limit else ("reject", "approve")
    return Item(f"Limit: {limit}\nExpense: {cost}\nApprove or reject:", gold, "value", ((other, _CONTRADICTION),), any_case=True)


LISTS = (
    Family("smallest", "decisions", "B", "Pick the value that is asked for", _smallest, 6),
    Family("superlative", "decisions", "B", "Say who it is", _superlative, 5),
    Family("cheaper", "decisions", "B", "Pick the offer that is asked for", _cheaper, 5),
    Family("previous_stop", "plans", "B", "Name the stop that is asked for", _previous_stop, 5),
    Family("end_of_queue", "plans", "B", "Say who stands there", _end_of_queue, 5),
    Family("remaining", "plans", "C", "List the tasks that are left", _remaining, 16),
    Family("descending", "lists", "C", "Sort the numbers from high to low", _descending, 18),
    Family("alphabet", "lists", "C", "Sort the names", _alphabet, 18),
    Family("backwards", "lists", "C", "Reverse the list", _backwards, 18),
    Family("above", "lists", "C", "Keep the numbers above the limit", _above, 20),
    Family("count_items", "lists", "C", "Count the words", _count_items, 5),
    Family("yes_or_no", "decisions", "B", "Answer yes or no", _yes_or_no, 4),
    Family("within_limit", "decisions", "B", "Decide about the expense", _within_limit, 5),
)
