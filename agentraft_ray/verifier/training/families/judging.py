"""The exact truth about an answer: right, or wrong and of which class. Fixed rules, in a fixed order; no model, no tolerance.

Does not parse -> FORMAT. A required part is missing or empty -> INCOMPLETE. A value stands nowhere in the request -> HALLUCINATION,
and where that goes for all values of a record, it is somebody else's record -> GOAL_DRIFT. A given value in the wrong place, or a
computed one that comes out otherwise -> CONTRADICTION. All is right, and more was added -> SCOPE_CREEP.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from agentraft_ray.errors import ErrorType
from agentraft_ray.verifier.training.families.item import Form, Item

__all__ = ["judge", "record_of"]

_WORD = re.compile(r"[^\W_]+(?:[.:-][^\W_]+)*")
_CLAIM = re.compile(r"\b(?:[A-Z]\w*|\d[\d:.-]*\d|\d)\b")
_DAYS = frozenset("monday tuesday wednesday thursday friday saturday sunday".split())
_MONTHS = frozenset("january february march april may june july august september october november december".split())


def judge(item: Item, output: str) -> ErrorType:
    """`ErrorType.NONE` if `output` is exactly right, else the class of what is wrong with it.

    >>> judge(Item("Numbers: 3 and 8\\nLarger:", "8"), "3")
    <ErrorType.CONTRADICTION: 'CONTRADICTION'>
    """
    answer, gold = output.strip(), item.gold.strip()
    if _same(item, answer, gold):
        return ErrorType.NONE
    if not answer:
        return ErrorType.INCOMPLETE
    for foil, kind in item.foils:
        if answer.casefold() == foil.casefold():
            return kind
    return _CLASSES[item.form](item, answer, gold)


def _same(item: Item, answer: str, gold: str) -> bool:
    if item.form == "json":
        try:
            return bool(json.loads(answer) == json.loads(gold))
        except (ValueError, RecursionError):
            return False
    if item.form == "pairs":
        return [part.strip().casefold() for part in answer.split(";")] == [part.strip().casefold() for part in gold.split(";")]
    return answer == gold or (item.any_case and answer.casefold() == gold.casefold())


def record_of(form: Form, text: str) -> dict[str, Any] | None:
    """The slots of an answer that has some, else None: ``a=1; b=2``, ``a=1 b=2``, or a JSON object."""
    if form == "json":
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            return None
        return data if isinstance(data, dict) else None
    pieces = text.split(";") if form == "pairs" else text.split()
    found: dict[str, Any] = {}
    for piece in pieces:
        key, sign, value = piece.partition("=")
        if not sign or not key.strip() or key.strip() in found:
            return None
        found[key.strip()] = value.strip()
    return found


def _class_of_value(item: Item, answer: str, gold: str) -> ErrorType:
    words, wanted = _words(answer), _words(gold)
    if wanted and len(words) > len(wanted) and _contains(words, wanted):
        return ErrorType.SCOPE_CREEP
    if len(words) > len(wanted) + 2:
        return ErrorType.FORMAT if _grounded(answer, item) else ErrorType.HALLUCINATION
    if _grounded(answer, item):
        return ErrorType.CONTRADICTION
    return ErrorType.HALLUCINATION


def _class_of_computed(item: Item, answer: str, gold: str) -> ErrorType:
    words, wanted = _words(answer), _words(gold)
    if wanted and len(words) > len(wanted) and _contains(words, wanted):
        return ErrorType.SCOPE_CREEP
    if _kind(answer) == _kind(gold):
        return ErrorType.CONTRADICTION  # it can be recomputed from what was given
    if len(words) > len(wanted) + 2:
        return ErrorType.FORMAT
    return ErrorType.CONTRADICTION if _grounded(answer, item) else ErrorType.HALLUCINATION


def _class_of_record(item: Item, answer: str, gold: str) -> ErrorType:
    found, wanted = record_of(item.form, answer), record_of(item.form, gold)
    if found is None or wanted is None:
        return ErrorType.FORMAT
    if any(key not in found or found[key] in ("", None, [], {}) for key in wanted):
        return ErrorType.INCOMPLETE
    wrong = {key: found[key] for key in wanted if not _equal(found[key], wanted[key])}
    if not wrong:
        return ErrorType.SCOPE_CREEP if len(found) > len(wanted) else ErrorType.FORMAT
    if all(_written(found[key]) == _written(wanted[key]) for key in wrong):
        return ErrorType.FORMAT  # the right values in the wrong type
    return _class_of_slots(item, found, wrong, wanted)


def _class_of_slots(item: Item, found: Mapping[str, Any], wrong: Mapping[str, Any], wanted: Mapping[str, Any]) -> ErrorType:
    outside = [key for key, value in wrong.items() if not _grounded(_written(value), item)]
    if len(wanted) > 1 and len(outside) == len(wanted):
        return ErrorType.GOAL_DRIFT
    if outside or any(key not in wanted and not _grounded(_written(value), item) for key, value in found.items()):
        return ErrorType.HALLUCINATION
    return ErrorType.CONTRADICTION


def _class_of_state(item: Item, answer: str, gold: str) -> ErrorType:
    found, wanted = record_of("state", answer), record_of("state", gold)
    if found is None or wanted is None:
        return ErrorType.FORMAT
    if any(key not in wanted for key in found):
        return ErrorType.HALLUCINATION
    return ErrorType.INCOMPLETE if len(found) < len(wanted) else ErrorType.CONTRADICTION


def _class_of_list(item: Item, answer: str, gold: str) -> ErrorType:
    found, wanted = _listed(answer), _listed(gold)
    if found is None or wanted is None:
        return ErrorType.FORMAT
    if any(not _grounded(one, item) for one in found):
        return ErrorType.HALLUCINATION
    have, need = Counter(found), Counter(wanted)
    if need - have:
        return ErrorType.INCOMPLETE
    return ErrorType.SCOPE_CREEP if have - need else ErrorType.CONTRADICTION


def _class_of_sentence(item: Item, answer: str, gold: str) -> ErrorType:
    wanted = _CLAIM.findall(gold)
    claims = _CLAIM.findall(answer)
    if any(not _grounded(claim, item) and claim not in wanted for claim in claims):
        return ErrorType.HALLUCINATION
    if not set(wanted) <= set(claims):
        return ErrorType.INCOMPLETE
    if _contains(_words(answer), _words(gold)):
        return ErrorType.SCOPE_CREEP
    return ErrorType.CONTRADICTION


_CLASSES: Mapping[Form, Callable[[Item, str, str], ErrorType]] = {
    "value": _class_of_value,
    "computed": _class_of_computed,
    "json": _class_of_record,
    "pairs": _class_of_record,
    "state": _class_of_state,
    "list": _class_of_list,
    "sentence": _class_of_sentence,
}


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _contains(words: list[str], wanted: list[str]) -> bool:
    return any(words[at : at + len(wanted)] == wanted for at in range(len(words) - len(wanted) + 1))


def _grounded(text: str, item: Item) -> bool:
    """Whether all words of `text` stand in the request."""
    given = set(_words(item.request))
    return bool(_words(text)) and all(word in given for word in _words(text))


def _equal(found: Any, wanted: Any) -> bool:
    if isinstance(found, str) and isinstance(wanted, str):
        return found == wanted
    return type(found) is type(wanted) and bool(found == wanted)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _listed(text: str) -> list[str] | None:
    inner = text.strip()
    if inner[:1] == "[":
        try:
            data = json.loads(inner)
        except (ValueError, RecursionError):
            return None
        return [_written(one) for one in data] if isinstance(data, list) else None
    return [part.strip() for part in inner.split(",")]


def _kind(text: str) -> str:
    folded = text.strip().casefold()
    if re.fullmatch(r"-?\d+(?:[.,]\d+)?%?", folded):
        return "number"
    if re.fullmatch(r"\d{1,2}:\d{2}", folded):
        return "time"
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", folded):
        return "date"
    return "day" if folded in _DAYS else "month" if folded in _MONTHS else "word" if len(folded.split()) == 1 else "text"
