"""Panels: several verifiers, one verdict, no more calls than it takes.

Safety comes from members of different mechanism, any of which may veto. Panels of similar models err together: measured, nine
models of seven families were worth about two votes.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from agentraft_ray.config import Limits
from agentraft_ray.errors import InvalidConfig
from agentraft_ray.pipeline import Criticality
from agentraft_ray.taxonomy import FREE, Cost, VerdictKind, VerificationResult, VerifierFault
from agentraft_ray.verifier.asking import Asked, ask, rest_of, stop
from agentraft_ray.verifier.base import Verifier, VerifyInput
from agentraft_ray.verifier.calibration import Calibration
from agentraft_ray.verifier.engine.settings import EngineSettings

__all__ = ["AllOf", "QuorumVerifier", "Rule"]

Rule = Literal["veto", "k_of_n", "ahead_by"]
_EVIDENCE_MAX = Limits().evidence_max


class QuorumVerifier(Verifier):
    """One verdict of several verifiers.

    - ``rule="veto"``: members are asked one after the other, cheap ones first as you list them; the first rejection ends it.
      Passes with `k` passes (default: all of them).
    - ``rule="k_of_n"``: all are asked at once; passes with `k` passes (default: the majority), rejects once so many rejected that
      no `k` are left. The rest is cancelled as soon as the outcome is settled.
    - ``rule="ahead_by"``: asked one after the other until passes lead rejections by `k` or the other way round (default 2; Wald's
      sequential test). List a verifier several times to let it vote several times.

    Faults and abstentions are no votes, and without the passes that the rule needs there is no pass: the answer is then a fault
    (if a member faulted) or an abstention. A rejection has the class that most rejecting members gave, the earlier listed one
    where they tie, with the hint and blame of the first of those. Costs are summed, those of cancelled members too. What a
    cancelled call costs nobody says: `usd` is None then, and `usd_at_least` what is known.

    Raises InvalidConfig for no members or a `k` that cannot be reached.
    """

    def __init__(self, verifiers: Sequence[Verifier], *, k: int | None = None, rule: Rule = "veto", name: str = "quorum") -> None:
        self._members = tuple(verifiers)
        self._rule = rule
        self._name = name
        count = len(self._members)
        defaults = {"veto": count, "k_of_n": count // 2 + 1, "ahead_by": min(2, count)}
        if rule not in defaults:
            raise InvalidConfig(f"unknown rule {rule!r}: use one of {', '.join(defaults)}")
        self._k = defaults[rule] if k is None else k
        if not 1 <= self._k <= count:
            raise InvalidConfig(f"a quorum of {count} verifiers cannot need k={self._k}; give at least one verifier and 1 <= k <= {count}")

    @property
    def name(self) -> str:
        return self._name

    @property
    def identity(self) -> str:
        return f"{self._name}({self._rule}, k={self._k}, [{', '.join(member.identity for member in self._members)}])"

    def uses_model(self, criticality: Criticality) -> bool:
        return any(member.uses_model(criticality) for member in self._members)

    def calibrations(self, criticality: Criticality) -> tuple[Calibration | None, ...]:
        return tuple(one for member in self._members for one in member.calibrations(criticality))

    def missing(self) -> tuple[str, ...]:
        return tuple(line for member in self._members for line in member.missing())

    def engines(self) -> tuple[EngineSettings, ...]:
        return tuple(dict.fromkeys(one for member in self._members for one in member.engines()))

    async def verify(self, request: VerifyInput) -> VerificationResult:
        if self._rule == "k_of_n":
            votes, lost = await self._ask_at_once(request)
        else:
            votes, lost = await self._ask_in_turn(request), FREE
        return self._verdict([votes[position] for position in sorted(votes)], lost)

    async def _ask_in_turn(self, request: VerifyInput) -> dict[int, VerificationResult]:
        started = time.monotonic()
        votes: dict[int, VerificationResult] = {}
        for position, member in enumerate(self._members):
            votes[position] = await ask(member, rest_of(request, started))
            if self._is_settled(votes):
                break
        return votes

    async def _ask_at_once(self, request: VerifyInput) -> tuple[dict[int, VerificationResult], Cost]:
        """The votes until the outcome is settled, and what the members have cost that were then cancelled."""
        asked = [Asked(member, request) for member in self._members]
        votes: dict[int, VerificationResult] = {}
        pending = {one.task for one in asked}
        try:
            while pending and not self._is_settled(votes):
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                votes = {position: one.verdict for position, one in enumerate(asked) if one.verdict is not None}
        finally:
            await stop(asked)
        return votes, sum((one.cost() for position, one in enumerate(asked) if position not in votes), FREE)

    def _is_settled(self, votes: dict[int, VerificationResult]) -> bool:
        """Whether more votes could not change the kind of the outcome."""
        passes, rejections, others = _tally(list(votes.values()))
        left = len(self._members) - len(votes)
        if self._rule == "veto":
            return bool(rejections) or others > len(self._members) - self._k
        if self._rule == "k_of_n":
            against = len(self._members) - self._k + 1  # so many rejections leave no k
            return passes >= self._k or rejections >= against or (passes + left < self._k and rejections + left < against)
        lead = abs(passes - rejections)
        return lead >= self._k or lead + left < self._k

    def _verdict(self, votes: list[VerificationResult], lost: Cost) -> VerificationResult:
        cost = sum((vote.cost for vote in votes), lost)
        passes, rejections, _ = _tally(votes)
        if self._passed(passes, rejections):
            passing = [vote for vote in votes if vote.kind is VerdictKind.PASS]
            return VerificationResult.ok(
                confidence=min(vote.confidence for vote in passing),
                reasoning=f"{len(passing)} of {len(self._members)} passed it",
                verifier=self._deciders(passing),
                cost=cost,
                **_versions(passing),
            )
        if self._rejected(passes, rejections):
            return self._rejection([vote for vote in votes if vote.kind is VerdictKind.REJECT], cost)
        silent = [vote for vote in votes if vote.kind not in (VerdictKind.PASS, VerdictKind.REJECT)]
        said = "; ".join(f"{vote.verifier}: {vote.reasoning}" for vote in silent)
        reasoning = f"{passes} passed and {rejections} rejected it, {self._rule} needs {self._k}" + (f" ({said})" if said else "")
        faulted = any(vote.kind is VerdictKind.FAULT for vote in silent)
        answer = VerificationResult.fault if faulted else VerificationResult.abstain
        short_of = next((vote.short_of for vote in silent if vote.short_of), "")
        return answer(reasoning, verifier=self._name, cost=cost, failure=_soonest(silent), short_of=short_of)

    def _passed(self, passes: int, rejections: int) -> bool:
        if self._rule == "veto":
            return passes >= self._k and not rejections
        return passes - (rejections if self._rule == "ahead_by" else 0) >= self._k

    def _rejected(self, passes: int, rejections: int) -> bool:
        if self._rule == "veto":
            return rejections > 0
        if self._rule == "k_of_n":
            return rejections > len(self._members) - self._k
        return rejections - passes >= self._k

    def _rejection(self, rejecting: list[VerificationResult], cost: Cost) -> VerificationResult:
        classes = Counter(vote.error_type for vote in rejecting)
        most = max(classes.values())
        chosen = next(vote for vote in rejecting if classes[vote.error_type] == most)
        same = [vote for vote in rejecting if vote.error_type is chosen.error_type]
        evidence = [item for vote in same for item in vote.evidence]
        return replace(
            chosen,
            confidence=max(vote.confidence for vote in same),
            reasoning="; ".join(f"{vote.verifier}: {vote.error_type} {vote.reasoning}".strip() for vote in rejecting),
            verifier=self._deciders(rejecting),
            evidence=tuple(evidence[:_EVIDENCE_MAX]),
            blame=next((vote.blame for vote in same if vote.blame), None),
            cost=cost,
            **_versions(rejecting),
        )

    def _deciders(self, votes: list[VerificationResult]) -> str:
        """``quorum:grounding+schema``, or the count where names would be too many."""
        names = list(dict.fromkeys(vote.verifier for vote in votes))
        return f"{self._name}:{'+'.join(names) if len(names) <= 3 else f'{len(votes)} of {len(self._members)}'}"


def _versions(votes: list[VerificationResult]) -> dict[str, Any]:
    """By which prompts and calibrations a panel has decided, and whether it did so wholly from memory."""
    prompts = dict.fromkeys(vote.prompt for vote in votes if vote.prompt)
    calibrations = dict.fromkeys(vote.calibration for vote in votes if vote.calibration)
    return {"prompt": "+".join(prompts), "calibration": "+".join(calibrations), "cached": all(vote.cached for vote in votes)}


def _soonest(silent: list[VerificationResult]) -> VerifierFault | None:
    """The failure that is over first: then it makes sense to ask the panel again."""
    failures = [vote.failure for vote in silent if vote.failure is not None]
    return min(failures, key=lambda failure: failure.retry_after_s or 0.0, default=None)


class AllOf(QuorumVerifier):
    """A veto panel: every member must pass the output, asked in the order given (cheap ones first), until the first rejection.

    >>> from agentraft_ray.verifier import GroundingVerifier, RulesVerifier
    >>> AllOf(RulesVerifier(), GroundingVerifier()).name
    'all-of'
    """

    def __init__(self, *verifiers: Verifier, name: str = "all-of") -> None:
        super().__init__(verifiers, rule="veto", name=name)


def _tally(votes: list[VerificationResult]) -> tuple[int, int, int]:
    """(passes, rejections, neither)."""
    passes = sum(vote.kind is VerdictKind.PASS for vote in votes)
    rejections = sum(vote.kind is VerdictKind.REJECT for vote in votes)
    return passes, rejections, len(votes) - passes - rejections
