"""From a URL to a redis-py client with settings that we chose, not inherited, and the check of what the server promises.

The client never retries by itself (a time-out is an unknown outcome, and re-sending is the store's decision), speaks RESP2, takes
no maintenance notifications, has a deadline on every wait, and its pool makes callers wait where redis-py's default would raise.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, overload
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from agentraft_ray.checkpoint.durability import AsyncClient, verify_durability
from agentraft_ray.errors import InvalidConfig

__all__ = ["AsyncClient", "BlockingClient", "Target", "connect", "parse_url", "redact", "verify_durability"]

BlockingClient = redis.Redis | redis.RedisCluster

_RESP = 2
_POOL_WAIT_S = 60.0
_FORMS = (
    "redis://[user:password@]host[:port][/db], rediss:// for TLS, unix:///path, "
    "redis+sentinel://host:port,host:port/service[/db], redis+cluster://host:port,host:port (rediss+... for TLS)"
)
_SCHEME = re.compile(r"(rediss?)(?:\+(sentinel|cluster))?|unix")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:/@,\s]+)(?::(\d{1,5}))?")
_DB_MAX = 2**31 - 1
_LOGIN_OPTIONS = {"username", "password", "sentinel_username", "sentinel_password", "client_name", "db"}
_TLS_FILES = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
_TLS_OPTIONS = _TLS_FILES | {"ssl_cert_reqs", "ssl_check_hostname"}
_CERT_REQS = ("required", "optional", "none")


@dataclass(frozen=True, slots=True)
class Target:
    """What a store URL says. `hosts` are servers, sentinels or some nodes of a cluster; `path` is a unix socket."""

    kind: Literal["single", "sentinel", "cluster"]
    url: str  # without secrets
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    login: Mapping[str, str] = field(default_factory=dict, repr=False)
    sentinel_login: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return self.url


def redact(url: str) -> str:
    """`url` for messages: without passwords, also where it is malformed."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return "***" if "@" in url or "pass" in url.lower() else url
    credentials, at, address = rest.rpartition("@")
    if at:
        user, colon, _ = credentials.partition(":")
        rest = (f"{user}:***" if colon else "***") + at + address
    return f"{scheme}://" + re.sub(r"([?&][^=&]*pass[^=&]*=)[^&]*", r"\1***", rest, flags=re.IGNORECASE)


def parse_url(url: str) -> Target:
    """Read a store URL. Options go in the query: ``db``, ``client_name``, ``username`` and ``password`` (for unix sockets),
    ``sentinel_username`` and ``sentinel_password``, and for TLS ``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile`` (paths),
    ``ssl_cert_reqs`` (required, optional, none) and ``ssl_check_hostname`` (true, false). User, password and path are %-escaped.

    Raises:
        InvalidConfig: anything else; the message shows no password.
    """
    shown = redact(url)
    scheme, _, rest = url.partition("://")
    match = _SCHEME.fullmatch(scheme)
    if match is None or not rest:
        raise InvalidConfig(f"store URL {shown!r} is not one of: {_FORMS}")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidConfig(f"store URL {shown!r} is malformed ({error}); the forms are: {_FORMS}") from None
    if parts.fragment or "#" in url:
        raise InvalidConfig(f"store URL {shown!r} has a #; write %23 for one in a password")
    if "@" in parts.path + parts.query:
        raise InvalidConfig(f"store URL {shown!r} has an @ after its host: %-escape user, password and path (/ is %2F, @ is %40)")
    options = _options(shown, parts.query)
    tls = _tls(shown, options, wanted=match[1] == "rediss")
    login: dict[str, str] = {name: options[name] for name in ("username", "password", "client_name") if name in options}
    credentials, _, address = parts.netloc.rpartition("@")
    if credentials:
        user, _, password = credentials.partition(":")
        login |= {name: unquote(text) for name, text in (("username", user), ("password", password)) if text}

    if scheme == "unix":
        if address or not parts.path:
            raise InvalidConfig(f"store URL {shown!r} needs three slashes and an absolute path: unix:///path/to/socket")
        return Target("single", shown, path=unquote(parts.path), db=_db(shown, options.get("db", "0")), login=login)
    kind = cast("Literal['single', 'sentinel', 'cluster']", match[2] or "single")
    hosts = _hosts(shown, address, 26379 if kind == "sentinel" else 6379)
    words = [unquote(word) for word in parts.path.split("/") if word]
    service = words.pop(0) if kind == "sentinel" and words else ""
    database = _db(shown, options.get("db") or (words.pop(0) if words else "0"))
    if words:
        raise InvalidConfig(f"store URL {shown!r} has too much in its path; the forms are: {_FORMS}")
    if kind == "sentinel" and not service:
        raise InvalidConfig(f"store URL {shown!r} names no service: redis+sentinel://host:port,host:port/service")
    if kind == "cluster" and database:
        raise InvalidConfig(f"store URL {shown!r} names db {database}, but a cluster has only db 0")
    if kind == "single" and len(hosts) > 1:
        raise InvalidConfig(f"store URL {shown!r} has several hosts: use redis+sentinel:// or redis+cluster://")
    sentinel_login = {name: options[f"sentinel_{name}"] for name in ("username", "password") if f"sentinel_{name}" in options}
    return Target(kind, shown, hosts, "", service, database, login, sentinel_login, tls)


@overload
def connect(
    url: str, *, blocking: Literal[False] = False, max_connections: int = 16, timeout_s: float = 5.0, pool_wait_s: float = 60.0
) -> AsyncClient: ...
@overload
def connect(
    url: str, *, blocking: Literal[True], max_connections: int = 16, timeout_s: float = 5.0, pool_wait_s: float = 60.0
) -> BlockingClient: ...
def connect(
    url: str,
    *,
    blocking: bool = False,
    max_connections: int = 16,
    timeout_s: float = 5.0,
    pool_wait_s: float = _POOL_WAIT_S,
) -> AsyncClient | BlockingClient:
    """A client for `url` (see `parse_url`); replies are bytes. Nothing is sent yet, but for a blocking cluster client, which asks
    for the slots.

    A command fails with redis-py's ConnectionError or TimeoutError after `timeout_s` at the latest, and then may have run or not.
    At most `max_connections` are open (per node of a cluster); who comes when all are busy waits up to `pool_wait_s`.

    Raises:
        InvalidConfig: a URL that is not understood, or a certificate file that is not there.
    """
    target = parse_url(url)
    if max_connections < 1 or timeout_s <= 0 or pool_wait_s <= 0:
        raise InvalidConfig(f"max_connections={max_connections}, timeout_s={timeout_s} and pool_wait_s={pool_wait_s} must be positive")
    for name in _TLS_FILES & set(target.tls or ()):
        if not Path(target.tls[name]).is_file():  # type: ignore[index]
            raise InvalidConfig(f"store URL {target}: {name} names {target.tls[name]}, which is no file")  # type: ignore[index]
    every: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "protocol": _RESP,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        "retry": Retry(NoBackoff(), 0) if blocking else AsyncRetry(NoBackoff(), 0),
    }
    pool = {"max_connections": max_connections, "timeout": pool_wait_s}
    if target.kind == "cluster":
        return _cluster(target, every, pool, blocking=blocking)
    if target.kind == "sentinel":
        return _sentinel(target, every, pool, blocking=blocking)
    kinds: Any = redis if blocking else redis.asyncio
    words: dict[str, Any] = {**every, **target.login, **(target.tls or {}), "db": target.db}
    if target.path:
        words |= {"connection_class": kinds.UnixDomainSocketConnection, "path": target.path}
    else:
        words |= {"connection_class": kinds.SSLConnection if target.tls is not None else kinds.Connection}
        words["host"], words["port"] = target.hosts[0]
    return cast("AsyncClient | BlockingClient", kinds.Redis.from_pool(kinds.BlockingConnectionPool(**pool, **words)))


# --- sentinel and cluster --------------------------------------------------------------------------------------------------


class _AsyncSentinelPool(redis.asyncio.sentinel.SentinelConnectionPool, redis.asyncio.BlockingConnectionPool):
    """redis-py's Sentinel pool, but waiting when it is full, and closing its connections to the sentinels too."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for watcher in self.sentinel_manager.sentinels:
                await watcher.aclose()


class _SentinelPool(redis.sentinel.SentinelConnectionPool, redis.BlockingConnectionPool):
    """Likewise without an event loop."""

    def disconnect(self, inuse_connections: bool = True) -> None:
        super().disconnect(inuse_connections)
        if inuse_connections:
            for watcher in self.sentinel_manager.sentinels:
                watcher.close()


class _WaitingCluster(redis.asyncio.RedisCluster):
    """redis-py's cluster client, but waiting when all connections of a node may be in use."""

    def __init__(self, *, slots: int, slot_wait_s: float, **words: Any) -> None:
        super().__init__(**words)
        self._slots = asyncio.Semaphore(slots)
        self._slot_wait_s = slot_wait_s

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        try:
            async with asyncio.timeout(self._slot_wait_s):
                await self._slots.acquire()
        except TimeoutError:
            raise redis.ConnectionError("No connection available.") from None
        try:
            return await super().execute_command(*args, **kwargs)
        finally:
            self._slots.release()


def _sentinel(target: Target, every: dict[str, Any], pool: dict[str, Any], *, blocking: bool) -> AsyncClient | BlockingClient:
    tls = target.tls or {}
    secure = {"ssl": True} if target.tls is not None else {}
    plain, loop = cast("Any", redis.sentinel), cast("Any", redis.asyncio.sentinel)  # redis-py's Sentinel has no types
    sentinels = {**every, **target.sentinel_login, **tls, **secure}
    words = {**every, **target.login, **tls, **secure, **pool, "db": target.db}
    if blocking:
        pool_of: Any = _SentinelPool
        return redis.Redis.from_pool(pool_of(target.service, plain.Sentinel(target.hosts, sentinel_kwargs=sentinels), **words))
    pool_of = _AsyncSentinelPool
    return redis.asyncio.Redis.from_pool(pool_of(target.service, loop.Sentinel(target.hosts, sentinel_kwargs=sentinels), **words))


def _cluster(target: Target, every: dict[str, Any], pool: dict[str, Any], *, blocking: bool) -> AsyncClient | BlockingClient:
    words = {**every, **target.login, **(target.tls or {}), "ssl": target.tls is not None}
    if blocking:
        nodes = [cast("Any", redis.cluster.ClusterNode)(host, port) for host, port in target.hosts]
        pool_of: Any = functools.partial(redis.BlockingConnectionPool, timeout=pool["timeout"])
        size = pool["max_connections"]
        return redis.RedisCluster(startup_nodes=nodes, connection_pool_class=pool_of, max_connections=size, **words)
    async_nodes = [redis.asyncio.cluster.ClusterNode(host, port) for host, port in target.hosts]
    # The slots keep a node's connections below the number at which redis-py raises; one more is for reading the topology.
    return _WaitingCluster(
        startup_nodes=async_nodes,
        max_connections=pool["max_connections"] + 1,
        slots=pool["max_connections"],
        slot_wait_s=pool["timeout"],
        **words,
    )


# --- pieces of a URL -------------------------------------------------------------------------------------------------------


def _options(shown: str, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - _LOGIN_OPTIONS - _TLS_OPTIONS)
    if unknown:
        known = ", ".join(sorted(_LOGIN_OPTIONS | _TLS_OPTIONS))
        raise InvalidConfig(f"store URL {shown!r} has the unknown option {unknown[0]!r}; there are: {known}")
    return options


def _tls(shown: str, options: dict[str, str], *, wanted: bool) -> dict[str, Any] | None:
    found: dict[str, Any] = {name: value for name, value in options.items() if name in _TLS_OPTIONS}
    if not wanted:
        if found:
            raise InvalidConfig(f"store URL {shown!r} has the TLS option {min(found)!r} but no TLS: begin it with rediss")
        return None
    if found.get("ssl_cert_reqs", "required") not in _CERT_REQS:
        raise InvalidConfig(f"store URL {shown!r}: ssl_cert_reqs must be one of {', '.join(_CERT_REQS)}")
    check = found.get("ssl_check_hostname", "true").lower()
    if check not in ("true", "false"):
        raise InvalidConfig(f"store URL {shown!r}: ssl_check_hostname must be true or false")
    # A certificate that nobody asks for has no host name to compare; Python's ssl refuses the combination.
    found["ssl_check_hostname"] = check == "true" and found.get("ssl_cert_reqs") != "none"
    return found


def _hosts(shown: str, address: str, default_port: int) -> tuple[tuple[str, int], ...]:
    hosts = []
    for text in address.split(","):
        match = _HOST.fullmatch(text)
        port = int(match[2] or default_port) if match else 0
        if match is None or not 0 < port < 2**16:
            raise InvalidConfig(f"store URL {shown!r}: a host is no host:port; the forms are: {_FORMS}")
        hosts.append((unquote(match[1]).strip("[]"), port))
    return tuple(hosts)


def _db(shown: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > _DB_MAX:
        raise InvalidConfig(f"store URL {shown!r}: db must be a number")
    return int(text)
