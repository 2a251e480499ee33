"""Families about months, times of day and dates."""

from __future__ import annotations

from datetime import date, timedelta

from agentraft_ray.verifier.training.families.arithmetic import computed
from agentraft_ray.verifier.training.families.item import Draw, Family, Item

__all__ = ["CALENDAR"]

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _month_shift(draw: Draw) -> Item:
    start, by = draw.number(0, 11), draw.number(1, 5)
    way, sign = draw.rng.choice((("later", 1), ("earlier", -1), ("from then", 1), ("before", -1)))
    at = {shift: _MONTHS[(start + shift) % 12] for shift in (sign * by, -sign * by, sign, -sign, 0, sign * (by + 1), sign * (by - 1))}
    request = f"Month: {_MONTHS[start]}\nMonths {way}: {by}\nMonth then:"
    return computed(request, at[sign * by], *list(at.values())[1:])


def _day_before(draw: Draw) -> Item:
    today = draw.number(0, 6)
    asked, shift = draw.rng.choice((("yesterday", -1), ("tomorrow", 1), ("the day after tomorrow", 2), ("the day before yesterday", -2)))
    wrong = [_DAYS[(today + other) % 7] for other in (-shift, 0, shift + 1, shift - 1, 3)]
    return computed(
        f"Today is {_DAYS[today]}.\nWhat day is {asked}?\nDay:".replace("is yes", "was yes"), _DAYS[(today + shift) % 7], *wrong
    )


def _ends_at(draw: Draw) -> Item:
    start, lasts = draw.number(16, 40) * 30, draw.rng.choice((30, 45, 60, 90, 15))
    what = draw.one(("meeting", "call", "film", "class"))
    wrong = [_clock(start + other) for other in (-lasts, 0, lasts + 30, lasts - 15, 60 if lasts != 60 else 90, 30)]
    return computed(f"The {what} starts at {_clock(start)} and lasts {lasts} minutes.\nIt ends at:", _clock(start + lasts), *wrong)


def _leave_by(draw: Draw) -> Item:
    start, before = draw.number(16, 40) * 30, draw.rng.choice((1, 2, 3))
    wrong = [_clock(start + other) for other in (before * 60, 0, -before * 60 - 60, -30)]
    return computed(
        f"The train leaves at {_clock(start)}. Be there {before} hours earlier.\nBe there at:", _clock(start - before * 60), *wrong
    )


def _due_date(draw: Draw) -> Item:
    start = date(2024, 1, 1) + timedelta(days=draw.number(0, 700))
    days = draw.number(2, 14)
    wrong = [start + timedelta(days=other) for other in (-days, 0, days + 1, days - 1, days + 30)]
    request = f"Invoice of {start.isoformat()}, due {days} days later.\nDue date:"
    return computed(request, (start + timedelta(days=days)).isoformat(), *(one.isoformat() for one in wrong))


def _earlier_time(draw: Draw) -> Item:
    first, second = draw.some(tuple(_clock(30 * slot) for slot in range(14, 46)), 2)
    one, other = draw.some(draw.pool.names, 2)
    asked, early = draw.rng.choice((("first", True), ("last", False), ("earlier", True), ("later", False)))
    gold = one if (_minutes(first) < _minutes(second)) == early else other
    return Item(f"{one} arrives at {first}, {other} arrives at {second}.\nWho arrives {asked}?\nName:", gold)


def _month_of(draw: Draw) -> Item:
    day = date(2024, 1, 1) + timedelta(days=draw.number(0, 700))
    others = draw.some(_MONTHS, 4)
    return computed(f"Date: {day.isoformat()}\nMonth:", _MONTHS[day.month - 1], *others)


def _clock(minutes: int) -> str:
    return f"{minutes // 60 % 24}:{minutes % 60:02d}"


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)


CALENDAR = (
    Family("month_shift", "calendar", "C", "Say which month it will be or was", _month_shift, 5),
    Family("day_before", "calendar", "B", "Say which day is asked for", _day_before, 5),
    Family("ends_at", "calendar", "C", "Say when it ends", _ends_at, 8),
    Family("leave_by", "calendar", "C", "Say when to be there", _leave_by, 8),
    Family("due_date", "calendar", "C", "Give the due date", _due_date, 14),
    Family("earlier_time", "calendar", "B", "Say who comes first or last", _earlier_time, 5),
    Family("month_of", "calendar", "B", "Name the month of the date", _month_of, 5),
)
