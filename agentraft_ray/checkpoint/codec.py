"""Step outputs as plain bytes: msgpack there and back, and which type to read them back as. No pickle, no class names in data.

What may live here is the meaning of "plain data"; encryption is in `seal`, whose names are importable from here too.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import inspect
import sys
import types
import typing
import uuid
from collections import abc
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from typing import Any

import msgspec

from agentraft_ray.checkpoint.seal import EncryptingSeal, PlainSeal, Seal
from agentraft_ray.errors import LogCorrupted, OutputNotEncodable

__all__ = ["NESTING_MAX", "EncryptingSeal", "PlainSeal", "Seal", "decode_output", "encode_output", "output_type"]

NESTING_MAX = 200
"""Levels of lists, dicts and models in one output; well below where C code or Python runs out of stack."""

_PATH_CHARS_MAX = 200
_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_KEYS = frozenset({str, int})
_WRITTEN_AS_VALUE = (str, int, float, bytes, bytearray, memoryview, enum.Enum)
_WRITTEN_AS_TEXT = (dt.datetime, dt.date, dt.time, dt.timedelta, uuid.UUID, decimal.Decimal)
_CONTAINERS = {list, dict, tuple, abc.Sequence, abc.Mapping, types.UnionType, typing.Union}
_LEAVES = _WRITTEN_AS_VALUE + _WRITTEN_AS_TEXT
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1

_ADVICE: tuple[tuple[Any, str], ...] = (
    ((set, frozenset), "return a sorted list"),
    (types.CoroutineType, "await it before you return it"),
    ((Iterator, Generator, types.AsyncGeneratorType), "collect it into a list"),
    (complex, "return the two parts"),
    (types.FunctionType, "return data, not code"),
)


class _Misfit(ValueError):
    """What a pydantic model refused, and where inside it."""

    def __init__(self, reason: str, place: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.place = place

    @classmethod
    def of(cls, error: Any) -> _Misfit:
        """From pydantic's ValidationError."""
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        return cls(str(first["msg"]), place)


class _NotPlain(Exception):
    """A value that is not plain data; the path to it is found afterwards."""


def encode_output(value: Any) -> bytes:
    """`value` as msgpack bytes, the same on every store. The same value gives the same bytes.

    Plain data: None, bool, int (64 bit, from -2^63 to 2^64-1), float (also NaN and the infinities), str, bytes, list, tuple (read
    back as a list), dict with str or int keys. Dataclasses, attrs classes, named tuples, msgspec Structs and pydantic models are
    written as the data of their fields; `decode_output` makes the class again where it is told the type. A datetime with a time
    zone comes back as the same instant in UTC; without one, and for dates, times, UUIDs, Decimals and enums, what is written is
    their text or value, which the type turns back. Subclasses of str, int, float and bytes lose their class.

    Raises:
        OutputNotEncodable: anything else (sets, arrays, open files, bigger ints, lone surrogates, more than NESTING_MAX levels,
            cycles); `field` is the path to it, such as ``output["rows"][3].when``.
    """
    try:
        data = _encode(value)
        if type(value) not in _SCALARS:
            _require_plain(value)
    except (_NotPlain, TypeError, ValueError, OverflowError, RecursionError, AttributeError) as error:
        raise _named(value, error) from None
    return data


def decode_output(data: bytes, type: Any = None) -> Any:  # noqa: A002 - the word that msgspec and users know
    """The value that `data` was made of, always a fresh object; with `type` (see `output_type`), an instance of it.

    Fields that `type` does not have (the step returned a subclass of what it says) are dropped.

    Raises:
        LogCorrupted: the bytes are not msgpack.
        OutputNotEncodable: the data does not fit `type`; `field` is the path to what does not.
    """
    try:
        if type is None:
            return _decode_plain(data)
        return _reader(type)(data)
    except msgspec.ValidationError as error:
        if type is None:  # plain data fits everything: a timestamp that is none, say
            raise _not_as_written(error) from None
        reason, _, place = str(error).partition(" - at `$")
        inner = error.__cause__ if isinstance(error.__cause__, _Misfit) else _Misfit(reason, "")
        raise _misfit(type, inner.reason, place.rstrip("`") + inner.place) from None
    except _Misfit as error:
        raise _misfit(type, error.reason, error.place) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_as_written(error) from None


def _not_as_written(error: Exception) -> LogCorrupted:
    return LogCorrupted(f"an output in the log is not what was written ({error}): restore it, or fork the run before it")


def output_type(fn: Callable[..., Any]) -> Any:
    """What `decode_output` should make of the outputs of step function `fn`: its return annotation, or None for plain data.

    A type counts when some class of it would be lost in plain data (dataclass, attrs, named tuple, Struct, pydantic model), alone
    or inside list, dict, Optional and the like. None also when the annotation is missing, unknown, or cannot be read back.
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    routine: Any = fn if inspect.isroutine(fn) else type(fn).__call__
    try:
        annotation = typing.get_type_hints(inspect.unwrap(routine)).get("return")
    except (NameError, TypeError, AttributeError, SyntaxError):
        return None
    if not _names_a_model(annotation):
        return None
    try:
        _reader(annotation)
    except (TypeError, NameError, RuntimeError):  # no type that msgspec or pydantic reads, or one with names that are not there
        return None
    return annotation


# --- reading back ----------------------------------------------------------------------------------------------------------

_decode_plain = msgspec.msgpack.Decoder().decode


@functools.lru_cache(maxsize=1024)
def _reader(wanted: Any) -> Callable[[bytes], Any]:
    """A function from bytes to `wanted`. Raises TypeError where there cannot be one."""
    try:
        return msgspec.msgpack.Decoder(wanted, dec_hook=_make_model).decode
    except TypeError:
        if not _has_pydantic(wanted):
            raise
    # msgspec reads no union of two models; pydantic does, so it is asked for those alone.
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415

    adapter = TypeAdapter(wanted)

    def read(data: bytes) -> Any:
        try:
            return adapter.validate_python(_decode_plain(data), by_alias=True, by_name=True)
        except ValidationError as error:
            raise _Misfit.of(error) from None

    return read


def _make_model(wanted: Any, data: Any) -> Any:
    """For msgspec: a `wanted` of plain data. Raises NotImplementedError for classes that are no models."""
    if not _is_pydantic(wanted):
        raise NotImplementedError(f"cannot make {wanted!r} of plain data")
    from pydantic import ValidationError  # noqa: PLC0415

    try:
        return wanted.model_validate(data, by_alias=True, by_name=True)
    except ValidationError as error:
        raise _Misfit.of(error) from None


def _names_a_model(annotation: Any) -> bool:
    """Whether a model is in it, reached through nothing but unions and containers that data can be."""
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in _CONTAINERS:
        return any(map(_names_a_model, inside))
    kind = origin or annotation
    return inspect.isclass(kind) and _is_model(kind)


def _is_model(kind: type) -> bool:
    if dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct) or hasattr(kind, "__attrs_attrs__"):
        return True
    return _is_pydantic(kind) or (issubclass(kind, tuple) and hasattr(kind, "_fields"))


def _is_pydantic(kind: Any) -> bool:
    """Whether `kind` is a pydantic model, without importing pydantic: whoever has a model has imported it."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and inspect.isclass(kind) and issubclass(kind, pydantic.BaseModel)


def _has_pydantic(annotation: Any) -> bool:
    return _is_pydantic(annotation) or any(map(_has_pydantic, typing.get_args(annotation)))


# --- what is plain ---------------------------------------------------------------------------------------------------------


def _reduce(value: Any) -> Any:
    """For msgspec: what to write for a value that it does not know. Raises _NotPlain."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, bytes):
        return bytes(memoryview(value))
    if _is_pydantic(type(value)):
        return _fields_of_model(value)
    if _is_url(value):
        return str(value)
    raise _NotPlain


_encode = msgspec.msgpack.Encoder(enc_hook=_reduce).encode


def _fields_of_model(model: Any) -> Any:
    # By field name and without computed fields: what `model_validate(by_name=True)` takes back. Not mode="json": that would turn
    # secrets into asterisks and sets into lists of any order without a word.
    return model.model_dump(round_trip=True, warnings=False)


def _is_url(value: Any) -> bool:
    networks = sys.modules.get("pydantic.networks")
    return networks is not None and isinstance(value, getattr(networks, "_BaseUrl", ()))


def _require_plain(value: Any) -> None:
    """Raises _NotPlain for what msgspec would write although it cannot come back: sets, odd keys, too deep nesting.

    Goes down level by level, so that scalars, which most values are, are looked at in C.
    """
    level: Iterable[Any] = (value,)
    for _ in range(NESTING_MAX):
        if set(map(type, level)) <= _SCALARS:
            return
        inside: list[Iterable[Any]] = []
        keys: set[type] = set()
        for item in level:
            kind = type(item)
            if kind in _SCALARS:
                continue
            if kind is list or kind is tuple:
                inside.append(item)
                continue
            if isinstance(item, dict):
                keys.update(map(type, item))
            inside.append(item.values() if kind is dict else [below for _, below in _parts(item)])
        if not (keys <= _KEYS or all(issubclass(kind, (str, int)) for kind in keys)):
            raise _NotPlain
        level = inside[0] if len(inside) == 1 else list(chain.from_iterable(inside))
    raise _NotPlain


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """(path suffix, value) of what is directly inside `value`; nothing for leaves. Raises _NotPlain."""
    if isinstance(value, _LEAVES) or value is None or _is_url(value):
        return iter(())
    if isinstance(value, dict):
        return ((f"[{key!r}]" if not isinstance(key, str) else f'["{key}"]', item) for key, item in value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return ((f".{name}", item) for name, item in zip(value._fields, value, strict=False))
    if isinstance(value, (list, tuple)):
        return ((f"[{position}]", item) for position, item in enumerate(value))
    if _is_pydantic(type(value)):
        fields = _fields_of_model(value)
        return ((f".{name}", item) for name, item in fields.items()) if isinstance(fields, dict) else iter((("", fields),))
    return ((f".{name}", getattr(value, name)) for name in _field_names(value) if hasattr(value, name))


def _field_names(value: Any) -> Iterable[str]:
    kind = type(value)
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if dataclasses.is_dataclass(kind):
        return kind.__dataclass_fields__
    if hasattr(kind, "__attrs_attrs__"):
        return [attribute.name for attribute in kind.__attrs_attrs__]
    raise _NotPlain


# --- naming what is not ----------------------------------------------------------------------------------------------------


def _named(value: Any, error: Exception) -> OutputNotEncodable:
    path, why = _first_offence(value) or ("output", f"cannot be written as plain data ({type(error).__name__}: {error})")
    short = path if len(path) <= _PATH_CHARS_MAX else f"{path[: _PATH_CHARS_MAX // 2]}...{path[-_PATH_CHARS_MAX // 2 :]}"
    return OutputNotEncodable(f"{short} {why}", field=short)


def _first_offence(value: Any) -> tuple[str, str] | None:
    """The path to the first value that cannot be stored, and what is wrong with it. Depth first, so that a cycle ends at once."""
    stack: list[tuple[str, int, Any]] = [("output", 0, value)]
    while stack:
        path, depth, item = stack.pop()
        if depth >= NESTING_MAX and type(item) not in _SCALARS:
            return path, f"is nested more than {NESTING_MAX} levels deep or contains itself: return something flatter"
        why = _offence(item)
        if why:
            return path, why
        try:
            below = [(path + suffix, depth + 1, inner) for suffix, inner in _parts(item)]
        except (_NotPlain, TypeError, ValueError, AttributeError, RecursionError) as error:
            return path, _unknown_kind(item, error)
        stack.extend(reversed(below))
    return None


def _offence(item: Any) -> str | None:
    if isinstance(item, str) and not _is_utf8(item):
        return "contains a lone surrogate, which is no text: decode the bytes with errors='replace'"
    if isinstance(item, int) and not _INT_MIN <= item <= _INT_MAX:
        return "is an integer of more than 64 bits: return it as a str"
    if isinstance(item, dict):
        for key in item:
            if not isinstance(key, (str, int)):
                return f"has the key {key!r} of type {type(key).__name__}: keys must be str or int"
        if any(isinstance(key, str) and not _is_utf8(key) for key in item):
            return "has a key with a lone surrogate, which is no text: decode the bytes with errors='replace'"
        if any(isinstance(key, int) and not _INT_MIN <= key <= _INT_MAX for key in item):
            return "has a key that is an integer of more than 64 bits: use a str"
    return None


def _unknown_kind(item: Any, error: Exception) -> str:
    kind = type(item)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    advice = next((advice for kinds, advice in _ADVICE if isinstance(item, kinds)), None)
    if advice is None:
        advice = "call its .tolist()" if hasattr(item, "tolist") else "return plain data, a dataclass or a pydantic model"
    detail = "" if isinstance(error, _NotPlain) else f" ({error})"
    return f"is a {name}, which cannot be stored{detail}: {advice}"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _misfit(wanted: Any, reason: str, place: str) -> OutputNotEncodable:
    name = getattr(wanted, "__qualname__", None) or str(wanted)
    where = "output" + place
    return OutputNotEncodable(
        f"{where} does not fit the return annotation {name} of its step ({reason}): return that, or change the annotation",
        field=where,
    )
