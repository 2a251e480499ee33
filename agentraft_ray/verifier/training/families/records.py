"""Families about records: calls of tools, extraction, conversion, look-up, changes of state, sentences made of facts."""

from __future__ import annotations

import json

from agentraft_ray.errors import ErrorType
from agentraft_ray.verifier.training.families.item import Draw, Family, Item

__all__ = ["RECORDS"]


def _booking(draw: Draw) -> Item:
    call = {"guest": draw.one(draw.pool.names), "city": draw.one(draw.pool.cities), "nights": draw.number(2, 9), "rooms": draw.number(1, 4)}
    wording = draw.one(
        (
            "Book {rooms} rooms in {city} for {guest}, {nights} nights.",
            "{guest} needs a hotel in {city} for {nights} nights, {rooms} rooms.",
            "Hotel for {guest}: {nights} nights, {rooms} rooms, in {city}.",
        )
    )
    return Item(f"Request: {wording.format(**call)}\nBooking:", json.dumps(call), "json")


def _payment(draw: Draw) -> Item:
    sender, receiver = draw.some(draw.pool.names, 2)
    call = {"from": sender, "to": receiver, "amount": draw.number(10, 990)}
    wording = draw.one(
        ("Send {amount} euros from {from} to {to}.", "{from} pays {to} {amount} euros.", "{to} gets {amount} euros from {from}.")
    )
    return Item(f"Order: {wording.format(**call)}\nJSON:", json.dumps(call), "json")


def _reminder(draw: Draw) -> Item:
    call = {
        "tool": "remind",
        "who": draw.one(draw.pool.names),
        "task": draw.one(draw.pool.acts),
        "time": f"{draw.number(7, 21)}:{draw.one(('00', '15', '30', '45'))}",
    }
    wording = draw.one(
        ("Remind {who} at {time} to {task}.", "At {time} tell {who} to {task}.", "{who} has to {task} at {time}, send a reminder.")
    )
    return Item(f"User: {wording.format(**call)}\nTool call:", json.dumps(call), "json")


def _ticket(draw: Draw) -> Item:
    fields = {"firm": draw.one(draw.pool.firms), "product": draw.one(draw.pool.goods), "count": str(draw.number(11, 99))}
    wording = draw.one(
        (
            "{firm} reports that {count} {product} are broken.",
            "We got {count} broken {product} from {firm}.",
            "Complaint by {firm}: {product}, {count} pieces.",
        )
    )
    gold = "; ".join(f"{key}={value}" for key, value in fields.items())
    return Item(f"Text: {wording.format(**fields)}\nTicket:", gold, "pairs")


def _flight(draw: Draw) -> Item:
    origin, target = draw.some(draw.pool.cities, 2)
    fields = {"from": origin, "to": target, "time": f"{draw.number(6, 22)}:{draw.one(('05', '20', '35', '50'))}"}
    wording = draw.one(
        (
            "The {time} flight goes from {from} to {to}.",
            "To {to} from {from}, leaving {time}.",
            "Departure {from} at {time}, arrival in {to}.",
        )
    )
    gold = "; ".join(f"{key}={value}" for key, value in fields.items())
    return Item(f"Note: {wording.format(**fields)}\nData:", gold, "pairs")


def _json2csv(draw: Draw) -> Item:
    row = {"product": draw.one(draw.pool.goods), "firm": draw.one(draw.pool.firms), "price": draw.number(3, 99)}
    gold = ",".join(str(value) for value in row.values())
    return Item(f"JSON: {json.dumps(row)}\nCSV:", gold, "list")


def _log_line(draw: Draw) -> Item:
    record = {"level": draw.one(("error", "warning", "info")), "host": draw.one(draw.pool.things), "code": draw.number(100, 599)}
    return Item(f"Line: {record['level']} {record['host']} {record['code']}\nJSON:", json.dumps(record), "json")


def _shelf(draw: Draw) -> Item:
    goods = draw.some(draw.pool.goods, 3)
    rows = [
        (good, str(count), f"{draw.one(('A', 'B', 'C', 'D'))}{draw.number(1, 9)}")
        for good, count in zip(goods, draw.numbers(10, 99, 3), strict=True)
    ]
    told = "; ".join(f"{good}: {count} pieces, shelf {shelf}" for good, count, shelf in rows)
    good, count, shelf = draw.rng.choice(rows)
    asked, gold, other = draw.rng.choice(((f"On which shelf are the {good}?", shelf, count), (f"How many {good} are there?", count, shelf)))
    return Item(f"Stock: {told}\n{asked}\nAnswer:", gold, foils=((other, ErrorType.GOAL_DRIFT), (good, ErrorType.GOAL_DRIFT)))


def _owner(draw: Draw) -> Item:
    names, numbers = draw.some(draw.pool.names, 3), draw.numbers(100, 999, 3)
    told = ". ".join(f"Room {number} belongs to {name}" for name, number in zip(names, numbers, strict=True))
    at = draw.number(0, 2)
    asked, gold, other = draw.rng.choice(
        ((f"Whose room is {numbers[at]}?", names[at], str(numbers[at])), (f"Which room has {names[at]}?", str(numbers[at]), names[at]))
    )
    return Item(f"{told}.\n{asked}\nAnswer:", gold, foils=((other, ErrorType.GOAL_DRIFT),))


def _contact(draw: Draw) -> Item:
    names = draw.some(draw.pool.names, 2)
    rows = [(name, draw.one(draw.pool.firms), draw.one(draw.pool.cities)) for name in names]
    told = "\n".join(f"{name} works for {firm} in {city}." for name, firm, city in rows)
    name, firm, city = draw.rng.choice(rows)
    asked, gold, other = draw.rng.choice(((f"Where does {name} work?\nCity:", city, firm), (f"Who employs {name}?\nFirm:", firm, city)))
    return Item(f"{told}\n{asked}", gold, foils=((other, ErrorType.GOAL_DRIFT), (name, ErrorType.GOAL_DRIFT)))


def _switches(draw: Draw) -> Item:
    state = {thing: draw.one(("on", "off")) for thing in draw.some(draw.pool.things, 3)}
    thing = draw.rng.choice(list(state))
    to = draw.one(("on", "off"))
    return Item(f"State: {_state(state)}\nEvent: switch {thing} {to}\nState now:", _state(state | {thing: to}), "state")


def _transfer(draw: Draw) -> Item:
    names, amount = draw.some(draw.pool.names, 2), draw.number(1, 5)
    have = dict(zip(names, draw.numbers(6, 30, 2), strict=True))
    after = have | {names[0]: have[names[0]] - amount, names[1]: have[names[1]] + amount}
    foils = ((_state(have), ErrorType.CONTRADICTION), (_state(have | {names[0]: have[names[0]] - amount}), ErrorType.CONTRADICTION))
    return Item(f"Coins: {_state(have)}\n{names[0]} gives {names[1]} {amount} coins.\nCoins now:", _state(after), "state", foils)


def _robot(draw: Draw) -> Item:
    at, by = {"x": draw.number(4, 20), "y": draw.number(4, 20)}, draw.number(1, 4)
    word, axis, sign = draw.rng.choice((("right", "x", 1), ("left", "x", -1), ("up", "y", 1), ("down", "y", -1)))
    foils = ((_state(at | {axis: at[axis] - sign * by}), ErrorType.CONTRADICTION), (_state(at), ErrorType.CONTRADICTION))
    return Item(f"Robot at {_state(at)}\nMove: {by} {word}\nRobot at", _state(at | {axis: at[axis] + sign * by}), "state", foils)


def _state(state: dict[str, str] | dict[str, int]) -> str:
    return " ".join(f"{key}={value}" for key, value in state.items())


def _introduce(draw: Draw) -> Item:
    name, firm, city = draw.one(draw.pool.names), draw.one(draw.pool.firms), draw.one(draw.pool.cities)
    return Item(f"Facts: name {name}; firm {firm}; city {city}\nSentence:", f"{name} works for {firm} in {city}.", "sentence")


def _confirm(draw: Draw) -> Item:
    name, count, goods, city = draw.one(draw.pool.names), draw.number(2, 40), draw.one(draw.pool.goods), draw.one(draw.pool.cities)
    facts = f"buyer {name}; goods {goods}; count {count}; city {city}"
    return Item(f"Order: {facts}\nConfirmation:", f"We send {count} {goods} to {name} in {city}.", "sentence")


def _meeting_note(draw: Draw) -> Item:
    one, other = draw.some(draw.pool.names, 2)
    time, day = f"{draw.number(8, 18)}:30", draw.one(("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"))
    return Item(f"Data: {day}, {time}, {one}, {other}\nNote:", f"{one} meets {other} on {day} at {time}.", "sentence")


def _capitals(draw: Draw) -> Item:
    word = draw.one(draw.pool.goods)
    foils = ((word, ErrorType.FORMAT), (word.capitalize(), ErrorType.FORMAT))
    return Item(f"Word: {word}\nIn capital letters:", word.upper(), "computed", foils)


def _initials(draw: Draw) -> Item:
    first, last = draw.some(draw.pool.names, 2)
    foils = ((f"{last[0]}{first[0]}", ErrorType.CONTRADICTION), (first, ErrorType.CONTRADICTION))
    return Item(f"Name: {first} {last}\nInitials:", f"{first[0]}{last[0]}", "computed", foils)


RECORDS = (
    Family("booking", "records", "A", "Turn the request into a booking", _booking, 40),
    Family("payment", "records", "A", "Turn the order into JSON", _payment, 34),
    Family("reminder", "records", "A", "Turn the wish into a call of the tool", _reminder, 44),
    Family("ticket", "records", "A", "Fill in the ticket", _ticket, 26),
    Family("flight", "records", "A", "Extract the data of the flight", _flight, 28),
    Family("json2csv", "records", "A", "Turn the record into a row", _json2csv, 16),
    Family("log_line", "records", "A", "Turn the line of the log into JSON", _log_line, 36),
    Family("shelf", "tables", "B", "Answer the question about the stock", _shelf, 6),
    Family("owner", "tables", "B", "Answer the question about the rooms", _owner, 6),
    Family("contact", "tables", "B", "Answer the question about the people", _contact, 6),
    Family("switches", "states", "C", "Give the state after the event", _switches, 18),
    Family("transfer", "states", "C", "Give the state after the transfer", _transfer, 18),
    Family("robot", "states", "C", "Give the position after the move", _robot, 12),
    Family("introduce", "sentences", "A", "Say the facts in one sentence", _introduce, 20),
    Family("confirm", "sentences", "A", "Confirm the order in one sentence", _confirm, 22),
    Family("meeting_note", "sentences", "A", "Write the note in one sentence", _meeting_note, 22),
    Family("capitals", "text", "A", "Write the word in capital letters", _capitals, 8),
    Family("initials", "text", "B", "Give the initials", _initials, 5),
)
