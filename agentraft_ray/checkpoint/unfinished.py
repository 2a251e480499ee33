"""The append-only file of a Redis or Valkey server that is not running: cut off what its last transaction did not finish.

Every command is read, from the first one: bytes that look like the end of a transaction may stand in anybody's data. Nothing but an
end that is too early is cut; a file that is damaged otherwise is the server's to refuse.
"""

from __future__ import annotations

import os
from io import BufferedReader
from pathlib import Path

__all__ = ["cut_unfinished"]


def cut_unfinished(directory: Path) -> int:
    """Cut the log in the data directory of a server back to its last whole transaction or command; the bytes that were cut.

    Raises OSError when it cannot be read or cut.
    """
    log = _last_file(directory)
    if log is None:
        return 0
    with log.open("rb") as file:
        if file.peek(1)[:1] not in {b"*", b"#"}:  # empty, or it begins with a snapshot
            return 0
        whole = _whole_bytes(file)
    size = log.stat().st_size
    if whole is None or whole == size:
        return 0
    with log.open("r+b") as file:
        file.truncate(whole)
        os.fsync(file.fileno())
    return size - whole


def _last_file(directory: Path) -> Path | None:
    """The file that was written to: since version 7 the last one that the manifest names, before that the only one."""
    for manifest in directory.glob("appendonlydir/*.manifest"):
        names = [words[1] for words in map(str.split, manifest.read_text().splitlines()) if len(words) > 1 and words[0] == "file"]
        return manifest.with_name(names[-1]) if names else None
    single = directory / "appendonly.aof"
    return single if single.exists() else None


def _whole_bytes(file: BufferedReader) -> int | None:
    """How many bytes from the start make whole commands and transactions; None where anything is wrong but an early end."""
    whole, is_open = 0, False
    try:
        while True:
            command = _next_command(file)
            if command is None:
                return whole
            if command == b"MULTI":
                is_open = True
            elif command == b"EXEC":
                is_open = False
            if not is_open:
                whole = file.tell()
    except ValueError:
        return None


def _next_command(file: BufferedReader) -> bytes | None:
    """The name of the next command, b"" for a remark; None where the file ends before it does. Raises ValueError for anything else."""
    count = _number(file, b"*")
    if count is None:
        return None
    name = b""
    for position in range(count):
        length = _number(file, b"$")
        if length is None or length < 0:
            return None
        data = file.read(length + 2)
        if len(data) < length + 2:
            return None
        if position == 0:
            name = data[:length].upper()
    return name


def _number(file: BufferedReader, mark: bytes) -> int | None:
    """The number on the next line, behind its mark; 0 for a remark, None where the file ends before the line does."""
    line = file.readline()
    if not line.endswith(b"\n"):
        return None
    if mark == b"*" and line[:1] == b"#":
        return 0
    if line[:1] != mark:
        raise ValueError(line)
    return int(line[1:])
