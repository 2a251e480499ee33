"""How each provider's requests and answers look on the wire. Written after the providers' published interfaces; values only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote

__all__ = ["FORMATS", "Asked", "Reply", "WireFormat"]


@dataclass(frozen=True)
class Asked:
    """One request. `mechanism` = how it asks for the form of a verdict: schema, strict_tool, tool, json or prompt."""

    provider: str
    model: str
    system: str
    user: str
    mechanism: str
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass(frozen=True)
class Reply:
    """What to answer. `verdict` comes as the request asks for it (as text or as a tool's arguments), `text` always as text.

    `stop` is the provider's own word, "" for its usual one. With another `status` than 200 it is an error with `code` and `message`.
    `body` replaces all of it. `cut_after`: the connection breaks after so many bytes of the body.
    """

    verdict: dict[str, Any] | None = None
    text: str = ""
    stop: str = ""
    calls: tuple[Any, ...] = ()  # the arguments of further tool calls
    refusal: str = ""
    tokens: tuple[int, int] = (120, 30)
    tokens_cached: int = 0
    tokens_reasoning: int = 0
    status: int = 200
    code: str = ""
    message: str = ""
    details: tuple[dict[str, Any], ...] = ()  # Gemini's
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    delay_s: float = 0.0
    cut_after: int | None = None


class WireFormat(NamedTuple):
    """One provider. `path` matches its requests; `success` and `failure` make the body of an answer, and more headers."""

    path: str
    asked: Callable[[re.Match[str], dict[str, str], dict[str, Any]], Asked]
    success: Callable[[Reply, Asked], dict[str, Any]]
    failure: Callable[[Reply], tuple[dict[str, str], dict[str, Any]]]

    def answer(self, reply: Reply, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body)."""
        if reply.body is not None:
            return reply.status, reply.headers, reply.body
        if reply.status == 200:
            return 200, reply.headers, json.dumps(self.success(reply, asked)).encode()
        headers, body = self.failure(reply)
        return reply.status, {**headers, **reply.headers}, json.dumps(body).encode()


def _texts(reply: Reply, asked: Asked) -> tuple[str, list[Any]]:
    """(text, arguments of tool calls)."""
    is_tool = asked.mechanism in ("tool", "strict_tool")
    calls = ([reply.verdict] if is_tool and reply.verdict is not None else []) + list(reply.calls)
    text = reply.text + ("" if is_tool or reply.verdict is None else json.dumps(reply.verdict))
    return text, calls


# --- OpenAI ----------------------------------------------------------------------------------------------------------------------


def _openai_asked(_: re.Match[str], headers: dict[str, str], body: dict[str, Any]) -> Asked:
    by_role = {message["role"]: message["content"] for message in body["messages"]}
    form = body.get("response_format", {}).get("type", "")
    mechanism = {"json_schema": "schema", "json_object": "json"}.get(form, "prompt")
    return Asked("openai", body["model"], by_role.get("system", ""), by_role["user"], mechanism, body, headers)


def _openai_success(reply: Reply, asked: Asked) -> dict[str, Any]:
    text, _ = _texts(reply, asked)
    tokens_in, tokens_out = reply.tokens
    message = {"role": "assistant", "content": None if reply.refusal else text, "refusal": reply.refusal or None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_760_000_000,
        "model": asked.model,
        "choices": [{"index": 0, "message": message, "finish_reason": reply.stop or "stop", "logprobs": None}],
        "usage": {
            "prompt_tokens": tokens_in,
            "completion_tokens": tokens_out,
            "total_tokens": tokens_in + tokens_out,
            "prompt_tokens_details": {"cached_tokens": reply.tokens_cached},
            "completion_tokens_details": {"reasoning_tokens": reply.tokens_reasoning},
        },
    }


def _openai_failure(reply: Reply) -> tuple[dict[str, str], dict[str, Any]]:
    return {"x-request-id": "req_1"}, {"error": {"message": reply.message, "type": "error", "param": None, "code": reply.code or None}}


# --- Anthropic -------------------------------------------------------------------------------------------------------------------


def _anthropic_asked(_: re.Match[str], headers: dict[str, str], body: dict[str, Any]) -> Asked:
    mechanism = "prompt"
    if (body.get("output_config") or {}).get("format"):
        mechanism = "schema"
    elif body.get("tools"):
        mechanism = "strict_tool" if body["tools"][0].get("strict") else "tool"
    return Asked("anthropic", body["model"], body.get("system", ""), body["messages"][0]["content"], mechanism, body, headers)


def _anthropic_success(reply: Reply, asked: Asked) -> dict[str, Any]:
    text, calls = _texts(reply, asked)
    content: list[dict[str, Any]] = [{"type": "text", "text": text, "citations": None}] if text else []
    content += [{"type": "tool_use", "id": f"toolu_{n}", "name": "verdict", "input": call} for n, call in enumerate(calls)]
    stop = reply.stop or ("refusal" if reply.refusal else "tool_use" if calls else "end_turn")
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "stop_details": {"type": "refusal", "category": None, "explanation": reply.refusal} if reply.refusal else None,
        "usage": {
            "input_tokens": reply.tokens[0] - reply.tokens_cached,
            "output_tokens": reply.tokens[1],
            "cache_read_input_tokens": reply.tokens_cached,
            "cache_creation_input_tokens": 0,
            "output_tokens_details": {"thinking_tokens": reply.tokens_reasoning},
        },
    }


def _anthropic_failure(reply: Reply) -> tuple[dict[str, str], dict[str, Any]]:
    kinds = {400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error"}
    kinds |= {404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 529: "overloaded_error"}
    error: dict[str, Any] = {"type": kinds.get(reply.status, "api_error"), "message": reply.message}
    if reply.code:
        error["details"] = {"error_code": reply.code}
    return {"request-id": "req_1"}, {"type": "error", "error": error, "request_id": "req_1"}


# --- Bedrock ---------------------------------------------------------------------------------------------------------------------


def _bedrock_asked(found: re.Match[str], headers: dict[str, str], body: dict[str, Any]) -> Asked:
    mechanism = "prompt"
    if "textFormat" in body.get("outputConfig", {}):
        mechanism = "schema"
    elif body.get("toolConfig"):
        mechanism = "strict_tool" if body["toolConfig"]["tools"][0]["toolSpec"].get("strict") else "tool"
    system = "".join(block["text"] for block in body.get("system", ()))
    return Asked("bedrock", unquote(found[1]), system, body["messages"][0]["content"][0]["text"], mechanism, body, headers)


def _bedrock_success(reply: Reply, asked: Asked) -> dict[str, Any]:
    text, calls = _texts(reply, asked)
    content: list[dict[str, Any]] = [{"text": text}] if text else []
    content += [{"toolUse": {"toolUseId": f"tooluse_{n}", "name": "verdict", "input": call}} for n, call in enumerate(calls)]
    tokens_in, tokens_out = reply.tokens
    return {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": reply.stop or ("tool_use" if calls else "end_turn"),
        "usage": {
            "inputTokens": tokens_in - reply.tokens_cached,
            "outputTokens": tokens_out,
            "totalTokens": tokens_in + tokens_out,
            "cacheReadInputTokens": reply.tokens_cached,
        },
        "metrics": {"latencyMs": 5},
    }


def _bedrock_failure(reply: Reply) -> tuple[dict[str, str], dict[str, Any]]:
    kinds = {400: "ValidationException", 403: "AccessDeniedException", 404: "ResourceNotFoundException", 408: "ModelTimeoutException"}
    kinds |= {424: "ModelErrorException", 429: "ThrottlingException", 500: "InternalServerException", 503: "ServiceUnavailableException"}
    kind = reply.code or kinds.get(reply.status, "InternalServerException")
    return {"x-amzn-ErrorType": f"{kind}:http://internal.amazon.com/coral/", "x-amzn-RequestId": "1"}, {"message": reply.message}


# --- Gemini ----------------------------------------------------------------------------------------------------------------------


def _gemini_asked(found: re.Match[str], headers: dict[str, str], body: dict[str, Any]) -> Asked:
    settings = body.get("generationConfig", {})
    mechanism = "schema" if settings.get("responseJsonSchema") else "json" if settings.get("responseMimeType") else "prompt"
    system = "".join(part.get("text", "") for part in body.get("systemInstruction", {}).get("parts", ()))
    return Asked("gemini", found[1], system, body["contents"][0]["parts"][0]["text"], mechanism, body, headers)


def _gemini_success(reply: Reply, asked: Asked) -> dict[str, Any]:
    text, _ = _texts(reply, asked)
    tokens_in, tokens_out = reply.tokens
    usage = {
        "promptTokenCount": tokens_in,
        "candidatesTokenCount": tokens_out - reply.tokens_reasoning,
        "thoughtsTokenCount": reply.tokens_reasoning,
        "cachedContentTokenCount": reply.tokens_cached,
        "totalTokenCount": tokens_in + tokens_out,
    }
    if reply.refusal:  # the prompt itself is blocked: there is no candidate
        return {"promptFeedback": {"blockReason": reply.refusal}, "usageMetadata": usage, "modelVersion": asked.model}
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": reply.stop or "STOP", "index": 0}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": asked.model, "responseId": "1"}


def _gemini_failure(reply: Reply) -> tuple[dict[str, str], dict[str, Any]]:
    words = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}
    words |= {500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
    error = {"code": reply.status, "message": reply.message, "status": words.get(reply.status, "UNKNOWN"), "details": list(reply.details)}
    return {}, {"error": error}


FORMATS = (
    WireFormat(r"/v1/chat/completions", _openai_asked, _openai_success, _openai_failure),
    WireFormat(r"/v1/messages", _anthropic_asked, _anthropic_success, _anthropic_failure),
    WireFormat(r"/model/([^/]+)/converse", _bedrock_asked, _bedrock_success, _bedrock_failure),
    WireFormat(r"/v1(?:beta)?/models/([^/:]+):generateContent", _gemini_asked, _gemini_success, _gemini_failure),
)
