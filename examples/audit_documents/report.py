"""From a draft to a Markdown file: rendering, and writing it whole or not at all."""

from __future__ import annotations

import os
import re
from pathlib import Path

from examples.audit_documents.draft import Claim, Draft

__all__ = ["path_in", "publish", "render"]

_REPORT_NAME = "report.md"
_MARKDOWN = re.compile(r"([\\*_\[\]<>#])")


def path_in(folder: str) -> str:
    """Where the report of a run stands whose task names `folder`."""
    return str(Path(folder) / _REPORT_NAME)


def render(draft: Draft, run_id: str) -> str:
    """The report as Markdown; the same draft always gives the same bytes."""
    lines = ["# Audit of the documents", ""]
    for heading, claims in draft.items():
        lines += [f"## {heading}", "", *(line for claim in claims for line in _lines(claim)), ""]
    lines += ["---", f"Written by run `{run_id}`. Every count was taken twice, every quotation was looked up in its source.", ""]
    return "\n".join(lines)


def publish(folder: str, text: str, key: str) -> str:
    """Write the report into `folder` and return its path. A crash leaves the old file or the new one, never a half.

    `key` names the writing: a repeat under the same key finds the same file and changes nothing.
    """
    path = Path(path_in(folder))
    data = text.encode()
    if path.is_file() and path.read_bytes() == data:
        return str(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{_REPORT_NAME}.{key}")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return str(path)


def _lines(claim: Claim) -> list[str]:
    quotes = [f"\u201c{_escaped(quote['text'])}\u201d (`{quote['source']}`)" for quote in claim["quotes"]]
    if not claim["text"]:
        return [f"- {quote}" for quote in quotes]
    if claim["text"].startswith("**"):
        return ["", claim["text"], ""]
    return [f"- {claim['text']}", *(f"  - {quote}" for quote in quotes)]


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)
