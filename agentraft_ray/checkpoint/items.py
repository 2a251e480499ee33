"""A store's calls as items of the `TRANSITION` script, and the script's answers as the port gives them. Pure functions.

Appends are by far the most frequent call, so theirs is framed by hand: every field is behind its length in four bytes (`scripts.frame`
says the same in one line), with what repeats made once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from agentraft_ray.checkpoint.base import Admission, Answer, AnswerKind, AppendEntry, NewRun, RunMeta
from agentraft_ray.checkpoint.keys import Keys
from agentraft_ray.checkpoint.scripts import Op, frame, frame_list
from agentraft_ray.errors import ForeignKey, StoreError
from agentraft_ray.identity import GENESIS, NO_OWNER, OwnerToken

__all__ = ["admission_of", "admit_item", "answer_of", "append_item", "meta_of", "refused"]

_NOT_DONE = {kind.value.encode(): kind for kind in AnswerKind}
_length = struct.Struct(">I").pack
_APPEND = frame((Op.APPEND,))
_LEASED = {False: frame((b"0",)), True: frame((b"1",))}
_STATUS = {status: frame((status.encode(),)) for status in ("open", "parked", "finished")}
_ONE_RECORD = frame((b"1",))
_NARROW = frame((b"0",))


@lru_cache(maxsize=4096)
def _framed(token: OwnerToken) -> bytes:
    return frame((f"{token.epoch}:{token.owner}".encode(),))


def append_item(entry: AppendEntry, leased: bool, keys: Keys) -> tuple[bytes, tuple[str, ...]]:
    """The item of an append and the keys that it touches. `leased`: the owner that it claims from has a lease that lives."""
    token, records, index = _framed(entry.token), entry.records, b"%d" % entry.index
    parts = [
        _APPEND,
        token,
        _length(len(entry.append_id)),
        entry.append_id,
        _length(len(index)),
        index,
        _length(len(entry.head)),
        entry.head,
        _length(len(entry.new_head)),
        entry.new_head,
        token if entry.claim is None else _framed(entry.claim),
        _LEASED[leased],
        _STATUS[entry.status],
    ]
    if len(records) == 1:
        parts += (_ONE_RECORD, _length(len(records[0])), records[0])
    else:
        parts.append(frame((b"%d" % len(records), *records)))
    if not (entry.blobs or entry.needs_blobs or entry.taken or entry.status == "finished"):
        parts.append(_NARROW)
        return b"".join(parts), keys.core(entry.run_id)
    taken = [command_id.encode() for command_id in entry.taken]
    wide = (b"1", entry.outcome.encode(), *frame_list(_flat(entry.blobs)), *frame_list(entry.needs_blobs), *frame_list(taken))
    parts.append(frame(wide))
    return b"".join(parts), keys.run(entry.run_id)


def admit_item(new: NewRun, nonce: bytes) -> bytes:
    """The item of an admission; `nonce` tells our own retry from another admission."""
    return frame((Op.ADMIT, new.admission, new.record, new.head, nonce, *frame_list(_flat(new.blobs))))


def answer_of(entry: AppendEntry, reply: Any, url: str) -> Answer | StoreError:
    """What the script's `reply` says about an append."""
    if reply == 1:
        return Answer(AnswerKind.APPENDED, entry.token, entry.index + len(entry.records), entry.new_head)
    word = reply[0]
    if word == b"foreign":
        return Answer(AnswerKind.FOREIGN, entry.token, entry.index, entry.head)
    if word == b"error":
        return StoreError(f"the store at {url} refused an append to run {entry.run_id!r}: {reply[1].decode()}", run_id=entry.run_id)
    return Answer(_NOT_DONE[word], _token(reply[1]), reply[2], reply[3] or GENESIS)


def admission_of(run_id: str, reply: list[Any], url: str) -> Admission:
    """What the script's `reply` says about an admission. Raises StoreError."""
    meta = meta_of(run_id, reply, url)
    if meta is None:
        raise StoreError(f"the store at {url} neither made run {run_id!r} nor has it; read its log", run_id=run_id)
    return Admission(reply[0] == 1, meta)


def meta_of(run_id: str, reply: list[Any], url: str) -> RunMeta | None:
    """A run as the script's `reply` shows it. Raises StoreError."""
    if isinstance(reply[0], bytes):
        if reply[0] == b"missing":
            return None
        raise refused(run_id, reply, url)
    _, token, index, head, status, admission, outcome, expired, size = reply
    return RunMeta(_token(token), index, head, status.decode(), admission, outcome.decode(), bool(expired), size)


def refused(run_id: str, reply: list[Any], url: str) -> StoreError:
    """The error for a reply that begins with a word."""
    text = reply[1].decode()
    if reply[0] == b"foreign":
        return ForeignKey(f"key {text!r} holds a value of a type that is not ours; choose another prefix=", key=text)
    return StoreError(f"the store at {url} refused a write to {run_id!r}: {text}; check its permissions")


def _token(packed: bytes) -> OwnerToken:
    epoch, _, owner = packed.decode().partition(":")
    return OwnerToken(int(epoch), owner) if epoch else NO_OWNER


def _flat(blobs: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    return [part for blob in blobs for part in blob]
