"""Amazon Bedrock, through the Converse API of boto3. boto3 blocks, so a call runs in a thread of its own."""

from __future__ import annotations

from typing import Any

from agentraft_ray.verifier.asking import in_thread
from agentraft_ray.verifier.providers import Completion, ProviderConfig, StopReason, accepts_temperature

__all__ = ["complete"]

_CONNECT_TIMEOUT_S = 5.0
_STOPS = {"end_turn": StopReason.COMPLETE, "max_tokens": StopReason.TRUNCATED, "content_filtered": StopReason.FILTERED}


async def complete(config: ProviderConfig, system: str, user: str) -> Completion:
    """One call. Raises what the SDK raises. When it is cancelled the thread still ends only with the call's time-out."""
    completion: Completion = await in_thread(_converse, config, system, user)
    return completion


def _converse(config: ProviderConfig, system: str, user: str) -> Completion:
    import boto3  # noqa: PLC0415 - an extra
    from botocore.config import Config  # noqa: PLC0415 - an extra

    session = boto3.session.Session(region_name=config.region)  # type: ignore[no-untyped-call,unused-ignore]
    client = session.client(
        "bedrock-runtime",
        region_name=session.region_name or "us-east-1",
        config=Config(
            retries={"total_max_attempts": 1, "mode": "standard"},
            read_timeout=config.timeout_s,
            connect_timeout=min(_CONNECT_TIMEOUT_S, config.timeout_s),
        ),
    )
    # Bedrock reserves quota for maxTokens when the call starts; left out it would reserve the model's maximum.
    inference: dict[str, Any] = {"maxTokens": config.max_tokens}
    if config.temperature is not None and accepts_temperature(config.model):
        inference["temperature"] = config.temperature
    try:
        response = client.converse(
            modelId=config.model,
            system=[{"text": system}],
            messages=[{"role": "user", "content": [{"text": user}]}],
            inferenceConfig=inference,
        )
    finally:
        client.close()
    usage = response.get("usage", {})
    return Completion(
        text="".join(block.get("text", "") for block in response["output"]["message"]["content"]),
        tokens_in=usage.get("inputTokens", 0),
        tokens_out=usage.get("outputTokens", 0),
        stop=_STOPS.get(response.get("stopReason"), StopReason.OTHER),
    )
