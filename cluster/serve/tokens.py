"""Who may do what: bearer tokens with scopes. Only their digests are kept, so that who reads the file cannot use them."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from agentraft_ray.errors import InvalidConfig

__all__ = ["ANYBODY", "SCOPES", "Principal", "Scope", "Tokens", "new_token", "read_tokens"]

Scope = Literal["read", "submit", "operate"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, and what he may: read = look at runs, submit = start them, operate = approve, deny, cancel and fork them."""

    name: str
    scopes: frozenset[Scope]


ANYBODY = Principal("local", frozenset(SCOPES))
"""Who asks a server without tokens, which only listens to this machine."""


class Tokens:
    """The tokens of a server; none at all where it only listens to this machine."""

    def __init__(self, known: Iterable[tuple[bytes, Principal]]) -> None:
        self._known = tuple(known)

    def __len__(self) -> int:
        return len(self._known)

    def find(self, presented: str) -> Principal | None:
        """Whose token that is. Takes as long for a wrong one as for any right one."""
        asked = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).digest()
        found: Principal | None = None
        for digest, principal in self._known:
            if hmac.compare_digest(digest, asked):
                found = principal
        return found


def read_tokens(text: str, where: str) -> Tokens:
    """Tokens from lines of ``NAME SCOPES SHA256`` (scopes with commas between); ``#`` begins a comment. Raises InvalidConfig."""
    known: list[tuple[bytes, Principal]] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        name, scopes, digest = words if len(words) == 3 else ("", "", "")
        wanted = frozenset(scope for scope in SCOPES if scope in scopes.split(","))
        match = _DIGEST.fullmatch(digest)
        if match is None or not _NAME.fullmatch(name) or len(wanted) != len(set(scopes.split(","))):
            raise InvalidConfig(f"{where}, line {number}: a token is NAME SCOPES SHA256, with scopes of {', '.join(SCOPES)}")
        known.append((bytes.fromhex(match[1]), Principal(name, wanted)))
    if not known:
        raise InvalidConfig(f"{where} holds no token; `agentraft serve --new-token NAME` makes one")
    return Tokens(known)


def new_token(name: str, scopes: Iterable[str] = SCOPES) -> tuple[str, str]:
    """A new secret, and the line for the file of tokens that makes it known. Raises InvalidConfig for a name or scope that cannot be."""
    wanted = list(scopes)
    if not _NAME.fullmatch(name) or not wanted or set(wanted) - set(SCOPES):
        raise InvalidConfig(f"a token has a name of 1 to 64 of A-Z a-z 0-9 . _ @ - and scopes of {', '.join(SCOPES)}")
    secret = "art_" + secrets.token_urlsafe(_TOKEN_BYTES)
    return secret, f"{name} {','.join(wanted)} sha256:{hashlib.sha256(secret.encode()).hexdigest()}"
