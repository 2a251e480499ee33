"""More families about choosing among what is given: the same skills as elsewhere, in other words and forms."""

from __future__ import annotations

from agentraft_ray.errors import ErrorType
from agentraft_ray.verifier.training.families.item import Draw, Family, Item

__all__ = ["MORE_CHOICES"]

_CONTRADICTION = ErrorType.CONTRADICTION
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _of_two(draw: Draw) -> Item:
    one, other = draw.numbers(2, 400, 2)
    asked, pick = draw.rng.choice((("Maximum", max), ("Minimum", min), ("Greater", max), ("Lower", min), ("Less", min), ("More", max)))
    wording = draw.one(("a = {a}, b = {b}. {asked}:", "First {a}, second {b}.\n{asked}:", "{asked} of {a} and {b}:"))
    gold = str(pick(one, other))
    foils = tuple((str(number), _CONTRADICTION) for number in (one, other) if str(number) != gold)
    return Item(wording.format(a=one, b=other, asked=asked), gold, foils=foils)


def _best_score(draw: Draw) -> Item:
    names, points = draw.some(draw.pool.names, 3), draw.numbers(3, 99, 3)
    asked, pick = draw.rng.choice((("Winner (most points)", max), ("Last place (fewest points)", min)))
    told = "; ".join(f"{name}: {value} points" for name, value in zip(names, points, strict=True))
    foils = tuple((name, _CONTRADICTION) for name in names if points[names.index(name)] != pick(points))
    return Item(f"Scores: {told}\n{asked}:", names[points.index(pick(points))], foils=foils)


def _phone_list(draw: Draw) -> Item:
    names, numbers = draw.some(draw.pool.names, 3), draw.numbers(1000, 9999, 3)
    told = draw.one((", ", "\n", "; ")).join(f"{name} {number}" for name, number in zip(names, numbers, strict=True))
    at = draw.number(0, 2)
    foils = tuple((str(number), _CONTRADICTION) for number in numbers if number != numbers[at])
    return Item(f"Phones: {told}\nCall {names[at]}. Number:", str(numbers[at]), foils=(*foils, (names[at], ErrorType.GOAL_DRIFT)))


def _menu(draw: Draw) -> Item:
    goods, prices = draw.some(draw.pool.goods, 3), draw.numbers(2, 60, 3)
    told = ", ".join(f"{good} {price}" for good, price in zip(goods, prices, strict=True))
    at = draw.number(0, 2)
    asked, gold, other = draw.rng.choice(
        ((f"Price of {goods[at]}", str(prices[at]), goods[at]), (f"What costs {prices[at]}", goods[at], str(prices[at])))
    )
    wrong = [str(price) for price in prices] if gold.isdigit() else goods
    foils = tuple((one, _CONTRADICTION) for one in wrong if one != gold)
    return Item(f"Menu: {told}\n{asked}?\nAnswer:", gold, foils=(*foils, (other, ErrorType.GOAL_DRIFT)))


def _rota(draw: Draw) -> Item:
    days, names, cities = draw.some(_DAYS, 3), draw.some(draw.pool.names, 3), draw.some(draw.pool.cities, 3)
    rows = list(zip(days, names, cities, strict=True))
    told = "; ".join(f"{day} {name} in {city}" for day, name, city in rows)
    day, name, city = draw.rng.choice(rows)
    asked, gold, others = draw.rng.choice(
        ((f"Who works on {day}?", name, names), (f"On which day does {name} work?", day, days), (f"Where is {name}?", city, cities))
    )
    drift = tuple((one, ErrorType.GOAL_DRIFT) for one in (day, name, city) if one != gold)
    foils = (*drift, *((one, _CONTRADICTION) for one in others if one != gold))
    return Item(f"Rota: {told}\nQuestion: {asked}\nAnswer:", gold, foils=foils)


def _what_follows(draw: Draw) -> Item:
    acts = draw.some(draw.pool.acts, 4)
    at = draw.number(0, 2)
    wording = draw.one(
        ("Order of work: {all}\nFinished: {done}\nNow do:", "First {all}.\nJust did: {done}\nThen comes:", "{all}\nAfter {done} comes:")
    )
    told = wording.format(all=draw.one((", then ", " -> ", ", ")).join(acts), done=acts[at])
    return Item(told, acts[at + 1], foils=tuple((act, _CONTRADICTION) for act in acts if act != acts[at + 1]))


def _what_preceded(draw: Draw) -> Item:
    names = draw.some(draw.pool.names, 4)
    at = draw.number(1, 3)
    told = draw.one(
        ("Relay: {all}\n{one} got the baton from:", "Line: {all}\nIn front of {one}:", "{all} came in this order.\nBefore {one} came:")
    )
    gold = names[at - 1]
    foils = tuple((name, _CONTRADICTION) for name in names if name != gold)
    return Item(told.format(all=", ".join(names), one=names[at]), gold, foils=foils)


def _odd_or_even(draw: Draw) -> Item:
    number = draw.number(10, 999)
    gold, other = ("even", "odd") if number % 2 == 0 else ("odd", "even")
    return Item(f"Number: {number}\nEven or odd:", gold, "computed", ((other, _CONTRADICTION),), any_case=True)


MORE_CHOICES = (
    Family("of_two", "decisions", "B", "Pick the number that is asked for", _of_two, 6),
    Family("best_score", "decisions", "B", "Say who it is", _best_score, 5),
    Family("phone_list", "tables", "B", "Find the number to call", _phone_list, 6),
    Family("menu", "tables", "B", "Answer the question about the menu", _menu, 6),
    Family("rota", "tables", "B", "Answer the question about the rota", _rota, 5),
    Family("what_follows", "plans", "B", "Say what to do now", _what_follows, 5),
    Family("what_preceded", "plans", "B", "Say who came before", _what_preceded, 5),
    Family("odd_or_even", "decisions", "B", "Say whether the number is even or odd", _odd_or_even, 4),
)
