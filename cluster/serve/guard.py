"""The door of the server: who asks, from where, how often and how much, before anything else looks at a request. Plain ASGI."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from agentraft_ray.cluster.serve.problems import PROBLEM_JSON, Refusal, encoded
from agentraft_ray.cluster.serve.settings import ServeSettings, is_loopback
from agentraft_ray.cluster.serve.tokens import ANYBODY, Principal, Tokens

__all__ = ["Guard", "Rates"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_CLIENTS_MAX = 10_000
_FAILURES_PER_S = 1.0
_FAILURES_BURST = 20
_TOKEN_CHARS_MAX = 1_000
_API = "/v1/"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_CONTENT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _CONTENT.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


class Rates:
    """A token bucket for every client: `burst` at once, `per_s` in the long run. The clients seen last are remembered."""

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # (what is left, when)

    def wait_s(self, client: str) -> float:
        """Take one; 0, or how long until there is one (then nothing was taken)."""
        now = self._clock()
        left, at = self._buckets.pop(client, (float(self._burst), now))
        left = min(self._burst, left + (now - at) * self._per_s)
        wait_s = 0.0 if left >= 1 else (1 - left) / self._per_s
        self._buckets[client] = (left if wait_s else left - 1, now)
        if len(self._buckets) > _CLIENTS_MAX:
            self._buckets.popitem(last=False)
        return wait_s


class Guard:
    """Wraps the application. What is asked of ``/v1/`` needs a token where there are any; the monitor's files do not."""

    def __init__(self, app: App, settings: ServeSettings, tokens: Tokens) -> None:
        self._app = app
        self._settings = settings
        self._tokens = tokens
        self._rates = Rates(settings.requests_per_s, settings.requests_burst)
        self._failures = Rates(_FAILURES_PER_S, _FAILURES_BURST)
        self._hosts = {"localhost", "127.0.0.1", "::1", settings.host.strip("[]"), *settings.allowed_hosts}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        is_api = scope["path"].startswith(_API)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._check_place(scope, headers)
            scope.setdefault("state", {})["principal"] = self._check_client(scope, headers) if is_api else ANYBODY
            if scope["method"] not in _SAFE:
                receive = await self._arrived(headers, receive)
        except Refusal as refusal:
            await _refuse(refusal, send)
            return
        await self._app(scope, receive, _with_headers(send, is_api=is_api))

    def _check_place(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> None:
        """Refuse who comes from elsewhere to a server that asks for no token, be it through somebody's browser."""
        if self._tokens:
            return
        client = scope.get("client")
        if client is not None and not is_loopback(client[0]):
            raise Refusal(403, "no-token", "this server has no tokens, so it only answers this machine; give it some: --tokens-file")
        if _host_of(headers.get("host", "")) not in self._hosts:
            raise Refusal(403, "wrong-host", "this server is not known under that name; allow it: --allow-host NAME")
        origin = headers.get("origin")
        if origin is not None and scope["method"] not in _SAFE and urlsplit(origin).netloc != headers.get("host", ""):
            raise Refusal(403, "wrong-origin", "a page of another site may not decide about runs")

    def _check_client(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> Principal:
        address = (scope.get("client") or ("", 0))[0]
        principal = self._principal(headers, address)
        wait_s = self._rates.wait_s(f"{principal.name}@{address}" if principal is ANYBODY else principal.name)
        if wait_s:
            raise _too_many(wait_s, f"more than {self._settings.requests_per_s:g} requests/s; go slower")
        return principal

    def _principal(self, headers: dict[str, str], address: str) -> Principal:
        if not self._tokens:
            return ANYBODY
        scheme, _, presented = headers.get("authorization", "").partition(" ")
        principal = None
        if scheme.lower() == "bearer" and 0 < len(presented) <= _TOKEN_CHARS_MAX:
            principal = self._tokens.find(presented.strip())
        if principal is not None:
            return principal
        wait_s = self._failures.wait_s(address)
        if wait_s:
            raise _too_many(wait_s, "too many requests without a valid token")
        raise Refusal(401, "no-token", "send Authorization: Bearer TOKEN", {"www-authenticate": 'Bearer realm="agentraft"'})

    async def _arrived(self, headers: dict[str, str], receive: Receive) -> Receive:
        """The whole body, within its limits of bytes and time; what the application receives instead."""
        limit = self._settings.body_bytes_max
        declared = headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared[:20]) > limit:
            raise _too_large(limit)
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_s):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise Refusal(400, "gone", "the client has gone")
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise _too_large(limit)
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise Refusal(408, "too-slow", f"the request did not arrive within {self._settings.body_s:g} s") from None
        is_told = False

        async def replay() -> Message:
            nonlocal is_told
            if is_told:
                return await receive()
            is_told = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return replay


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "too-large", f"a request may have {limit:,} bytes; pass references to larger inputs")


def _too_many(wait_s: float, detail: str) -> Refusal:
    return Refusal(429, "too-many", detail, {"retry-after": str(max(1, round(wait_s + 0.5)))})


def _host_of(header: str) -> str:
    name, bracket, _ = header.partition("]")
    return name.removeprefix("[") if bracket else header.partition(":")[0]


async def _refuse(refusal: Refusal, send: Send) -> None:
    body = encoded(refusal.problem)
    headers = [(b"content-type", PROBLEM_JSON.encode()), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode("latin-1")) for name, value in refusal.headers.items()]
    told = _with_headers(send, is_api=True)
    await told({"type": "http.response.start", "status": refusal.problem.status, "headers": headers})
    await told({"type": "http.response.body", "body": body})


def _with_headers(send: Send, *, is_api: bool) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), *_HEADERS]
            if is_api and not any(name == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": headers}
        await send(message)

    return sending
