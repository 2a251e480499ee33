"""What goes wrong, as clients read it: RFC 9457 problem documents, one for every error of ours."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from agentraft_ray.errors import (
    AgentRaftError,
    FingerprintMismatch,
    InvalidConfig,
    LogCorrupted,
    LogRewound,
    OutputNotEncodable,
    PayloadTooLarge,
    RunExpired,
    RunIdConflict,
    RunNotFound,
    StoreError,
    StoreFull,
    StoreUnavailable,
)

__all__ = ["PROBLEM_JSON", "Problem", "Refusal", "encoded", "problem_of", "problems"]

PROBLEM_JSON = "application/problem+json"

_KINDS: tuple[tuple[type[AgentRaftError], int, str], ...] = (
    (RunNotFound, 404, "run-not-found"),
    (RunExpired, 410, "run-expired"),
    (RunIdConflict, 409, "run-id-conflict"),
    (FingerprintMismatch, 409, "pipeline-changed"),
    (LogRewound, 409, "log-rewound"),
    (OutputNotEncodable, 422, "not-plain-data"),
    (PayloadTooLarge, 413, "too-large"),
    (InvalidConfig, 422, "invalid"),
    (StoreUnavailable, 503, "store-unavailable"),
    (StoreFull, 503, "store-full"),
    (LogCorrupted, 500, "log-corrupted"),
    (StoreError, 503, "store"),
    (AgentRaftError, 409, "conflict"),
)
_MESSAGES = {
    400: "The request cannot be read",
    401: "A valid bearer token is needed",
    403: "Not allowed",
    404: "There is no such thing",
    405: "Not with this method",
    408: "The request took too long to arrive",
    409: "It does not fit how the run stands",
    410: "Only its outcome is left",
    413: "Too large",
    415: "Send application/json",
    422: "A value cannot be what it is",
    429: "Too many requests",
    500: "The server cannot do this",
    503: "Not now",
}


class Problem(BaseModel):
    """An RFC 9457 problem: `type` names its kind, `title` says what that is, `detail` what happened here and what to do next."""

    type: str
    title: str
    status: int
    detail: str = ""


class Refusal(Exception):
    """A request that is answered with a problem before or instead of what it asks for."""

    def __init__(self, status: int, kind: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.problem = _problem(status, kind, detail)
        self.headers = headers or {}


def problem_of(error: AgentRaftError) -> Problem:
    """The problem that an error of ours is to a client."""
    status, kind = next((status, kind) for known, status, kind in _KINDS if isinstance(error, known))
    return _problem(status, kind, str(error))


def encoded(problem: Problem) -> bytes:
    """As it is sent."""
    return json.dumps(problem.model_dump(), ensure_ascii=True).encode()


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI document: that these problems can be answered, besides those of every request."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    every = sorted({400, 401, 403, 408, 413, 422, 429, 500, 503, *statuses})
    return {status: {"description": _MESSAGES[status], "content": {PROBLEM_JSON: schema}} for status in every}


def _problem(status: int, kind: str, detail: str) -> Problem:
    title = _MESSAGES.get(status) or HTTPStatus(status).phrase
    return Problem(type=f"urn:agentraft:{kind}", title=title, status=status, detail=detail)
