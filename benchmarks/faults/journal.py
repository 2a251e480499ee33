"""Results of batches in a file, a line each, so that a sweep that was killed goes on where it was.

A line names what it is about by a digest of everything that decides it (what is measured, its settings, the seed, the version of the
model) and the range of trials. So the file is a store of facts: another sweep may share it, and one with more trials reuses what is there.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.identity import digest
from benchmarks.faults.counts import Counts
from benchmarks.faults.experiments import Experiment

__all__ = ["Journal", "identity_of"]

_MODEL_VERSION = 1  # raise it with every change after which the same seed gives other trials
_HEADER = b'{"journal":"agentraft-benchmarks","version":1}\n'


class _Line(msgspec.Struct):
    of: str
    start: int
    stop: int
    counts: Counts


def identity_of(experiment: Experiment, seed: int) -> str:
    """A digest of all that decides the counts of its trials."""
    facts: dict[str, Any] = {"model": _MODEL_VERSION, "name": experiment.name, "seed": seed, "settings": experiment.settings()}
    return digest(msgspec.json.encode(facts, order="sorted")).hex()[:32]


class Journal:
    """The batches of a file, and further ones appended to it. Only one process may have it open.

    A last line that was not written to its end is cut off. Raises InvalidConfig for a file that is no journal, that is damaged
    elsewhere, or that another process has open.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[str, int, int], Counts] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("a+b")
        except OSError as error:
            raise InvalidConfig(f"journal {path} cannot be opened: {error}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise InvalidConfig(f"journal {path}: another process writes to it; wait for it, or name another file") from None
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise

    def _read(self) -> None:
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)
        size = 0
        for number, line in enumerate(lines):
            if not line.endswith(b"\n"):
                break  # torn: whoever wrote it was killed
            if not number:
                if line != _HEADER:
                    raise InvalidConfig(f"{self._path} is no journal of this program; name another file")
            else:
                self._take(number + 1, line)
            size += len(line)
        if not size and lines and not _HEADER.startswith(lines[0]):
            raise InvalidConfig(f"{self._path} is no journal of this program; name another file")
        self._file.truncate(size)
        if not size:
            self._write(_HEADER)

    def _take(self, number: int, data: bytes) -> None:
        try:
            line = msgspec.json.decode(data, type=_Line)
        except msgspec.MsgspecError as error:
            raise InvalidConfig(f"journal {self._path}, line {number} is damaged ({error}); remove that line, or the file") from None
        self._known[line.of, line.start, line.stop] = line.counts

    def get(self, identity: str, start: int, stop: int) -> Counts | None:
        """The counts of a batch that stands there."""
        return self._known.get((identity, start, stop))

    def add(self, identity: str, start: int, stop: int, counts: Counts) -> None:
        """Append a batch; it survives this process, and with the operating system's next flush a crash of the machine."""
        self._write(msgspec.json.encode(_Line(identity, start, stop, counts)) + b"\n")
        self._known[identity, start, stop] = counts

    def _write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()

    def close(self) -> None:
        """Write down and let go."""
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
