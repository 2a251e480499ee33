"""Grounding: what an output states must stand in its allowed sources. Deterministic; knows texts, not truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from agentraft_ray.config import Limits
from agentraft_ray.errors import CORRECTION_HINTS
from agentraft_ray.pipeline import Criticality
from agentraft_ray.taxonomy import ErrorType, VerificationResult
from agentraft_ray.verifier.asking import answer_of
from agentraft_ray.verifier.base import Verifier, VerifyInput
from agentraft_ray.verifier.content import is_empty, leaves, normalised, structured
from agentraft_ray.verifier.mentions import names, numbers, quotations
from agentraft_ray.verifier.sources import Sources

__all__ = ["GroundingVerifier", "given_to"]

_EVIDENCE_MAX = Limits().evidence_max
_EXCERPT_CHARS_MAX = 120
_QUOTATION_WORDS_MIN = 2  # a single quoted word is a term, not a quotation

Given = Callable[[VerifyInput], Any] | Iterable[Any]


def given_to(request: VerifyInput) -> list[Any]:
    """What the step was given: the goals, the task's inputs and the committed outputs before it. The default sources."""
    return [request.task.goal, request.step.goal, request.task.inputs, *(output for _, output in request.history)]


class GroundingVerifier(Verifier):
    """Rejects as HALLUCINATION an output with a number, name or quotation that stands in none of its sources.

    `sources`: texts or data, or a (sync or async) function of the request that returns them; default `given_to`. `allow`: more
    values that may be stated, such as computed ones; likewise values or a function. Numbers are compared by value (1,000 is
    1000.0, 45% is 0.45), names by their words, quotations word for word. `slots` maps places of a data output (``city``,
    ``items[0].id``) to what that very place may repeat: a dotted path into ``{"goal", "inputs", "history"}`` or a function.

    What it cannot see: names without capitals, a single capitalised word that opens a sentence, keys of data unless `keys`, and
    whether a true number is used for the right thing outside of `slots`. An output without any claim passes.
    """

    def __init__(
        self,
        sources: Given | None = None,
        *,
        allow: Given = (),
        slots: Mapping[str, str | Callable[[VerifyInput], Any]] | None = None,
        numbers: bool = True,
        names: bool = True,
        quotations: bool = True,
        keys: bool = False,
        version: str = "",
    ) -> None:
        self._sources: Given = given_to if sources is None else _kept(sources)
        self._allow = _kept(allow)
        self._slots = dict(slots or {})
        self._checks = {"number": numbers, "name": names, "quotation": quotations}
        self._keys = keys
        self._version = version

    @property
    def name(self) -> str:
        return "grounding"

    @property
    def identity(self) -> str:
        checks = "+".join(kind for kind, wanted in self._checks.items() if wanted)
        slots = ",".join(f"{place}={path if isinstance(path, str) else 'fn'}" for place, path in sorted(self._slots.items()))
        return f"grounding({checks}, slots=[{slots}], keys={self._keys}, version={self._version!r})"

    def uses_model(self, criticality: Criticality) -> bool:
        return False

    async def verify(self, request: VerifyInput) -> VerificationResult:
        if is_empty(request.output):
            return VerificationResult.fail(ErrorType.INCOMPLETE, reasoning="the output is empty", verifier=self.name)
        output = structured(request.output)
        given = await _resolved(self._sources, request)
        sources = Sources([*given, *await _resolved(self._allow, request)])
        found = list(self._ungrounded(output, sources))
        for place, path in self._slots.items():
            found.extend(await self._wrong_slot(place, path, output, request))
        if not found:
            return VerificationResult.ok(reasoning="all it states stands in its sources", verifier=self.name)
        return self._reject(found)

    def _ungrounded(self, output: Any, sources: Sources) -> Iterator[tuple[str, str, str]]:
        """(kind, place, what) of every claim that stands in no source."""
        for place, leaf in leaves(output, keys=self._keys):
            if isinstance(leaf, str):
                yield from self._ungrounded_in(leaf, place, sources)
            elif self._checks["number"] and _is_number(leaf) and not sources.has_value(leaf):
                yield "number", place, str(leaf)

    def _ungrounded_in(self, text: str, place: str, sources: Sources) -> Iterator[tuple[str, str, str]]:
        if self._checks["quotation"]:
            for quoted, start in quotations(text):
                if len(quoted.split()) >= _QUOTATION_WORDS_MIN and not sources.has_quotation(quoted):
                    yield "quotation", _place(text, place, start), quoted
        if self._checks["number"]:
            for number in numbers(text):
                if not sources.has_number(number):
                    yield "number", _place(text, place, number.start), number.text
        if self._checks["name"]:
            for name in names(text):
                if not sources.has_name(name):
                    yield "name", _place(text, place, name.start), name.text

    async def _wrong_slot(
        self, place: str, path: str | Callable[[VerifyInput], Any], output: Any, request: VerifyInput
    ) -> list[tuple[str, str, str]]:
        stated = [leaf for where, leaf in leaves(output) if where == place or where.startswith((f"{place}.", f"{place}["))]
        if not stated:
            return []
        given = _at(path, request) if isinstance(path, str) else await answer_of(path, request)
        slot = Sources([given])
        wrong = [leaf for leaf in stated if not _repeats(leaf, slot)]
        return [("value in the wrong place", place, str(leaf)) for leaf in wrong]

    def _reject(self, found: list[tuple[str, str, str]]) -> VerificationResult:
        kinds: dict[str, list[str]] = {}
        for kind, place, _ in found:
            kinds.setdefault(kind, []).append(place)
        counts = "; ".join(f"{len(places)} {kind}{'s' * (len(places) > 1)} at {_some(places)}" for kind, places in kinds.items())
        return VerificationResult.fail(
            ErrorType.HALLUCINATION,
            hint=f"{CORRECTION_HINTS[ErrorType.HALLUCINATION]} Not in the sources: {counts}.",
            reasoning=f"not in the sources: {counts}",
            verifier=self.name,
            evidence=tuple(f"{kind} at {place}: {what[:_EXCERPT_CHARS_MAX]}" for kind, place, what in found[:_EVIDENCE_MAX]),
        )


def _kept(given: Given) -> Given:
    # A generator would be empty at the second verdict; a text is one source, not its letters.
    if callable(given):
        return given
    return (given,) if isinstance(given, (str, bytes, Mapping)) else tuple(given)


async def _resolved(given: Given, request: VerifyInput) -> list[Any]:
    found = await answer_of(given, request) if callable(given) else given
    if isinstance(found, (str, bytes, Mapping)) or not isinstance(found, Iterable):
        return [found]
    return list(found)


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, (int, float)) and not isinstance(leaf, bool)


def _repeats(leaf: Any, slot: Sources) -> bool:
    if isinstance(leaf, bool) or leaf is None:
        return True
    if isinstance(leaf, (int, float)):
        return slot.has_value(leaf)
    text = leaf if isinstance(leaf, str) else str(leaf)
    stated = list(numbers(text, list_marks=True))
    if len(stated) == 1 and stated[0].value is not None and normalised(stated[0].text) == normalised(text):
        return slot.has_number(stated[0])
    return slot.has_phrase(text)


def _at(path: str, request: VerifyInput) -> Any:
    """What stands at a dotted path, such as ``inputs.order.city`` or ``history.extract.name``; None where nothing does."""
    node: Any = {"goal": request.task.goal, "inputs": request.task.inputs, "history": dict(request.history)}
    for part in path.split("."):
        if isinstance(node, Mapping):
            node = node.get(part)
        elif isinstance(node, (list, tuple)) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        else:
            return None
    return node


def _place(text: str, place: str, start: int) -> str:
    line = text.count("\n", 0, start) + 1 if "\n" in text else 0
    return " ".join(part for part in (place, f"line {line}" if line else "") if part) or "the text"


def _some(places: list[str]) -> str:
    distinct = list(dict.fromkeys(places))
    return ", ".join(distinct[:5]) + (f" and {len(distinct) - 5} more places" if len(distinct) > 5 else "")
