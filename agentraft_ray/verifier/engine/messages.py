"""What an engine's process and its parent say to each other over their socket: msgpack in frames with their length before them."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Sequence

import msgspec

from agentraft_ray.taxonomy import VerifierFault
from agentraft_ray.verifier.engine.port import Scores
from agentraft_ray.verifier.engine.settings import EngineSettings

__all__ = ["Abort", "Answered", "Ask", "Channel", "Close", "FromParent", "Ready", "Start", "ToParent", "Unable"]

FRAME_BYTES_MAX = 256 * 1024 * 1024
_LENGTH = struct.Struct("<I")


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The base of all messages."""


class Start(_Message, frozen=True, tag=1):
    """The first message: which engine to start."""

    settings: EngineSettings


class Ask(_Message, frozen=True, tag=2):
    """Score these texts. A ticket numbers a request among those of one parent."""

    ticket: int
    texts: list[str]


class Abort(_Message, frozen=True, tag=3):
    """Nobody waits for this request any more. It is not answered."""

    ticket: int


class Close(_Message, frozen=True, tag=4):
    """End in good order."""


class Ready(_Message, frozen=True, tag=5):
    """The engine has started and has scored a known case. `labels_count` = numbers that it gives for a text."""

    engine: str
    labels_count: int
    seconds: float


class Answered(_Message, frozen=True, tag=6):
    """The scores that were asked for."""

    ticket: int
    scores: Scores


class Unable(_Message, frozen=True, tag=7):
    """A request that cannot be answered; with ticket 0, the engine that cannot start."""

    ticket: int
    fault: VerifierFault


FromParent = Start | Ask | Abort | Close
ToParent = Ready | Answered | Unable

_encoder = msgspec.msgpack.Encoder()
_from_parent = msgspec.msgpack.Decoder(list[FromParent])
_to_parent = msgspec.msgpack.Decoder(list[ToParent])


class Channel:
    """One end of the socket. Sending is safe from any thread; one thread receives."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sending = threading.Lock()

    def send(self, messages: Sequence[FromParent] | Sequence[ToParent]) -> None:
        """Send messages in one frame. The other end always reads, so this waits for microseconds. Raises OSError when it is gone."""
        data = _encoder.encode(messages)
        with self._sending:
            self._socket.sendall(_LENGTH.pack(len(data)) + data)

    def from_parent(self) -> list[FromParent] | None:
        """The messages of the next frame; None when the other end is gone."""
        data = self._frame()
        return None if data is None else _from_parent.decode(data)

    def to_parent(self) -> list[ToParent] | None:
        """The messages of the next frame; None when the other end is gone."""
        data = self._frame()
        return None if data is None else _to_parent.decode(data)

    def close(self) -> None:
        """Let go of the socket; whoever receives on either end is told that the other one is gone."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _frame(self) -> bytes | None:
        head = self._exactly(_LENGTH.size)
        if head is None:
            return None
        (length,) = _LENGTH.unpack(head)
        return None if length > FRAME_BYTES_MAX else self._exactly(length)

    def _exactly(self, count: int) -> bytes | None:
        parts, left = [], count
        while left:
            try:
                part = self._socket.recv(min(left, 1 << 20))
            except OSError:
                return None
            if not part:
                return None
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
