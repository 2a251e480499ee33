"""Comparing documents with each other: what contradicts, what is missing, and the counts that the report may state.

Pure functions of the extracted facts, so that a verifier can compute them a second time.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TypedDict

from examples.audit_documents.facts import Facts
from examples.audit_documents.licences import declared_ids

__all__ = ["FINDINGS", "Finding", "Quote", "counts_of", "cross_check", "packages_of"]

FINDINGS = {
    "licence_mismatch": "Declared licence and licence text differ",
    "declarations_differ": "A package declares two different licences",
    "no_licence_text": "No licence text among the package's papers",
    "no_licence_declared": "No licence that could be recognised is declared",
    "two_versions": "One package in two versions",
    "labels_differ": "The same label has different figures in different documents",
    "broken_link": "A link leads to no file",
    "same_text": "Several files hold the same text",
}
_GROUPS_MAX = 200  # findings of one kind; a directory that has more has one problem, not many
_LABEL_DOCUMENTS_MAX = 8  # a label in more documents is a field of a form, and is meant to differ
_EMPTY_LABELS = frozenset({"copyright", "default", "example", "note", "status"})
_FIGURE_VALUE = re.compile(r"(\d[\d,.]*)\s?[A-Za-z%\u20ac$\u00a3]{0,12}\.?")


class Quote(TypedDict):
    """Words that stand in `source` exactly as given, white space apart."""

    text: str
    source: str


class Finding(TypedDict):
    """One thing that a reader should look at, with the words that show it; `subject` may be ""."""

    kind: str
    subject: str
    documents: list[str]
    quotes: list[Quote]


def counts_of(all_facts: list[Facts], findings: list[Finding]) -> dict[str, int]:
    """Every count that the report may state, by the name that its claims use."""
    read = [one for one in all_facts if not one["unread"]]
    counts = {
        "documents": len(all_facts),
        "unread documents": len(all_facts) - len(read),
        "bytes": sum(one["size_bytes"] for one in all_facts),
        "words": sum(one["words"] for one in read),
        "packages": sum(1 for one in read if "package" in one),
        "licence texts": sum(1 for one in read if one["kind"] == "licence"),
        "findings": len(findings),
    }
    counts.update({f"findings: {kind}": sum(1 for one in findings if one["kind"] == kind) for kind in FINDINGS})
    counts.update({f"packages under {name}": number for name, number in _licence_shares(read).items()})
    counts.update({f"words of {one['name']}": one["words"] for one in read})
    return counts


def packages_of(all_facts: list[Facts]) -> dict[str, tuple[Facts, list[Facts]]]:
    """Folder -> (the package's metadata, the licence texts below that folder)."""
    packages: dict[str, tuple[Facts, list[Facts]]] = {
        posixpath.dirname(one["name"]): (one, []) for one in all_facts if one["kind"] == "metadata" and not one["unread"]
    }
    for one in all_facts:
        if one["kind"] != "licence":
            continue
        folder = posixpath.dirname(one["name"])
        while folder and folder not in packages:
            folder = posixpath.dirname(folder)
        if folder in packages:
            packages[folder][1].append(one)
    return packages


def cross_check(all_facts: list[Facts]) -> list[Finding]:
    """All findings, grouped by kind in the order of FINDINGS, each kind sorted by subject."""
    found = [*_licence_findings(all_facts), *_two_versions(all_facts), *_labels(all_facts), *_same_text(all_facts)]
    found += _broken_links(all_facts)
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for finding in sorted(found, key=lambda one: (one["subject"], one["documents"])):
        by_kind[finding["kind"]].append(finding)
    return [finding for kind in FINDINGS for finding in by_kind[kind][:_GROUPS_MAX]]


def _licence_shares(read: list[Facts]) -> dict[str, int]:
    shares: Counter[str] = Counter()
    for metadata, texts in packages_of(read).values():
        ids = metadata["licences"] or sorted({found for text in texts for found in text["licences"]})
        shares[" / ".join(ids) or "no recognised licence"] += 1
    return dict(shares.most_common())


def _licence_findings(all_facts: list[Facts]) -> Iterator[Finding]:
    for metadata, texts in packages_of(all_facts).values():
        name, declared = metadata["package"]["name"], set(metadata["licences"])
        in_texts = {found for text in texts for found in text["licences"]}
        documents = [metadata["name"], *(text["name"] for text in texts)]
        quotes = [Quote(text=one, source=metadata["name"]) for said in metadata["declared"].values() for one in said][:3]
        if declared and in_texts and not declared & in_texts:
            quotes += [Quote(text=text["title"], source=text["name"]) for text in texts if text["title"]][:3]
            yield Finding(kind="licence_mismatch", subject=name, documents=documents, quotes=quotes)
        if not texts:
            yield Finding(kind="no_licence_text", subject=name, documents=documents, quotes=quotes)
        if not declared:
            yield Finding(kind="no_licence_declared", subject=name, documents=documents[:1], quotes=quotes)
        yield from _declarations(metadata)


def _declarations(metadata: Facts) -> Iterator[Finding]:
    said = {
        words: set(declared_ids(words.rpartition("::")[2]))
        for field in ("License-Expression", "License", "Classifier")
        for words in metadata["declared"][field]
    }
    known = [words for words, ids in said.items() if ids]
    if len(known) > 1 and not set.intersection(*(said[words] for words in known)):
        quotes = [Quote(text=words, source=metadata["name"]) for words in known]
        subject = metadata["package"]["name"]
        yield Finding(kind="declarations_differ", subject=subject, documents=[metadata["name"]], quotes=quotes)


def _two_versions(all_facts: list[Facts]) -> Iterator[Finding]:
    versions: dict[str, list[Facts]] = defaultdict(list)
    for one in all_facts:
        if "package" in one:
            versions[re.sub(r"[-_.]+", "-", one["package"]["name"]).lower()].append(one)
    for name, papers in versions.items():
        if len({one["package"]["version"] for one in papers}) > 1:
            quotes = [Quote(text=f"Version: {one['package']['version']}", source=one["name"]) for one in papers]
            yield Finding(kind="two_versions", subject=name, documents=[one["name"] for one in papers], quotes=quotes)


def _labels(all_facts: list[Facts]) -> Iterator[Finding]:
    """The same label with two figures in two documents; a label that varies within one document is a heading of a list."""
    said: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    lines: dict[tuple[str, str], str] = {}
    for one in all_facts:
        for label in one["labels"]:
            if figure := _FIGURE_VALUE.fullmatch(label["value"]):
                key = " ".join(label["label"].lower().split())
                said[key][one["name"]].add(figure[1].replace(",", "").rstrip("."))
                lines[key, one["name"]] = label["line"]
    for key, by_document in said.items():
        single = {name: next(iter(figures)) for name, figures in by_document.items() if len(figures) == 1}
        if key not in _EMPTY_LABELS and len(by_document) <= _LABEL_DOCUMENTS_MAX and len(set(single.values())) > 1:
            documents = sorted(single)
            quotes = [Quote(text=lines[key, name], source=name) for name in documents[:4]]
            yield Finding(kind="labels_differ", subject=key, documents=documents, quotes=quotes)


def _same_text(all_facts: list[Facts]) -> Iterator[Finding]:
    same: dict[str, list[str]] = defaultdict(list)
    for one in all_facts:
        # Licence texts are meant to be copies; that is no finding.
        if one["kind"] == "text" and not one["unread"] and one["size_bytes"]:
            same[one["sha256"]].append(one["name"])
    for names in same.values():
        if len(names) > 1:
            yield Finding(kind="same_text", subject="", documents=names, quotes=[])


def _broken_links(all_facts: list[Facts]) -> Iterator[Finding]:
    for one in all_facts:
        for link in one["broken_links"]:
            quotes = [Quote(text=link, source=one["name"])]
            yield Finding(kind="broken_link", subject="", documents=[one["name"]], quotes=quotes)
