"""Verifiers over a model server, and what they are asked."""

from __future__ import annotations

from typing import Any

from agentraft_ray import Step, Task
from agentraft_ray.taxonomy import VerificationResult
from agentraft_ray.testing.model_server import ModelServer, Reply
from agentraft_ray.verifier import DEFAULT_MODELS, LLMVerifier, VerifyInput

PROVIDERS = ("bedrock", "openai", "anthropic", "gemini")
KEY = "key-of-the-test"


def request(output: Any = "Rome is a city.", **more: Any) -> VerifyInput:
    return VerifyInput(Task("Describe cities"), Step("draft", print, goal="Write about Rome"), output, **more)


def verifier(server: ModelServer, provider: str, **options: Any) -> LLMVerifier:
    options.setdefault("model", DEFAULT_MODELS[provider])
    return LLMVerifier(provider=provider, api_key=KEY, base_url=server.base_url(provider), **options)


async def answered(server: ModelServer, provider: str, *replies: Reply, **options: Any) -> VerificationResult:
    """The verdict where the server answers with `replies` in turn, the last one again and again."""
    left = list(replies)
    server.script = lambda asked: left.pop(0) if len(left) > 1 else left[0]
    return await verifier(server, provider, **options).verify(request())
