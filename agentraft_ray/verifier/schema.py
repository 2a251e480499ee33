"""Form: an output has the shape that a JSON Schema, a pydantic model or a Python type describes. Nothing is coerced."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from agentraft_ray.config import Limits
from agentraft_ray.errors import InvalidConfig
from agentraft_ray.pipeline import Criticality
from agentraft_ray.taxonomy import ErrorType, VerificationResult
from agentraft_ray.verifier.base import Verifier, VerifyInput
from agentraft_ray.verifier.content import is_empty, plain, strict_json

__all__ = ["SchemaVerifier"]

_EVIDENCE_MAX = Limits().evidence_max
_STRUCTURE_KEYS = frozenset(("properties", "required", "items", "prefixItems", "additionalProperties", "$ref", "allOf", "anyOf", "oneOf"))


class _Flaw(NamedTuple):
    place: str
    what: str
    missing: bool


class SchemaVerifier(Verifier):
    """Rejects an output that does not have the form: FORMAT, or INCOMPLETE where all that is wrong is that required parts lack.

    `schema` is a JSON Schema (a dict; needs the `schema` extra), a pydantic model, or any type that msgspec understands
    (dataclass, TypedDict, Struct, ``list[int]``). Types are taken strictly: ``"15"`` is no number. Where the form is not a text,
    a text output is read as JSON, whole and without repair. The verdict says where: ``minutes: Expected `int`, got `str```. Empty
    lists and objects pass where the form allows them.

    Raises InvalidConfig for a schema that is none, or when the package that reads it is not installed.
    """

    def __init__(self, schema: Any, *, name: str = "schema") -> None:
        self._name = name
        if isinstance(schema, Mapping):
            self._flaws, self._is_text = _json_schema(dict(schema)), not _describes_structure(schema)
            shape = json.dumps(schema, sort_keys=True, default=repr)
        elif hasattr(schema, "model_validate_json"):
            self._flaws, self._is_text = _pydantic(schema), False
            shape = json.dumps(schema.model_json_schema(), sort_keys=True, default=repr)
        else:
            self._flaws, self._is_text = _python_type(schema), schema is str
            shape = _shape_of(schema)
        self._identity = f"{name}({hashlib.sha256(shape.encode()).hexdigest()[:16]})"

    @property
    def name(self) -> str:
        return self._name

    @property
    def identity(self) -> str:
        return self._identity

    def uses_model(self, criticality: Criticality) -> bool:
        return False

    async def verify(self, request: VerifyInput) -> VerificationResult:
        output = request.output
        if is_empty(output) and not isinstance(output, (dict, list, tuple)):
            return self._reject([_Flaw("", "the output is empty", True)])
        try:
            data = strict_json(output) if isinstance(output, str) and not self._is_text else plain(output)
        except (TypeError, ValueError) as problem:
            return self._reject([_Flaw("", f"the output is not JSON: {problem}", False)])
        try:
            flaws = self._flaws(data)
        except RecursionError:
            flaws = [_Flaw("", "the output is nested too deeply", False)]
        if flaws:
            return self._reject(flaws)
        return VerificationResult.ok(reasoning="it has the required form", verifier=self.name)

    def _reject(self, flaws: list[_Flaw]) -> VerificationResult:
        error_type = ErrorType.INCOMPLETE if all(flaw.missing for flaw in flaws) else ErrorType.FORMAT
        said = [f"{flaw.place}: {flaw.what}" if flaw.place else flaw.what for flaw in flaws[:_EVIDENCE_MAX]]
        more = f" (and {len(flaws) - len(said)} more)" if len(flaws) > len(said) else ""
        return VerificationResult.fail(
            error_type,
            hint=f"The output does not have the required form. {'; '.join(said)}{more}.",
            reasoning="; ".join(said) + more,
            verifier=self.name,
            evidence=tuple(said),
        )


def _describes_structure(schema: Mapping[str, Any]) -> bool:
    """Whether a text is not what this JSON Schema asks for, so that a text output must be the JSON of something."""
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds:
        return "string" not in kinds
    return not _STRUCTURE_KEYS.isdisjoint(schema)


def _json_schema(schema: dict[str, Any]) -> Callable[[Any], list[_Flaw]]:
    try:
        import jsonschema  # noqa: PLC0415 - an extra
        from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415
    except ImportError:
        raise InvalidConfig("a JSON Schema needs the jsonschema package: pip install 'agentraft-ray[schema]'") from None
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as problem:
        raise InvalidConfig(f"this is no JSON Schema: {problem.message}") from None
    # An explicit registry: the default one would fetch an unknown $ref over the network.
    validator = kind(schema, registry=REGISTRY, format_checker=jsonschema.FormatChecker())

    def flaws(data: Any) -> list[_Flaw]:
        errors = sorted(validator.iter_errors(data), key=lambda error: [str(part) for part in error.absolute_path])
        return [_Flaw(_path(error.absolute_path), _said(error), error.validator == "required") for error in errors]

    return flaws


def _said(error: Any) -> str:
    # The library's messages quote the offending value; a hint must not, so say what the schema wants instead.
    if error.validator == "required":
        return str(error.message)
    if error.validator == "additionalProperties":
        return "has keys that are not allowed"
    return f"must satisfy {error.validator}: {json.dumps(error.validator_value, default=repr)[:120]}"


def _pydantic(model: Any) -> Callable[[Any], list[_Flaw]]:
    import pydantic  # noqa: PLC0415 - only for those who hand in a model of it

    def flaws(data: Any) -> list[_Flaw]:
        try:
            model.model_validate_json(json.dumps(data), strict=True)
        except pydantic.ValidationError as problem:
            return [
                _Flaw(_path(error["loc"]), str(error["msg"]), error["type"] == "missing")
                for error in problem.errors(include_url=False, include_context=False, include_input=False)
            ]
        return []

    return flaws


def _python_type(kind: Any) -> Callable[[Any], list[_Flaw]]:
    try:
        msgspec.inspect.type_info(kind)
        decoder = msgspec.json.Decoder(kind, strict=True)
    except (TypeError, NameError) as problem:
        raise InvalidConfig(f"{kind!r} is neither a JSON Schema, a pydantic model nor a type of data: {problem}") from None

    def flaws(data: Any) -> list[_Flaw]:
        try:
            decoder.decode(json.dumps(data))
        except msgspec.ValidationError as problem:
            what, _, place = str(problem).partition(" - at `$")
            return [_Flaw(place.rstrip("`").lstrip("."), what, what.startswith("Object missing required field"))]
        return []

    return flaws


def _shape_of(kind: Any) -> str:
    try:
        return json.dumps(msgspec.json.schema(kind), sort_keys=True)
    except TypeError:
        return repr(kind)


def _path(parts: Any) -> str:
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".")
