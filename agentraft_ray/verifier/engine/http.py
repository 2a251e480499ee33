"""An engine behind HTTP: an OpenAI-compatible server of vLLM that runs elsewhere, with the same questions and the same scores."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agentraft_ray.config import ProviderLimits
from agentraft_ray.errors import InvalidConfig, VerifierUnavailable
from agentraft_ray.taxonomy import FaultKind, VerifierFault
from agentraft_ray.verifier.asking import describe, in_thread
from agentraft_ray.verifier.engine.label_prompt import LABEL_SYSTEM, LETTERS, label_shares
from agentraft_ray.verifier.engine.port import Scores
from agentraft_ray.verifier.engine.settings import EngineSettings

if TYPE_CHECKING:
    from agentraft_ray.verifier.providers.connections import Visit

__all__ = ["HTTPEngine"]

_PACKAGE = "aiohttp"
_LOGPROBS_MAX = 20  # of one token; vLLM gives no more unless it is told to
_BODY_BYTES_MAX = 16 * 1024 * 1024


class HTTPEngine:
    """A model at a server. `labels` = of the head's numbers, in their order; the server must name them alike.

    Requests go through a lane of their own, with the breaker and the limits of any provider.
    """

    def __init__(
        self,
        base_url: str,
        served_name: str,
        labels: Sequence[str],
        settings: EngineSettings,
        api_key: str | None = None,
        limits: ProviderLimits | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InvalidConfig(f"base_url={base_url!r} is no http:// or https:// address")
        self.where = parts.netloc.rpartition("@")[2]
        self._base = base_url.rstrip("/").removesuffix("/v1")
        self._name = served_name
        self._labels = tuple(labels)
        self._settings = settings
        self._api_key = api_key
        self._limits = limits or ProviderLimits()

    @property
    def lane(self) -> str:
        """The name of its lane."""
        return f"vllm:{self._name}@{self.where}"

    def missing(self) -> tuple[str, ...]:
        """See `Verifier.missing`."""
        if importlib.util.find_spec(_PACKAGE) is not None:
            return ()
        return (f"the verifier at {self.where} needs the package {_PACKAGE}: pip install {_PACKAGE}",)

    async def score(self, visit: Visit, texts: Sequence[str], left_s: float) -> Scores | VerifierFault:
        """See `Engines.score`; within `left_s`."""
        connections, started = visit.connections, time.monotonic()
        with visit.waiting():
            try:
                client = await connections.client(("vllm", self._base, self._api_key), self._open)
            except Exception as error:  # noqa: BLE001 - the boundary to the HTTP package
                return VerifierFault(FaultKind.UNAVAILABLE, describe(error), self.lane)
            assert isinstance(client, _Client)

            async def send(timeout_s: float) -> Scores | VerifierFault:
                return await self._send(client, texts, timeout_s)

            lane = connections.lane(self.lane, self._limits)
            return await lane.ask(connections.guard, send, max(0.0, left_s - (time.monotonic() - started)))

    async def _open(self) -> _Client:
        if self.missing():
            raise VerifierUnavailable(self.missing()[0])
        await in_thread(importlib.import_module, _PACKAGE)
        return _Client(self._base, self._api_key, self._limits.connect_timeout_s)

    async def _send(self, client: _Client, texts: Sequence[str], timeout_s: float) -> Scores | VerifierFault:
        from agentraft_ray.verifier.providers.faults import fault_of_raise, fault_of_status  # noqa: PLC0415 - it imports all providers

        try:
            if self._settings.mode == "classify":
                status, said = await client.post("/classify", self._classify_body(texts), timeout_s)
                answers = [(status, said)]
            else:
                posts = (client.post("/v1/chat/completions", self._chat_body(text), timeout_s) for text in texts)
                answers = await asyncio.gather(*posts)
        except Exception as error:  # noqa: BLE001 - the boundary to the HTTP package
            return fault_of_raise(error, self.lane)
        for status, said in answers:
            if status != 200:
                return fault_of_status(status, _message(said), self.lane, {})
        try:
            if self._settings.mode == "classify":
                return self._classified(answers[0][1])
            return self._chosen([said for _, said in answers])
        except (LookupError, TypeError, ValueError, AttributeError) as problem:
            return VerifierFault(FaultKind.MALFORMED, f"the server's answer has no scores: {describe(problem)}", self.lane)

    def _classify_body(self, texts: Sequence[str]) -> dict[str, Any]:
        return {"model": self._name, "input": list(texts), "truncate_prompt_tokens": self._settings.tokens_max}

    def _chat_body(self, text: str) -> dict[str, Any]:
        return {
            "model": self._name,
            "messages": [{"role": "system", "content": LABEL_SYSTEM}, {"role": "user", "content": text}],
            "temperature": 0.0,
            "max_tokens": 1,
            "logprobs": True,
            "top_logprobs": _LOGPROBS_MAX,
            "structured_outputs": {"choice": list(LETTERS)},
        }

    def _classified(self, said: Mapping[str, Any]) -> Scores:
        found = sorted(said["data"], key=lambda one: one["index"])
        for one in found:
            shares, named = one["probs"], str(one["label"]).upper()
            likeliest = self._labels[max(range(len(shares)), key=shares.__getitem__)]
            if named not in (likeliest, "NONE" if likeliest == "PASS" else likeliest):
                raise ValueError(f"it calls {named} what is {likeliest} here: another model, or other labels, are served there")
        return Scores([list(map(float, one["probs"])) for one in found], int(said["usage"]["total_tokens"]), self._engine)

    def _chosen(self, answers: Sequence[Mapping[str, Any]]) -> Scores:
        probabilities, tokens = [], 0
        for said in answers:
            seen = said["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            probabilities.append(label_shares({one["token"].strip(): float(one["logprob"]) for one in seen}))
            tokens += int(said["usage"]["total_tokens"])
        return Scores(probabilities, tokens, self._engine)

    @property
    def _engine(self) -> str:
        return f"vllm-at-{self.where}"


class _Client:
    """One session with its connections; see `providers.connections.Client`."""

    def __init__(self, base: str, api_key: str | None, connect_timeout_s: float) -> None:
        import aiohttp  # noqa: PLC0415 - comes with Ray; only for who is served elsewhere

        self._base = base
        self._timeout = aiohttp.ClientTimeout
        self._connect_s = connect_timeout_s
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._session = aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0))

    async def post(self, path: str, body: Mapping[str, Any], timeout_s: float) -> tuple[int, Mapping[str, Any]]:
        """(status, decoded body). Cancelling it closes the connection, and vLLM takes that as giving the request up."""
        timeout = self._timeout(total=timeout_s, connect=self._connect_s)
        async with self._session.post(self._base + path, json=body, timeout=timeout) as response:
            if (response.content_length or 0) > _BODY_BYTES_MAX:
                raise ValueError(f"an answer of {response.content_length} bytes")
            try:
                found = await response.json(content_type=None)
            except ValueError:
                found = {"message": (await response.text())[:500]}
            return response.status, found if isinstance(found, dict) else {}

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


def _message(said: Mapping[str, Any]) -> str:
    error = said.get("error")
    return str(error.get("message") if isinstance(error, dict) else said.get("message") or said.get("detail") or said)
