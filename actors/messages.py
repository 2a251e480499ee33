"""What actors send each other: plain values as msgpack bytes. Ray carries bytes at a fixed price; it would pickle anything else.

A *ticket* numbers a request among those of one incarnation of a coordinator. Requests and replies travel in batches; a reply comes
when its work is done, not when its batch is. Nothing here is ever stored: the log has records of its own (`protocol/records.py`).
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from agentraft_ray.protocol.records import Payload, TaskRecord
from agentraft_ray.taxonomy import FREE, Allowance, Cost, VerificationResult, VerifierFault
from agentraft_ray.verifier.engine.port import Scores

__all__ = [
    "EngineState",
    "Judge",
    "Judged",
    "Loaded",
    "Pong",
    "Raised",
    "Reply",
    "Returned",
    "Returning",
    "Score",
    "Scored",
    "Unloaded",
    "Welcome",
    "Work",
    "decode",
    "encode",
]

T = TypeVar("T")


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The base of all messages."""


class Work(_Message, frozen=True):
    """Run a step function. `definition` = fingerprint of its pipeline; `parents` = (step, encoded output) of its direct parents, and
    None for an output that is too long to travel: it is read from the store. `task` is None for the same reason. `trace` = the context
    that the spans of whoever runs it belong to, "" where nobody traces."""

    ticket: int
    definition: bytes
    run_id: str
    step: int
    lineage: int
    attempt: int
    sample: int
    hint: str | None
    timeout_s: float | None
    task: TaskRecord | None
    parents: tuple[tuple[int, bytes | None], ...]
    trace: str = ""


class Judge(_Message, frozen=True):
    """Give a verdict about an output: `output`, whose bytes are in the store where it has none. `position` = that of its commit for
    a suspect that is judged again, else -1. `previous` names the verifier that a second opinion must differ from, "" for none.
    `allowance` = what the verdict may cost, None where the run has no budget. `trace` as in `Work`."""

    ticket: int
    definition: bytes
    run_id: str
    step: int
    attempt: int
    output: Payload
    position: int
    previous: str
    timeout_s: float
    task: TaskRecord | None
    parents: tuple[tuple[int, bytes | None], ...]
    allowance: Allowance | None = None
    trace: str = ""


class Score(_Message, frozen=True):
    """Score texts with the model of the engine that this is sent to; see `verifier.engine.port`. `definition` is of no use here."""

    ticket: int
    texts: list[str]
    definition: bytes = b""


class Returned(_Message, frozen=True, tag=1):
    """A step returned; `data` is its encoded output."""

    ticket: int
    data: bytes
    cost: Cost = FREE


class Raised(_Message, frozen=True, tag=2):
    """A step raised, overran its time, or returned what cannot be stored; fields as in `protocol.messages.StepRaised`."""

    ticket: int
    cause: str
    message: str
    cost: Cost = FREE
    final: bool = False


class Judged(_Message, frozen=True, tag=3):
    """A verdict; None where a second opinion was wanted and there is no other mechanism. `seconds` = wall time that it took."""

    ticket: int
    result: VerificationResult | None
    seconds: float = 0.0


class Unloaded(_Message, frozen=True, tag=4):
    """Nothing was done: this process does not know the definition. `load` it here, then send the request again."""

    ticket: int


class Returning(_Message, frozen=True, tag=5):
    """Nothing was done: this process drains and takes no more. Send the request to another one."""

    ticket: int


class Welcome(_Message, frozen=True, tag=6):
    """No reply, but what an exchange comes back with that does not name the present `session` of its client; the next one does.

    Whatever the client has asked this process for in another session is not here, and what it asks for in its name is handed back.
    """

    session: str


class Scored(_Message, frozen=True, tag=7):
    """The scores that were asked for, or why there are none."""

    ticket: int
    scores: Scores | None
    fault: VerifierFault | None = None


class EngineState(_Message, frozen=True):
    """Whether an engine has started: what it says of itself, "" while it loads; or why it cannot start."""

    engine: str
    fault: VerifierFault | None = None


Reply = Returned | Raised | Judged | Unloaded | Returning | Scored


class Loaded(_Message, frozen=True):
    """What became of loading a definition: its fingerprint as this process computes it, or an error class of ours and its text."""

    fingerprint: bytes
    error: str = ""
    message: str = ""


class Pong(_Message, frozen=True):
    """The answer to a ping. `incarnation` is random per life of the actor; `lag_s` = how late its work loop is now."""

    incarnation: str
    pid: int
    lag_s: float


_encoder = msgspec.msgpack.Encoder()
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def encode(value: Any) -> bytes:
    """A message, or a plain container of messages, as bytes."""
    return _encoder.encode(value)


def decode(data: bytes, kind: type[T] | Any) -> T:
    """The message of type `kind` in `data`. Raises msgspec.MsgspecError for anything else."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    found: T = decoder.decode(data)
    return found
