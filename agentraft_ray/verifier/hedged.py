"""Hedging: a second request where the first one takes too long (J. Dean, L. A. Barroso, "The Tail at Scale", CACM 56(2), 2013)."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.pipeline import Criticality
from agentraft_ray.taxonomy import FREE, VerificationResult
from agentraft_ray.verifier.asking import GIVEN, Asked, rest_of, stop
from agentraft_ray.verifier.base import Verifier, VerifyInput
from agentraft_ray.verifier.calibration import Calibration
from agentraft_ray.verifier.engine.settings import EngineSettings

__all__ = ["HedgedVerifier"]


class HedgedVerifier(Verifier):
    """Asks `verifier`, and after `hedge_after_s` seconds without an answer also `other`, or the same one again.

    The first verdict counts, pass or rejection; the other request is cancelled, and both are paid for. A fault or an abstention of
    one waits for the other. It is for slow answers, not for failing ones: what fails before the second request is sent has failed.
    Set `hedge_after_s` to what 19 of 20 answers take, and every twentieth is asked twice.
    """

    def __init__(self, verifier: Verifier, other: Verifier | None = None, *, hedge_after_s: float) -> None:
        if hedge_after_s <= 0:
            raise InvalidConfig(f"hedge_after_s={hedge_after_s} must be over 0; ask both at once with QuorumVerifier")
        self._members = (verifier, other or verifier)
        self._hedge_after_s = hedge_after_s

    @property
    def name(self) -> str:
        first, second = self._members
        return first.name if second is first else f"hedged:{first.name}+{second.name}"

    @property
    def identity(self) -> str:
        first, second = self._members
        return first.identity if second is first else f"hedged({first.identity}, {second.identity})"

    def uses_model(self, criticality: Criticality) -> bool:
        return any(member.uses_model(criticality) for member in self._members)

    def calibrations(self, criticality: Criticality) -> tuple[Calibration | None, ...]:
        return tuple(one for member in dict.fromkeys(self._members) for one in member.calibrations(criticality))

    def missing(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(line for member in self._members for line in member.missing()))

    def engines(self) -> tuple[EngineSettings, ...]:
        return tuple(dict.fromkeys(one for member in self._members for one in member.engines()))

    def verify_now(self, request: VerifyInput) -> VerificationResult | None:
        return self._members[0].verify_now(request)

    async def second_opinion(self, request: VerifyInput, previous: str) -> VerificationResult | None:
        return await self._members[0].second_opinion(request, previous)

    async def verify(self, request: VerifyInput) -> VerificationResult:
        started = time.monotonic()
        first, second = self._members
        asked = [Asked(first, request)]
        try:
            await asyncio.wait([asked[0].task], timeout=self._hedge_after_s)
            if asked[0].verdict is None:
                asked.append(Asked(second, rest_of(request, started)))
                await _one_given(asked)
        finally:
            await stop(asked)
        answers = [one.verdict for one in asked if one.verdict is not None]
        chosen = next((answer for answer in answers if answer.kind in GIVEN), answers[0])
        return replace(chosen, cost=sum((one.cost() for one in asked), FREE)) if len(asked) > 1 else chosen


async def _one_given(asked: list[Asked]) -> None:
    """Wait for the first that passes or rejects, or for all of them."""
    pending = {one.task for one in asked}
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if any(task.result().kind in GIVEN for task in done):
            return
