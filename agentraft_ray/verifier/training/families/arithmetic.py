"""Families whose answer is computed from a few numbers."""

from __future__ import annotations

from agentraft_ray.errors import ErrorType
from agentraft_ray.verifier.training.families.item import Draw, Family, Item

__all__ = ["ARITHMETIC", "computed"]


def computed(request: str, gold: int | str, *wrong: int | str) -> Item:
    """An item with a computed answer; `wrong` are results of other computations on the same numbers."""
    foils = tuple(dict.fromkeys(str(one) for one in wrong if str(one) != str(gold)))
    return Item(request, str(gold), "computed", tuple((foil, ErrorType.CONTRADICTION) for foil in foils))


def _total_price(draw: Draw) -> Item:
    good, count, price = draw.one(draw.pool.goods), draw.number(2, 9), draw.number(2, 12)
    wording = draw.one(
        ("{n} {good} at {p} each.\nTotal:", "Each of {n} {good} costs {p}.\nTotal price:", "Price: {p}\nQuantity: {n}\nTotal:")
    )
    request = wording.format(n=count, good=good, p=price)
    return computed(request, count * price, count + price, count * price + price, count * price - count, price, count)


def _change_due(draw: Draw) -> Item:
    price, paid = draw.number(2, 30), draw.number(31, 60)
    wording = draw.one(("Price: {p}\nPaid: {q}\nChange:", "{name} paid {q} for a bill of {p}.\nMoney back:"))
    return computed(
        wording.format(p=price, q=paid, name=draw.one(draw.pool.names)), paid - price, paid + price, paid, price, paid - price + 10
    )


def _temperature(draw: Draw) -> Item:
    start, by = draw.number(8, 30), draw.number(2, 7)
    way, sign = draw.rng.choice((("rises", 1), ("falls", -1), ("drops", -1), ("climbs", 1)))
    request = f"Temperature in {draw.one(draw.pool.cities)}: {start} degrees\nIt {way} by {by} degrees.\nNow:"
    return computed(request, start + sign * by, start - sign * by, start, by, start + sign * by + 1)


def _score(draw: Draw) -> Item:
    points, by = draw.number(11, 60), draw.number(2, 9)
    way, sign = draw.rng.choice((("wins", 1), ("loses", -1), ("gains", 1), ("gives up", -1), ("earns", 1)))
    name = draw.one(draw.pool.names)
    return computed(f"{name} has {points} points and {way} {by} points.\nPoints:", points + sign * by, points - sign * by, points, by)


def _stock_left(draw: Draw) -> Item:
    stock, sold = draw.number(20, 90), draw.number(3, 19)
    good = draw.one(draw.pool.goods)
    way, sign = draw.rng.choice((("sold", -1), ("received", 1), ("lost", -1), ("bought", 1)))
    return computed(f"In stock: {stock} {good}\nToday {way}: {sold}\nIn stock now:", stock + sign * sold, stock - sign * sold, stock, sold)


def _free_seats(draw: Draw) -> Item:
    seats, taken = draw.number(30, 99), draw.number(5, 29)
    asked, gold, other = draw.rng.choice(
        (("Free", seats - taken, taken), ("Taken", taken, seats - taken), ("In all", seats, seats + taken))
    )
    return computed(f"The hall has {seats} seats, {taken} of them are taken.\n{asked}:", gold, other, seats + taken, seats - taken, taken)


def _share(draw: Draw) -> Item:
    people, each = draw.number(2, 9), draw.number(2, 12)
    goods = draw.one(draw.pool.goods)
    return computed(
        f"{people * each} {goods} are shared by {people} people.\nEach gets:", each, people * each - people, people, people * each, each + 1
    )


def _units(draw: Draw) -> Item:
    amount = draw.number(2, 40)
    small, large, factor = draw.rng.choice(
        (("m", "km", 1000), ("g", "kg", 1000), ("cm", "m", 100), ("minutes", "hours", 60), ("seconds", "minutes", 60),
         ("hours", "days", 24), ("days", "weeks", 7), ("months", "years", 12))
    )  # fmt: skip
    wrong = (amount, amount * 10, amount * 100, amount * 1000, amount * 60, amount * 24, amount + factor)
    return computed(f"Convert {amount} {large} to {small}.\n{small}:", amount * factor, *wrong)


def _average(draw: Draw) -> Item:
    mean, off = draw.number(10, 60), draw.number(1, 9)
    numbers = [mean - off, mean + off]
    asked = draw.one(("Average", "Sum", "Difference"))
    results = {"Average": mean, "Sum": 2 * mean, "Difference": 2 * off}
    return computed(f"Numbers: {numbers[0]} and {numbers[1]}\n{asked}:", results[asked], *results.values(), *numbers)


def _percent(draw: Draw) -> Item:
    share, whole = draw.rng.choice((10, 20, 25, 50)), draw.number(1, 20) * 20
    part = share * whole // 100
    asked, gold = draw.rng.choice((("Discount", part), ("Price after the discount", whole - part)))
    return computed(f"Price: {whole}\nDiscount: {share} percent\n{asked}:", gold, part, whole - part, whole + part, whole - share, whole)


def _next_number(draw: Draw) -> Item:
    start, step = draw.number(1, 30), draw.number(2, 9) * draw.rng.choice((1, 1, -1))
    numbers = [start + 40 + step * place for place in range(4)]
    request = f"Sequence: {', '.join(str(number) for number in numbers[:3])}\nNext number:"
    return computed(request, numbers[3], numbers[2], numbers[2] + 1, numbers[2] - step, numbers[2] + 2 * step, sum(numbers[:3]))


ARITHMETIC = (
    Family("total_price", "arithmetic", "C", "Compute the total price", _total_price, 6),
    Family("change_due", "arithmetic", "C", "Compute the change", _change_due, 6),
    Family("temperature", "arithmetic", "C", "Give the temperature afterwards", _temperature, 6),
    Family("score", "arithmetic", "C", "Give the points afterwards", _score, 6),
    Family("stock_left", "arithmetic", "C", "Give the stock afterwards", _stock_left, 6),
    Family("free_seats", "arithmetic", "C", "Count the seats that are asked for", _free_seats, 6),
    Family("share", "arithmetic", "C", "Share things equally", _share, 6),
    Family("units", "units", "C", "Convert the units", _units, 8),
    Family("average", "arithmetic", "C", "Compute what is asked of the two numbers", _average, 6),
    Family("percent", "arithmetic", "C", "Compute with the discount", _percent, 6),
    Family("next_number", "arithmetic", "C", "Continue the sequence", _next_number, 6),
)
