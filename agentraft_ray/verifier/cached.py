"""Verdicts that are remembered: by choice, in one process, and only what was said about exactly the same."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import msgspec

from agentraft_ray.config import Limits
from agentraft_ray.errors import InvalidConfig
from agentraft_ray.pipeline import Criticality
from agentraft_ray.taxonomy import FREE, VerificationResult
from agentraft_ray.verifier.asking import GIVEN, flaw_of, in_thread
from agentraft_ray.verifier.base import Verifier, VerifyInput
from agentraft_ray.verifier.calibration import Calibration
from agentraft_ray.verifier.content import leaves, plain
from agentraft_ray.verifier.engine.settings import EngineSettings

__all__ = ["CachedVerifier"]

_LIMITS = Limits()
_BASIC = (str, int, float, bool, bytes, type(None))


class CachedVerifier(Verifier):
    """Repeats what `verifier` has said about exactly the same: the same task, step, output, earlier outputs and attempt, judged by a
    verifier of the same identity, which names its prompt and its calibration.

    Only passes and rejections are remembered, never faults or abstentions. What is repeated says so (`VerificationResult.cached`, and
    the certificate), and costs nothing. At most `verdicts_max` are kept in each process, the one used longest ago goes first; on a
    cluster they are in the verifier actors, and gone when one restarts.

    The id of a task is a part of it, so a verdict is repeated within a run and its resumes and forks. With ``across_runs=True`` the id
    does not count, for verifiers that do not look at it; none of ours does.

    What cannot be put into bytes, and what has more than `cached_history_max` earlier outputs, is judged anew each time.
    """

    def __init__(self, verifier: Verifier, *, across_runs: bool = False, verdicts_max: int = _LIMITS.cached_verdicts_max) -> None:
        if verdicts_max < 1:
            raise InvalidConfig(f"verdicts_max={verdicts_max} must be at least 1; leave the cache out for none")
        self._verifier = verifier
        self._across_runs = across_runs
        self._verdicts_max = verdicts_max
        self._kept: OrderedDict[bytes, VerificationResult] = OrderedDict()

    @property
    def name(self) -> str:
        return self._verifier.name

    @property
    def identity(self) -> str:
        return f"cached({self._verifier.identity}{', across runs' if self._across_runs else ''})"

    @property
    def remembered(self) -> int:
        """How many verdicts are remembered in this process."""
        return len(self._kept)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict()}  # what one process has learnt does not travel

    def uses_model(self, criticality: Criticality) -> bool:
        return self._verifier.uses_model(criticality)

    @property
    def pass_threshold(self) -> float | None:
        return self._verifier.pass_threshold

    def at_threshold(self, threshold: float) -> Verifier:
        return self._verifier.at_threshold(threshold)

    @property
    def uncalibrated(self) -> Verifier:
        return self._verifier.uncalibrated

    def calibrations(self, criticality: Criticality) -> tuple[Calibration | None, ...]:
        return self._verifier.calibrations(criticality)

    def missing(self) -> tuple[str, ...]:
        return self._verifier.missing()

    def engines(self) -> tuple[EngineSettings, ...]:
        return self._verifier.engines()

    def verify_now(self, request: VerifyInput) -> VerificationResult | None:
        return self._verifier.verify_now(request)

    async def second_opinion(self, request: VerifyInput, previous: str) -> VerificationResult | None:
        return await self._verifier.second_opinion(request, previous)

    async def verify(self, request: VerifyInput) -> VerificationResult:
        key: bytes | None = self._key(request) if isinstance(request.history, (list, tuple)) else await in_thread(self._key, request)
        if key is None:
            return await self._verifier.verify(request)
        known = self._kept.get(key)
        if known is not None:
            self._kept.move_to_end(key)
            return known
        verdict = await self._verifier.verify(request)
        if flaw_of(verdict) is None and verdict.kind in GIVEN:
            self._kept[key] = replace(verdict, cost=FREE, cached=True, verifier=verdict.verifier or self.name)
            self._kept.move_to_end(key)
            if len(self._kept) > self._verdicts_max:
                self._kept.popitem(last=False)
        return verdict

    def _key(self, request: VerifyInput) -> bytes | None:
        """A digest of all that the verdict may depend on; None where there is none. It may read earlier outputs from a store."""
        task, step = request.task, request.step
        if len(request.history) > _LIMITS.cached_history_max:
            return None
        try:
            whole = _ENCODER.encode(
                (
                    self._verifier.identity,
                    (task.goal, task.inputs, None if self._across_runs else task.id),
                    (step.name, step.goal, step.criticality, step.version),
                    request.output,
                    list(request.history),
                    request.attempt,
                    [_types_in(one) for one in (request.output, task.inputs, list(request.history))],
                )
            )
        except (TypeError, ValueError, OverflowError, RecursionError, AttributeError):  # no plain data, or text that is no text
            return None
        return hashlib.sha256(whole).digest()


def _types_in(value: Any) -> list[tuple[str, str]]:
    """Where there are types whose bytes another one may have too: a date and its text, a dataclass and a dict."""
    odd = [(place, type(leaf).__qualname__) for place, leaf in leaves(value) if type(leaf) not in _BASIC]
    return [("", type(value).__qualname__), *odd]


def _as_plain(value: Any) -> Any:
    return (type(value).__qualname__, plain(value))


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_as_plain)
