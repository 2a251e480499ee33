"""Sealing: what turns encoded records and blobs into stored bytes, and back. Plain, or AES-256-GCM; nothing else lives here.

A sealed value is bound to its run and its place, so that whoever can write to the server cannot move, swap or forge one.
Sealed bytes: 0xC1 (a byte that begins no msgpack value), key id (1 byte), nonce (12 bytes), ciphertext and tag.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from agentraft_ray.errors import InvalidConfig, LogCorrupted

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["EncryptingSeal", "PlainSeal", "Seal"]

_MARK = 0xC1
_KEY_BYTES = 32
_NONCE_BYTES = 12
_HEADER_BYTES = 2 + _NONCE_BYTES
_TAG_BYTES = 16
_RUN_KEYS_KEPT = 4096  # derived keys in memory, about 1 KB each


class Seal(Protocol):
    """Between the codec and the store. All calls are pure but for the nonce, and safe from any thread.

    `open` and `open_blob` raise LogCorrupted for bytes that this seal did not make for that run and place.
    """

    def seal(self, run_id: str, index: int, data: bytes) -> bytes:
        """The bytes to store for the record at `index`."""

    def open(self, run_id: str, index: int, data: bytes) -> bytes:
        """The record that `seal` was given."""

    def blob_name(self, digest: bytes) -> bytes:
        """The name under which to write the blob with this content digest."""

    def blob_names(self, digest: bytes) -> tuple[bytes, ...]:
        """All names under which it may stand, the one to write under first; more than one after a change of keys."""

    def seal_blob(self, run_id: str, name: bytes, data: bytes) -> bytes:
        """The bytes to store for a blob."""

    def open_blob(self, run_id: str, name: bytes, data: bytes) -> bytes:
        """The blob that `seal_blob` was given."""


class PlainSeal:
    """No encryption: bytes are stored as they are and blobs are named by their digest."""

    def seal(self, run_id: str, index: int, data: bytes) -> bytes:
        """`data` itself."""
        return data

    def open(self, run_id: str, index: int, data: bytes) -> bytes:
        """`data` itself. Raises LogCorrupted if it is encrypted."""
        _refuse_sealed(data, run_id, index)
        return data

    def blob_name(self, digest: bytes) -> bytes:
        """`digest` itself."""
        return digest

    def blob_names(self, digest: bytes) -> tuple[bytes, ...]:
        """The one name."""
        return (digest,)

    def seal_blob(self, run_id: str, name: bytes, data: bytes) -> bytes:
        """`data` itself."""
        return data

    def open_blob(self, run_id: str, name: bytes, data: bytes) -> bytes:
        """`data` itself. Raises LogCorrupted if it is encrypted."""
        _refuse_sealed(data, run_id, None)
        return data


class EncryptingSeal:
    """AES-256-GCM with a random nonce, the run and the place as associated data, and blob names that only the key can compute.

    `key` is 32 bytes, or their base64 text; or several, newest first: the first one encrypts, all of them decrypt, so that a key
    is changed by putting the new one in front and dropping the old one when no run needs it any more. Every run gets a key of
    its own, derived from the master key, so that the 2^32 messages that random nonces are good for count per run.

    What an onlooker still sees: run ids, the number and sizes of records and blobs, times, and which blobs of one deployment are
    equal. A fork copies records to another run id, so they are opened and sealed again.

    Raises:
        InvalidConfig: a key that is not 32 bytes, or the package `cryptography` is missing.
    """

    def __init__(self, key: bytes | str | Sequence[bytes | str]) -> None:
        given = [key] if isinstance(key, (bytes, str)) else list(key)
        if not given:
            raise InvalidConfig("encryption needs at least one key of 32 bytes; make one with `openssl rand -base64 32`")
        self._keys = tuple(map(_key_bytes, given))
        self._ids = tuple(map(_key_id, self._keys))
        self._name_keys = tuple(_derive(one, b"blob name") for one in self._keys)
        make_cipher = _cipher_maker()
        keys = self._keys

        @functools.lru_cache(maxsize=_RUN_KEYS_KEPT)
        def cipher(number: int, run_id: str) -> AESGCM:
            return make_cipher(_derive(keys[number], b"run\x00" + run_id.encode()))

        self._cipher = cipher

    def __repr__(self) -> str:
        return f"EncryptingSeal({len(self._keys)} key(s))"

    def seal(self, run_id: str, index: int, data: bytes) -> bytes:
        """`data` encrypted for the record at `index` of the run."""
        return self._encrypt(run_id, _record_place(run_id, index), data)

    def open(self, run_id: str, index: int, data: bytes) -> bytes:
        """The record. Raises LogCorrupted for a wrong key, another run or index, or changed bytes."""
        return self._decrypt(run_id, index, _record_place(run_id, index), data)

    def blob_name(self, digest: bytes) -> bytes:
        """HMAC-SHA256 of the digest under the newest key: equal contents share a name, outsiders cannot test a guess."""
        return hmac.digest(self._name_keys[0], digest, "sha256")

    def blob_names(self, digest: bytes) -> tuple[bytes, ...]:
        """The names under all keys, the newest first."""
        return tuple(hmac.digest(key, digest, "sha256") for key in self._name_keys)

    def seal_blob(self, run_id: str, name: bytes, data: bytes) -> bytes:
        """`data` encrypted for the blob `name` of the run."""
        return self._encrypt(run_id, _blob_place(run_id, name), data)

    def open_blob(self, run_id: str, name: bytes, data: bytes) -> bytes:
        """The blob. Raises LogCorrupted as `open` does."""
        return self._decrypt(run_id, None, _blob_place(run_id, name), data)

    def _encrypt(self, run_id: str, place: bytes, data: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return bytes((_MARK, self._ids[0])) + nonce + self._cipher(0, run_id).encrypt(nonce, data, place)

    def _decrypt(self, run_id: str, index: int | None, place: bytes, data: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415

        if len(data) < _HEADER_BYTES + _TAG_BYTES or data[0] != _MARK:
            raise _corrupted(run_id, index, "is not encrypted, but this store was opened with a key: open it without one")
        numbers = [number for number, key_id in enumerate(self._ids) if key_id == data[1]]
        if not numbers:
            raise _corrupted(run_id, index, f"was encrypted with a key that was not given (key id {data[1]}): add it to the keys")
        for number in numbers:
            try:
                return self._cipher(number, run_id).decrypt(data[2:_HEADER_BYTES], data[_HEADER_BYTES:], place)
            except InvalidTag:
                continue
        raise _corrupted(run_id, index, "does not open: it was changed, moved from another place, or the key is not the one")


def _record_place(run_id: str, index: int) -> bytes:
    return b"record\x00" + run_id.encode() + b"\x00" + index.to_bytes(8, "big")


def _blob_place(run_id: str, name: bytes) -> bytes:
    return b"blob\x00" + run_id.encode() + b"\x00" + name


def _derive(key: bytes, purpose: bytes) -> bytes:
    return hmac.digest(key, b"agentraft seal 1\x00" + purpose, "sha256")


def _key_id(key: bytes) -> int:
    return hashlib.sha256(_derive(key, b"key id")).digest()[0]


def _key_bytes(key: bytes | str) -> bytes:
    """32 key bytes; no message ever shows the key."""
    if isinstance(key, bytes) and len(key) == _KEY_BYTES:
        return key
    try:
        text = key if isinstance(key, str) else key.decode("ascii")
        raw = base64.b64decode(text.strip().replace("-", "+").replace("_", "/") + "===", validate=False)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _KEY_BYTES:
        raise InvalidConfig("an encryption key must be 32 bytes or their base64 text; make one with `openssl rand -base64 32`")
    return raw


def _cipher_maker() -> Callable[[bytes], AESGCM]:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415
    except ImportError:
        raise InvalidConfig(
            "encryption needs the package cryptography, which is not installed: pip install 'agentraft_ray[encryption]'"
        ) from None
    return AESGCM


def _refuse_sealed(data: bytes, run_id: str, index: int | None) -> None:
    if data[:1] == bytes((_MARK,)):
        raise _corrupted(run_id, index, "is encrypted, but this store was opened without a key: give it the key")


def _corrupted(run_id: str, index: int | None, what: str) -> LogCorrupted:
    place = "a blob" if index is None else f"record {index}"
    return LogCorrupted(f"{place} of run {run_id!r} {what}", run_id=run_id, index=index)
