"""A model of your own as a verifier, served by vLLM: a head over the classes of errors, or any instruct model asked for one letter."""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from agentraft_ray.config import Limits, ProviderLimits
from agentraft_ray.errors import BudgetExhausted, InvalidConfig
from agentraft_ray.pipeline import Criticality
from agentraft_ray.taxonomy import Advice, Cost, ErrorType, FaultKind, VerificationResult, VerifierFault
from agentraft_ray.verifier.asking import in_thread
from agentraft_ray.verifier.base import Verifier, VerifyInput
from agentraft_ray.verifier.calibration import Calibration
from agentraft_ray.verifier.classifier import PASS, RENDERING_VERSION, Scoring, classifier_texts
from agentraft_ray.verifier.content import is_empty, render
from agentraft_ray.verifier.engine.http import HTTPEngine
from agentraft_ray.verifier.engine.label_prompt import LABEL_PROMPT_VERSION, without_specials
from agentraft_ray.verifier.engine.local import local_engines
from agentraft_ray.verifier.engine.port import Scores
from agentraft_ray.verifier.engine.served import ServedModel, open_model, shipped_model
from agentraft_ray.verifier.engine.settings import EngineSettings, Mode
from agentraft_ray.verifier.fence import visible
from agentraft_ray.verifier.prompt import question, user_prompt
from agentraft_ray.verifier.providers.connections import current_visit
from agentraft_ray.verifier.providers.environment import MODEL_VARIABLE
from agentraft_ray.verifier.windows import windows

__all__ = ["VLLMVerifier"]

_LIMITS = Limits()
_SOURCE = "vllm"
_CONTEXT_CHARS = 6_000
_WINDOW = (6_000, 500)  # characters, and how many of them neighbours share; in mode "generate"
_LEAST_S = 0.001
_LEAST = 1e-300  # a threshold so low that the likeliest class of errors is named, whatever its probability


class _Judged(NamedTuple):
    """What the windows of an output say together: its likeliest class of errors, the probability that it is wrong at all, and the
    window that decides, from 0."""

    label: str
    wrong: float
    where: int


class VLLMVerifier(Verifier):
    """Asks a model that vLLM serves, with one pass over the text per verdict.

    `model` is the directory of an exported verifier (``python -m agentraft_ray.verifier.training export``), any directory in the form
    of Hugging Face, or the id of a model on a hub. Without it: what AGENTRAFT_VERIFIER_MODEL names, else the verifier that comes with
    this package. `mode` "classify" needs a head over ``PASS`` and classes of errors; "generate" takes any instruct model and asks for
    one letter. Both give a probability per class: an output is rejected, as the likeliest class, when the probability that nothing is
    wrong is under `pass_threshold`, by default that of the model's own scores.json, else 0.5.

    The engine is one of this process (a child of it, started when it is first asked, shared by all verifiers with the same settings),
    on a cluster an actor with a GPU where there are any, or, with `base_url`, an OpenAI-compatible server that runs elsewhere
    (``vllm serve``), whose name for the model is `served_name`. `options` are those of `EngineSettings`.

    Raises InvalidConfig for a model that is not there, not whole or of another kind, and for settings out of range;
    VerifierUnavailable where no model is named and none is shipped.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        mode: Mode = "classify",
        base_url: str | None = None,
        served_name: str | None = None,
        api_key: str | None = None,
        pass_threshold: float | None = None,
        calibration: Calibration | None = None,
        windows_max: int = 64,
        limits: ProviderLimits | None = None,
        revision: str = "",
        tokens_max: int | None = None,
        **options: Any,
    ) -> None:
        wanted = model or os.environ.get(MODEL_VARIABLE, "").strip() or shipped_model()
        self._served: ServedModel = open_model(wanted, mode, revision)
        self._settings = _settings(self._served, mode, revision, tokens_max, options)
        if calibration is not None and pass_threshold not in (None, calibration.threshold):
            raise InvalidConfig(f"pass_threshold={pass_threshold} and a calibration for {calibration.threshold} contradict each other")
        if pass_threshold is not None and not 0.0 <= pass_threshold <= 1.0:
            raise InvalidConfig(f"pass_threshold={pass_threshold} must be a probability from 0 to 1")
        if windows_max < 1:
            raise InvalidConfig(f"windows_max={windows_max} must be at least 1")
        self._threshold = 1.0 - self._served.scoring.threshold if pass_threshold is None else pass_threshold
        self._windows_max = windows_max
        self._http: HTTPEngine | None = None
        if base_url is not None:
            self._http = HTTPEngine(base_url, served_name or os.fspath(wanted), self._served.labels, self._settings, api_key, limits)
        self.calibration: Calibration | None = None
        if calibration is not None:
            if calibration.threshold is not None:
                self._threshold = calibration.threshold
            calibration.check(self)
            self.calibration = calibration

    @property
    def name(self) -> str:
        digest = self._served.digest[:12]
        return f"vllm:{self._served.name}@{digest}" if digest else f"vllm:{self._served.name}"

    @property
    def identity(self) -> str:
        return (
            f"{self.name}({self._settings.flags}, prompt={self._prompt_version}, pass_threshold={self._threshold:g},"
            f" temperature={self._served.scoring.temperature:g}{f', served at {self._http.where}' if self._http else ''}"
            f"{f', calibration={self.calibration.version}' if self.calibration else ''})"
        )

    @property
    def pass_threshold(self) -> float:
        return self._threshold

    def at_threshold(self, threshold: float) -> Self:
        if not 0.0 <= threshold <= 1.0:
            raise InvalidConfig(f"a threshold is a confidence from 0 to 1, not {threshold}")
        other = copy.copy(self)
        other._threshold, other.calibration = threshold, None
        return other

    @property
    def uncalibrated(self) -> Self:
        return self.at_threshold(self._threshold)

    def calibrations(self, criticality: Criticality) -> tuple[Calibration | None, ...]:
        return (self.calibration,)

    def engines(self) -> tuple[EngineSettings, ...]:
        return () if self._http is not None else (self._settings,)

    def missing(self) -> tuple[str, ...]:
        if self._http is not None:
            return self._http.missing()
        if importlib.util.find_spec("vllm") is not None:
            return ()
        return (f"the verifier {self.name} needs vLLM in this process: see docs/vllm.md for the right package, or pass base_url=",)

    def __repr__(self) -> str:
        return f"<VLLMVerifier {self.name}>"

    async def start(self) -> None:
        """Start the engine of this process and wait for it, instead of when the first verdict is asked for.

        Raises InvalidConfig when it cannot start.
        """
        if self._http is None:
            found = await local_engines().ready(self._settings)
            if isinstance(found, VerifierFault):
                raise InvalidConfig(found.message)

    def close(self) -> None:
        """End the engine of this process, for all verifiers with the same settings; it ends with the process anyway."""
        if self._http is None:
            local_engines().close(self._settings)

    async def verify(self, request: VerifyInput) -> VerificationResult:
        if is_empty(request.output):
            return VerificationResult.fail(ErrorType.INCOMPLETE, reasoning="the output is empty", verifier=self.name)
        started, spending = time.perf_counter(), request.spending.part()
        facts: dict[str, Any] = {
            "verifier": self.name,
            "prompt": self._prompt_version,
            "calibration": self.calibration.version if self.calibration else "",
        }
        texts, notes = await in_thread(self._texts, request)
        if len(texts) > self._windows_max:
            reasoning = f"the output makes {len(texts)} windows, more than windows_max={self._windows_max}; split the step or raise it"
            return VerificationResult.abstain(reasoning, evidence=notes, **facts)
        try:
            with spending.call(Cost(sum(min(len(text), self._settings.tokens_max) for text in texts))) as call:
                answer = await self._score(texts, _left_s(request, started))
                call.cost = Cost(answer.tokens if isinstance(answer, Scores) else 0)
        except BudgetExhausted as short:
            return VerificationResult.fault(str(short), short_of=short.fields["resource"], evidence=notes, **facts)
        facts["cost"] = spending.so_far() + Cost(0, 0.0, time.perf_counter() - started)
        if isinstance(answer, VerifierFault):
            unable = VerificationResult.abstain if answer.kind.advice is Advice.ASK_ANOTHER else VerificationResult.fault
            return unable(f"the model gave no verdict ({answer.kind.value}): {answer.message}", failure=answer, evidence=notes, **facts)
        facts["prompt"] = f"{self._prompt_version}@{answer.engine}"
        try:
            judged = self._judged(answer, len(texts))
        except ValueError as problem:
            failure = VerifierFault(FaultKind.MALFORMED, str(problem), _SOURCE)
            return VerificationResult.fault(f"the model's scores are no verdict: {problem}", failure=failure, evidence=notes, **facts)
        return self._verdict(judged, len(texts), notes, facts)

    # --- what it is asked --------------------------------------------------------------------------------------------------------

    @property
    def _prompt_version(self) -> str:
        return f"classifier-{RENDERING_VERSION}" if self._settings.mode == "classify" else LABEL_PROMPT_VERSION

    def _texts(self, request: VerifyInput) -> tuple[Sequence[str], tuple[str, ...]]:
        """One text per window of the output, and what of the context they do not show. May read earlier outputs from a store."""
        if self._settings.mode == "classify":
            return classifier_texts(request), ()
        asked = question(request, _CONTEXT_CHARS)
        parts = list(windows(visible(render(request.output)), *_WINDOW))
        texts = [without_specials(user_prompt(asked, part, number, len(parts), "one letter")) for number, part in enumerate(parts, 1)]
        return texts, (f"not shown to the model: {asked.left_out}",) * bool(asked.left_out)

    async def _score(self, texts: Sequence[str], left_s: float) -> Scores | VerifierFault:
        visit = current_visit()
        if self._http is not None:
            return await self._http.score(visit, texts, left_s)
        with visit.waiting():
            try:
                async with asyncio.timeout(left_s) as timer:
                    return await visit.connections.engines.score(self._settings, texts)
            except TimeoutError:
                if not timer.expired():
                    raise
                return VerifierFault(FaultKind.TIMEOUT, f"no answer within {left_s:.3g} s", _SOURCE)

    # --- what it says ------------------------------------------------------------------------------------------------------------

    def _judged(self, scores: Scores, count: int) -> _Judged:
        """The worst of the windows. Raises ValueError for numbers that are no probabilities of our labels."""
        if len(scores.probabilities) != count:
            raise ValueError(f"{len(scores.probabilities)} scores came for {count} texts")
        likeliest = Scoring(self._served.scoring.temperature, _LEAST)
        found = [likeliest.of_probabilities(self._served.in_order(one)) for one in scores.probabilities]
        where = max(range(count), key=lambda at: found[at].wrong)
        return _Judged(found[where].label, found[where].wrong, where)

    def _verdict(self, judged: _Judged, count: int, notes: tuple[str, ...], facts: dict[str, Any]) -> VerificationResult:
        where = (f"window {judged.where + 1} of {count}",) * (count > 1)
        right = min(1.0, max(0.0, 1.0 - judged.wrong))
        if right >= self._threshold or judged.label == PASS:
            return VerificationResult.ok(confidence=right, reasoning=f"right with probability {right:.3f}", evidence=notes, **facts)
        return VerificationResult.fail(
            ErrorType(judged.label),
            confidence=1.0 - right,
            reasoning=f"right with probability {right:.3f}, under {self._threshold:g}",
            evidence=notes + where,
            **facts,
        )


def _settings(served: ServedModel, mode: Mode, revision: str, tokens_max: int | None, options: dict[str, Any]) -> EngineSettings:
    try:
        made = EngineSettings(
            model=served.model,
            mode=mode,
            revision=revision,
            digest=served.digest,
            tokens_max=tokens_max or served.tokens_max,
            **options,
        )
    except TypeError as problem:
        known = ", ".join(one for one in EngineSettings.__struct_fields__ if one not in ("model", "mode", "digest"))
        raise InvalidConfig(f"{problem}; a vLLM verifier takes {known}") from None
    made.check()
    return made


def _left_s(request: VerifyInput, started: float) -> float:
    deadline_s = _LIMITS.verifier_timeout_s if request.deadline_s is None else request.deadline_s
    return max(_LEAST_S, deadline_s - (time.perf_counter() - started))
