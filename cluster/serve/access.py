"""What every route asks for: the services of the application, and that who asks may do this."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Header, Path, Request
from fastapi.security import HTTPBearer

from agentraft_ray.cluster.serve.problems import Refusal
from agentraft_ray.cluster.serve.services import Services
from agentraft_ray.cluster.serve.tokens import Principal, Scope

__all__ = ["IdempotencyKey", "Operator", "Reader", "RunPath", "Serving", "Submitter", "key_id"]

_bearer = HTTPBearer(auto_error=False, description="a token of this server; the guard has looked at it before")  # for the document


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _needs(scope: Scope) -> Callable[..., Principal]:
    def principal(request: Request, _: Annotated[Any, Depends(_bearer)]) -> Principal:
        asks: Principal = request.state.principal
        if scope not in asks.scopes:
            raise Refusal(403, "scope", f"token {asks.name!r} may {', '.join(sorted(asks.scopes))}, but this takes {scope!r}")
        return asks

    return principal


Serving = Annotated[Services, Depends(_services)]
Reader = Annotated[Principal, Depends(_needs("read"))]
Submitter = Annotated[Principal, Depends(_needs("submit"))]
Operator = Annotated[Principal, Depends(_needs("operate"))]
RunPath = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,128}$", description="the id of a run", examples=["memo-17"])]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="a new one for everything that is asked for; the same one again never does it twice",
    ),
]


def key_id(principal: Principal, key: str | None, *about: str) -> str:
    """The id that a key of a client stands for, "" without one: the same key of another client, or about something else, is another."""
    if key is None:
        return ""
    return "k-" + hashlib.sha256("\n".join((principal.name, *about, key)).encode()).hexdigest()[:40]
