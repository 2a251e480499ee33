"""Who and what: owner tokens, run ids, digests, idempotency keys. Pure functions of their arguments; nothing random here."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from agentraft_ray.errors import InvalidConfig

__all__ = [
    "DIGEST_FRAME",
    "GENESIS",
    "NO_OWNER",
    "OwnerToken",
    "chain",
    "check_run_id",
    "digest",
    "digest_of_parts",
    "idempotency_key",
]

_RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_DIGEST_BYTES = 32

GENESIS = bytes(_DIGEST_BYTES)
"""The head hash of an empty log."""

DIGEST_FRAME = _DIGEST_BYTES.to_bytes(8, "big")
"""What `digest_of_parts` puts before a part that is a digest itself."""


class OwnerToken(NamedTuple):
    """Who may append to a run. Compared whole: after a failover epochs can repeat, the random owner id cannot."""

    epoch: int
    owner: str


NO_OWNER = OwnerToken(0, "")


def check_run_id(run_id: str) -> str:
    """Return `run_id`. Raises InvalidConfig unless it matches ``[A-Za-z0-9._-]{1,128}`` (it becomes part of a key)."""
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id):
        raise InvalidConfig(f"run id {run_id!r} is not allowed: use 1 to 128 of A-Z a-z 0-9 . _ -")
    return run_id


def digest(data: bytes | bytearray) -> bytes:
    """SHA-256 of `data`, 32 bytes."""
    return hashlib.sha256(data).digest()


def digest_of_parts(*parts: bytes) -> bytes:
    """SHA-256 over length-prefixed parts, so that moving a byte from one part to the next changes the digest."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.digest()


def chain(head: bytes, stored: bytes) -> bytes:
    """The head hash after appending `stored` to a log whose head hash was `head`."""
    return hashlib.sha256(head + stored).digest()


def idempotency_key(run_id: str, step: str, lineage: int, attempt: int | None = None) -> str:
    """The key that a step passes to the outside world, 32 hex digits; with `attempt`, one that a correction makes anew."""
    text = f"{run_id}\n{step}\n{lineage}" + ("" if attempt is None else f"\n{attempt}")
    return hashlib.sha256(text.encode()).hexdigest()[:32]
