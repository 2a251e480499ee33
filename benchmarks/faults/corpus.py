"""Texts for real verifiers: small questions about a company's quarter, right answers, and answers that are wrong in a known way.

Everything that a right answer says stands in the task's inputs, so what is wrong with a wrong one follows from how it was made.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from agentraft_ray.errors import ErrorType
from agentraft_ray.pipeline import Criticality, Step, Task
from agentraft_ray.verifier.base import VerifyInput
from benchmarks.faults.draws import draw

__all__ = ["CLASSES", "facts_of", "goal_of", "request_of", "task_of", "text_of"]

CLASSES = tuple(kind for kind in ErrorType if kind is not ErrorType.NONE)

_VARIETY = 6  # a purpose of draws that nothing else has
_COMPANIES = ("Alder Freight", "Bellwether Tools", "Corvid Press", "Dunlin Foods", "Elm & Ash", "Fathom Marine", "Gannet Air", "Hollow Oak")
_CITIES = ("Ghent", "Porto", "Tartu", "Graz", "Aarhus", "Lyon", "Gdansk", "Bergen")


class _Question(NamedTuple):
    """What a step asks, the right answer, half of it, and an answer that the inputs contradict."""

    goal: str
    right: str
    half: str
    false: str


_QUESTIONS = (
    _Question(
        "State {company}'s revenue and its number of orders in the quarter.",
        "{company} took {revenue} thousand euros with {orders} orders in {quarter}.",
        "{company} took {revenue} thousand euros with",
        "Contrary to the figures given, {company} took {revenue_not} thousand euros with {orders_not} orders in {quarter}.",
    ),
    _Question(
        "State how many orders were refunded and how many were not.",
        "{refunds} of the {orders} orders were refunded, {kept} were not.",
        "{refunds} of the {orders} orders were refunded,",
        "None of the {orders_not} orders was refunded, although the figures say otherwise.",
    ),
    _Question(
        "Name the office that the figures are about, and the number of people who work there.",
        "The figures are about the office in {city}, where {staff} people work.",
        "The figures are about the office in",
        "The figures are about the office in {city_not}, where {staff_not} people work, not about {city}.",
    ),
    _Question(
        "Say whether refunds were below the limit of 5 percent, with both numbers.",
        "{refunds} refunds of {orders} orders are below the limit of 5 percent.",
        "{refunds} refunds of {orders} orders are",
        "With {refunds_not} refunds the limit of 5 percent was far exceeded, whatever was said before.",
    ),
    _Question(
        "Compare this quarter's revenue with the last one's.",
        "Revenue was {revenue} thousand euros, after {before} thousand in the quarter before.",
        "Revenue was {revenue} thousand euros, after",
        "Revenue fell to {revenue_not} thousand euros, which reverses what was found before.",
    ),
)
_DRIFTS = (
    "Five ideas for a livelier team meeting: start with a riddle, swap seats, stand up, bring fruit, end early.",
    "A good sourdough needs a warm place, patience, and flour that has not been bleached.",
    "Our new slogan could be: moving you forward, one smile at a time.",
)
_INVENTIONS = (
    " According to the Meridian Index of 2031 this is {odd} percent above the sector's average.",
    " Its founder, Ottoline Reyes, expects {odd} new offices by spring.",
    " A survey of {odd} customers named delivery times as the reason.",
)
_DEEDS = (
    " I have also refunded every customer and closed the office's account.",
    " While at it I changed next quarter's prices and told the press.",
    " In addition I deleted the older figures, since nobody had asked for them.",
)
_OPENINGS = ("", "In short: ", "As asked: ", "The answer: ", "To put it plainly: ", "From the figures: ")


def facts_of(key: int, trial: int) -> dict[str, Any]:
    """The inputs of a trial's task."""
    drawn = draw(key, trial << 28 | _VARIETY)
    orders, refunds = 900 + drawn % 1_000, 3 + drawn // 7 % 40
    return {
        "company": _COMPANIES[drawn % len(_COMPANIES)],
        "city": _CITIES[drawn // 11 % len(_CITIES)],
        "quarter": f"Q{1 + drawn // 13 % 4}",
        "revenue": 2_000 + drawn // 17 % 5_000,
        "before": 2_000 + drawn // 19 % 5_000,
        "orders": orders,
        "refunds": refunds,
        "kept": orders - refunds,
        "staff": 20 + drawn // 23 % 200,
    }


def task_of(key: int, trial: int, run_id: str) -> Task:
    """The task of a trial."""
    return Task(
        "Report on the quarter, from the figures in the inputs and nothing else", {**facts_of(key, trial), "trial": trial}, id=run_id
    )


def goal_of(step: int) -> str:
    """What a step is to do, for every company."""
    return _QUESTIONS[step % len(_QUESTIONS)].goal.format(company="the company")


def text_of(key: int, trial: int, step: int, attempt: int, kind: ErrorType) -> str:
    """An answer to step `step`: right (NONE), or wrong in the way of `kind`. No two attempts are worded alike."""
    facts = facts_of(key, trial)
    false = {f"{name}_not": facts[name] * 2 + 7 for name in ("revenue", "orders", "refunds", "staff")}
    false["city_not"] = _CITIES[(_CITIES.index(facts["city"]) + 3) % len(_CITIES)]
    question, turn = _QUESTIONS[step % len(_QUESTIONS)], trial + step + attempt
    opening = _OPENINGS[attempt] if attempt < len(_OPENINGS) else f"Answer {attempt}: "
    right = opening + question.right.format(**facts)
    match kind:
        case ErrorType.NONE:
            return right
        case ErrorType.GOAL_DRIFT:
            return opening + _DRIFTS[turn % 3]
        case ErrorType.HALLUCINATION:
            return right + _INVENTIONS[turn % 3].format(odd=31 + turn % 50)
        case ErrorType.INCOMPLETE:
            cut = (opening + question.half.format(**facts), "", f"TimeoutError: the model stopped at attempt {attempt}")
            return cut[turn % 3]
        case ErrorType.CONTRADICTION:
            return opening + question.false.format(**facts, **false)
        case ErrorType.SCOPE_CREEP:
            return right + _DEEDS[turn % 3]
        case ErrorType.FORMAT:
            return f'{{"answer": "{right}", "company": '


def request_of(key: int, number: int, kind: ErrorType) -> VerifyInput:
    """A single output of a known kind, with the right outputs of the steps before it."""
    step = number % len(_QUESTIONS)
    history = [(f"step-{before}", text_of(key, number, before, 0, ErrorType.NONE)) for before in range(step)]
    made = Step(f"step-{step}", str, goal=goal_of(step), criticality=Criticality.MEDIUM)
    return VerifyInput(task_of(key, number, f"sample-{number}"), made, text_of(key, number, step, 0, kind), history)
