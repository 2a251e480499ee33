"""Google Gemini, through its own SDK (google-genai)."""

from __future__ import annotations

import asyncio

from agentraft_ray.verifier.providers import Completion, ProviderConfig, StopReason, accepts_temperature

__all__ = ["complete"]

_SDK_SLACK_S = 5.0


async def complete(config: ProviderConfig, system: str, user: str) -> Completion:
    """One call. Raises what the SDK raises, TimeoutError after `timeout_s`."""
    from google import genai  # noqa: PLC0415 - an extra
    from google.genai import types  # noqa: PLC0415 - an extra

    # The SDK reports its own short time-outs as a server error, so ours comes first. It counts in milliseconds.
    http = types.HttpOptions(timeout=int((config.timeout_s + _SDK_SLACK_S) * 1000), retry_options=types.HttpRetryOptions(attempts=1))
    sampled = config.temperature is not None and accepts_temperature(config.model)
    client = genai.Client(api_key=config.api_key, http_options=http)
    try:
        async with asyncio.timeout(config.timeout_s):
            response = await client.aio.models.generate_content(
                model=config.model,
                contents=user,
                config=types.GenerateContentConfig(
                    system_instruction=system,
                    max_output_tokens=config.max_tokens,
                    temperature=config.temperature if sampled else None,
                    response_mime_type="application/json",
                ),
            )
    finally:
        await client.aio.aclose()
        client.close()
    usage, candidates = response.usage_metadata, response.candidates or []
    return Completion(
        text=response.text or "",
        tokens_in=(usage.prompt_token_count or 0) if usage else 0,
        tokens_out=((usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)) if usage else 0,
        stop=StopReason.COMPLETE if candidates and candidates[0].finish_reason == types.FinishReason.STOP else StopReason.OTHER,
    )
