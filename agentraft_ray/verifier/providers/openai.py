"""OpenAI, through the chat completions of its own SDK."""

from __future__ import annotations

from typing import Any

from agentraft_ray.verifier.providers import Completion, ProviderConfig, StopReason, accepts_temperature

__all__ = ["complete"]

_STOPS = {"stop": StopReason.COMPLETE, "length": StopReason.TRUNCATED, "content_filter": StopReason.FILTERED}


async def complete(config: ProviderConfig, system: str, user: str) -> Completion:
    """One call. Raises what the SDK raises."""
    import openai  # noqa: PLC0415 - an extra

    options: dict[str, Any] = {}
    if not accepts_temperature(config.model):
        # A verdict is short: reasoning would use up its tokens. Models before GPT-5.1 don't know "none".
        options["reasoning_effort"] = "minimal" if config.model.startswith(("gpt-5-", "gpt-5")) and "." not in config.model else "none"
    elif config.temperature is not None:
        options["temperature"] = config.temperature
    async with openai.AsyncOpenAI(api_key=config.api_key, max_retries=0, timeout=config.timeout_s) as client:
        response = await client.chat.completions.create(
            model=config.model,
            messages=[{"role": "system", "content": system}, {"role": "user", "content": user}],
            max_completion_tokens=config.max_tokens,
            **options,
        )
    choice, usage = response.choices[0], response.usage
    return Completion(
        text=choice.message.content or "",
        tokens_in=usage.prompt_tokens if usage else 0,
        tokens_out=usage.completion_tokens if usage else 0,
        stop=StopReason.REFUSED if choice.message.refusal else _STOPS.get(choice.finish_reason, StopReason.OTHER),
    )
