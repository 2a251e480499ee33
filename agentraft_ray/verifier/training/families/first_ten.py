"""The ten families that the first bank of natural errors was drawn from."""

from __future__ import annotations

import json

from agentraft_ray.errors import ErrorType
from agentraft_ray.verifier.training.families.item import Draw, Family, Item

__all__ = ["FIRST_TEN"]

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _ledger(draw: Draw) -> Item:
    balance = draw.number(6, 20)
    amount = draw.number(1, 5)
    kind = draw.one(("deposit", "withdraw"))
    more, less = str(balance + amount), str(balance - amount)
    gold, other = (more, less) if kind == "deposit" else (less, more)
    return Item(f"Balance: {balance}\nTransaction: {kind} {amount}\nNew balance:", gold, "computed", ((other, ErrorType.CONTRADICTION),))


def _lookup(draw: Draw) -> Item:
    names = draw.some(draw.pool.names, 3)
    rows = [(name, draw.one(draw.pool.cities), str(code)) for name, code in zip(names, draw.numbers(100, 999, 3), strict=True)]
    table = "; ".join(f"{name} lives in {city}, code {code}" for name, city, code in rows)
    name, city, code = draw.rng.choice(rows)
    asked = draw.one(("city", "code"))
    gold, other = (city, code) if asked == "city" else (code, city)
    foils = ((other, ErrorType.GOAL_DRIFT), (name, ErrorType.GOAL_DRIFT))
    return Item(f"Table: {table}\nQuestion: What is the {asked} of {name}?\nAnswer:", gold, "value", foils)


def _toolcall(draw: Draw) -> Item:
    call = {
        "with": draw.one(draw.pool.names),
        "day": draw.one(_DAYS),
        "time": f"{draw.number(8, 18)}:00",
        "minutes": draw.rng.choice((15, 30, 45, 60)),
    }
    wording = draw.one(
        (
            "Schedule a {minutes} minute meeting with {with} on {day} at {time}.",
            "Set up a call with {with}, {day} {time}, for {minutes} minutes.",
            "On {day} at {time} I need {minutes} minutes with {with}.",
        )
    )
    return Item(f"Request: {wording.format(**call)}\nCall:", json.dumps(call), "json")


def _csv2json(draw: Draw) -> Item:
    row = {
        "name": draw.one(draw.pool.names),
        "city": draw.one(draw.pool.cities),
        "age": draw.number(18, 80),
        "id": draw.number(1000, 9999),
    }
    return Item(f"Row: {','.join(str(value) for value in row.values())}\nJSON:", json.dumps(row), "json")


def _inventory(draw: Draw) -> Item:
    state = dict(zip(draw.some(draw.pool.goods, 3), (draw.number(3, 20) for _ in range(3)), strict=True))
    good, amount = draw.rng.choice(list(state)), draw.number(1, 3)
    event = draw.one(("add", "remove"))
    after = state | {good: state[good] + (amount if event == "add" else -amount)}
    return Item(f"State: {_state(state)}\nEvent: {event} {amount} {good}\nNext state:", _state(after), "state")


def _state(state: dict[str, int]) -> str:
    return " ".join(f"{key}={value}" for key, value in state.items())


def _compare(draw: Draw) -> Item:
    first, second = draw.numbers(10, 999, 2)
    return Item(f"Numbers: {first} and {second}\nLarger:", str(max(first, second)))


def _sort4(draw: Draw) -> Item:
    numbers = draw.numbers(1, 99, 4)
    return Item(f"Numbers: {numbers}\nSorted: ", str(sorted(numbers)), "list")


def _weekday(draw: Draw) -> Item:
    start, later = draw.number(0, 6), draw.number(1, 6)
    return Item(f"Start: {_DAYS[start]}\nDays later: {later}\nDay:", _DAYS[(start + later) % 7], "computed")


def _extract(draw: Draw) -> Item:
    fields = {"name": draw.one(draw.pool.names), "item": str(draw.number(100, 999)), "city": draw.one(draw.pool.cities)}
    wording = draw.one(
        (
            "Please send item {item} to {city}; the buyer is {name}.",
            "Shipping to {city}: item {item} for {name}.",
            "{name} ordered item {item} and wants it shipped to {city}.",
        )
    )
    gold = "; ".join(f"{key}={value}" for key, value in fields.items())
    return Item(f"Message: {wording.format(**fields)}\nFields:", gold, "pairs")


def _copyplan(draw: Draw) -> Item:
    plan = draw.some(draw.pool.acts, 4)
    done = draw.number(0, 2)
    return Item(f"Plan: {' > '.join(plan)}\nDone: {plan[done]}\nNext:", plan[done + 1])


FIRST_TEN = (
    Family("ledger", "arithmetic", "C", "Give the new balance of the account", _ledger, 6),
    Family("lookup", "tables", "B", "Answer the question from the table", _lookup, 6),
    Family("toolcall", "records", "A", "Turn the request into a call of the calendar", _toolcall, 44),
    Family("csv2json", "records", "A", "Turn the row into a JSON record", _csv2json, 44),
    Family("inventory", "states", "C", "Give the state after the event", _inventory, 24),
    Family("compare", "decisions", "B", "Say which number is larger", _compare, 6),
    Family("sort4", "lists", "C", "Sort the numbers from small to large", _sort4, 20),
    Family("weekday", "calendar", "C", "Say which day of the week it will be", _weekday, 5),
    Family("extract", "records", "A", "Extract the fields of the order", _extract, 28),
    Family("copyplan", "plans", "B", "Say which step of the plan comes next", _copyplan, 6),
)
