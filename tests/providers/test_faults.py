"""What providers and networks do wrong, over real sockets: each comes back as one typed fault, and nothing is sent twice."""

from __future__ import annotations

import asyncio
import socket
import time
from email.utils import formatdate

import pytest

from agentraft_ray.config import ProviderLimits
from agentraft_ray.runtime.provider_guard import ProcessGuard
from agentraft_ray.taxonomy import Advice, FaultKind, VerdictKind, VerifierFault
from agentraft_ray.testing.model_server import PASS, ModelServer, Reply
from agentraft_ray.verifier import LLMVerifier
from agentraft_ray.verifier.providers.connections import guard_process
from tests.providers.asking import KEY, PROVIDERS, answered, request, verifier

K = FaultKind
QUOTA_PER_DAY = {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaValue": "20"}]}
BAD_KEY = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
ERRORS: dict[str, list[tuple[Reply, FaultKind]]] = {
    "openai": [
        (Reply(status=400, message="bad"), K.BAD_REQUEST),
        (Reply(status=400, code="context_length_exceeded", message="This model's maximum context length is 128000"), K.TOO_LONG),
        (Reply(status=400, code="content_filter", message="filtered"), K.FILTERED),
        (Reply(status=401, code="invalid_api_key", message="Incorrect API key"), K.AUTH),
        (Reply(status=403, message="no access"), K.AUTH),
        (Reply(status=404, code="model_not_found", message="no such model"), K.BAD_REQUEST),
        (Reply(status=408, message="slow"), K.TIMEOUT),
        (Reply(status=413, message="too large"), K.TOO_LONG),
        (Reply(status=429, code="rate_limit_exceeded", message="slow down"), K.RATE_LIMITED),
        (Reply(status=429, code="insufficient_quota", message="You exceeded your current quota"), K.QUOTA),
        (Reply(status=500, message="oops"), K.SERVER_ERROR),
        (Reply(status=502, body=b"<html>bad gateway</html>"), K.SERVER_ERROR),
        (Reply(status=503, message="overloaded"), K.OVERLOADED),
    ],
    "anthropic": [
        (Reply(status=400, message="bad"), K.BAD_REQUEST),
        (Reply(status=400, message="prompt is too long: 1200000 tokens > 1000000 maximum"), K.TOO_LONG),
        (Reply(status=401, message="invalid x-api-key"), K.AUTH),
        (Reply(status=402, message="no credit"), K.QUOTA),
        (Reply(status=403, message="no"), K.AUTH),
        (Reply(status=404, message="model: nope"), K.BAD_REQUEST),
        (Reply(status=413, message="too large"), K.TOO_LONG),
        (Reply(status=429, message="rate limit"), K.RATE_LIMITED),
        (Reply(status=429, code="enforced_spend_limit_reached", message="spent"), K.QUOTA),
        (Reply(status=500, message="oops"), K.SERVER_ERROR),
        (Reply(status=504, message="slow"), K.TIMEOUT),
        (Reply(status=529, message="Overloaded"), K.OVERLOADED),
    ],
    "bedrock": [
        (Reply(status=400, message="bad"), K.BAD_REQUEST),
        (Reply(status=400, message="Input is too long for requested model."), K.TOO_LONG),
        (Reply(status=400, code="ServiceQuotaExceededException", message="quota"), K.QUOTA),
        (Reply(status=403, message="no access to the model"), K.AUTH),
        (Reply(status=403, code="ExpiredTokenException", message="expired"), K.AUTH),
        (Reply(status=404, message="no such model"), K.BAD_REQUEST),
        (Reply(status=408, message="slow"), K.TIMEOUT),
        (Reply(status=424, message="the model failed"), K.SERVER_ERROR),
        (Reply(status=429, message="Too many requests"), K.RATE_LIMITED),
        (Reply(status=429, code="ModelNotReadyException", message="warming up"), K.OVERLOADED),
        (Reply(status=500, message="oops"), K.SERVER_ERROR),
        (Reply(status=503, message="unavailable"), K.OVERLOADED),
    ],
    "gemini": [
        (Reply(status=400, message="bad"), K.BAD_REQUEST),
        (Reply(status=400, message="API key not valid", details=(BAD_KEY,)), K.AUTH),
        (Reply(status=400, message="The input token count (1200000) exceeds the maximum number of tokens allowed"), K.TOO_LONG),
        (Reply(status=403, message="no"), K.AUTH),
        (Reply(status=404, message="no such model"), K.BAD_REQUEST),
        (Reply(status=429, message="Resource exhausted"), K.RATE_LIMITED),
        (Reply(status=429, message="quota", details=(QUOTA_PER_DAY,)), K.QUOTA),
        (Reply(status=500, message="oops"), K.SERVER_ERROR),
        (Reply(status=503, message="The model is overloaded"), K.OVERLOADED),
        (Reply(status=504, message="deadline"), K.TIMEOUT),
    ],
}
STOPS: dict[str, dict[str, FaultKind]] = {
    "openai": {"length": K.TRUNCATED, "content_filter": K.FILTERED, "tool_calls": K.OTHER, "news": K.OTHER},
    "anthropic": {
        "max_tokens": K.TRUNCATED,
        "refusal": K.REFUSED,
        "model_context_window_exceeded": K.TOO_LONG,
        "pause_turn": K.OTHER,
        "news": K.OTHER,
    },
    "bedrock": {
        "max_tokens": K.TRUNCATED,
        "content_filtered": K.FILTERED,
        "guardrail_intervened": K.FILTERED,
        "malformed_model_output": K.MALFORMED,
        "malformed_tool_use": K.MALFORMED,
        "model_context_window_exceeded": K.TOO_LONG,
        "news": K.OTHER,
    },
    "gemini": {
        "MAX_TOKENS": K.TRUNCATED,
        "SAFETY": K.FILTERED,
        "RECITATION": K.FILTERED,
        "MALFORMED_FUNCTION_CALL": K.MALFORMED,
        "MALFORMED_RESPONSE": K.MALFORMED,
        "OTHER": K.OTHER,
        "LANGUAGE": K.FILTERED,
    },
}


async def failure_of(server: ModelServer, provider: str, reply: Reply, **options: object) -> VerifierFault:
    verdict = await answered(server, provider, reply, **options)
    assert not verdict.passed
    assert verdict.failure is not None, verdict
    another = verdict.failure.kind.advice is Advice.ASK_ANOTHER
    assert verdict.kind is (VerdictKind.ABSTAIN if another else VerdictKind.FAULT)
    assert KEY not in str(verdict)
    return verdict.failure


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_every_error_of_a_provider_is_one_kind_of_fault_and_is_not_sent_again(server: ModelServer, provider: str) -> None:
    for number, (reply, kind) in enumerate(ERRORS[provider]):
        before = len(server.asked)
        failure = await failure_of(server, provider, reply, model=f"{provider}-model-{number}")  # a lane of its own
        assert (failure.kind, failure.status) == (kind, reply.status), (reply, failure)
        assert failure.source.startswith(f"{provider}:{provider}-model-{number}@")
        assert len(server.asked) == before + 1


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_reply_that_did_not_end_well_is_never_a_verdict_whatever_it_says(server: ModelServer, provider: str) -> None:
    for stop, kind in STOPS[provider].items():
        failure = await failure_of(server, provider, Reply(verdict=PASS, stop=stop))
        assert failure.kind is kind, stop


@pytest.mark.parametrize(
    ("provider", "said"),
    [("openai", "I can't help with that."), ("anthropic", "It is about weapons."), ("gemini", "PROHIBITED_CONTENT")],
)
async def test_a_refusal_is_an_abstention_that_says_why(server: ModelServer, provider: str, said: str) -> None:
    failure = await failure_of(server, provider, Reply(verdict=PASS, refusal=said))
    assert failure.kind in (K.REFUSED, K.FILTERED)
    assert said in failure.message


MALFORMED = [
    Reply(verdict={**PASS, "confidence": "high"}),
    Reply(verdict={**PASS, "verdict": "FINE"}),
    Reply(verdict={"verdict": "PASS"}),
    Reply(text="It looks fine to me."),
    Reply(text=""),
    Reply(text='{"verdict": "PASS", "confidence": 0.9, "hi'),
    Reply(verdict=PASS, text='{"verdict": "GOAL_DRIFT", "confidence": 0.9}'),
    Reply(body=b"{}"),
    Reply(body=b"[]"),
    Reply(body=b"{not json"),
    Reply(body=b"null"),
]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_answer_that_is_no_verdict_is_a_fault(server: ModelServer, provider: str) -> None:
    for reply in MALFORMED:
        failure = await failure_of(server, provider, reply)
        assert failure.kind in (K.MALFORMED, K.CONNECTION), (reply, failure)


@pytest.mark.parametrize(("provider", "model"), [("bedrock", "us.amazon.nova-lite-v1:0"), ("anthropic", "claude-3-haiku-20240307")])
async def test_a_tool_call_that_is_no_verdict_is_a_fault(server: ModelServer, provider: str, model: str) -> None:
    reject = {"verdict": "GOAL_DRIFT", "confidence": 0.9, "hint": None, "reasoning": "", "blame": None}
    for reply in (
        Reply(verdict=PASS, calls=(reject,)),  # two verdicts
        Reply(verdict=PASS, text='{"verdict": "FORMAT", "confidence": 1}'),
        Reply(verdict={"verdict": "PASS", "confidence": 2}),
        Reply(verdict={}),
        Reply(calls=("PASS",)),
    ):
        assert (await failure_of(server, provider, reply, model=model)).kind is K.MALFORMED


LIMITED = {
    "openai": Reply(status=429, code="rate_limit_exceeded", message="slow down"),
    "anthropic": Reply(status=429, message="rate limit"),
    "bedrock": Reply(status=429, message="Too many requests"),
    "gemini": Reply(status=429, message="Resource exhausted"),
}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("seconds", [1, 60, 3600])
async def test_the_time_that_a_provider_names_is_on_the_fault_and_holds_for_everybody(
    server: ModelServer, provider: str, seconds: int
) -> None:
    guard_process(ProcessGuard(lambda: 1000.0))  # no time passes
    server.script = lambda asked: Reply(status=429, message="slow down", headers={"Retry-After": str(seconds)})
    made = verifier(server, provider, limits=ProviderLimits(grace_s=0.5))
    verdicts = await asyncio.gather(*(made.verify(request()) for _ in range(3)))
    assert len(server.asked) <= 3
    first = [one.failure for one in verdicts if one.failure is not None and one.failure.kind is K.RATE_LIMITED]
    assert {one.retry_after_s for one in first} == {float(seconds)}
    before = len(server.asked)
    later = (await made.verify(request())).failure
    assert later is not None
    assert (later.kind, later.retry_after_s) == (K.CLOSED, float(seconds))
    assert "rate_limited" in later.message
    assert len(server.asked) == before


@pytest.mark.parametrize(
    ("provider", "reply", "seconds"),
    [
        ("openai", Reply(status=429, headers={"retry-after-ms": "1500"}), 1.5),
        ("openai", Reply(status=429, headers={"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}), 360.0),
        ("openai", Reply(status=503, headers={"retry-after": "7"}), 7.0),
        (
            "openai",
            Reply(status=429, headers={"Date": formatdate(1e9, usegmt=True), "Retry-After": formatdate(1e9 + 90, usegmt=True)}),
            90.0,
        ),
        (
            "anthropic",
            Reply(
                status=429,
                headers={
                    "Date": formatdate(1e9, usegmt=True),
                    "anthropic-ratelimit-input-tokens-remaining": "0",
                    "anthropic-ratelimit-input-tokens-reset": "2001-09-09T01:47:00Z",
                    "anthropic-ratelimit-requests-remaining": "9",
                    "anthropic-ratelimit-requests-reset": "2001-09-09T02:47:00Z",
                },
            ),
            20.0,
        ),
        ("anthropic", Reply(status=529, headers={"retry-after": "11"}), 11.0),
        ("gemini", Reply(status=429, details=({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "53s"},)), 53.0),
        ("gemini", Reply(status=429, headers={"retry-after": "10000000"}), 24 * 3600.0),
        ("bedrock", Reply(status=429), 2.0),  # it names none
    ],
)
async def test_a_time_is_found_wherever_a_provider_names_it(server: ModelServer, provider: str, reply: Reply, seconds: float) -> None:
    failure = await failure_of(server, provider, reply)
    assert failure.retry_after_s == pytest.approx(seconds, abs=0.01)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_slow_answer_is_a_fault_in_time(server: ModelServer, provider: str) -> None:
    limits = ProviderLimits(call_timeout_s=0.5)
    failure = await failure_of(server, provider, Reply(verdict=PASS, delay_s=5.0), limits=limits)
    assert (failure.kind, failure.retry_after_s) == (K.TIMEOUT, None)
    assert len(server.asked) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_verdict_keeps_to_the_time_that_is_left_for_it(server: ModelServer, provider: str) -> None:
    server.script = lambda asked: Reply(verdict=PASS)
    made = verifier(server, provider)
    assert (await made.verify(request())).passed  # its client is there
    server.script = lambda asked: Reply(verdict=PASS, delay_s=30.0)
    started = time.monotonic()
    verdict = await made.verify(request(deadline_s=0.4))
    assert time.monotonic() - started < 10
    assert verdict.failure is not None
    assert verdict.failure.kind is K.TIMEOUT
    server.script = lambda asked: Reply(verdict=PASS)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_connection_that_breaks_is_a_fault_and_the_request_is_not_repeated(server: ModelServer, provider: str) -> None:
    for cut_after in (0, 10):
        before = len(server.asked)
        failure = await failure_of(server, provider, Reply(verdict=PASS, cut_after=cut_after))
        assert failure.kind is K.CONNECTION, failure
        assert len(server.asked) == before + 1


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_server_that_is_not_there_is_a_fault(provider: str) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        verdict = await LLMVerifier(provider=provider, model="m", api_key=KEY, base_url=url).verify(request())
    assert verdict.failure is not None
    assert verdict.failure.kind is K.CONNECTION


async def test_what_a_call_may_have_cost_is_booked_and_what_was_refused_costs_nothing(server: ModelServer) -> None:
    broken = await answered(server, "openai", Reply(verdict=PASS, cut_after=10))
    assert broken.cost.tokens > 0
    assert broken.cost.usd is None
    refused = await answered(server, "openai", LIMITED["openai"])
    assert refused.cost.tokens == 0
    filtered = await answered(server, "openai", Reply(verdict=PASS, stop="content_filter"), model="another")
    assert filtered.cost.tokens == 150


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
async def test_without_credentials_nothing_is_sent(server: ModelServer, provider: str) -> None:
    verdict = await LLMVerifier(provider=provider).verify(request())
    assert verdict.failure is not None
    assert verdict.failure.kind is K.UNAVAILABLE
    assert server.asked == []


async def test_without_credentials_of_aws_nothing_is_sent(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    verdict = await LLMVerifier.bedrock(base_url=server.base_url("bedrock"), model="amazon.nova-lite-v1:0").verify(request())
    assert verdict.failure is not None
    assert verdict.failure.kind is K.UNAVAILABLE
    assert server.asked == []
