"""A language model as a verifier: prompt, call, strict parsing, long outputs in windows. The network is in `providers`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self

import msgspec

from agentraft_ray.config import Limits, ProviderLimits
from agentraft_ray.errors import AgentRaftError, InvalidConfig
from agentraft_ray.taxonomy import Advice, Cost, ErrorType, FaultKind, VerdictKind, VerificationResult, VerifierFault
from agentraft_ray.verifier.asking import describe, in_thread
from agentraft_ray.verifier.base import Verifier, VerifyInput
from agentraft_ray.verifier.content import is_empty, render
from agentraft_ray.verifier.parse import Judgement, Unusable, parse_reply
from agentraft_ray.verifier.prompt import PROMPT_VERSION, SYSTEM, user_prompt
from agentraft_ray.verifier.providers import DEFAULT_MODELS, PROVIDERS, Completion, ProviderConfig, complete
from agentraft_ray.verifier.providers.environment import Found, choose
from agentraft_ray.verifier.providers.faults import MAY_BE_BILLED
from agentraft_ray.verifier.windows import windows

__all__ = ["DEFAULT_MODELS", "CompleteFunction", "Completion", "LLMVerifier"]

CompleteFunction = Callable[[str, str], "str | Completion | VerifierFault | Awaitable[str | Completion | VerifierFault]"]

_TEXT_CHARS_MAX = Limits().hint_chars_max
_DEADLINE_S = Limits().verifier_timeout_s
_ANSWERS_BY = 0.98
_CHARS_PER_TOKEN = 4  # an estimate, where the call does not say how many tokens it took
_OWN_CALL = "custom"


class LLMVerifier(Verifier):
    """Asks a language model for a verdict; whatever cannot be understood strictly is a fault, never a pass.

    `complete_fn(system, user)` replaces the network call; it returns the reply as text, as a `Completion` with its tokens, or a
    `VerifierFault`, and a sync one runs in a thread. Without it the provider's SDK and credentials are needed, but only when the
    verifier is asked. Without `provider` the environment decides, see `detection`.

    A PASS with a confidence under `pass_threshold` is rejected as INCOMPLETE. An empty output is INCOMPLETE without a call. An
    output over `window_chars` is judged in overlapping windows, in order: all must pass, the first that does not decides. One of
    more than `windows_max` windows is not judged: the verifier abstains. It abstains too where asking again would not help: the
    model refuses, a filter of the provider's cuts in, or the prompt is too long for the model.

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
        pass_threshold: float = 0.5,
        complete_fn: CompleteFunction | None = None,
        base_url: str | None = None,
        limits: ProviderLimits | None = None,
        window_chars: int = 24_000,
        window_overlap_chars: int = 1_000,
        windows_max: int = 64,
    ) -> None:
        if provider is None:
            found = Found(_OWN_CALL) if complete_fn is not None else choose(os.environ)
            provider, model, region = found.provider, model or found.model, region or found.region
        if complete_fn is None and provider not in PROVIDERS:
            raise InvalidConfig(f"unknown provider {provider!r}: use one of {', '.join(PROVIDERS)}, or pass complete_fn=")
        if base_url is not None and model is None:
            raise InvalidConfig(f"which model is served at {base_url}? Pass model=")
        if not 0.0 <= pass_threshold <= 1.0 or max_tokens < 1 or windows_max < 1:
            raise InvalidConfig(f"an LLM verifier needs pass_threshold in [0, 1] ({pass_threshold}) and positive limits")
        if not 0 <= window_overlap_chars < window_chars // 2:
            raise InvalidConfig(f"windows of {window_chars} characters cannot overlap by {window_overlap_chars}; use less than half")
        self.provider = provider
        self.model = model or DEFAULT_MODELS.get(provider, _OWN_CALL)
        self.region = region
        self._api_key = api_key
        self._temperature = temperature
        self._max_tokens = max_tokens
        self._pass_threshold = pass_threshold
        self._complete_fn = complete_fn
        self._window = (window_chars, window_overlap_chars)
        self._windows_max = windows_max
        self._config = ProviderConfig(
            provider, self.model, api_key, region, base_url, temperature, max_tokens, ProviderLimits() if limits is None else limits
        )

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
            f" pass_threshold={self._pass_threshold}, window={self._window})"
        )

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
        parts = list(windows(render(request.output), *self._window))
        if len(parts) > self._windows_max:
            reasoning = f"the output makes {len(parts)} windows, more than windows_max={self._windows_max}; split the step or raise it"
            return VerificationResult.abstain(reasoning, verifier=self.name, prompt=PROMPT_VERSION)
        started, tokens, lowest = time.perf_counter(), 0, 1.0
        said: list[str] = []
        notes: dict[str, None] = {}
        for number, part in enumerate(parts, 1):
            user, left_out = user_prompt(request, part, number, len(parts))
            if left_out:
                notes[f"not shown to the model: {left_out}"] = None
            judgement, used = await self._judge(user, self._time_left(request, started))
            tokens += used
            if not isinstance(judgement, Judgement) or self._rejects(judgement):
                where = f"window {number} of {len(parts)}" if len(parts) > 1 else ""
                return self._not_passed(judgement, where, self._cost(tokens, started), tuple(notes))
            lowest = min(lowest, judgement.confidence)
            said.append(judgement.reasoning)
        return VerificationResult.ok(
            confidence=lowest,
            reasoning=" ".join(said)[:_TEXT_CHARS_MAX],
            verifier=self.name,
            evidence=tuple(notes),
            cost=self._cost(tokens, started),
            prompt=PROMPT_VERSION,
        )

    async def _judge(self, user: str, timeout_s: float) -> tuple[Judgement | Unusable | VerifierFault, int]:
        """(what the model said, tokens used)."""
        try:
            completion = await self._complete(SYSTEM, user, timeout_s)
        except AgentRaftError as problem:
            return VerifierFault(FaultKind.UNAVAILABLE, str(problem), self._source), 0
        except Exception as problem:  # noqa: BLE001 - the boundary: SDKs and users' functions raise anything
            message = self._without_key(describe(problem))
            return VerifierFault(FaultKind.OTHER, message, self._source), _estimate(SYSTEM, user)
        if isinstance(completion, VerifierFault):
            fault = msgspec.structs.replace(completion, message=self._without_key(completion.message))
            return fault, _estimate(SYSTEM, user) if fault.kind in MAY_BE_BILLED else 0
        if not isinstance(completion, Completion):
            reply = completion if isinstance(completion, str) else ""
            return parse_reply(completion), _estimate(SYSTEM, user, reply)
        return self._read(completion), completion.tokens_in + completion.tokens_out

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

    def _not_passed(
        self, judgement: Judgement | Unusable | VerifierFault, where: str, cost: Cost, notes: tuple[str, ...]
    ) -> VerificationResult:
        facts: dict[str, Any] = {
            "verifier": self.name,
            "cost": cost,
            "prompt": PROMPT_VERSION,
            "evidence": notes + (where,) * bool(where),
        }
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

    def _cost(self, tokens: int, started: float) -> Cost:
        return Cost(tokens, None, time.perf_counter() - started)


def _cut(hint: str | None) -> str | None:
    return hint[:_TEXT_CHARS_MAX] if hint else None


def _estimate(*texts: str) -> int:
    return sum(len(text) for text in texts) // _CHARS_PER_TOKEN
