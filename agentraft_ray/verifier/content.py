"""What an output says, whatever its type: its leaves with their places, its text, whether it is empty. Pure functions."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Set
from typing import Any

import msgspec

__all__ = ["is_empty", "leaves", "normalised", "plain", "render", "strict_json", "structured"]

_QUOTES = str.maketrans({"“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‘": "'", "’": "'", "‚": "'", "‐": "-", "‑": "-"})
_SPACES = re.compile(r"\s+")


def is_empty(output: Any) -> bool:
    """Whether there is nothing in `output`: None, blank text or bytes, an empty container. Numbers and booleans say something."""
    if isinstance(output, str):
        return not output[:1].isalnum() and _is_blank(output)
    if isinstance(output, (bytes, bytearray)):
        return not output.strip()
    if output is None:
        return True
    return isinstance(output, (Mapping, list, tuple, Set)) and len(output) == 0


def _is_blank(text: str) -> bool:
    # Zero-width and other format characters are neither seen nor `isspace`.
    return all(char.isspace() or unicodedata.category(char) in ("Cf", "Cc") for char in text)


def leaves(value: Any, *, keys: bool = False) -> Iterator[tuple[str, Any]]:
    """(place, leaf) of everything in `value`, in order; places read ``a.b[0]``, "" is the value itself.

    With `keys` the keys of mappings come too, at the place of what they name. Any depth; what contains itself is entered once.
    """
    open_ids: set[int] = set()
    stack: list[tuple[str, Any, bool]] = [("", value, False)]
    while stack:
        place, item, leaving = stack.pop()
        if leaving:
            open_ids.discard(item)
            continue
        children = _children(place, item)
        if children is None:
            yield place, item
            continue
        if id(item) in open_ids:
            continue
        open_ids.add(id(item))
        if keys:
            yield from ((child_place, key) for child_place, key, _ in children if key is not None)
        stack.append(("", id(item), True))
        stack.extend((child_place, child, False) for child_place, _, child in reversed(children))


def _children(place: str, item: Any) -> list[tuple[str, Any, Any]] | None:
    """(place, key or None, child) of a container, None for a leaf."""
    if item is None or isinstance(item, (str, bytes, bool, int, float)):
        return None
    fields = _fields(item)
    if fields is not None:
        return [(f"{place}.{key}" if place else str(key), key, child) for key, child in fields.items()]
    if isinstance(item, (list, tuple, Set)):
        return [(f"{place}[{position}]", None, child) for position, child in enumerate(item)]
    return None


def _fields(item: Any) -> Mapping[Any, Any] | None:
    if isinstance(item, Mapping):
        return item
    if isinstance(item, msgspec.Struct):
        return msgspec.structs.asdict(item)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {field.name: getattr(item, field.name, None) for field in dataclasses.fields(item)}
    # Pydantic models, without importing pydantic.
    if hasattr(type(item), "model_fields") and isinstance(getattr(item, "__dict__", None), dict):
        return dict(vars(item))
    return None


def plain(value: Any) -> Any:
    """`value` as JSON-like data: dataclasses, structs and models become dicts, tuples and sets become lists.

    Raises TypeError for what is not data, ValueError for a number that is not finite or a value that contains itself or is nested
    too deeply.
    """
    try:
        return json.loads(json.dumps(value, default=_plain_node, allow_nan=False))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _plain_node(item: Any) -> Any:
    fields = _fields(item)
    if fields is not None:
        return dict(fields)
    if isinstance(item, Set):
        return list(item)
    built: Any = msgspec.to_builtins(item)  # dates, UUIDs, enums, decimals; TypeError for anything else
    return built


def render(value: Any) -> str:
    """The whole of `value` as text for a reader; nothing is left out. Text stays as it is, data becomes indented JSON."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, (bytes, bytearray)):
        text = bytes(value).decode("utf-8", "backslashreplace")
    else:
        text = _render_data(value)
    # A lone surrogate cannot leave the process as UTF-8.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _render_data(value: Any) -> str:
    try:
        return json.dumps(value, default=_render_node, ensure_ascii=False, indent=1)
    except (TypeError, ValueError, RecursionError):
        return "\n".join(f"{place or 'value'}: {_text_of(leaf)}" for place, leaf in leaves(value))


def _render_node(item: Any) -> Any:
    fields = _fields(item)
    if fields is not None:
        return dict(fields)
    return list(item) if isinstance(item, Set) else _text_of(item)


def _text_of(leaf: Any) -> str:
    return leaf if isinstance(leaf, str) else repr(leaf)


def normalised(text: str) -> str:
    """`text` as it is compared: NFKC, one kind of quote and hyphen, single spaces, case folded."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_QUOTES)).translate(_QUOTES)
    return _SPACES.sub(" ", text).strip().casefold()


def strict_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for anything else, also for NaN, infinities, a key twice, or absurd depth."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def structured(output: Any) -> Any:
    """`output`, or the object or list that it spells out where it is the JSON text of one."""
    if isinstance(output, str) and output.lstrip()[:1] in ("{", "["):
        try:
            return strict_json(output)
        except ValueError:
            return output
    return output


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is too large for a number")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found
