"""What an output states, as fields: of JSON, of ``key=value`` pairs, of a list, or the one text that it is."""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NamedTuple

from agentraft_ray.verifier.content import leaves

__all__ = ["Field", "Form", "Stated", "stated_in"]

Form = Literal["empty", "object", "list", "pairs", "text", "broken"]

_PAIR = re.compile(r"(?P<key>[A-Za-z_][\w ]{0,30}?)\s*=\s*(?P<value>[^=;,\n]*?)\s*(?=[;,\n]|\s[A-Za-z_]\w*\s*=|$)")
_CELLS = re.compile(r"[,>|](?!\d{3}\b)")
_CELL_WORDS_MAX = 2
_BROKEN_PAIR = re.compile(r"\"(?P<key>\w+)\"\s*:\s*(?:\"(?P<text>[^\"]*)\"?|(?P<bare>[-\w.]+))")


class Field(NamedTuple):
    """One value with the key or place that it stands at ("" in a plain text) and its text; `quoted` = a string in JSON."""

    key: str
    text: str
    quoted: bool = False


class Stated(NamedTuple):
    """The fields of an output, its form, and the keys that it has twice."""

    form: Form
    fields: tuple[Field, ...]
    twice: tuple[str, ...] = ()


def stated_in(output: str) -> Stated:
    """The fields of an output. Broken JSON is not repaired: its form says so, its readable pairs are still listed."""
    text = output.strip()
    if not text:
        return Stated("empty", ())
    if text[0] in "{[":
        return _of_json(text)
    pairs = [(found.group("key").strip(), found.group("value").strip()) for found in _PAIR.finditer(text)]
    if pairs:
        return Stated("pairs", tuple(Field(key, value) for key, value in pairs), _twice([key for key, _ in pairs]))
    cells = [cell.strip() for cell in _CELLS.split(text)]
    if len(cells) > 1 and all(1 <= len(cell.split()) <= _CELL_WORDS_MAX for cell in cells):
        return Stated("list", tuple(Field("", cell) for cell in cells))
    return Stated("text", (Field("", text),))


def _of_json(text: str) -> Stated:
    seen: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen.extend(_twice([key for key, _ in pairs]))
        return dict(pairs)

    try:
        data = json.loads(text, object_pairs_hook=note)
    except (ValueError, RecursionError):
        found = [
            Field(pair.group("key"), pair.group("text") or pair.group("bare") or "", pair.group("text") is not None)
            for pair in _BROKEN_PAIR.finditer(text)
        ]
        return Stated("broken", tuple(found) or (Field("", text.strip("{}[] ")),), _twice([field.key for field in found]))
    fields = tuple(Field(place, _written(leaf), isinstance(leaf, str)) for place, leaf in leaves(data))
    return Stated("list" if isinstance(data, list) else "object", fields, tuple(seen))


def _written(leaf: Any) -> str:
    return leaf if isinstance(leaf, str) else json.dumps(leaf, default=str)


def _twice(keys: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for position, key in enumerate(keys) if key in keys[:position]))
