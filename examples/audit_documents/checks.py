"""What each step's output must stand up to before it commits: recounts, completeness, and grounding in the files themselves."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentraft_ray import ErrorType, RulesVerifier, TieredVerifier, VerificationResult, Verifier, VerifyInput
from agentraft_ray.errors import CORRECTION_HINTS
from agentraft_ray.verifier import CompletenessVerifier, GroundingVerifier, QuorumVerifier
from examples.audit_documents import corpus, report
from examples.audit_documents.crosscheck import counts_of, cross_check
from examples.audit_documents.draft import SECTIONS, Claim
from examples.audit_documents.facts import Facts
from examples.audit_documents.steps import facts_in, read_text, shard_of

__all__ = ["audit_verifier"]

_NAME = re.compile(r"`([^`]+)`")
_NAMED = 3  # documents or claims that a hint names


def audit_verifier() -> Verifier:
    """Rules first, then the check that belongs to the step."""
    # A document may well quote a traceback, so that error signatures say nothing about the step here.
    rules = RulesVerifier(forbid_error_signatures=False)
    draft = QuorumVerifier([CompletenessVerifier(required=list(SECTIONS)), Recounted(), Grounded()], rule="veto")
    checks: dict[str, Verifier] = {
        "survey": SameCorpus(),
        "extract": EveryTextRead(),
        "cross_check": ComparedAgain(),
        "draft": draft,
        "review": NoProblemsLeft(),
        "publish": ReadBack(),
    }
    return TieredVerifier(l1=rules, l2=ByStep(checks))


class ByStep(Verifier):
    """Hands the output to the verifier of its step; `extract_3` belongs to `extract`."""

    def __init__(self, checks: Mapping[str, Verifier]) -> None:
        self._checks = dict(checks)

    @property
    def identity(self) -> str:
        return f"by-step({', '.join(f'{name}: {check.identity}' for name, check in self._checks.items())})"

    async def verify(self, request: VerifyInput) -> VerificationResult:
        kind = request.step.name
        while kind not in self._checks:
            kind = kind.rpartition("_")[0]
        return await self._checks[kind].verify(request)


class FileCheck(Verifier):
    """A check that reads files or computes for a while: it runs in a thread, off the event loop."""

    async def verify(self, request: VerifyInput) -> VerificationResult:
        return await asyncio.to_thread(self.check, request)

    def check(self, request: VerifyInput) -> VerificationResult:
        """The verdict; may block."""
        raise NotImplementedError

    def passed(self, reasoning: str) -> VerificationResult:
        """A pass that says what was checked."""
        return VerificationResult.ok(reasoning=reasoning, verifier=self.name)

    def rejected(self, kind: ErrorType, what: str, blame: str | None = None) -> VerificationResult:
        """A rejection whose hint begins with the correction text of its class, so that a retry knows what to change."""
        hint = f"{CORRECTION_HINTS[kind]} ({what})"
        return VerificationResult.fail(kind, hint=hint, reasoning=what, verifier=self.name, evidence=(what,), blame=blame)


class SameCorpus(FileCheck):
    """The documents are still those that the task was made for."""

    def check(self, request: VerifyInput) -> VerificationResult:
        if request.output["digest"] != request.task.inputs["corpus"]:
            return self.rejected(ErrorType.CONTRADICTION, "the documents changed since the run was started; start a new run")
        return self.passed("same names and contents as in the task")


class EveryTextRead(FileCheck):
    """Every document of the shard is there, unchanged, and those that are text were read."""

    def check(self, request: VerifyInput) -> VerificationResult:
        shard = int(request.step.name.rpartition("_")[2])
        listed = shard_of(_output(request, "survey"), shard, request.task.inputs["shards"])
        facts: dict[str, Facts] = {one["name"]: one for one in request.output}
        absent = [one["name"] for one in listed if one["name"] not in facts]
        # A file that holds text in some encoding counts as text, whatever the step made of it.
        unread = [one for one in listed if one["name"] in facts and facts[one["name"]]["unread"]]
        skipped = [one["name"] for one in unread if _is_text(one["path"])]
        if absent or skipped:
            return self.rejected(ErrorType.INCOMPLETE, f"text files that were not read: {_some(absent + skipped)}")
        return self.passed(f"{len(listed)} documents accounted for")


class ComparedAgain(FileCheck):
    """The findings and counts come out the same when they are computed a second time."""

    def check(self, request: VerifyInput) -> VerificationResult:
        all_facts = facts_in(dict(request.history))
        findings = cross_check(all_facts)
        counts = counts_of(all_facts, findings)
        stated = request.output["material"]["counts"]
        if request.output["findings"] != findings or any(counts.get(name) != count for name, count in stated.items()):
            return self.rejected(ErrorType.CONTRADICTION, "the findings or counts differ from a second computation")
        return self.passed(f"{len(findings)} findings computed twice")


class Recounted(FileCheck):
    """Every count that a claim carries is what the facts give."""

    def check(self, request: VerifyInput) -> VerificationResult:
        counts = _counts(request)
        stated = [(name, count) for claim in _claims(request) for name, count in claim["counts"].items()]
        wrong = [f"{name} is {counts.get(name)}, not {count}" for name, count in stated if counts.get(name) != count]
        if wrong:
            return self.rejected(ErrorType.CONTRADICTION, _some(wrong))
        return self.passed(f"{len(stated)} counts recomputed")


class Grounded(FileCheck):
    """Every quotation stands in the document that the claim names, and every number of a claim is its count or quoted."""

    def check(self, request: VerifyInput) -> VerificationResult:
        # Long documents take seconds to index; a loop of its own keeps that off the one that runs everything else.
        return asyncio.run(self._judge(request))

    async def _judge(self, request: VerifyInput) -> VerificationResult:
        claims = _claims(request)
        paths = {one["name"]: one["path"] for one in _output(request, "survey")["documents"]}
        quotes: dict[str, list[str]] = defaultdict(list)
        for claim in claims:
            for quote in claim["quotes"]:
                quotes[quote["source"]].append(f"\u201c{quote['text']}\u201d")
        wrong = []
        for source, texts in quotes.items():
            document = read_text(paths[source]) if source in paths else None
            verifier = GroundingVerifier(sources=[document or ""])
            wrong += _unfounded(await verifier.verify(replace(request, output="\n".join(texts))))
        for claim in claims:
            allowed = [f"{name} {count}" for name, count in claim["counts"].items()]
            allowed += [quote["text"] for quote in claim["quotes"]]
            allowed += [name for name in _NAME.findall(claim["text"]) if name in paths]
            if claim["text"]:
                # The words between the figures are the writer's own, so that names in them need no source.
                verifier = GroundingVerifier(sources=allowed, names=False)
                wrong += _unfounded(await verifier.verify(replace(request, output=claim["text"])))
        if wrong:
            return self.rejected(ErrorType.HALLUCINATION, f"not in the sources: {_some(wrong)}")
        return self.passed(f"{len(claims)} claims looked up in {len(quotes)} documents")


class NoProblemsLeft(FileCheck):
    """The review looked at every claim and found nothing; if it did find something, the draft is the suspect."""

    def check(self, request: VerifyInput) -> VerificationResult:
        claims = sum(len(claims) for claims in _output(request, "draft").values())
        if request.output["checked"]["claims"] != claims:
            return self.rejected(ErrorType.INCOMPLETE, f"the draft makes {claims} claims, all of them have to be reviewed")
        if request.output["problems"]:
            return self.rejected(ErrorType.CONTRADICTION, _some(request.output["problems"]), blame="draft")
        return self.passed(f"{claims} claims reviewed")


class ReadBack(FileCheck):
    """The file holds exactly the reviewed draft."""

    def check(self, request: VerifyInput) -> VerificationResult:
        path = Path(request.output["path"])
        if not path.is_file():
            return self.rejected(ErrorType.INCOMPLETE, f"there is no file {path}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != request.output["sha256"]:
            return self.rejected(ErrorType.CONTRADICTION, f"{path} does not hold what was published")
        if str(path) != report.path_in(request.task.inputs["out"]):
            return self.rejected(ErrorType.SCOPE_CREEP, f"{path} is not the report's place")
        return self.passed(f"{path} read back")


def _output(request: VerifyInput, step: str) -> Any:
    return next(output for name, output in request.history if name == step)


def _unfounded(verdict: VerificationResult) -> list[str]:
    return [] if verdict.passed else list(verdict.evidence) or [verdict.reasoning]


def _claims(request: VerifyInput) -> list[Claim]:
    return [claim for claims in request.output.values() for claim in claims]


def _counts(request: VerifyInput) -> dict[str, int]:
    outputs = dict(request.history)
    all_facts = facts_in(outputs)
    return counts_of(all_facts, outputs["cross_check"]["findings"])


def _is_text(path: str) -> bool:
    data = corpus.read_bytes(path)
    return data is not None and len(data) <= corpus.DOCUMENT_BYTES_MAX and not corpus.is_binary(data)


def _some(items: list[str]) -> str:
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return "; ".join(items[:_NAMED]) + more
