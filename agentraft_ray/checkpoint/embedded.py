"""A real Valkey or Redis server on a unix socket, one per data directory, shared by all processes that use that directory.

What may live here: starting, joining and stopping. Who is there is said by three kernel locks (flock) on files of the directory,
which the kernel drops when a process dies, however it dies; nothing is ever concluded from a pid file:

- ``door.lock``: held exclusively by whoever is starting, joining or leaving; never for longer.
- ``users.lock``: held shared by every user. Who leaves and then gets it exclusively was the last one and stops the server.
- ``server.lock``: held exclusively by the server process itself, for as long as it lives.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import os
import signal
import socket
import stat
import subprocess
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from agentraft_ray.checkpoint.server_binary import environment, find_server, settings
from agentraft_ray.errors import InvalidConfig, StoreUnavailable

__all__ = ["EmbeddedServer", "default_directory"]

_SOCKET_PATH_BYTES_MAX = 107  # sun_path is 108 bytes on Linux with its final NUL
_STARTS_MAX = 3  # a server that somebody kills while it starts is started again this often
_POLL_S = 0.01
_PING_S = 1.0
_LOG_TAIL_CHARS = 2_000


def default_directory() -> Path:
    """AGENTRAFT_HOME if it is set, else `.agentraft` in the working directory."""
    return Path(os.environ.get("AGENTRAFT_HOME") or ".agentraft")


class EmbeddedServer:
    """The server of a data directory. `ensure` starts or joins it, `leave` leaves it; the last one to leave stops it.

    What it acknowledged is on disk (``appendfsync always``). It outlives a user that is killed, and the next one joins it;
    killed itself, the next `ensure` starts it again. A process that exits normally leaves by itself. Safe from any thread; calls
    block, so an event loop runs them in a thread.

    As a context manager it gives the URL: ``with EmbeddedServer(directory) as url: ...``.
    """

    def __init__(self, directory: Path | str | None = None, *, start_s: float = 15.0, load_s: float = 600.0) -> None:
        """No I/O yet. `start_s` = time for a server to answer, `load_s` = time for it to load a long log."""
        self.directory = Path(directory if directory is not None else default_directory()).resolve()
        self._socket = _socket_of(self.directory)
        self._start_s = start_s
        self._load_s = load_s
        self._users_fd: int | None = None
        self._mutex = threading.RLock()
        _instances.add(self)

    def __repr__(self) -> str:
        return f"EmbeddedServer({str(self.directory)!r})"

    def __enter__(self) -> str:
        return self.ensure()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.leave()

    @property
    def joined(self) -> bool:
        """Whether this object is a user of the server now."""
        return self._users_fd is not None

    @property
    def url(self) -> str:
        """Where the server listens, or will: ``unix:///...``; the same for every process."""
        return f"unix://{quote(os.fsencode(self._socket))}"

    @property
    def pid(self) -> int | None:
        """The process id of the server, or None if it is not running. For people and tests; nothing here relies on it."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            if not self._server_is_dead():
                return int((self.directory / "server.pid").read_text())
        return None

    def ensure(self) -> str:
        """Join the server, starting it if it does not run; its URL. Cheap when it runs; may be called again at any time.

        Raises:
            InvalidConfig: no server program, or the directory cannot be used.
            StoreUnavailable: the server did not come up; the message ends with its log.
        """
        with self._mutex:
            self._prepare_directory()
            with self._door():
                if self._users_fd is None:
                    self._users_fd = self._open_lock("users.lock")
                    _joined.add(self)
                    _take(self._users_fd, fcntl.LOCK_SH, self._deadline(), f"the users' lock of {self.directory}")
                try:
                    self._bring_up()
                except BaseException:
                    self._drop_user()
                    raise
            return self.url

    def leave(self) -> None:
        """Stop using the server; the last user stops it. Does nothing when this object has not joined.

        Raises:
            StoreUnavailable: somebody else has been starting or stopping the server for longer than `start_s`.
        """
        with self._mutex:
            if self._users_fd is None:
                return
            try:
                with self._door():
                    self._drop_user()
                    if self._nobody_uses_it():
                        self._stop()
            finally:
                self._drop_user()

    # --- who is there ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _door(self) -> Iterator[None]:
        fd = self._open_lock("door.lock")
        try:
            _take(fd, fcntl.LOCK_EX, time.monotonic() + self._start_s + self._load_s, f"the lock {self.directory / 'door.lock'}")
            yield
        finally:
            os.close(fd)

    def _nobody_uses_it(self) -> bool:
        return self._can_lock("users.lock", fcntl.LOCK_EX)

    def _server_is_dead(self) -> bool:
        return self._can_lock("server.lock", fcntl.LOCK_SH)  # shared, so that two who look at once don't see each other

    def _can_lock(self, name: str, kind: int) -> bool:
        fd = self._open_lock(name)
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True

    def _open_lock(self, name: str) -> int:
        return os.open(self.directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _drop_user(self) -> None:
        # Closed, never unlocked: a forked child shares the lock, and unlocking would take it from its parent too.
        if self._users_fd is not None:
            os.close(self._users_fd)
            self._users_fd = None
            _joined.discard(self)

    def _deadline(self) -> float:
        return time.monotonic() + self._start_s

    # --- starting and stopping ---------------------------------------------------------------------------------------------

    def _prepare_directory(self) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            ignore = self.directory / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n")
        except OSError as error:
            raise InvalidConfig(
                f"the data directory {self.directory} cannot be used ({error.strerror}); set AGENTRAFT_HOME to another one"
            ) from None

    def _start(self) -> None:
        """Start a server that holds ``server.lock``; the caller holds the door."""
        binary = find_server()
        binary.refuse_downgrade(self.directory)
        if self._socket.parent != self.directory:
            _make_private(self._socket.parent)
        self._socket.unlink(missing_ok=True)
        lock = self._open_lock("server.lock")
        try:
            _take(lock, fcntl.LOCK_EX, self._deadline(), f"the server's lock of {self.directory}")
            binary.mend(self.directory)
            done = subprocess.run(  # noqa: S603 - our own arguments, no shell
                [str(binary.path), *settings(binary, self.directory, self._socket)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=environment(),
                pass_fds=(lock,),  # the server inherits the lock and holds it until it dies
                start_new_session=True,  # the terminal's Ctrl-C is for us, not for the server
                timeout=self._start_s,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StoreUnavailable(f"{binary.path} does not start: {error}", url=self.url, waited_s=self._start_s) from None
        finally:
            os.close(lock)
        if done.returncode != 0:
            said = done.stdout.decode(errors="replace")[-_LOG_TAIL_CHARS:]
            raise StoreUnavailable(f"{binary.path} refused to start for {self.directory}: {said}", url=self.url, waited_s=0.0)

    def _bring_up(self) -> None:
        for _ in range(_STARTS_MAX):
            if self._server_is_dead():
                self._start()
            if self._answers():
                return
        raise self._unavailable(f"died {_STARTS_MAX} times while it started", 0.0)

    def _answers(self) -> bool:
        """Wait until it answers; False if it dies instead. Raises StoreUnavailable if it does neither."""
        started = time.monotonic()
        limit_s = self._start_s
        while True:
            reply = _ask(self._socket, "PING", _PING_S)
            if reply.startswith("+PONG"):
                return True
            if reply.startswith("-LOADING"):
                limit_s = self._load_s
            if self._server_is_dead():
                return False
            waited = time.monotonic() - started
            if waited > limit_s:
                raise self._unavailable(f"runs but does not serve (it says {reply.strip()!r})", waited)
            time.sleep(_POLL_S)

    def _stop(self) -> None:
        """Stop the server if it runs; the caller holds the door and is the last one there."""
        if not self._server_is_dead():
            _ask(self._socket, "SHUTDOWN NOSAVE", self._start_s)
        if not self._dies():
            # It hangs. All that it acknowledged is on disk, so killing it loses nothing.
            with contextlib.suppress(ProcessLookupError, FileNotFoundError, ValueError):
                os.kill(int((self.directory / "server.pid").read_text()), signal.SIGKILL)
            if not self._dies():
                raise self._unavailable("does not stop", self._start_s)
        self._socket.unlink(missing_ok=True)
        (self.directory / "server.pid").unlink(missing_ok=True)

    def _dies(self) -> bool:
        deadline = self._deadline()
        while not self._server_is_dead():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def _unavailable(self, what: str, waited_s: float) -> StoreUnavailable:
        log = self.directory / "server.log"
        tail = log.read_text(errors="replace")[-_LOG_TAIL_CHARS:] if log.exists() else "(no log)"
        return StoreUnavailable(
            f"the embedded server of {self.directory} {what} ({waited_s:.1f} s); the end of {log}:\n{tail}",
            url=self.url,
            waited_s=waited_s,
        )


# --- the process -----------------------------------------------------------------------------------------------------------

_instances: weakref.WeakSet[EmbeddedServer] = weakref.WeakSet()
_joined: set[EmbeddedServer] = set()  # holds on to them: one that nobody refers to any more must still be left at the end


def _leave_all() -> None:
    for server in list(_joined):
        with contextlib.suppress(StoreUnavailable, OSError):
            server.leave()


def _forget_all() -> None:
    """In a forked child: it is no user until it joins by itself, else the server would wait for it after its parent left."""
    for server in list(_instances):
        server._mutex = threading.RLock()  # another thread of the parent may have held it
        server._drop_user()


atexit.register(_leave_all)
os.register_at_fork(after_in_child=_forget_all)


def _take(fd: int, kind: int, deadline: float, what: str) -> None:
    """Lock `fd`, waiting until `deadline` (monotonic). Raises StoreUnavailable."""
    started = time.monotonic()
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                waited = time.monotonic() - started
                raise StoreUnavailable(f"another process has held {what} for {waited:.0f} s", url="", waited_s=waited) from None
        except OSError as error:
            raise InvalidConfig(f"{what} cannot be locked here ({error.strerror}); use a local file system") from None
        time.sleep(_POLL_S)


def _ask(path: Path, command: str, timeout_s: float) -> str:
    """The first bytes of the server's reply, "" if there is none."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(os.fspath(path))
            connection.sendall(f"{command}\r\n".encode())
            return connection.recv(256).decode(errors="replace")
    except OSError:
        return ""


def _socket_of(directory: Path) -> Path:
    """In the directory, or in /tmp where that path would be too long for a socket. The same for all, hence not in TMPDIR."""
    path = directory / "server.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES_MAX:
        return path
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return Path("/tmp", f"agentraft-{os.getuid()}", f"{name}.sock")  # noqa: S108 - see _make_private


def _make_private(path: Path) -> None:
    """Make a directory that only we can enter. Raises InvalidConfig where somebody else made it first."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InvalidConfig(f"{path} belongs to somebody else or is open to others; remove it, or set AGENTRAFT_HOME to a shorter path")
