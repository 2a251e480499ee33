"""Tiers: cheap rules on every step, models by criticality, the next tier where a verdict is doubtful."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.pipeline import Criticality
from agentraft_ray.taxonomy import VerdictKind, VerificationResult
from agentraft_ray.verifier.asking import GIVEN, ask, rest_of
from agentraft_ray.verifier.base import Verifier, VerifyInput
from agentraft_ray.verifier.calibration import Calibration
from agentraft_ray.verifier.engine.settings import EngineSettings
from agentraft_ray.verifier.rules import RulesVerifier

__all__ = ["BORDERLINE_BELOW", "TieredVerifier"]

BORDERLINE_BELOW = 0.7
"""A verdict, pass or rejection, with a lower confidence than this is doubtful and goes to the next tier where there is one."""


class TieredVerifier(Verifier):
    """L1 on every step; what it rejects is rejected. Then LOW stops, MEDIUM asks L2 and HIGH asks L3.

    Where there is no L3, HIGH asks L2, and the other way round. A verdict of any tier, pass or rejection, with a confidence under
    `borderline_below` goes on to the next tier there is, whose verdict then stands; the last tier's stands as it is.
    `VerificationResult.verifier` names who decided, the cost is that of all that were asked.

    A tier that cannot answer (a fault, an abstention) hands on to the next one; where there is none, that is the answer: no
    pass, and not billed to the agent. `on_fault="l1"` lets the last verdict below stand instead, but never for HIGH, which fails
    closed. A fault of L1 ends it for every step, and so does a tier that the run's budget does not allow to ask. Without L2 and L3
    every step ends at L1.
    """

    def __init__(
        self,
        *,
        l1: Verifier | None = None,
        l2: Verifier | None = None,
        l3: Verifier | None = None,
        borderline_below: float = BORDERLINE_BELOW,
        on_fault: Literal["closed", "l1"] = "closed",
    ) -> None:
        if not 0.0 <= borderline_below <= 1.0 or on_fault not in ("closed", "l1"):
            raise InvalidConfig(
                f"tiers need borderline_below in [0, 1] and on_fault 'closed' or 'l1', not {borderline_below}, {on_fault!r}"
            )
        self.l1 = l1 if l1 is not None else RulesVerifier()
        self.l2 = l2
        self.l3 = l3
        self._borderline_below = borderline_below
        self._on_fault = on_fault

    @property
    def name(self) -> str:
        return "tiered"

    @property
    def identity(self) -> str:
        tiers = ", ".join(
            f"{level}={tier.identity if tier else None}" for level, tier in (("l1", self.l1), ("l2", self.l2), ("l3", self.l3))
        )
        return f"tiered({tiers}, borderline_below={self._borderline_below}, on_fault={self._on_fault})"

    def uses_model(self, criticality: Criticality) -> bool:
        return any(tier.uses_model(criticality) for tier in (self.l1, *self._above(criticality)))

    def calibrations(self, criticality: Criticality) -> tuple[Calibration | None, ...]:
        return tuple(one for tier in (self.l1, *self._above(criticality)) for one in tier.calibrations(criticality))

    def missing(self) -> tuple[str, ...]:
        return tuple(line for tier in (self.l1, self.l2, self.l3) if tier is not None for line in tier.missing())

    def engines(self) -> tuple[EngineSettings, ...]:
        return tuple(dict.fromkeys(one for tier in (self.l1, self.l2, self.l3) if tier is not None for one in tier.engines()))

    async def verify(self, request: VerifyInput) -> VerificationResult:
        criticality = request.step.criticality
        return await self._climb(request, self._above(criticality), criticality is not Criticality.LOW)

    def verify_now(self, request: VerifyInput) -> VerificationResult | None:
        """The verdict of L1, where no tier above it has a say."""
        verdict = self.l1.verify_now(request)
        if verdict is None or verdict.kind is VerdictKind.FAULT:
            return verdict
        criticality = request.step.criticality
        above = self._above(criticality)
        goes_above = criticality is not Criticality.LOW and verdict.passed
        return None if above and (goes_above or self._is_doubtful(verdict)) else verdict

    async def second_opinion(self, request: VerifyInput, previous: str) -> VerificationResult | None:
        """The verdict of the strongest tier that is not `previous`, behind L1 as always; None where there is no such tier."""
        for tier in (self.l3, self.l2):
            if tier is not None and previous != tier.name and not previous.startswith(f"{tier.name}:"):
                return await self._climb(request, [tier], True)
        for tier in (self.l3, self.l2):
            opinion = await tier.second_opinion(request, previous) if tier is not None else None
            if opinion is not None:
                return opinion
        return None

    def _above(self, criticality: Criticality) -> list[Verifier]:
        """The tiers above L1 that a step of this criticality may reach, in order."""
        present = [tier for tier in (self.l2, self.l3) if tier is not None]
        return present[-1:] if criticality is Criticality.HIGH else present

    async def _climb(self, request: VerifyInput, above: list[Verifier], goes_above: bool) -> VerificationResult:
        """The verdict after L1 and as many tiers `above` as it takes; `goes_above`: a pass of L1 is not enough."""
        started = time.monotonic()
        verdict = await ask(self.l1, request, bounded=False)
        spent = verdict.cost
        if verdict.kind is VerdictKind.FAULT:
            return verdict
        for tier in above:
            if not (goes_above and verdict.passed) and not self._is_doubtful(verdict):
                break
            goes_above = False
            below, verdict = verdict, await ask(tier, rest_of(request, started))
            spent = spent + verdict.cost
            if verdict.short_of:  # a dearer tier would be short of it too, and a cheaper one is not what the step asks for
                break
            verdict = self._settled(below, verdict, request)
        return verdict if spent == verdict.cost else replace(verdict, cost=spent)

    def _is_doubtful(self, verdict: VerificationResult) -> bool:
        return verdict.kind not in GIVEN or verdict.confidence < self._borderline_below

    def _settled(self, below: VerificationResult, verdict: VerificationResult, request: VerifyInput) -> VerificationResult:
        """`verdict`, or, where the tier could not answer and the policy allows it, the last verdict below."""
        if verdict.kind in GIVEN or self._on_fault == "closed" or request.step.criticality is Criticality.HIGH:
            return verdict
        if below.kind not in GIVEN:
            return verdict
        reasoning = f"{below.reasoning}; {verdict.verifier} could not answer ({verdict.reasoning}), the verdict below it stands"
        return replace(below, reasoning=reasoning.lstrip("; "))
