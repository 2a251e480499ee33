"""The deterministic checks of a family, made of the library's own verifiers: form, completeness, grounding, grounding slot by slot.

They know the shape of a family's answers and nothing of its right ones. Changing a rule changes `RULES_VERSION`, which a frozen
cascade is bound to.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from agentraft_ray.pipeline import Step, Task
from agentraft_ray.taxonomy import ErrorType, VerdictKind, VerificationResult
from agentraft_ray.verifier.base import Verifier, VerifyInput
from agentraft_ray.verifier.callable import CallableVerifier
from agentraft_ray.verifier.classifier.stated import stated_in
from agentraft_ray.verifier.classifier.words import Mention, mentions
from agentraft_ray.verifier.completeness import CompletenessVerifier
from agentraft_ray.verifier.grounding import GroundingVerifier
from agentraft_ray.verifier.schema import SchemaVerifier
from agentraft_ray.verifier.training.cases import Case
from agentraft_ray.verifier.training.families import FAMILIES

__all__ = ["CHECKED_FAMILIES", "CHECKS", "RULES_VERSION", "checks_of", "verdicts_of"]

RULES_VERSION = "1"

CHECKS = ("form", "completeness", "grounding", "slots")
"""The names of the checks, cheapest first."""

Slots = Mapping[str, str]

_SLOTS: dict[str, Slots] = {
    "toolcall": {"with": "name", "day": "day", "time": "time", "minutes": "number"},
    "csv2json": {"name": "name", "city": "name", "age": "number", "id": "number"},
    "extract": {"name": "name", "item": "number", "city": "name"},
    "booking": {"guest": "name", "city": "name", "nights": "number", "rooms": "number"},
    "payment": {"from": "name", "to": "name", "amount": "number"},
    "ticket": {"firm": "name", "product": "word", "count": "number"},
    "flight": {"from": "name", "to": "name", "time": "time"},
    "log_line": {"level": "word", "host": "word", "code": "number"},
}
CHECKED_FAMILIES = frozenset(_SLOTS)
"""Families whose answers are records of what the request gives, so that these checks say something about them."""

_PAIRS = frozenset({"extract", "ticket", "flight"})
_TYPES: dict[str, Any] = {"number": int}


def checks_of(family: str) -> dict[str, Verifier]:
    """The checks of a family by name. Raises KeyError for one without: its answers have no slots."""
    slots = _SLOTS[family]
    return {
        "form": CallableVerifier(_has_form(slots), name="form") if family in _PAIRS else _schema(slots),
        "completeness": CompletenessVerifier(values=_wanted),
        "grounding": GroundingVerifier(sources=_asked, quotations=False),
        "slots": CallableVerifier(_fits_slots(slots), name="slots"),
    }


async def verdicts_of(case: Case) -> dict[str, bool]:
    """Check -> whether it rejects the output of `case`; nothing for a family without checks."""
    if case.family not in CHECKED_FAMILIES:
        return {}
    asked = case.asked.removeprefix(f"{FAMILIES[case.family].goal}\n")  # the goal names nothing that an answer must have
    task = Task(goal="", inputs={"request": asked}, id="case")
    found: dict[str, bool] = {}
    for name, check in checks_of(case.family).items():
        output = case.output if name == "form" else _record_in(case)
        verdict = await check.verify(VerifyInput(task, Step(case.family, _never_run), output))
        found[name] = verdict.kind is VerdictKind.REJECT
    return found


def _record_in(case: Case) -> Any:
    if case.family not in _PAIRS:
        return case.output
    stated = stated_in(case.output)
    return {field.key: field.text for field in stated.fields} if stated.form == "pairs" and not stated.twice else case.output


def _never_run(_: object) -> None:
    raise AssertionError("the step of a case is judged, never run")


def _asked(request: VerifyInput) -> list[Any]:
    return [request.task.inputs["request"]]


def _schema(slots: Slots) -> SchemaVerifier:
    kinds = {key: _TYPES.get(kind, str) for key, kind in slots.items()}
    return SchemaVerifier(TypedDict("Record", kinds), name="form")  # type: ignore[operator]


def _has_form(slots: Slots) -> Callable[[VerifyInput], VerificationResult]:
    pattern = re.compile("; ".join(rf"{key}=[^\s;=](?:[^;=]*[^\s;=])?" for key in slots))

    def check(request: VerifyInput) -> VerificationResult:
        if pattern.fullmatch(str(request.output)):
            return VerificationResult.ok()
        return VerificationResult.fail(ErrorType.FORMAT, reasoning=f"not the fields {', '.join(slots)}, each once")

    return check


def _wanted(request: VerifyInput) -> list[str | int]:
    """The names, numbers, times and days that the request gives: a record of it has them all. Nothing of a form that has none fits."""
    given = _given(request.task.inputs["request"])
    return [mention.text if mention.value is None else int(mention.value) for mention in given]


def _given(asked: str) -> list[Mention]:
    found = []
    for mention in mentions(asked):
        after = asked[mention.start + len(mention.text) :][:1]
        names_nothing = mention.kind == "name" and (after == ":" or (mention.opens and after not in (",", "'", "’", " ")))
        if (
            mention.kind not in ("word", "code")
            and (mention.kind == "number" or len(mention.text) > 1)
            and not names_nothing
            and not _is_wording(mention, asked)
        ):
            found.append(mention)
    return found


def _is_wording(mention: Mention, asked: str) -> bool:
    """Whether a capital only opens a sentence: the word is a common one, as its like stand in every request of the kind."""
    return mention.kind == "name" and mention.opens and mention.key in _OPENING_WORDS


_OPENING_WORDS = frozenset(
    "please shipping schedule set on book hotel send turn the to departure we complaint request message order row line text note".split()
)


def _fits_slots(slots: Slots) -> Callable[[VerifyInput], VerificationResult]:
    """Every slot holds a value of its kind from the request, and no value fills more slots than it was given times."""

    def check(request: VerifyInput) -> VerificationResult:
        record = _record(request.output)
        asked: str = request.task.inputs["request"]
        given = mentions(asked)
        wrong = [key for key, kind in slots.items() if key in record and not _is_given(str(record[key]), kind, given)]
        told = Counter(mention.key for mention in given)
        used = Counter(str(value).casefold() for key, value in record.items() if key in slots)
        wrong += [value for value, count in used.items() if count > max(1, told[value])]
        if wrong:
            return VerificationResult.fail(ErrorType.CONTRADICTION, reasoning=f"a value in the wrong place: {', '.join(wrong)}")
        return VerificationResult.ok()

    return check


def _is_given(value: str, kind: str, given: list[Mention]) -> bool:
    return any(mention.text == value and kind in ("word", mention.kind) for mention in given)


def _record(output: Any) -> dict[str, Any]:
    if isinstance(output, dict):
        return output
    try:
        data = json.loads(output) if isinstance(output, str) else None
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
