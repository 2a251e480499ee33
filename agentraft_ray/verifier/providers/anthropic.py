"""Anthropic, through the messages of its own SDK."""

from __future__ import annotations

from agentraft_ray.verifier.providers import Completion, ProviderConfig, StopReason, accepts_temperature

__all__ = ["complete"]

_STOPS = {"end_turn": StopReason.COMPLETE, "max_tokens": StopReason.TRUNCATED, "refusal": StopReason.REFUSED}


async def complete(config: ProviderConfig, system: str, user: str) -> Completion:
    """One call. Raises what the SDK raises."""
    import anthropic  # noqa: PLC0415 - an extra

    # The SDK's signature no longer has a temperature; the models that know one take it in the body.
    sampled = config.temperature is not None and accepts_temperature(config.model)
    async with anthropic.AsyncAnthropic(api_key=config.api_key, max_retries=0, timeout=config.timeout_s) as client:
        message = await client.messages.create(
            model=config.model,
            system=system,
            messages=[{"role": "user", "content": user}],
            max_tokens=config.max_tokens,
            extra_body={"temperature": config.temperature} if sampled else None,
        )
    return Completion(
        text="".join(block.text for block in message.content if block.type == "text"),
        tokens_in=message.usage.input_tokens,
        tokens_out=message.usage.output_tokens,
        stop=_STOPS.get(message.stop_reason or "", StopReason.OTHER),
    )
