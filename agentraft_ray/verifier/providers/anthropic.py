"""Anthropic, through the messages of its own SDK."""

from __future__ import annotations

import json
from typing import Any

from agentraft_ray.config import ProviderLimits
from agentraft_ray.taxonomy import FaultKind, VerifierFault
from agentraft_ray.verifier.providers.completion import Completion, StopReason
from agentraft_ray.verifier.providers.faults import fault_of_raise, fault_of_status, read
from agentraft_ray.verifier.providers.models import Manner, Mechanism, Thinking
from agentraft_ray.verifier.providers.settings import ProviderConfig
from agentraft_ray.verifier.providers.verdict_schema import VERDICT_NAME, VERDICT_PURPOSE, VERDICT_SCHEMA

__all__ = ["AnthropicClient", "open_client"]

_STOPS = {
    "end_turn": StopReason.COMPLETE,
    "stop_sequence": StopReason.COMPLETE,
    "tool_use": StopReason.COMPLETE,
    "max_tokens": StopReason.TRUNCATED,
    "model_context_window_exceeded": StopReason.TOO_LONG,
    "refusal": StopReason.REFUSED,
}
_FORMAT = {"type": "json_schema", "schema": VERDICT_SCHEMA}
_TOOL = {"name": VERDICT_NAME, "description": VERDICT_PURPOSE, "input_schema": VERDICT_SCHEMA}
_TOOL_CHOICE = {"type": "tool", "name": VERDICT_NAME, "disable_parallel_tool_use": True}


async def open_client(config: ProviderConfig) -> AnthropicClient:
    """A client of the place that `config` names."""
    import anthropic  # noqa: PLC0415 - an extra

    return AnthropicClient(
        anthropic.AsyncAnthropic(
            api_key=config.api_key,
            base_url=config.base_url,
            max_retries=0,
            timeout=config.limits.call_timeout_s,
        ),
        anthropic.Timeout,
    )


class AnthropicClient:
    """One `AsyncAnthropic`."""

    def __init__(self, sdk: Any, timeout: Any) -> None:
        self._sdk = sdk
        self._timeout_class = timeout

    def _timeout(self, timeout_s: float, limits: ProviderLimits) -> Any:
        return self._timeout_class(timeout_s, connect=min(timeout_s, limits.connect_timeout_s))

    async def send(self, config: ProviderConfig, manner: Manner, system: str, user: str, timeout_s: float) -> Completion | VerifierFault:
        """One request."""
        import anthropic  # noqa: PLC0415

        try:
            message = await self._sdk.messages.create(
                model=config.model,
                messages=[{"role": "user", "content": user}],
                system=system,
                max_tokens=config.tokens_max(manner),
                timeout=self._timeout(timeout_s, config.limits),
                **_options(config, manner),
            )
        except anthropic.APIStatusError as error:
            said, code = error.api_message or error.message, error.error_code or error.type or ""
            return fault_of_status(error.status_code, said, config.lane, error.response.headers, code=code)
        except Exception as error:  # noqa: BLE001 - the boundary to the SDK
            fault = fault_of_raise(error, config.lane)
            has_none = isinstance(error, TypeError) and "authentication" in str(error)  # only a request shows that there are none
            return VerifierFault(FaultKind.UNAVAILABLE, fault.message, config.lane) if has_none else fault
        return read(_completion, message, config.lane)

    async def close(self) -> None:
        """See `Client`."""
        await self._sdk.close()


def _options(config: ProviderConfig, manner: Manner) -> dict[str, Any]:
    options: dict[str, Any] = {}
    output: dict[str, Any] = {}
    if manner.mechanism is Mechanism.SCHEMA:
        output["format"] = _FORMAT
    elif manner.mechanism in (Mechanism.STRICT_TOOL, Mechanism.TOOL):
        options["tools"] = [{**_TOOL, "strict": True} if manner.mechanism is Mechanism.STRICT_TOOL else _TOOL]
        options["tool_choice"] = _TOOL_CHOICE
    if manner.thinking is Thinking.OFF:
        options["thinking"] = {"type": "disabled"}
    elif manner.thinking is Thinking.LEAST:
        output["effort"] = "low"
    if output:
        options["output_config"] = output
    if manner.temperature and config.temperature is not None:
        options["extra_body"] = {"temperature": config.temperature}  # the SDK's signature no longer has one
    return options


def _completion(message: Any) -> Completion:
    usage = message.usage
    calls = [block.input for block in message.content if block.type == "tool_use"]
    text = "".join(block.text for block in message.content if block.type == "text")
    is_one_call = len(calls) == 1 and not text.strip() and isinstance(calls[0], dict)
    cached = usage.cache_read_input_tokens or 0
    thinking = getattr(usage.output_tokens_details, "thinking_tokens", None)
    details = message.stop_details
    return Completion(
        text="" if is_one_call else text + "".join(json.dumps(call) for call in calls),
        tokens_in=usage.input_tokens + cached + (usage.cache_creation_input_tokens or 0),
        tokens_out=usage.output_tokens,
        stop=_STOPS.get(message.stop_reason or "", StopReason.OTHER),
        verdict=calls[0] if is_one_call else None,
        tokens_cached=cached,
        tokens_reasoning=thinking or 0,
        model=message.model or "",
        detail=(getattr(details, "explanation", None) or "") if details is not None else "",
    )
