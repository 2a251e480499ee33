"""Google Gemini, through its own SDK (google-genai)."""

from __future__ import annotations

from typing import Any

from agentraft_ray.taxonomy import FaultKind, VerifierFault
from agentraft_ray.verifier.providers.completion import Completion, StopReason
from agentraft_ray.verifier.providers.faults import fault_of_raise, fault_of_status, read
from agentraft_ray.verifier.providers.models import Manner, Mechanism, Thinking
from agentraft_ray.verifier.providers.retry_after import duration_s
from agentraft_ray.verifier.providers.settings import ProviderConfig
from agentraft_ray.verifier.providers.verdict_schema import VERDICT_SCHEMA

__all__ = ["GeminiClient", "open_client"]

_SDK_SLACK_S = 5.0
_STOPS = {
    "STOP": StopReason.COMPLETE,
    "MAX_TOKENS": StopReason.TRUNCATED,
    "SAFETY": StopReason.FILTERED,
    "RECITATION": StopReason.FILTERED,
    "LANGUAGE": StopReason.FILTERED,
    "BLOCKLIST": StopReason.FILTERED,
    "PROHIBITED_CONTENT": StopReason.FILTERED,
    "SPII": StopReason.FILTERED,
    "MODEL_ARMOR": StopReason.FILTERED,
    "MALFORMED_FUNCTION_CALL": StopReason.MALFORMED,
    "UNEXPECTED_TOOL_CALL": StopReason.MALFORMED,
    "TOO_MANY_TOOL_CALLS": StopReason.MALFORMED,
    "MALFORMED_RESPONSE": StopReason.MALFORMED,
    "ESCALATION": StopReason.REFUSED,
}


async def open_client(config: ProviderConfig) -> GeminiClient:
    """A client of the place that `config` names."""
    from google import genai  # noqa: PLC0415 - an extra
    from google.genai import types  # noqa: PLC0415

    # The SDK reports its own short time-outs as a server error, so ours comes first. It counts in milliseconds. Without
    # `retry_options` it repeats a request whose connection broke.
    http = types.HttpOptions(
        base_url=config.base_url,
        timeout=int((config.limits.call_timeout_s + _SDK_SLACK_S) * 1000),
        retry_options=types.HttpRetryOptions(attempts=1),
    )
    return GeminiClient(genai.Client(api_key=config.api_key, http_options=http), types)


class GeminiClient:
    """One `genai.Client`."""

    def __init__(self, sdk: Any, types: Any) -> None:
        self._sdk = sdk
        self._types = types
        self._configs: dict[tuple[Any, ...], Any] = {}

    async def send(self, config: ProviderConfig, manner: Manner, system: str, user: str, timeout_s: float) -> Completion | VerifierFault:
        """One request; the caller keeps the time."""
        from google.genai import errors  # noqa: PLC0415

        try:
            response = await self._sdk.aio.models.generate_content(
                model=config.model, contents=user, config=self._settings(config, manner, system)
            )
        except errors.APIError as error:
            return _fault(error, config.lane)
        except Exception as error:  # noqa: BLE001 - the boundary to the SDK
            return fault_of_raise(error, config.lane)
        return read(_completion, response, config.lane)

    async def close(self) -> None:
        """See `Client`."""
        await self._sdk.aio.aclose()
        self._sdk.close()

    def _settings(self, config: ProviderConfig, manner: Manner, system: str) -> Any:
        """The SDK's settings for one manner; it takes longer to check them than to send a request."""
        key = (manner, system, config.temperature, config.tokens_max(manner))
        found = self._configs.get(key)
        if found is None:
            found = self._configs[key] = self._types.GenerateContentConfig(
                system_instruction=system,
                max_output_tokens=config.tokens_max(manner),
                temperature=config.temperature if manner.temperature else None,
                response_mime_type=None if manner.mechanism is Mechanism.PROMPT else "application/json",
                response_json_schema=VERDICT_SCHEMA if manner.mechanism is Mechanism.SCHEMA else None,
                thinking_config=self._thinking(manner),
                automatic_function_calling=self._types.AutomaticFunctionCallingConfig(disable=True),
            )
        return found

    def _thinking(self, manner: Manner) -> Any:
        match manner.thinking:
            case Thinking.OFF:
                return self._types.ThinkingConfig(thinking_budget=0)
            case Thinking.LEAST:
                return self._types.ThinkingConfig(thinking_level=self._types.ThinkingLevel.MINIMAL)
            case _:
                return None


def _fault(error: Any, lane: str) -> VerifierFault:
    """The body names the reason, the quota and the time to wait, each in a detail of its own."""
    body = error.details.get("error", {}) if isinstance(error.details, dict) else {}
    details = [one for one in body.get("details") or () if isinstance(one, dict)]
    delays = [duration_s(str(one["retryDelay"])) for one in details if "retryDelay" in one]
    reasons = [str(one["reason"]) for one in details if "reason" in one]
    headers = getattr(error.response, "headers", None) or {}
    code = reasons[0] if reasons else error.status or ""
    fault = fault_of_status(error.code or 0, error.message or "", lane, headers, code=code, after_s=delays[0] if delays else None)
    quotas = str([one.get("violations") for one in details])
    if fault.kind is FaultKind.RATE_LIMITED and "PerDay" in quotas:
        return VerifierFault(FaultKind.QUOTA, fault.message, lane, fault.retry_after_s, fault.status)
    return fault


def _completion(response: Any) -> Completion:
    usage, feedback = response.usage_metadata, response.prompt_feedback
    candidate = response.candidates[0] if response.candidates else None
    parts = (candidate.content.parts if candidate is not None and candidate.content is not None else None) or []
    blocked = feedback.block_reason if feedback is not None else None
    if candidate is None:
        stop = StopReason.FILTERED if blocked else StopReason.MALFORMED
    else:
        reason = candidate.finish_reason
        stop = _STOPS.get(reason.value if reason is not None else "", StopReason.OTHER)
    said = candidate.finish_message if candidate is not None else feedback.block_reason_message if feedback is not None else None
    return Completion(
        text="".join(part.text for part in parts if part.text and not part.thought),
        tokens_in=(usage.prompt_token_count or 0) if usage else 0,
        tokens_out=((usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)) if usage else 0,
        stop=stop,
        tokens_cached=(usage.cached_content_token_count or 0) if usage else 0,
        tokens_reasoning=(usage.thoughts_token_count or 0) if usage else 0,
        model=response.model_version or "",
        detail=said or (f"blocked: {blocked.value}" if blocked else ""),
    )
