"""A language model as a verifier: prompt, call, strict parsing, long outputs in windows. The network is in `providers`."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self

import msgspec

from agentraft_ray.config import Limits, ProviderLimits
from agentraft_ray.errors import AgentRaftError, BudgetExhausted, InvalidConfig
from agentraft_ray.pipeline import Criticality
from agentraft_ray.taxonomy import FREE, Advice, Cost, ErrorType, FaultKind, VerdictKind, VerificationResult, VerifierFault
from agentraft_ray.verifier.asking import describe, in_thread
from agentraft_ray.verifier.base import Verifier, VerifyInput
from agentraft_ray.verifier.billing import OWN_CALL, Billing
from agentraft_ray.verifier.calibration import Calibration
from agentraft_ray.verifier.content import is_empty, render
from agentraft_ray.verifier.fence import visible
from agentraft_ray.verifier.parse import Judgement, Unusable, parse_reply
from agentraft_ray.verifier.prices import PriceTable
from agentraft_ray.verifier.prompt import CONTEXT_CHARS_MAX, PROMPT_VERSION, SYSTEM, Question, question, user_prompt
from agentraft_ray.verifier.providers import DEFAULT_MODELS, PROVIDERS, Completion, ProviderConfig, complete
from agentraft_ray.verifier.providers.environment import Found, choose
from agentraft_ray.verifier.spending import Spending
from agentraft_ray.verifier.windows import windows

__all__ = ["DEFAULT_MODELS", "CompleteFunction", "Completion", "LLMVerifier"]

CompleteFunction = Callable[[str, str], "str | Completion | VerifierFault | Awaitable[str | Completion | VerifierFault]"]

_TEXT_CHARS_MAX = Limits().hint_chars_max
_DEADLINE_S = Limits().verifier_timeout_s
_ANSWERS_BY = 0.98
_LONG_CHARS = 100_000  # what is longer is made visible in a thread
_THRESHOLD = 0.5


class LLMVerifier(Verifier):
    """Asks a language model for a verdict; whatever cannot be understood strictly is a fault, never a pass.

    `complete_fn(system, user)` replaces the network call; it returns the reply as text, as a `Completion` with its tokens, or a
    `VerifierFault`, and a sync one runs in a thread. Without it the provider's SDK and credentials are needed, but only when the
    verifier is asked. Without `provider` the environment decides, see `detection`.

    A PASS with a confidence under `pass_threshold` is rejected as INCOMPLETE. An empty output is INCOMPLETE without a call. An
    output over `window_chars` is judged in overlapping windows, in order: all must pass, the first that does not decides. One of
    more than `windows_max` windows is not judged: the verifier abstains. It abstains too where asking again would not help: the
    model refuses, a filter of the provider's cuts in, or the prompt is too long for the model. Of the task's goal, its inputs and
    earlier outputs, `context_chars` are shown; what is not stands in the verdict's evidence.

    With a `calibration`, which must be of exactly this verifier, its threshold replaces `pass_threshold`. `prices` are your own, by
    model; other prices come from the package genai-prices (extra ``prices``), and without either they are unknown.

    Raises InvalidConfig for settings out of range, VerifierUnavailable when there is neither a provider nor a `complete_fn`.
    """

    def __init__(
        self,
        *,
        provider: str | None = None,
        model: str | None = None,
        api_key: str | None = None,
        region: str | None = None,
        temperature: float | None = 0.0,
        max_tokens: int = 400,
        pass_threshold: float = _THRESHOLD,
        complete_fn: CompleteFunction | None = None,
        base_url: str | None = None,
        limits: ProviderLimits | None = None,
        calibration: Calibration | None = None,
        prices: PriceTable | None = None,
        context_chars: int = CONTEXT_CHARS_MAX,
        window_chars: int = 24_000,
        window_overlap_chars: int = 1_000,
        windows_max: int = 64,
    ) -> None:
        if provider is None:
            found = Found(OWN_CALL) if complete_fn is not None else choose(os.environ)
            provider, model, region = found.provider, model or found.model, region or found.region
        if complete_fn is None and provider not in PROVIDERS:
            raise InvalidConfig(f"unknown provider {provider!r}: use one of {', '.join(PROVIDERS)}, or pass complete_fn=")
        if base_url is not None and model is None:
            raise InvalidConfig(f"which model is served at {base_url}? Pass model=")
        if calibration is not None and pass_threshold not in (_THRESHOLD, calibration.threshold):
            raise InvalidConfig(f"pass_threshold={pass_threshold} and a calibration for {calibration.threshold} contradict each other")
        if not 0.0 <= pass_threshold <= 1.0 or max_tokens < 1 or windows_max < 1 or context_chars < 0:
            raise InvalidConfig(f"an LLM verifier needs pass_threshold in [0, 1] ({pass_threshold}) and positive limits")
        if not 0 <= window_overlap_chars < window_chars // 2:
            raise InvalidConfig(f"windows of {window_chars} characters cannot overlap by {window_overlap_chars}; use less than half")
        self.provider = provider
        self.model = model or DEFAULT_MODELS.get(provider, OWN_CALL)
        self.region = region
        self._api_key = api_key
        self._temperature = temperature
        self._max_tokens = max_tokens
        self._pass_threshold = pass_threshold
        self._complete_fn = complete_fn
        self._billing = Billing(provider, self.model, max_tokens, prices, base_url)
        self._context_chars = context_chars
        self._window = (window_chars, window_overlap_chars)
        self._windows_max = windows_max
        self._config = ProviderConfig(
            provider, self.model, api_key, region, base_url, temperature, max_tokens, ProviderLimits() if limits is None else limits
        )
        self.calibration: Calibration | None = None
        if calibration is not None:
            if calibration.threshold is not None:
                self._pass_threshold = calibration.threshold
            calibration.check(self)
            self.calibration = calibration

    @classmethod
    def bedrock(cls, model: str | None = None, *, region: str | None = None, **options: Any) -> Self:
        """Any chat model of Amazon Bedrock."""
        return cls(provider="bedrock", model=model, region=region, **options)

    @classmethod
    def openai(cls, model: str | None = None, **options: Any) -> Self:
        """A model of OpenAI; with `base_url` one of any server that speaks its protocol: vLLM, Ollama, a gateway."""
        return cls(provider="openai", model=model, **options)

    @classmethod
    def anthropic(cls, model: str | None = None, **options: Any) -> Self:
        """A Claude model, from Anthropic directly."""
        return cls(provider="anthropic", model=model, **options)

    @classmethod
    def gemini(cls, model: str | None = None, **options: Any) -> Self:
        """A Gemini model of Google."""
        return cls(provider="gemini", model=model, **options)

    @property
    def name(self) -> str:
        return f"llm-{self.provider}:{self.model}"

    @property
    def identity(self) -> str:
        return (
            f"{self.name}(prompt={PROMPT_VERSION}, temperature={self._temperature}, max_tokens={self._max_tokens},"
            f" pass_threshold={self._pass_threshold}, window={self._window}, context={self._context_chars}"
            f"{f', calibration={self.calibration.version}' if self.calibration else ''})"
        )

    @property
    def pass_threshold(self) -> float:
        return self._pass_threshold

    def at_threshold(self, threshold: float) -> Self:
        if not 0.0 <= threshold <= 1.0:
            raise InvalidConfig(f"a threshold is a confidence from 0 to 1, not {threshold}")
        other = copy.copy(self)
        other._pass_threshold, other.calibration = threshold, None
        return other

    @property
    def uncalibrated(self) -> Self:
        return self.at_threshold(self._pass_threshold)

    def calibrations(self, criticality: Criticality) -> tuple[Calibration | None, ...]:
        return (self.calibration,)

    def missing(self) -> tuple[str, ...]:
        if self._complete_fn is not None:
            return ()
        has_key = self._api_key is not None or self._config.base_url is not None
        problem = PROVIDERS[self.provider].missing(os.environ, has_key=has_key)
        return (f"the verifier {self.name} {problem}",) if problem else ()

    def __repr__(self) -> str:
        return f"<LLMVerifier {self.name}>"  # never the key

    async def verify(self, request: VerifyInput) -> VerificationResult:
        if is_empty(request.output):
            return VerificationResult.fail(ErrorType.INCOMPLETE, reasoning="the output is empty", verifier=self.name)
        started, spending = time.perf_counter(), request.spending.part()
        asked, parts = await self._prepared(request)
        notes = (f"not shown to the model: {asked.left_out} (context_chars={self._context_chars})",) * bool(asked.left_out)
        facts: dict[str, Any] = {
            "verifier": self.name,
            "prompt": PROMPT_VERSION,
            "calibration": self.calibration.version if self.calibration else "",
        }
        if len(parts) > self._windows_max:
            reasoning = f"the output makes {len(parts)} windows, more than windows_max={self._windows_max}; split the step or raise it"
            return VerificationResult.abstain(reasoning, evidence=notes, **facts)
        lowest = 1.0
        said: list[str] = []
        for number, part in enumerate(parts, 1):
            judgement = await self._judge(user_prompt(asked, part, number, len(parts)), self._time_left(request, started), spending)
            facts["cost"] = spending.so_far() + Cost(0, 0.0, time.perf_counter() - started)
            if not isinstance(judgement, Judgement) or self._rejects(judgement):
                where = (f"window {number} of {len(parts)}",) * (len(parts) > 1)
                return self._not_passed(judgement, facts | {"evidence": notes + where})
            lowest = min(lowest, judgement.confidence)
            said.append(judgement.reasoning)
        return VerificationResult.ok(confidence=lowest, reasoning=" ".join(said)[:_TEXT_CHARS_MAX], evidence=notes, **facts)

    async def _prepared(self, request: VerifyInput) -> tuple[Question, list[str]]:
        """The question and the windows of the output; in a thread where that reads the store or takes its time."""

        text = render(request.output)
        size, overlap = self._window
        is_judged = len(text) <= size * self._windows_max  # else there are too many windows, whatever is in them

        def prepare() -> tuple[Question, list[str]]:
            return question(request, self._context_chars), list(windows(visible(text) if is_judged else text, size, overlap))

        if isinstance(request.history, (list, tuple)) and len(text) < _LONG_CHARS:
            return prepare()
        prepared: tuple[Question, list[str]] = await in_thread(prepare)
        return prepared

    async def _judge(self, user: str, timeout_s: float, spending: Spending) -> Judgement | Unusable | VerifierFault | BudgetExhausted:
        """What the model said, or why it was not asked."""
        try:
            with spending.call(await self._billing.most(SYSTEM + user)) as call:
                try:
                    completion = await self._complete(SYSTEM, user, timeout_s)
                except AgentRaftError as problem:
                    call.cost = FREE
                    return VerifierFault(FaultKind.UNAVAILABLE, str(problem), self._source)
                except Exception as problem:  # noqa: BLE001 - the boundary: SDKs and users' functions raise anything
                    return VerifierFault(FaultKind.OTHER, self._without_key(describe(problem)), self._source)
                call.cost = self._billing.cost(completion, SYSTEM + user)
        except BudgetExhausted as short:
            return short
        if isinstance(completion, VerifierFault):
            return msgspec.structs.replace(completion, message=self._without_key(completion.message))
        return self._read(completion) if isinstance(completion, Completion) else parse_reply(completion)

    def _read(self, completion: Completion) -> Judgement | Unusable | VerifierFault:
        kind = completion.stop.fault
        if kind is not None:
            return VerifierFault(kind, completion.detail or f"the model stopped: {completion.stop.value}", self._source)
        return parse_reply(completion.text if completion.verdict is None else json.dumps(completion.verdict))

    async def _complete(self, system: str, user: str, timeout_s: float) -> object:
        if self._complete_fn is not None:
            return await in_thread(self._complete_fn, system, user)
        return await complete(self._config, system, user, timeout_s)

    def _rejects(self, judgement: Judgement) -> bool:
        return judgement.error_type is not ErrorType.NONE or judgement.confidence < self._pass_threshold

    def _not_passed(self, judgement: Judgement | Unusable | VerifierFault | BudgetExhausted, facts: dict[str, Any]) -> VerificationResult:
        if isinstance(judgement, BudgetExhausted):
            return VerificationResult.fault(str(judgement), short_of=judgement.fields["resource"], **facts)
        if isinstance(judgement, VerifierFault):
            unable = VerificationResult.abstain if judgement.kind.advice is Advice.ASK_ANOTHER else VerificationResult.fault
            return unable(f"the model gave no verdict ({judgement.kind.value}): {judgement.message}", failure=judgement, **facts)
        if isinstance(judgement, Unusable):
            # As in the seed, text without a verdict counts as INCOMPLETE; but the verifier failed, so the agent does not pay.
            error_type = ErrorType.NONE if judgement.malformed else ErrorType.INCOMPLETE
            failure = VerifierFault(FaultKind.MALFORMED, judgement.reason, self._source)
            return VerificationResult(False, error_type, 0.0, reasoning=judgement.reason, kind=VerdictKind.FAULT, failure=failure, **facts)
        facts |= {"confidence": judgement.confidence, "blame": judgement.blame}
        if judgement.error_type is ErrorType.NONE:
            reasoning = f"passed with a confidence of {judgement.confidence}, under {self._pass_threshold}. {judgement.reasoning}"
            return VerificationResult.fail(ErrorType.INCOMPLETE, hint=_cut(judgement.hint), reasoning=reasoning[:_TEXT_CHARS_MAX], **facts)
        return VerificationResult.fail(
            judgement.error_type, hint=_cut(judgement.hint), reasoning=judgement.reasoning[:_TEXT_CHARS_MAX], **facts
        )

    @property
    def _source(self) -> str:
        return f"{self.provider}:{self.model}"

    def _time_left(self, request: VerifyInput, started: float) -> float:
        """For one window, waiting for room included; a little less than there is, so that the fault names what was waited for."""
        deadline_s = _DEADLINE_S if request.deadline_s is None else request.deadline_s
        return max(0.001, _ANSWERS_BY * deadline_s - (time.perf_counter() - started))

    def _without_key(self, text: str) -> str:
        return text.replace(self._api_key, "[key]") if self._api_key else text


def _cut(hint: str | None) -> str | None:
    return hint[:_TEXT_CHARS_MAX] if hint else None
