"""From URL to client: every form of URL against a real server, no retries, a pool that waits, durability that is checked."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import os
import pickle
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from agentraft_ray.checkpoint.connect import connect, parse_url, redact, verify_durability
from agentraft_ray.checkpoint.durability import Barrier, Durability, parse_durability
from agentraft_ray.checkpoint.server_binary import find_server
from agentraft_ray.errors import DurabilityUnverified, InvalidConfig

pytestmark = pytest.mark.server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One server of a test, on a unix socket unless its words say otherwise."""

    def __init__(self, directory: Path, *words: str, binary: Path | None = None, sentinel: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.socket = f"/tmp/agentraft-test-{os.getpid()}-{id(self):x}.sock"
        self.url = f"unix://{self.socket}"
        conf = directory / "server.conf"
        conf.write_text("\n".join(["port 0", 'save ""', f"unixsocket {self.socket}", f"dir {directory}", *words]) + "\n")
        self.log = (directory / "server.log").open("wb")
        command = [str(binary or find_server().path), str(conf), *(["--sentinel"] if sentinel else [])]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)
        self.directory = directory

    def ready(self) -> Server:
        def answers() -> bool:
            assert self.process.poll() is None, (self.directory / "server.log").read_text()
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(self.socket)
                probe.sendall(b"PING\r\n")
                return bool(probe.recv(10))
            return False

        until(answers)
        return self

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self.log.close()
        Path(self.socket).unlink(missing_ok=True)


def until(true: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def make(*words: str, **more: Any) -> Server:
        server = Server(tmp_path / f"server{len(servers)}", *words, **more)
        servers.append(server)
        return server.ready()

    yield make
    for server in servers:
        server.stop()


async def used(url: str, **options: Any) -> None:
    """Write and read through `url` with and without an event loop."""
    client = connect(url, **options)
    try:
        assert await client.set("{k}a", b"\xff") is True
        assert await client.eval("return redis.call('get', KEYS[1])", 1, "{k}a") == b"\xff"  # type: ignore[misc]
    finally:
        await client.aclose()

    def without_loop() -> None:
        blocking = connect(url, blocking=True, **options)
        assert blocking.get("{k}a") == b"\xff"
        blocking.close()

    await asyncio.to_thread(without_loop)


# --- URLs ------------------------------------------------------------------------------------------------------------------


def test_every_form_of_url_is_read() -> None:
    one = parse_url("redis://app:p%40ss@[::1]:6380/3?client_name=x")
    assert (one.kind, one.hosts, one.db, one.tls) == ("single", (("::1", 6380),), 3, None)
    assert one.login == {"username": "app", "password": "p@ss", "client_name": "x"}
    assert parse_url("redis://localhost").hosts == (("localhost", 6379),)
    assert parse_url("redis://:pw@localhost").login == {"password": "pw"}
    assert parse_url("rediss://h?ssl_cert_reqs=none").tls == {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    assert parse_url("unix:///a%20b/s.sock?db=2&password=pw").path == "/a b/s.sock"
    assert parse_url("unix:///s.sock?db=2&password=pw").db == 2
    watched = parse_url("redis+sentinel://u:p@a:1,b/mine/4?sentinel_password=q")
    assert (watched.kind, watched.hosts, watched.service, watched.db) == ("sentinel", (("a", 1), ("b", 26379)), "mine", 4)
    assert (watched.login, watched.sentinel_login) == ({"username": "u", "password": "p"}, {"password": "q"})
    spread = parse_url("rediss+cluster://a:1,b:2")
    assert (spread.kind, spread.hosts) == ("cluster", (("a", 1), ("b", 2)))
    assert spread.tls is not None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis",
        "redis://",
        "http://s3cret@h",
        "localhost:6379",
        "redis+other://h",
        "redis://:s3cret@h:99999",
        "redis://:s3cret@h:0",
        "redis://:s3cret@h:x",
        "redis://:s3cret@h/abc",
        "redis://:s3cret@h/-1",
        "redis://:s3cret@h/1/2",
        "redis://:s3cret@h1,h2",
        "redis://:s3cret@h?retry_on_timeout=true",
        "redis://:s3cret@h?ssl_ca_certs=/x",
        "redis://:s3/cret@h",
        "redis://:s3?cret@h",
        "redis://:s3#cret@h",
        "redis://:s3cret@[::1",
        "rediss://:s3cret@h?ssl_cert_reqs=maybe",
        "rediss://:s3cret@h?ssl_check_hostname=maybe",
        "unix://s3cret@relative/path",
        "unix://?password=s3cret",
        "redis+sentinel://:s3cret@h",
        "redis+cluster://:s3cret@h/1",
        "redis+cluster://:s3cret@h?db=1",
        "redis://user:s3cret@h?sentinel_password=s3cret&x=1",
    ],
)
def test_a_url_that_is_not_understood_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        connect(url)
    assert "s3" not in str(caught.value)
    assert "cret" not in str(caught.value)


def test_passwords_are_hidden_and_the_rest_is_not() -> None:
    assert redact("redis://app:pw@h:1/0?db=2") == "redis://app:***@h:1/0?db=2"
    assert redact("redis://pw@h:1") == "redis://***@h:1"
    assert redact("unix:///s.sock?password=pw&db=1") == "unix:///s.sock?password=***&db=1"
    assert redact("redis+sentinel://a:1,b:2/s?sentinel_password=pw") == "redis+sentinel://a:1,b:2/s?sentinel_password=***"
    assert "pw" not in repr(parse_url("redis+sentinel://u:pw@a/s?sentinel_password=pw"))


@pytest.mark.parametrize("options", [{"max_connections": 0}, {"timeout_s": 0}, {"pool_wait_s": -1}])
def test_limits_must_be_positive(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig, match="positive"):
        connect("redis://h", **options)


def test_a_missing_certificate_file_is_named() -> None:
    with pytest.raises(InvalidConfig, match="ssl_ca_certs names /no/such/file"):
        connect("rediss://h?ssl_ca_certs=/no/such/file")


# --- real servers ----------------------------------------------------------------------------------------------------------


async def test_a_unix_socket_and_a_database(start: Callable[..., Server]) -> None:
    server = start()
    await used(server.url)
    await used(f"{server.url}?db=3")
    client = connect(server.url)
    assert set(await client.info("keyspace")) == {"db0", "db3"}  # type: ignore[misc]
    await client.aclose()


async def test_a_host_with_an_acl_user(start: Callable[..., Server]) -> None:
    port = free_port()
    start("bind 127.0.0.1", f"port {port}", "user app on >p@:/ss ~* &* +@all", "user default off")
    await used(f"redis://app:p%40%3A%2Fss@127.0.0.1:{port}/0")
    client = connect(f"redis://app:wrong@127.0.0.1:{port}")
    with pytest.raises(redis.AuthenticationError) as caught:
        await client.set("a", 1)
    assert "wrong" not in str(caught.value)
    await client.aclose()


def _certificates(directory: Path) -> None:
    """A certificate authority, and a server and a client certificate that it signed."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = dt.datetime.now(dt.UTC)
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
    for name, key in (("ca", authority), ("server", ec.generate_private_key(ec.SECP256R1())), ("client", authority)):
        subject = issuer if name == "ca" else x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        )
        if name == "ca":
            builder = builder.add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=True,
                    crl_sign=True,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
        certificate = builder.sign(authority, hashes.SHA256())
        (directory / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (directory / f"{name}.key").write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
        )


def _server_with_tls() -> Path:
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        if path and b"libssl" in subprocess.run(["ldd", path], capture_output=True, check=False).stdout:
            return Path(path)
    pytest.skip("no server with TLS on PATH")


async def test_tls_with_a_client_certificate(start: Callable[..., Server], tmp_path: Path) -> None:
    binary = _server_with_tls()
    _certificates(tmp_path)
    port = free_port()
    files = [f"tls-cert-file {tmp_path}/server.crt", f"tls-key-file {tmp_path}/server.key", f"tls-ca-cert-file {tmp_path}/ca.crt"]
    start("bind 127.0.0.1", f"tls-port {port}", "tls-auth-clients yes", *files, binary=binary)
    url = f"rediss://127.0.0.1:{port}"
    trusting = f"{url}?ssl_ca_certs={tmp_path}/ca.crt"
    await used(f"{trusting}&ssl_certfile={tmp_path}/client.crt&ssl_keyfile={tmp_path}/client.key")
    for refused in (url, trusting, f"redis://127.0.0.1:{port}"):
        client = connect(refused)
        with pytest.raises((redis.ConnectionError, redis.TimeoutError, OSError)):
            await client.set("a", 1)
        await client.aclose()


async def test_a_sentinel_url_follows_the_primary_through_a_failover(start: Callable[..., Server]) -> None:
    ports = [free_port(), free_port(), free_port()]
    local = "bind 127.0.0.1"
    first = start(local, f"port {ports[0]}", "repl-diskless-sync-delay 0")
    start(local, f"port {ports[1]}", f"replicaof 127.0.0.1 {ports[0]}")
    watch = f"sentinel monitor mine 127.0.0.1 {ports[0]} 1"
    quick = ["sentinel down-after-milliseconds mine 300", "sentinel failover-timeout mine 2000"]
    watcher = start(local, f"port {ports[2]}", watch, *quick, sentinel=True)
    url = f"redis+sentinel://127.0.0.1:{ports[2]}/mine"
    await used(url)

    with redis.Redis.from_url(watcher.url) as asked, redis.Redis(port=ports[1]) as second:
        until(lambda: asked.execute_command("SENTINEL", "REPLICAS", "mine") != [])
        until(lambda: second.get("{k}a") == b"\xff")
        client = connect(url, timeout_s=1.0)
        assert await client.get("{k}a") == b"\xff"
        first.process.kill()
        deadline = time.monotonic() + 30
        while True:
            try:
                assert await client.set("b", 1)
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        assert second.get("b") == b"1"
        await client.aclose()


async def test_a_cluster_url_reaches_every_node_and_waits_for_a_connection(start: Callable[..., Server]) -> None:
    ports = [free_port() for _ in range(2)]
    words = ["bind 127.0.0.1", "cluster-enabled yes", "cluster-node-timeout 2000", "appendonly yes", "appendfsync always"]
    for port in ports:
        start(*words, f"port {port}", f"cluster-port {free_port()}")
    nodes = [redis.Redis(port=port) for port in ports]
    bus = nodes[1].config_get("cluster-port")["cluster-port"]
    nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", ports[1], bus)
    nodes[0].execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
    nodes[1].execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
    until(lambda: all(b"cluster_state:ok" in node.execute_command("CLUSTER INFO") for node in nodes if _raw(node)))
    url = f"redis+cluster://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}"
    await used(url)
    client = connect(url, max_connections=3)
    await asyncio.gather(*(client.set(f"key{number}", number) for number in range(200)))
    assert nodes[0].dbsize() + nodes[1].dbsize() == 201  # type: ignore[operator]
    assert 0 < nodes[0].dbsize() < 201  # type: ignore[operator]
    assert len(nodes[0].client_list()) <= 3 + 1 + 1  # the client's, its topology, and this one
    await verify_durability(client, "fsync")
    nodes[1].config_set("appendfsync", "everysec")
    with pytest.raises(DurabilityUnverified):
        await verify_durability(client, "fsync")
    await client.aclose()
    for node in nodes:
        node.close()


def _raw(node: Any) -> bool:
    node.set_response_callback("CLUSTER INFO", lambda reply, **_: reply)
    return True


# --- time-outs and the pool ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_stalled_server_is_a_timeout_and_the_command_is_sent_once(start: Callable[..., Server], blocking: bool) -> None:
    server = start()
    await used(server.url)
    client: Any = connect(server.url, blocking=blocking, timeout_s=0.3)

    async def push() -> None:
        if blocking:
            await asyncio.to_thread(client.rpush, "list", 1)
        else:
            await client.rpush("list", 1)

    await push()
    server.process.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    try:
        with pytest.raises(redis.TimeoutError):
            await push()
    finally:
        waited = time.monotonic() - started
        server.process.send_signal(signal.SIGCONT)
    assert 0.25 < waited < 2
    other = connect(server.url)
    assert await other.llen("list") == 2  # type: ignore[misc]
    await other.aclose()
    if blocking:
        client.close()
    else:
        await client.aclose()


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_server_that_is_not_there_fails_at_once(tmp_path: Path, blocking: bool) -> None:
    client: Any = connect(f"unix://{tmp_path}/none.sock", blocking=blocking)
    started = time.monotonic()
    with pytest.raises(redis.ConnectionError):
        await asyncio.to_thread(client.ping) if blocking else await client.ping()
    assert time.monotonic() - started < 1
    if not blocking:
        await client.aclose()


async def test_more_callers_than_connections_wait_for_their_turn(start: Callable[..., Server]) -> None:
    server = start()
    client = connect(server.url, max_connections=2)
    await asyncio.gather(*(client.blpop("nothing", timeout=0.05) for _ in range(12)))  # type: ignore[arg-type]
    assert len(await client.client_list()) == 2
    await client.aclose()
    hurried = connect(server.url, max_connections=1, pool_wait_s=0.05)
    busy = asyncio.create_task(hurried.blpop("nothing", timeout=1))  # type: ignore[arg-type]
    other = connect(server.url)
    while not any(one["cmd"] == "blpop" for one in await other.client_list()):
        await asyncio.sleep(0.01)
    with pytest.raises(redis.ConnectionError, match="No connection available"):
        await hurried.ping()
    await busy
    await hurried.aclose()
    await other.aclose()


async def test_no_hello_no_maintenance_notifications(start: Callable[..., Server]) -> None:
    server = start()
    client = connect(server.url)
    await client.ping()
    commands = await client.info("commandstats")  # type: ignore[misc]
    assert "cmdstat_hello" not in commands
    assert "cmdstat_client|maint_notifications" not in commands
    await client.aclose()


# --- durability ------------------------------------------------------------------------------------------------------------


def test_durability_is_read_or_refused() -> None:
    assert [str(parse_durability(text)) for text in ("fsync", "memory", "trust-server", "replicated(2)", "replicated( 3 )")] == [
        "fsync",
        "memory",
        "trust-server",
        "replicated(2)",
        "replicated(3)",
    ]
    assert parse_durability("replicated(2)") == Durability("replicated", 2)
    for text in ("", "FSYNC", "replicated", "replicated()", "replicated(0)", "replicated(-1)", "replicated(1.5)", None, 3):
        with pytest.raises(InvalidConfig, match=r"replicated\(n\)"):
            parse_durability(text)  # type: ignore[arg-type]


def test_a_barrier_knows_its_words_and_its_answer() -> None:
    assert (Barrier().words(9), Barrier().kept(None)) == ((), True)
    assert Barrier("WAIT", 2).words(9) == ("WAIT", 2, 9)
    assert [Barrier("WAIT", 2).kept(count) for count in (1, 2, 3)] == [False, True, True]
    assert Barrier("WAITAOF").words(9) == ("WAITAOF", 1, 0, 9)
    assert [Barrier("WAITAOF", 1).kept(reply) for reply in ([0, 1], [1, 0], [1, 1])] == [False, False, True]


@pytest.mark.parametrize(
    ("words", "wanted", "found"),
    [
        (["appendonly yes", "appendfsync always"], "fsync", None),
        (["appendonly yes", "appendfsync everysec"], "fsync", "appendonly yes, appendfsync everysec"),
        (["appendonly yes", "appendfsync no"], "fsync", "appendonly yes, appendfsync no"),
        (["appendonly no"], "fsync", "appendonly no, appendfsync everysec"),
        (["appendonly no"], "memory", None),
        (["appendonly no"], "trust-server", None),
        (["appendonly no"], "replicated(1)", "0 connected replicas"),
        (["appendonly yes", "appendfsync always", "maxmemory-policy allkeys-lru"], "fsync", "allkeys-lru"),
        (["maxmemory-policy volatile-ttl"], "memory", "volatile-ttl"),
        (["maxmemory-policy volatile-ttl"], "trust-server", None),
        (["appendonly yes", 'rename-command CONFIG ""'], "fsync", "appendonly yes, appendfsync unknown"),
        (["appendonly no", 'rename-command CONFIG ""'], "fsync", "appendonly no, appendfsync unknown"),
        (["maxmemory-policy allkeys-lfu", 'rename-command CONFIG ""'], "memory", "allkeys-lfu"),
        (
            ["appendonly yes", "user default on nopass ~* &* +@all -config -info"],
            "fsync",
            "appendonly unknown, appendfsync unknown",
        ),
        (["appendonly no", "user default on nopass ~* &* +@all -config -info"], "memory", None),
    ],
)
async def test_the_promise_is_checked_against_the_server(
    start: Callable[..., Server], words: list[str], wanted: str, found: str | None
) -> None:
    client = connect(start(*words).url)
    try:
        if found is None:
            assert await verify_durability(client, wanted) == Barrier()
        else:
            with pytest.raises(DurabilityUnverified) as caught:
                await verify_durability(client, wanted)
            assert caught.value.found == found
            assert caught.value.wanted == wanted
            assert found.split()[-1] in str(caught.value)
            assert pickle.loads(pickle.dumps(caught.value)).found == found
    finally:
        await client.aclose()


@pytest.mark.parametrize("fsync", ["everysec", "always"])
async def test_a_caller_that_can_wait_gets_the_barrier_of_a_server_that_fsyncs_later(start: Callable[..., Server], fsync: str) -> None:
    client = connect(start("appendonly yes", f"appendfsync {fsync}").url, max_connections=1)
    barrier = await verify_durability(client, "fsync", can_wait=True)
    if fsync == "always":
        assert barrier == Barrier()
    else:
        assert barrier == Barrier("WAITAOF")
        await client.set("a", 1)
        assert barrier.kept(await client.execute_command(*barrier.words(3_000)))
    await client.aclose()


async def test_replicas_are_counted_and_a_replica_is_no_place_to_write(start: Callable[..., Server]) -> None:
    port = free_port()
    primary = start("bind 127.0.0.1", f"port {port}", "repl-diskless-sync-delay 0")
    replica = start(f"replicaof 127.0.0.1 {port}")
    with redis.Redis.from_url(primary.url) as asked:
        until(lambda: asked.info("replication")["connected_slaves"] == 1)
    client = connect(primary.url, max_connections=1)
    barrier = await verify_durability(client, "replicated(1)")
    assert barrier == Barrier("WAIT", 1)
    await client.set("a", 1)
    assert barrier.kept(await client.execute_command(*barrier.words(5_000)))
    with pytest.raises(DurabilityUnverified, match="1 connected replicas"):
        await verify_durability(client, "replicated(2)")
    await client.aclose()
    other = connect(replica.url)
    with pytest.raises(DurabilityUnverified, match="a replica"):
        await verify_durability(other, "replicated(1)")
    await other.aclose()
