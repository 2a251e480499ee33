"""OpenAI, and every server that speaks its protocol, through the chat completions of its own SDK.

Chat completions rather than responses: vLLM, Ollama and gateways all have them, and they take the same strict schema.
"""

from __future__ import annotations

import os
from typing import Any

from agentraft_ray.config import ProviderLimits
from agentraft_ray.taxonomy import VerifierFault
from agentraft_ray.verifier.providers.completion import Completion, StopReason
from agentraft_ray.verifier.providers.faults import fault_of_raise, fault_of_status, read
from agentraft_ray.verifier.providers.models import Manner, Mechanism, Thinking
from agentraft_ray.verifier.providers.settings import ProviderConfig
from agentraft_ray.verifier.providers.verdict_schema import VERDICT_NAME, VERDICT_SCHEMA

__all__ = ["OpenAIClient", "open_client"]

_STOPS = {"stop": StopReason.COMPLETE, "length": StopReason.TRUNCATED, "content_filter": StopReason.FILTERED}
_FORMATS: dict[Mechanism, dict[str, Any]] = {
    Mechanism.SCHEMA: {"type": "json_schema", "json_schema": {"name": VERDICT_NAME, "schema": VERDICT_SCHEMA, "strict": True}},
    Mechanism.JSON: {"type": "json_object"},
}
_EFFORTS = {Thinking.OFF: "none", Thinking.LEAST: "minimal"}


async def open_client(config: ProviderConfig) -> OpenAIClient:
    """A client of the place that `config` names."""
    import openai  # noqa: PLC0415 - an extra

    key = config.api_key or (os.environ.get("OPENAI_API_KEY") or "none" if config.base_url else None)  # servers of one's own need none
    return OpenAIClient(
        openai.AsyncOpenAI(
            api_key=key,
            base_url=config.base_url,
            max_retries=0,
            timeout=config.limits.call_timeout_s,
        ),
        openai.Timeout,
    )


class OpenAIClient:
    """One `AsyncOpenAI`."""

    def __init__(self, sdk: Any, timeout: Any) -> None:
        self._sdk = sdk
        self._timeout_class = timeout

    def _timeout(self, timeout_s: float, limits: ProviderLimits) -> Any:
        return self._timeout_class(timeout_s, connect=min(timeout_s, limits.connect_timeout_s))

    async def send(self, config: ProviderConfig, manner: Manner, system: str, user: str, timeout_s: float) -> Completion | VerifierFault:
        """One request."""
        import openai  # noqa: PLC0415

        options: dict[str, Any] = {"max_completion_tokens" if manner.new_limit else "max_tokens": config.tokens_max(manner)}
        if manner.mechanism in _FORMATS:
            options["response_format"] = _FORMATS[manner.mechanism]
        if manner.thinking in _EFFORTS:
            options["reasoning_effort"] = _EFFORTS[manner.thinking]
        if manner.temperature and config.temperature is not None:
            options["temperature"] = config.temperature
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        if not manner.system:
            messages = [{"role": "user", "content": f"{system}\n\n{user}"}]
        try:
            response = await self._sdk.chat.completions.create(
                model=config.model, messages=messages, timeout=self._timeout(timeout_s, config.limits), **options
            )
        except openai.APIStatusError as error:
            code = error.code or error.type or ""
            return fault_of_status(error.status_code, error.message, config.lane, error.response.headers, code=code)
        except Exception as error:  # noqa: BLE001 - the boundary to the SDK
            return fault_of_raise(error, config.lane)
        return read(_completion, response, config.lane)

    async def close(self) -> None:
        """See `Client`."""
        await self._sdk.close()


def _completion(response: Any) -> Completion:
    usage = response.usage
    choice = response.choices[0] if response.choices else None
    message = choice.message if choice is not None else None
    refusal = getattr(message, "refusal", None)
    stop = StopReason.MALFORMED if choice is None or message is None else _STOPS.get(choice.finish_reason, StopReason.OTHER)
    if refusal:
        stop = StopReason.REFUSED
    cached = usage.prompt_tokens_details if usage else None
    reasoning = usage.completion_tokens_details if usage else None
    return Completion(
        text=(message.content or "") if message is not None else "",
        tokens_in=(usage.prompt_tokens or 0) if usage else 0,
        tokens_out=(usage.completion_tokens or 0) if usage else 0,
        stop=stop,
        tokens_cached=(cached.cached_tokens or 0) if cached else 0,
        tokens_reasoning=(reasoning.reasoning_tokens or 0) if reasoning else 0,
        model=response.model or "",
        detail=refusal or "",
    )
