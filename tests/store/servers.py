"""Real servers for the tests of the store: started on a unix socket in a directory of their own, killed by process id."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import redis

from agentraft_ray.checkpoint.server_binary import ServerBinary, find_server, version_of

_START_S = 10.0


def binaries() -> dict[str, Path]:
    """The servers to test on: the bundled one, and Debian's where it is installed."""
    found = {"bundled": find_server().path}
    debian = shutil.which("redis-server", path="/usr/bin:/usr/local/bin")
    return found | ({"redis-server": Path(debian)} if debian else {})


class TestServer:
    """One server process that can be killed, stopped, continued and started again on the same data."""

    __test__ = False

    def __init__(self, binary: Path, directory: Path, **settings: str) -> None:
        self.binary = binary
        self.directory = directory
        self.socket = directory / "s"
        self.settings = {"appendonly": "yes", "appendfsync": "always", "save": "", **settings}
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def client(self) -> redis.Redis:
        return redis.Redis(connection_pool=redis.ConnectionPool(connection_class=redis.UnixDomainSocketConnection, path=str(self.socket)))

    def start(self) -> None:
        words = [part for name, value in self.settings.items() for part in (f"--{name.replace('_', '-')}", value)]
        ours = ["--unixsocket", str(self.socket), "--dir", str(self.directory), "--daemonize", "no"]
        port = [] if "port" in self.settings else ["--port", "0"]
        ServerBinary(self.binary, version_of(self.binary)).mend(self.directory)
        self.process = subprocess.Popen([self.binary, *ours, *port, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_S
        while not self._answers():
            assert self.process.poll() is None, f"{self.binary} exited with {self.process.returncode}"
            assert time.monotonic() < deadline, f"{self.binary} did not answer for {_START_S} s"
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def running(binary: Path, **settings: str) -> Iterator[TestServer]:
    """A server with an empty data directory, gone afterwards."""
    # A short path: a socket's may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ar-", dir="/tmp" if os.path.isdir("/tmp") else None) as directory:
        server = TestServer(binary, Path(directory), **settings)
        try:
            yield server
        finally:
            if server.process is not None:
                server.process.send_signal(signal.SIGCONT)
            server.kill()


class LossyProxy:
    """Stands before a server; `lose` lets the next request that contains a word through and drops the connection at its reply."""

    def __init__(self, server: TestServer) -> None:
        self.server = server
        self.socket = server.directory / "p"
        self.url = f"unix://{self.socket}"
        self.lost = 0
        self._word: bytes | None = None
        self._pumps: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_unix_server(self._serve, self.socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def lose(self, word: bytes) -> None:
        self._word = word

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        task.add_done_callback(self._pumps.discard)
        far_reader, far_writer = await asyncio.open_unix_connection(str(self.server.socket))
        try:
            while request := await reader.read(2**20):
                loses = self._word is not None and self._word in request
                far_writer.write(request)
                reply = await far_reader.read(2**20)
                if loses:
                    self._word, self.lost = None, self.lost + 1
                    return
                writer.write(reply)
        finally:
            writer.close()
            far_writer.close()
