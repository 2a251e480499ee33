"""What one document says, as plain data: headings, statements with figures, quotations, labels, links, licences, metadata.

Every statement is kept word for word (white space apart), because later steps quote it and a verifier looks it up again.
"""

from __future__ import annotations

import re
from email.parser import HeaderParser
from pathlib import Path
from typing import NotRequired, TypedDict
from urllib.parse import unquote

from examples.audit_documents.licences import declared_ids, licence_ids

__all__ = ["Facts", "Label", "Statement", "facts_of", "kind_of", "unread", "word_count"]

STATEMENTS_MAX = 4  # of one kind and document, so that a shard's output stays far below the store's limit
LABELS_MAX = 24
LINKS_MAX = 40
STATEMENT_CHARS = range(30, 320)
_LINE_CHARS_MAX = 4_000

_FENCE = re.compile(r"^\s*(```|~~~)")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$")
_LABEL = re.compile(r"^\s*(?:[-*]\s+)?\**([A-Z][\w /-]{1,38}?)\**\s*:\**\s+(\S.{0,119})$")
_LINK = re.compile(r"\[[^\]\[]+\]\(([\w./%#:-]+)\)")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9])")
_FIGURE = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:\s?%|x\b)?(?![\w.]*\d)")
_VERSION = re.compile(r"(?:\b[A-Z][\w/-]*|\bv|\bversions?|[#(]) ?\d[\w.]*\+?(?:(?:,| and| or)+ \d[\w.]*\+?)*|\d+\.\d+\.\d+\S*")
_TELLING = re.compile(r"\d\s?%|\d,\d{3}|\d\s?(?:times|x\b|ms\b|seconds|minutes|hours|days|years|[kmg]i?b\b|steps|runs)", re.IGNORECASE)
_QUOTATION = re.compile(r"[\"\u201c]([A-Z][^\"\u201c\u201d\n]{24,240}[.!?])[\"\u201d]")
_PLAIN = re.compile(r"[^\"\u201c\u201d\u00ab\u00bb<>|\[\]{}`*_\\=]+")


class Statement(TypedDict):
    """A sentence of a document, verbatim, and how telling it is (0 to 3)."""

    text: str
    weight: int


class Label(TypedDict):
    """A line such as ``Total budget: 1,200 EUR``."""

    label: str
    value: str
    line: str


class Facts(TypedDict):
    """All that later steps know of a document. `unread` is why it was not read, or ""."""

    name: str
    kind: str
    unread: str
    size_bytes: int
    sha256: str
    words: int
    title: str
    opening: str
    headings: list[str]
    figures: list[Statement]
    quotations: list[Statement]
    labels: list[Label]
    broken_links: list[str]
    licences: list[str]
    package: NotRequired[dict[str, str]]
    declared: NotRequired[dict[str, list[str]]]


def kind_of(name: str, text: str) -> str:
    """metadata, licence, notice (of authors and third parties) or text."""
    base = name.rsplit("/", 1)[-1].upper()
    if base in ("METADATA", "PKG-INFO") and "metadata-version:" in text[:2000].lower():
        return "metadata"
    if base.startswith(("LICEN", "COPYING", "UNLICEN")):
        return "licence"
    return "notice" if base.startswith(("NOTICE", "AUTHORS", "THIRD-PARTY")) else "text"


def word_count(text: str) -> int:
    """Words between white space."""
    return len(text.split())


def unread(name: str, size_bytes: int, sha256: str, why: str) -> Facts:
    """The facts of a document that was not read."""
    return _facts(name, size_bytes, sha256, why)


def facts_of(name: str, text: str, size_bytes: int, sha256: str, *, path: str) -> Facts:
    """The facts of a document whose text is known; `path` is where its relative links start."""
    facts = _facts(name, size_bytes, sha256, "")
    facts["kind"], facts["words"] = kind_of(name, text), word_count(text)
    prose = text
    if facts["kind"] == "metadata":
        prose = _read_metadata(facts, text)
    elif facts["kind"] == "licence":
        facts["licences"] = licence_ids(text)
    lines = _lines_without_code(prose)
    facts["headings"] = [found[1][:120] for line in lines if (found := _HEADING.match(line))][:LABELS_MAX]
    facts["title"] = facts["title"] or _title(lines)
    if facts["kind"] in ("text", "metadata"):
        _read_prose(facts, lines)
    if facts["kind"] == "text" and path.lower().endswith((".md", ".markdown")):
        facts["broken_links"] = _broken_links(lines, Path(path).parent)
    return facts


def _facts(name: str, size_bytes: int, sha256: str, why: str) -> Facts:
    return Facts(
        name=name,
        kind="unread" if why else "text",
        unread=why,
        size_bytes=size_bytes,
        sha256=sha256,
        words=0,
        title="",
        opening="",
        headings=[],
        figures=[],
        quotations=[],
        labels=[],
        broken_links=[],
        licences=[],
    )


def _read_metadata(facts: Facts, text: str) -> str:
    headers = HeaderParser().parsestr(text)
    wanted = ("Name", "Version", "License-Expression", "License", "Summary")
    get = {key: " ".join(str(headers.get(key) or "").split()) for key in wanted}
    facts["package"] = {"name": get["Name"], "version": get["Version"]}
    facts["title"] = get["Name"]
    facts["opening"] = get["Summary"] if _PLAIN.fullmatch(get["Summary"]) else ""
    classifiers = [str(one) for one in headers.get_all("Classifier") or () if str(one).startswith("License ::")]
    facts["declared"] = {
        "License-Expression": [get["License-Expression"]] if get["License-Expression"] else [],
        # Some packages paste the whole licence text here; its first words say which one it is.
        "License": [get["License"][:80]] if get["License"] else [],
        "Classifier": classifiers,
    }
    said = [get["License-Expression"], get["License"][:80], *(one.rpartition("::")[2] for one in classifiers)]
    facts["licences"] = sorted({found for one in said for found in declared_ids(one)})
    body = headers.get_payload()
    return body if isinstance(body, str) else ""


def _read_prose(facts: Facts, lines: list[str]) -> None:
    sentences = [one for paragraph in _paragraphs(lines) for one in _SENTENCE.split(paragraph)]
    whole = [one for one in sentences if _is_whole(one)]
    facts["opening"] = facts["opening"] or next(iter(whole), "")
    figures = [Statement(text=one, weight=_weight(one)) for one in whole if _FIGURE.search(_VERSION.sub("", one))]
    facts["figures"] = sorted(figures, key=lambda one: -one["weight"])[:STATEMENTS_MAX]
    quotations = dict.fromkeys(found for paragraph in _paragraphs(lines) for found in _QUOTATION.findall(paragraph))
    facts["quotations"] = [Statement(text=one, weight=1) for one in quotations if _PLAIN.fullmatch(one)][:STATEMENTS_MAX]
    if facts["kind"] == "text":
        found = [(match[1], match[2].strip(), line.strip()) for line in lines if (match := _LABEL.match(line))]
        facts["labels"] = [Label(label=label, value=value, line=line) for label, value, line in found][:LABELS_MAX]


def _broken_links(lines: list[str], folder: Path) -> list[str]:
    """Relative links that lead to nothing on disk. One that starts at a root or names a scheme cannot be judged here."""
    targets = dict.fromkeys(target.partition("#")[0] for line in lines for target in _LINK.findall(line))
    relative = [one for one in targets if one and ":" not in one and not one.startswith("/")]
    return [one for one in relative if not (folder / unquote(one)).exists()][:LINKS_MAX]


def _is_whole(sentence: str) -> bool:
    ends = sentence[:1].isupper() and sentence[-1:] in (".", "!", "?") and sentence.count("(") == sentence.count(")")
    return ends and len(sentence) in STATEMENT_CHARS and _PLAIN.fullmatch(sentence) is not None


def _weight(sentence: str) -> int:
    return min(3, len(_TELLING.findall(sentence)))


def _title(lines: list[str]) -> str:
    heading = next((found[1] for line in lines if (found := _HEADING.match(line))), None)
    title = heading or next((line for line in lines if line.strip()), "")
    title = " ".join(title.split())[:120]
    return title if _PLAIN.fullmatch(title) else ""


def _lines_without_code(text: str) -> list[str]:
    lines, fenced = [], False
    for line in text.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            lines.append(line[:_LINE_CHARS_MAX])
    return lines


def _paragraphs(lines: list[str]) -> list[str]:
    """Runs of plain lines joined by a blank; a heading, list item, table row or blank line begins a new one."""
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        words = line.strip()
        if not words or words.startswith(("#", "|", "=", "---", "..", ">")):
            paragraphs.append([])
            continue
        if re.match(r"(?:[-*+]|\d+[.)])\s", words):
            paragraphs.append([])
            words = re.sub(r"^(?:[-*+]|\d+[.)])\s+", "", words)
        paragraphs[-1].append(words)
    return [" ".join(" ".join(lines).split()) for lines in paragraphs if lines]
