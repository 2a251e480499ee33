"""Writing the report as claims: each carries the counts that it states and the words that it quotes, with their source.

There are two ways to write. `BRIEF` is how a hurried reader likes it: big figures rounded, long quotations cut, nothing after a
page. On small inputs it is right and short; on real ones it rounds and cuts, which the verifiers notice. `CAREFUL` does none of
it. A retry gives up the habit that its hint objects to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypedDict

from agentraft_ray import ErrorType
from examples.audit_documents.crosscheck import FINDINGS, Finding, Quote
from examples.audit_documents.facts import Facts, Statement

__all__ = ["BRIEF", "CAREFUL", "SECTIONS", "Claim", "Draft", "Material", "Style", "material_of", "style_for", "write"]

SECTIONS = ("Summary", "Documents", "Figures", "Quotations", "Licences", "Findings", "Not read")
_SHOWN = {"Documents": 30, "Figures": 25, "Quotations": 10, "Not read": 50}
_FINDINGS_SHOWN = 12  # of a kind
_DOCUMENTS_NAMED = 3  # in one finding


class Claim(TypedDict):
    """One line of the report. Every number in `text` is one of `counts` or stands in `quotes`."""

    text: str
    counts: dict[str, int]
    quotes: list[Quote]


Draft = dict[str, list[Claim]]
"""Heading -> claims, in the order of SECTIONS; a section is never empty, "None." is a claim too."""


class Material(TypedDict):
    """What the writer works from, already bounded: made by the cross-check."""

    counts: dict[str, int]
    documents: list[Facts]
    figures: list[Quote]
    quotations: list[Quote]
    findings: list[Finding]
    unread: list[Facts]


@dataclass(frozen=True, slots=True)
class Style:
    """How to write: figures over `round_from` are rounded, quotations cut at `quote_chars`, the report ends at `report_chars`."""

    round_from: int | None = None
    quote_chars: int | None = None
    report_chars: int | None = None


CAREFUL = Style()
BRIEF = Style(round_from=10_000, quote_chars=160, report_chars=6_000)


def style_for(attempt: int, hint: ErrorType) -> Style:
    """Brief at first; the retry drops the habit that the verdict objects to; from the second retry on all of them."""
    if attempt == 0:
        return BRIEF
    if attempt > 1:
        return CAREFUL
    if hint is ErrorType.INCOMPLETE:
        return replace(BRIEF, report_chars=None)
    return replace(CAREFUL, report_chars=BRIEF.report_chars)


def material_of(all_facts: list[Facts], findings: list[Finding], counts: dict[str, int]) -> Material:
    """The most telling part of the facts, bounded, with the counts that concern it."""
    read = [one for one in all_facts if not one["unread"]]
    texts = [one for one in read if one["kind"] in ("text", "metadata")]
    documents = sorted(texts or read, key=lambda one: (one["kind"] != "text", -one["words"], one["name"]))[: _SHOWN["Documents"]]
    named = {f"words of {one['name']}" for one in documents}
    return Material(
        counts={name: count for name, count in counts.items() if not name.startswith("words of ") or name in named},
        documents=documents,
        figures=_best([(one, one["figures"]) for one in texts], _SHOWN["Figures"]),
        quotations=_best([(one, one["quotations"]) for one in texts], _SHOWN["Quotations"]),
        findings=findings,
        unread=[one for one in all_facts if one["unread"]][: _SHOWN["Not read"]],
    )


def write(material: Material, style: Style) -> Draft:
    """The report in `style`, in the order of SECTIONS."""
    counts = material["counts"]
    writers = {
        "Summary": _summary(counts, style),
        "Documents": [_document(one, counts, style) for one in material["documents"]],
        "Figures": [_claim("", quotes=[_cut(one, style)]) for one in material["figures"]],
        "Quotations": [_claim("", quotes=[_cut(one, style)]) for one in material["quotations"]],
        "Licences": list(_licences(counts, style)),
        "Findings": list(_findings(material["findings"], counts, style)),
        "Not read": [_claim(f"`{one['name']}`: {one['unread']}.") for one in material["unread"]],
    }
    draft: Draft = {}
    length = 0
    for heading in SECTIONS:
        claims = writers[heading] or [_claim("None.")]
        length += sum(len(one["text"]) + sum(len(quote["text"]) for quote in one["quotes"]) for one in claims)
        if style.report_chars and length > style.report_chars:
            break
        draft[heading] = claims
    return draft


def _claim(text: str, counts: dict[str, int] | None = None, quotes: list[Quote] | None = None) -> Claim:
    return Claim(text=text, counts=counts or {}, quotes=quotes or [])


def _say(count: int, style: Style) -> str:
    if style.round_from is None or count < style.round_from:
        return f"{count:,}"
    digits = len(str(count)) - 2
    return f"about {round(count, -digits):,}"


def _noun(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"


def _cut(quote: Quote, style: Style) -> Quote:
    if style.quote_chars is None or len(quote["text"]) <= style.quote_chars:
        return quote
    half = style.quote_chars // 2
    text = quote["text"]
    return Quote(text=f"{text[:half].rsplit(' ', 1)[0]} ... {text[-half:].split(' ', 1)[-1]}", source=quote["source"])


def _best(groups: list[tuple[Facts, list[Statement]]], limit: int) -> list[Quote]:
    """The weightiest statements; each further one of the same document counts for less."""
    ranked = sorted(
        (-one["weight"] + rank, facts["kind"] != "text", facts["name"], one["text"])
        for facts, statements in groups
        for rank, one in enumerate(statements)
    )
    unique = {text: name for *_, name, text in reversed(ranked)}
    return [Quote(text=text, source=unique[text]) for text in dict.fromkeys(text for *_, text in ranked)][:limit]


def _summary(counts: dict[str, int], style: Style) -> list[Claim]:
    def line(text: str, *names: str) -> Claim:
        said = [f"{_say(counts[name], style)} {_noun(counts[name], name[:-1])}" for name in names]
        return _claim(text.format(*said), {name: counts[name] for name in names})

    return [
        line("{}, among them {}.", "documents", "unread documents"),
        line("{} in {}.", "words", "bytes"),
        line("{} and {}.", "packages", "licence texts"),
        line("{} to look at.", "findings"),
    ]


def _document(facts: Facts, counts: dict[str, int], style: Style) -> Claim:
    name = f"words of {facts['name']}"
    quotes = [Quote(text=text, source=facts["name"]) for text in (facts["opening"] or facts["title"],) if text]
    text = f"`{facts['name']}`, {_say(counts[name], style)} {_noun(counts[name], 'word')}"
    return _claim(text, {name: counts[name]}, [_cut(one, style) for one in quotes])


def _licences(counts: dict[str, int], style: Style) -> Iterator[Claim]:
    for name, count in counts.items():
        if name.startswith("packages under "):
            yield _claim(f"{name.removeprefix('packages under ')}: {_say(count, style)} {_noun(count, 'package')}", {name: count})


def _findings(findings: list[Finding], counts: dict[str, int], style: Style) -> Iterator[Claim]:
    for kind, title in FINDINGS.items():
        group = [one for one in findings if one["kind"] == kind]
        if not group:
            continue
        total = f"findings: {kind}"
        more = ", the first ones here" if len(group) > _FINDINGS_SHOWN else ""
        yield _claim(f"**{title}**: {_say(counts[total], style)}{more}.", {total: counts[total]})
        for one in group[:_FINDINGS_SHOWN]:
            where = ", ".join(f"`{name}`" for name in one["documents"][:_DOCUMENTS_NAMED])
            others = " and others" if len(one["documents"]) > _DOCUMENTS_NAMED else ""
            yield _claim(
                f"{one['subject']} ({where}{others})" if one["subject"] else f"{where}{others}",
                quotes=[_cut(quote, style) for quote in one["quotes"]],
            )
