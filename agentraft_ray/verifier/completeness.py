"""Completeness: what must be in an output is there. Deterministic; presence, not quality."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.pipeline import Criticality
from agentraft_ray.taxonomy import ErrorType, VerificationResult
from agentraft_ray.verifier.asking import answer_of
from agentraft_ray.verifier.base import Verifier, VerifyInput
from agentraft_ray.verifier.content import is_empty, normalised, render, structured
from agentraft_ray.verifier.sources import Sources

__all__ = ["CompletenessVerifier", "sections_of"]

Wanted = Iterable[Any] | Callable[[VerifyInput], Any] | None

_HEADING = re.compile(r"^[ ]{0,3}(?P<level>#{1,6})[ \t]+(?P<title>.*?)[ \t#]*$|^[ ]{0,3}\*\*(?P<bold>[^*\n]+)\*\*:?[ \t]*$")
_UNDERLINE = re.compile(r"^[ ]{0,3}(=+|-{2,})[ \t]*$")
_LABEL = re.compile(r"^[ ]{0,3}(?:[-*][ ])?\**(?P<title>[^\W\d_][^:\n*]{0,60})\**:\**[ \t]+\S")
_NUMBERING = re.compile(r"^(?:\d+(?:\.\d+)*[.)]?|[ivx]+\.|[a-z]\))\s+", re.IGNORECASE)
_BOLD_LEVEL = 7


class CompletenessVerifier(Verifier):
    """Rejects as INCOMPLETE an output that lacks something required, and names what is missing.

    `required`: for data outputs (or their JSON text) dotted keys with something in them; for text, sections with something below
    their heading, or where the text has none of that name, the words themselves. `sections`, `keys` and `values` say which kind
    is meant: a section must be a heading, a key must be filled (None and blank are not, 0 and False are), a value must be
    repeated somewhere in the output (numbers by value, text as whole words). Each is a list or a function of the request.

    Raises InvalidConfig when nothing is required.
    """

    def __init__(
        self,
        required: Wanted = None,
        *,
        sections: Wanted = None,
        keys: Wanted = None,
        values: Wanted = None,
        version: str = "",
    ) -> None:
        asked = {"required": required, "section": sections, "key": keys, "value": values}
        self._wanted = {kind: _kept(wanted) for kind, wanted in asked.items() if wanted is not None}
        self._version = version
        if not self._wanted:
            raise InvalidConfig("a completeness verifier needs required=, sections=, keys= or values=")

    @property
    def name(self) -> str:
        return "completeness"

    @property
    def identity(self) -> str:
        listed = {kind: "fn" if callable(wanted) else list(wanted) for kind, wanted in self._wanted.items()}
        return f"completeness({listed}, version={self._version!r})"

    def uses_model(self, criticality: Criticality) -> bool:
        return False

    async def verify(self, request: VerifyInput) -> VerificationResult:
        if is_empty(request.output):
            return self._reject(["anything: the output is empty"])
        output = structured(request.output)
        missing: list[str] = []
        for kind, wanted in self._wanted.items():
            items = _listed(await answer_of(wanted, request)) if callable(wanted) else wanted
            missing.extend(_missing(kind, items, output))
        if missing:
            return self._reject(missing)
        return VerificationResult.ok(reasoning="nothing required is missing", verifier=self.name)

    def _reject(self, missing: list[str]) -> VerificationResult:
        named = "; ".join(missing)
        return VerificationResult.fail(
            ErrorType.INCOMPLETE,
            hint=f"The output is incomplete. Missing: {named}. Add it.",
            reasoning=f"missing: {named}",
            verifier=self.name,
            evidence=tuple(missing),
        )


def _kept(wanted: Any) -> Any:
    return wanted if callable(wanted) else tuple(_listed(wanted))


def _listed(wanted: Any) -> Sequence[Any]:
    return (wanted,) if isinstance(wanted, (str, int, float)) else tuple(wanted)


def _missing(kind: str, items: Sequence[Any], output: Any) -> Iterator[str]:
    is_data = isinstance(output, (Mapping, list, tuple))
    if kind == "key" or (kind == "required" and is_data):
        yield from (f"key {item}" for item in items if not _filled(output, str(item)))
        return
    text = render(output)
    if kind == "value":
        words = Sources([output])
        yield from (f"value {item}" for item in items if not _repeated(item, words))
        return
    sections = sections_of(text)
    words = Sources([text])
    for item in items:
        filled = sections.get(_title(str(item)))
        if filled is None and not (kind == "required" and words.has_phrase(str(item))):
            yield f"section {item}" if kind == "section" else str(item)
        elif filled is False:
            yield f"section {item} (it is there but empty)"


def _repeated(item: Any, words: Sources) -> bool:
    if isinstance(item, (int, float)) and not isinstance(item, bool):
        return words.has_value(item)
    return words.has_phrase(str(item))


def _filled(output: Any, path: str) -> bool:
    """Whether something stands at the dotted path; a key that itself has dots is tried whole first."""
    if isinstance(output, Mapping) and path in output:
        found = output[path]
        return found is not None and not is_empty(found)
    head, _, rest = path.partition(".")
    if isinstance(output, Mapping):
        return bool(rest) and head in output and _filled(output[head], rest)
    if isinstance(output, (list, tuple)) and output:
        if head.isdecimal():
            return int(head) < len(output) and (_filled(output[int(head)], rest) if rest else not is_empty(output[int(head)]))
        return all(isinstance(item, Mapping) and _filled(item, path) for item in output)
    fields = getattr(output, "__dict__", None)
    return isinstance(fields, dict) and _filled(fields, path)


def sections_of(text: str) -> dict[str, bool]:
    """Title (folded, without numbering) -> whether anything but headings stands below it, subsections included.

    Headings are Markdown's ``#`` and underlined ones, bold lines, and ``Label: text`` lines; not in fenced code.
    """
    filled: dict[str, bool] = {}
    open_titles: list[tuple[int, str]] = []
    for level, title, content in _lines(text.splitlines()):
        if title:
            while open_titles and open_titles[-1][0] >= level:
                open_titles.pop()
            open_titles.append((level, title))
            filled.setdefault(title, False)
        if content:
            for _, above in open_titles:
                filled[above] = True
    return filled


def _lines(lines: list[str]) -> Iterator[tuple[int, str, bool]]:
    """(level, folded title or "", whether the line has content) of every line; labels have the deepest level."""
    fenced = False
    for at, line in enumerate(lines):
        fence = line.lstrip().startswith(("```", "~~~"))
        fenced ^= fence
        if fenced or fence:
            yield 0, "", not fence
        elif found := _HEADING.match(line):
            level = len(found.group("level") or "") or _BOLD_LEVEL
            yield level, _title(found.group("title") or found.group("bold") or ""), False
        elif at and _UNDERLINE.match(line):
            continue  # belongs to the heading above, or is a rule
        elif line.strip() and at + 1 < len(lines) and (under := _UNDERLINE.match(lines[at + 1])):
            yield 1 if under.group(1).startswith("=") else 2, _title(line), False
        elif label := _LABEL.match(line):
            yield _BOLD_LEVEL + 1, _title(label.group("title")), True
        else:
            yield 0, "", bool(line.strip())


def _title(text: str) -> str:
    return _NUMBERING.sub("", normalised(text).strip("*_# ")).strip(" .:*_")
