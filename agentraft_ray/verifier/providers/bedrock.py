"""Amazon Bedrock, through the Converse API of boto3: one path for all its models. boto3 blocks, so calls run in bounded threads."""

from __future__ import annotations

import json
from typing import Any

from agentraft_ray.taxonomy import FaultKind, VerifierFault
from agentraft_ray.verifier.providers.completion import Completion, StopReason
from agentraft_ray.verifier.providers.faults import fault_of_raise, fault_of_status, read
from agentraft_ray.verifier.providers.models import Manner, Mechanism, Thinking
from agentraft_ray.verifier.providers.settings import ProviderConfig
from agentraft_ray.verifier.providers.threads import BoundedThreads
from agentraft_ray.verifier.providers.verdict_schema import VERDICT_NAME, VERDICT_PURPOSE, VERDICT_SCHEMA, VERDICT_SCHEMA_JSON

__all__ = ["BedrockClient", "open_client"]

_REGION = "us-east-1"
_STOPS = {
    "end_turn": StopReason.COMPLETE,
    "stop_sequence": StopReason.COMPLETE,
    "tool_use": StopReason.COMPLETE,
    "max_tokens": StopReason.TRUNCATED,
    "model_context_window_exceeded": StopReason.TOO_LONG,
    "content_filtered": StopReason.FILTERED,
    "guardrail_intervened": StopReason.FILTERED,
    "malformed_model_output": StopReason.MALFORMED,
    "malformed_tool_use": StopReason.MALFORMED,
    "refusal": StopReason.REFUSED,
}
_OUTPUT = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": VERDICT_SCHEMA_JSON, "name": VERDICT_NAME}}}}
_TOOL = {"name": VERDICT_NAME, "description": VERDICT_PURPOSE, "inputSchema": {"json": VERDICT_SCHEMA}}
_KINDS = {
    "CredentialRetrievalError": FaultKind.UNAVAILABLE,
    "NoAuthTokenError": FaultKind.UNAVAILABLE,
    "NoCredentialsError": FaultKind.UNAVAILABLE,
    "PartialCredentialsError": FaultKind.UNAVAILABLE,
    "ProfileNotFound": FaultKind.UNAVAILABLE,
    "ResponseParserError": FaultKind.CONNECTION,  # boto3 takes what came of a body that broke off for the whole of it
}


async def open_client(config: ProviderConfig) -> BedrockClient:
    """A client of the region, or the endpoint, that `config` names."""
    limits = config.limits
    threads = BoundedThreads(limits.concurrency_max, limits.thread_idle_s, "agentraft-bedrock")
    return BedrockClient(await threads.call(_make, config), threads)


def _make(config: ProviderConfig) -> Any:
    import boto3  # noqa: PLC0415 - an extra
    from botocore.config import Config  # noqa: PLC0415

    session, limits = boto3.session.Session(region_name=config.region), config.limits
    return session.client(
        "bedrock-runtime",
        region_name=session.region_name or _REGION,
        endpoint_url=config.base_url,
        config=Config(
            retries={"total_max_attempts": 1, "mode": "standard"},
            read_timeout=limits.call_timeout_s,
            connect_timeout=limits.connect_timeout_s,
            max_pool_connections=limits.concurrency_max,
        ),
    )


class BedrockClient:
    """One client of boto3, which threads may share."""

    def __init__(self, sdk: Any, threads: BoundedThreads) -> None:
        self._sdk = sdk
        self._threads = threads

    async def send(self, config: ProviderConfig, manner: Manner, system: str, user: str, timeout_s: float) -> Completion | VerifierFault:
        """One request. When it is cancelled, or takes longer than `timeout_s`, its thread still ends only with the call."""
        from botocore.exceptions import ClientError  # noqa: PLC0415

        try:
            response = await self._threads.call(self._converse, _request(config, manner, system, user))
        except ClientError as error:
            said, answered = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
            return fault_of_status(
                answered.get("HTTPStatusCode", 0),
                said.get("Message", ""),
                config.lane,
                answered.get("HTTPHeaders", {}),
                code=said.get("Code", ""),
            )
        except Exception as error:  # noqa: BLE001 - the boundary to the SDK
            fault = fault_of_raise(error, config.lane)
            kind = _KINDS.get(type(error).__name__)
            return fault if kind is None else VerifierFault(kind, fault.message, config.lane)
        if "stopReason" not in response:
            return VerifierFault(FaultKind.CONNECTION, "the answer broke off", config.lane)
        return read(_completion, response, config.lane)

    def _converse(self, request: dict[str, Any]) -> Any:
        return self._sdk.converse(**request)

    async def close(self) -> None:
        """See `Client`. Calls under way end by themselves."""
        self._threads.close()
        self._sdk.close()


def _request(config: ProviderConfig, manner: Manner, system: str, user: str) -> dict[str, Any]:
    # Bedrock sets the quota for maxTokens aside when a call starts; left out, that would be the model's maximum.
    inference: dict[str, Any] = {"maxTokens": config.tokens_max(manner)}
    if manner.temperature and config.temperature is not None:
        inference["temperature"] = config.temperature
    request: dict[str, Any] = {"modelId": config.model, "inferenceConfig": inference}
    if manner.system:
        request["system"] = [{"text": system}]
    text = user if manner.system else f"{system}\n\n{user}"
    request["messages"] = [{"role": "user", "content": [{"text": text}]}]
    if manner.mechanism is Mechanism.SCHEMA:
        request["outputConfig"] = dict(_OUTPUT)
    elif manner.mechanism in (Mechanism.STRICT_TOOL, Mechanism.TOOL):
        tool = {**_TOOL, "strict": True} if manner.mechanism is Mechanism.STRICT_TOOL else _TOOL
        request["toolConfig"] = {"tools": [{"toolSpec": tool}], "toolChoice": _tool_choice(config.model)}
    if manner.thinking is Thinking.OFF:
        request["additionalModelRequestFields"] = {"thinking": {"type": "disabled"}}
    elif manner.thinking is Thinking.LEAST:
        request.setdefault("outputConfig", {})["effort"] = "low"
    return request


def _tool_choice(model: str) -> dict[str, Any]:
    """Claude and Nova take the name of a tool; the others only that there must be one."""
    return {"tool": {"name": VERDICT_NAME}} if "claude" in model or "nova" in model else {"any": {}}


def _completion(response: dict[str, Any]) -> Completion:
    usage = response.get("usage") or {}
    blocks = ((response.get("output") or {}).get("message") or {}).get("content") or []
    calls = [block["toolUse"].get("input") for block in blocks if "toolUse" in block]
    text = "".join(block.get("text", "") for block in blocks)
    is_one_call = len(calls) == 1 and not text.strip() and isinstance(calls[0], dict)
    cached = usage.get("cacheReadInputTokens") or 0
    return Completion(
        text="" if is_one_call else text + "".join(json.dumps(call) for call in calls),
        tokens_in=(usage.get("inputTokens") or 0) + cached + (usage.get("cacheWriteInputTokens") or 0),
        tokens_out=usage.get("outputTokens") or 0,
        stop=_STOPS.get(response.get("stopReason") or "", StopReason.OTHER),
        verdict=calls[0] if is_one_call else None,
        tokens_cached=cached,
    )
