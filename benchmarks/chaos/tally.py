"""The outside tally: what worker and verifier processes note about themselves, one file a process, and how it is read.

A line is one `write` to a file opened for appending, so a process that is killed leaves it whole or not at all. Nothing of the
library takes part. Times are `time.time()`; every process of a campaign is on one machine.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["BEGAN", "ENDED", "JUDGED", "JUDGING", "TROUBLE", "Line", "Tally", "note", "read_all"]

BEGAN, ENDED = "began", "ended"  # an execution of a step function; `word` = its idempotency key
JUDGING, JUDGED = "judging", "judged"  # a verdict; `word` = the value judged, after "pass:" or "reject:" in `JUDGED`
TROUBLE = "trouble"  # a step is about to misbehave as planned; `word` = how

_files: dict[str, int] = {}


class Line(NamedTuple):
    """One thing that a process noted. A verdict knows no lineage and has -1 there."""

    kind: str
    run: str
    step: str
    lineage: int
    attempt: int
    word: str
    pid: int
    at: float


def note(directory: str, kind: str, run: str, step: str, lineage: int, attempt: int, word: str) -> None:
    """Append a line to this process's file."""
    pid = os.getpid()
    path = f"{directory}/{pid}"
    fd = _files.get(path)
    if fd is None:
        fd = _files[path] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{kind} {run} {step} {lineage} {attempt} {word} {pid} {time.time():.6f}\n".encode())


def _lines(data: bytes) -> Iterator[Line]:
    for line in data.decode().splitlines():
        kind, run, step, lineage, attempt, word, pid, at = line.split()
        yield Line(kind, run, step, int(lineage), int(attempt), word, int(pid), float(at))


def read_all(directory: Path) -> list[Line]:
    """Every line of every process, in the order of time."""
    found = [line for path in directory.iterdir() for line in _lines(path.read_bytes())]
    return sorted(found, key=lambda line: line.at)


class Tally:
    """Follows the files as they grow: what is open at each process now, and how many troubles there have been."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[str, int] = {}
        self._open: dict[int, Counter[tuple[str, str, str, int, int]]] = {}
        self.troubles: Counter[str] = Counter()

    def look(self) -> None:
        """Take in what is new."""
        for entry in os.scandir(self._directory):
            before = self._read.get(entry.name, 0)
            if entry.stat().st_size > before:
                with Path(entry.path).open("rb") as file:
                    file.seek(before)
                    data = file.read()
                whole = data[: data.rfind(b"\n") + 1]
                self._read[entry.name] = before + len(whole)
                self._take(_lines(whole))

    def _take(self, lines: Iterable[Line]) -> None:
        for line in lines:
            call = (line.kind, line.run, line.step, line.lineage, line.attempt)
            there = self._open.setdefault(line.pid, Counter())
            if line.kind == TROUBLE:
                self.troubles[line.word] += 1
            elif line.kind in {BEGAN, JUDGING}:
                there[call] += 1
            else:
                there[(BEGAN if line.kind == ENDED else JUDGING, *call[1:])] -= 1

    def open_at(self, pid: int) -> set[str]:
        """The runs that have an execution or a verdict under way in this process, or had when it died."""
        return {call[1] for call, count in self._open.get(pid, Counter()).items() if count > 0}

    def open_now(self) -> set[str]:
        """The runs that have one under way in any process that lives."""
        return {run for pid in self._open if Path(f"/proc/{pid}").exists() for run in self.open_at(pid)}
