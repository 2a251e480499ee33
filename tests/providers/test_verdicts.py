"""Verdicts through each provider's own way to structured output, over its own SDK and a real socket."""

from __future__ import annotations

import pytest

from agentraft_ray import ErrorType
from agentraft_ray.taxonomy import VerdictKind
from agentraft_ray.testing.model_server import PASS, ModelServer, Reply
from agentraft_ray.verifier import LLMVerifier
from agentraft_ray.verifier.providers import ProviderConfig, complete
from tests.providers.asking import KEY, PROVIDERS, answered, request, verifier

REJECT = {"verdict": "GOAL_DRIFT", "confidence": 0.8, "hint": "keep to Rome", "reasoning": "it is about Paris", "blame": "extract"}


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_pass_and_a_rejection_come_back_as_they_were_given(server: ModelServer, provider: str) -> None:
    passed = await answered(server, provider, Reply(verdict=PASS))
    assert (passed.kind, passed.confidence, passed.reasoning) == (VerdictKind.PASS, 0.9, PASS["reasoning"])
    rejected = await answered(server, provider, Reply(verdict=REJECT))
    assert (rejected.error_type, rejected.confidence, rejected.hint, rejected.blame) == (
        ErrorType.GOAL_DRIFT,
        0.8,
        "keep to Rome",
        "extract",
    )
    asked = server.asked[0]
    assert asked.mechanism == "schema"
    assert "You judge the output" in asked.system
    assert "Rome is a city." in asked.user


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_tokens_are_counted_alike_whatever_the_provider_counts(server: ModelServer, provider: str) -> None:
    server.script = lambda asked: Reply(verdict=PASS, tokens=(120, 30), tokens_cached=20, tokens_reasoning=5)
    config = verifier(server, provider)._config
    answer = await complete(config, "system", "user", 10.0)
    assert (answer.tokens_in, answer.tokens_out, answer.tokens_cached) == (120, 30, 20)
    if provider != "bedrock":  # which names neither
        assert (answer.tokens_reasoning, answer.model) == (5, config.model)


@pytest.mark.parametrize(
    ("provider", "header", "value"),
    [
        ("openai", "authorization", f"Bearer {KEY}"),
        ("anthropic", "authorization", f"Bearer {KEY}"),
        ("gemini", "x-goog-api-key", KEY),
        ("bedrock", "authorization", "AWS4-HMAC-SHA256 Credential=AKIATEST/"),
    ],
)
async def test_the_key_goes_where_its_provider_wants_it(server: ModelServer, provider: str, header: str, value: str) -> None:
    await answered(server, provider, Reply(verdict=PASS))
    assert server.asked[0].headers[header].startswith(value)


BEDROCK = {
    "global.anthropic.claude-haiku-4-5-20251001-v1:0": "schema",
    "anthropic.claude-opus-4-7": "strict_tool",
    "anthropic.claude-3-5-sonnet-20241022-v2:0": "tool",
    "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-3-5-haiku-20241022-v1:0": "tool",
    "us.amazon.nova-lite-v1:0": "tool",
    "mistral.mistral-large-2402-v1:0": "tool",
    "mistral.mistral-large-3-675b-instruct": "schema",
    "qwen.qwen3-32b-v1:0": "schema",
    "meta.llama3-1-70b-instruct-v1:0": "prompt",
    "cohere.command-r-plus-v1:0": "prompt",
    "ai21.jamba-1-5-mini-v1:0": "prompt",
    "amazon.titan-text-express-v1": "prompt",
    "somebody.new-model-v1:0": "prompt",
}


async def test_every_model_of_bedrock_is_asked_in_its_own_way_and_only_its_id_changes(server: ModelServer) -> None:
    for model, mechanism in BEDROCK.items():
        verdict = await answered(server, "bedrock", Reply(verdict=PASS), model=model)
        assert verdict.passed, verdict.reasoning
        asked = server.asked[-1]
        assert (asked.model, asked.mechanism) == (model, mechanism)
        assert asked.body["inferenceConfig"]["maxTokens"] == 400
        assert bool(asked.system) is ("titan" not in model)  # which knows no system prompt
        assert "You judge the output" in asked.system + asked.user


@pytest.mark.parametrize(
    ("provider", "model", "mechanism"),
    [("anthropic", "claude-3-haiku-20240307", "tool"), ("anthropic", "claude-sonnet-4-6", "schema"), ("openai", "gpt-4o", "schema")],
)
async def test_older_models_are_asked_as_they_can_be(server: ModelServer, provider: str, model: str, mechanism: str) -> None:
    assert (await answered(server, provider, Reply(verdict=PASS), model=model)).passed
    assert server.asked[0].mechanism == mechanism


async def test_a_model_that_thinks_does_not_use_up_the_tokens_of_its_verdict(server: ModelServer) -> None:
    for provider, model in (("openai", "gpt-6-luna"), ("anthropic", "claude-haiku-5-5"), ("gemini", "gemini-2.5-flash")):
        await answered(server, provider, Reply(verdict=PASS), model=model)
    openai, anthropic, gemini = (asked.body for asked in server.asked)
    assert (openai["reasoning_effort"], openai["max_completion_tokens"]) == ("none", 400)
    assert (anthropic["thinking"], anthropic["max_tokens"]) == ({"type": "disabled"}, 400)
    assert list(gemini["generationConfig"]["thinkingConfig"].values()) == [0]
    await answered(server, "gemini", Reply(verdict=PASS))  # cannot be switched off: it gets room for that
    assert server.asked[-1].body["generationConfig"]["maxOutputTokens"] > 400


async def test_any_server_that_speaks_openais_protocol_will_do(server: ModelServer) -> None:
    made = LLMVerifier.openai(base_url=server.base_url("openai"), model="qwen3-4b")
    server.script = lambda asked: Reply(verdict=PASS)
    verdict = await made.verify(request())
    assert (verdict.passed, made.name) == (True, "llm-openai:qwen3-4b")
    body = server.asked[0].body
    assert (body["max_tokens"], body["temperature"], body["response_format"]["type"]) == (400, 0.0, "json_schema")
    assert server.asked[0].headers["authorization"] == "Bearer none"


async def test_what_a_server_says_that_it_does_not_know_is_left_out_from_then_on(server: ModelServer) -> None:
    def script(asked):  # type: ignore[no-untyped-def]
        if asked.mechanism in ("schema", "json"):
            return Reply(status=400, message=f"response_format of type {asked.mechanism} is not supported")
        if "temperature" in asked.body:
            return Reply(status=400, message="Unsupported value: 'temperature' does not support 0.0 with this model")
        return Reply(text="Here you are: " + '{"verdict": "PASS", "confidence": 1, "hint": null, "reasoning": "fine"}')

    server.script = script
    made = LLMVerifier.openai(base_url=server.base_url("openai"), model="small")
    assert (await made.verify(request())).passed
    assert [asked.mechanism for asked in server.asked] == ["schema", "json", "prompt", "prompt"]
    assert (await made.verify(request())).passed
    assert len(server.asked) == 5


@pytest.mark.parametrize("provider", ["bedrock", "anthropic"])
async def test_a_model_without_a_schema_mode_is_given_a_tool(server: ModelServer, provider: str) -> None:
    def script(asked):  # type: ignore[no-untyped-def]
        if asked.mechanism == "schema":
            return Reply(status=400, message="output_config.format: Extra inputs are not permitted")
        if asked.mechanism == "strict_tool":
            return Reply(status=400, message="tools.0.strict: this model does not support strict tools")
        return Reply(verdict=PASS)

    server.script = script
    made = verifier(server, provider)
    assert (await made.verify(request())).passed
    assert (await made.verify(request())).passed
    assert [asked.mechanism for asked in server.asked] == ["schema", "strict_tool", "tool", "tool"]


async def test_a_server_that_knows_nothing_ends_after_a_bounded_number_of_tries(server: ModelServer) -> None:
    said = ("response_format", "temperature", "system", "max_completion_tokens", "reasoning")
    server.script = lambda asked: Reply(status=400, message=f"I do not know {' '.join(said)}")
    verdict = await LLMVerifier.openai(base_url=server.base_url("openai"), model="small").verify(request())
    assert verdict.kind is VerdictKind.FAULT
    assert len(server.asked) <= ProviderConfig("openai", "m").limits.adaptations_max + 1


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_long_output_is_judged_in_windows_over_one_connection(server: ModelServer, provider: str) -> None:
    server.script = lambda asked: Reply(verdict=PASS)
    made = verifier(server, provider, window_chars=2_000, window_overlap_chars=50)
    verdict = await made.verify(request("word " * 1_500))
    assert verdict.passed
    assert len(server.asked) == 4
    assert server.open_connections == 1
