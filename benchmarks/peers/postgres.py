"""A Postgres server for one measurement: its own data directory, a unix socket that only we can reach, every commit on disk.

Only the settings that decide about durability are stated, at the values that they have by default; the rest is as Postgres comes.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["PostgresUnavailable", "find_postgres", "postgres_server"]

SETTINGS = {"listen_addresses": "", "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}

_DEBIAN = Path("/usr/lib/postgresql")
_UNPRIVILEGED = ("postgres", "nobody")  # Postgres refuses to run as root
_INITDB_S_MAX = 120
_START_S_MAX = 60
_STOP_S_MAX = 30
_POLL_S = 0.05


class PostgresUnavailable(Exception):
    """Postgres is not installed, or cannot run here; the message says what to do."""


def find_postgres(debian: Path = _DEBIAN) -> Path:
    """The folder of `initdb` and `postgres`: on PATH, else the newest of Debian's. Raises PostgresUnavailable."""
    on_path = shutil.which("initdb")
    versions = (folder for folder in debian.glob("*/bin") if folder.parent.name.isdigit())
    newest_first = sorted(versions, key=lambda folder: int(folder.parent.name), reverse=True)
    for folder in [*([Path(on_path).resolve().parent] if on_path else []), *newest_first]:
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            return folder
    raise PostgresUnavailable("no initdb and postgres on PATH or in /usr/lib/postgresql; install Debian's package postgresql")


@contextmanager
def postgres_server(directory: Path) -> Iterator[str]:
    """The URL of an empty database on a new server whose data is in `directory`/postgres; stopped at the end.

    Raises PostgresUnavailable.
    """
    programs = find_postgres()
    user = _user()
    data = directory / "postgres"
    data.mkdir(mode=0o700)
    sockets = Path(tempfile.mkdtemp(prefix="pg-"))  # 0700, and short: a socket's path may have 107 bytes
    for place in (data, sockets):
        _give(place, user)
    try:
        _initialise(programs, data, user)
        process = _start(programs, data, sockets, user)
        try:
            _wait(process, data)
            yield f"postgresql://bench@/postgres?host={sockets}"
        finally:
            _stop(process)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def _user() -> pwd.struct_passwd | None:
    """Whom to run as; None when we are nobody special ourselves. Raises PostgresUnavailable."""
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise PostgresUnavailable("Postgres does not run as root, and there is neither a user postgres nor nobody; run this as another user")


def _give(place: Path, user: pwd.struct_passwd | None) -> None:
    if user is not None:
        os.chown(place, user.pw_uid, user.pw_gid)


def _as(user: pwd.struct_passwd | None) -> dict[str, Any]:
    return {"cwd": "/"} | ({} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []})


def _initialise(programs: Path, data: Path, user: pwd.struct_passwd | None) -> None:
    # Who may connect is decided by the folder of the socket; --no-sync concerns the making of the files alone, not the server.
    words = ["--username=bench", "--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--locale=C", "--no-sync"]
    command = [str(programs / "initdb"), f"--pgdata={data}", *words]
    done = subprocess.run(  # noqa: S603 - our own arguments, no shell
        command, capture_output=True, text=True, timeout=_INITDB_S_MAX, check=False, **_as(user)
    )
    if done.returncode != 0:
        name = user.pw_name if user else "you"
        raise PostgresUnavailable(
            f"initdb as {name} failed: {_last_line(done.stderr)} (name a --directory that {name} may enter, if that is it)"
        )


def _start(programs: Path, data: Path, sockets: Path, user: pwd.struct_passwd | None) -> subprocess.Popen[bytes]:
    chosen = SETTINGS | {"unix_socket_directories": str(sockets)}
    words = [word for name, value in chosen.items() for word in ("-c", f"{name}={value}")]
    with (data.parent / "postgres.log").open("wb") as log:
        return subprocess.Popen(  # noqa: S603
            [str(programs / "postgres"), "-D", str(data), *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, **_as(user)
        )


def _wait(process: subprocess.Popen[bytes], data: Path) -> None:
    """Until it takes connections: the eighth line of its pid file says so, which is what pg_ctl waits for too."""
    deadline = time.monotonic() + _START_S_MAX
    while True:
        with contextlib.suppress(FileNotFoundError, IndexError):
            if (data / "postmaster.pid").read_text().splitlines()[7].strip() == "ready":
                return
        if process.poll() is not None or time.monotonic() > deadline:
            said = _last_line((data.parent / "postgres.log").read_text(errors="replace"))
            raise PostgresUnavailable(f"postgres did not start: {said}")
        time.sleep(_POLL_S)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)  # "fast": ends its connections and shuts down cleanly
    try:
        process.wait(_STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)  # "immediate", its children included
        process.wait(_STOP_S_MAX)


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
