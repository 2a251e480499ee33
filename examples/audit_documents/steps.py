"""The steps of the audit: plain functions of a step context that return plain data."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, TypedDict

from agentraft_ray import ErrorType, StepContext
from agentraft_ray.errors import CORRECTION_HINTS
from examples.audit_documents import corpus, report
from examples.audit_documents.crosscheck import Finding, counts_of, cross_check
from examples.audit_documents.draft import Draft, Material, material_of, style_for, write
from examples.audit_documents.facts import Facts, facts_of, unread, word_count

__all__ = ["CrossCheck", "Listed", "Published", "Review", "Survey", "class_of", "facts_in", "read_text", "shard_of"]


class Listed(TypedDict):
    """A document as the survey saw it."""

    name: str
    path: str
    size_bytes: int
    sha256: str


class Survey(TypedDict):
    """Which documents this run is about."""

    digest: str
    documents: list[Listed]


class CrossCheck(TypedDict):
    """What the comparison found, and what the writer works from."""

    findings: list[Finding]
    material: Material


class Review(TypedDict):
    """The second look at the draft, straight from the files: what was checked, and what is wrong."""

    checked: dict[str, int]
    problems: list[str]


class Published(TypedDict):
    """Where the report stands."""

    path: str
    sha256: str


def survey(ctx: StepContext) -> Survey:
    """List the documents again and see that they are those that the task names."""
    documents = corpus.collect(ctx.task.inputs["directory"], without=report.path_in(ctx.task.inputs["out"]))
    listed = [Listed(name=one.name, path=one.path, size_bytes=one.size_bytes, sha256=one.sha256) for one in documents]
    return Survey(digest=corpus.corpus_digest(documents), documents=listed)


def extract(ctx: StepContext) -> list[Facts]:
    """The facts of every document of one shard. UTF-8 is tried alone at first; a retry looks for other encodings too."""
    shard = int(ctx.step_name.rpartition("_")[2])
    return [_facts(one, tolerant=ctx.is_retry) for one in shard_of(ctx.outputs["survey"], shard, ctx.task.inputs["shards"])]


def compare(ctx: StepContext) -> CrossCheck:
    """Cross-check the facts of all shards."""
    all_facts = facts_in(ctx.outputs)
    findings = cross_check(all_facts)
    return CrossCheck(findings=findings, material=material_of(all_facts, findings, counts_of(all_facts, findings)))


def draft(ctx: StepContext) -> Draft:
    """Write the report, the way that the last verdict leaves open."""
    return write(ctx.outputs["cross_check"]["material"], style_for(ctx.attempt, class_of(ctx.hint)))


def review(ctx: StepContext) -> Review:
    """Look at the draft with fresh eyes: recount from the files and find every quotation in its source."""
    listed: list[Listed] = ctx.outputs["survey"]["documents"]
    claims = [claim for claims in ctx.outputs["draft"].values() for claim in claims]
    quotes = [quote for claim in claims for quote in claim["quotes"]]
    quoted = {quote["source"]: "" for quote in quotes}
    recounted = {"documents": len(listed), "unread documents": 0, "words": 0, "bytes": sum(one["size_bytes"] for one in listed)}
    for one in listed:
        text = read_text(one["path"])
        if text is None:
            recounted["unread documents"] += 1
            continue
        recounted["words"] += word_count(text)
        if one["name"] in quoted:
            quoted[one["name"]] = " ".join(text.split())
    stated = {name: count for claim in claims for name, count in claim["counts"].items()}
    differing = [(name, count) for name, count in recounted.items() if stated.get(name) != count]
    problems = [f"the report states {stated.get(name)} {name}, the files hold {count}" for name, count in differing]
    missing = [quote for quote in quotes if " ".join(quote["text"].split()) not in quoted[quote["source"]]]
    problems += [f"{quote['source']} does not say: {quote['text'][:80]}" for quote in missing]
    return Review(checked={"claims": len(claims), "counts": len(stated), "quotations": len(quotes)}, problems=problems)


def publish(ctx: StepContext) -> Published:
    """Write the reviewed draft to the folder that the task names."""
    text = report.render(ctx.outputs["draft"], ctx.run_id)
    path = report.publish(ctx.task.inputs["out"], text, ctx.idempotency_key)
    return Published(path=path, sha256=hashlib.sha256(text.encode()).hexdigest())


def class_of(hint: str | None) -> ErrorType:
    """The class of a typed hint, by which correction text it opens with. NONE where there is no hint."""
    opening = _opening(hint or "")
    return next((kind for kind, text in CORRECTION_HINTS.items() if _opening(text) == opening), ErrorType.NONE)


def shard_of(survey: Survey, shard: int, shards: int) -> list[Listed]:
    """Every `shards`-th document, so that big folders spread over all shards."""
    return survey["documents"][shard::shards]


def facts_in(outputs: Mapping[str, Any]) -> list[Facts]:
    """The facts of all extract steps among `outputs`, sorted by document name."""
    found = [one for name in outputs if name.startswith("extract_") for one in outputs[name]]
    return sorted(found, key=lambda one: str(one["name"]))


def read_text(path: str) -> str | None:
    """The text of a file in whatever encoding, or None where it is none."""
    data = corpus.read_bytes(path)
    if data is None or corpus.is_binary(data) or len(data) > corpus.DOCUMENT_BYTES_MAX:
        return None
    return corpus.decode(data, tolerant=True)


def _opening(hint: str) -> str:
    return re.split(r"[.:]", hint, maxsplit=1)[0]


def _facts(listed: Listed, *, tolerant: bool) -> Facts:
    known = listed["name"], listed["size_bytes"], listed["sha256"]
    data = corpus.read_bytes(listed["path"])
    if data is None:
        return unread(*known, "cannot be opened")
    if len(data) > corpus.DOCUMENT_BYTES_MAX:
        return unread(*known, "too long to be a document")
    if corpus.is_binary(data):
        return unread(*known, "not a text file")
    text = corpus.decode(data, tolerant=tolerant)
    return unread(*known, "not UTF-8") if text is None else facts_of(listed["name"], text, *known[1:], path=listed["path"])
