"""The log's server as the manifest sets it up, on a real one: it keeps the promise that the store checks, for the user that we get."""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import yaml

from agentraft_ray import Pipeline, Step, Task, wrap
from agentraft_ray.checkpoint.base import RunStore
from agentraft_ray.checkpoint.redis import RedisCheckpointStore
from agentraft_ray.checkpoint.server_binary import find_server
from agentraft_ray.testing.store_conformance import StoreConformance

pytestmark = pytest.mark.server

MANIFESTS = Path(__file__).resolve().parents[2] / "cluster" / "deploy" / "kubernetes"
PASSWORD = "a-password-of-this-test"


def manifest(file: str, kind: str, name: str) -> dict:  # type: ignore[type-arg]
    (found,) = (one for one in yaml.safe_load_all((MANIFESTS / file).read_text()) if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the secret, at a server with the configuration and the users of the manifests."""
    place = tmp_path_factory.mktemp("log")
    users = manifest("secrets.yaml", "Secret", "agentraft-store")["stringData"]
    (place / "users.acl").write_text(users["users.acl"].replace("REPLACE-WITH-A-PASSWORD", PASSWORD))
    text = manifest("log-store.yaml", "ConfigMap", "agentraft-log")["data"]["valkey.conf"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ours = {"dir /data": f"dir {place}", "port 6379": f"port {port}\nbind 127.0.0.1"}
    ours |= {"aclfile /etc/valkey-acl/users.acl": f"aclfile {place / 'users.acl'}"}
    for theirs, here in ours.items():
        assert theirs in text
        text = text.replace(theirs, here)
    (place / "valkey.conf").write_text(text)
    server = subprocess.Popen([find_server().path, place / "valkey.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        found = users["url"].replace("REPLACE-WITH-A-PASSWORD", PASSWORD).replace("agentraft-log:6379", f"127.0.0.1:{port}")
        deadline = time.monotonic() + 10
        while not _answers(found):
            assert server.poll() is None, "the server does not take its configuration"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield found
    finally:
        server.kill()
        server.wait()


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


async def test_the_store_finds_its_promise_kept_and_runs_pipelines(url: str) -> None:
    async with wrap(Pipeline([Step("a", lambda ctx: "done"), Step("b", lambda ctx: "x" * 100_000)]), store=url) as coordinator:
        assert (await coordinator.run(Task("goal", id="r"))).success
        assert (await coordinator.resume(await coordinator.fork("r", "b"))).success
        assert [event.type.value async for event in coordinator.events("r")][-1] == "run_success"


def test_nobody_else_gets_in_and_our_user_may_do_nothing_to_the_server(url: str) -> None:
    host = url.rpartition("@")[2]
    with redis.Redis.from_url(f"redis://{host}") as stranger, pytest.raises(redis.exceptions.AuthenticationError):
        stranger.ping()
    with redis.Redis.from_url(url) as ours:
        for words in (("FLUSHALL",), ("CONFIG", "SET", "appendfsync", "no"), ("SHUTDOWN",), ("ACL", "LIST"), ("KEYS", "*")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                ours.execute_command(*words)
        with pytest.raises(redis.exceptions.NoPermissionError):
            ours.get("a-key-of-somebody-else")


class TestOurUserMayDoAllThatTheStoreNeeds(StoreConformance):
    """The published suite for stores, as that user."""

    @pytest.fixture(autouse=True)
    def _at(self, url: str) -> None:
        self.url = url
        self.prefix = f"agentraft:{secrets.token_hex(4)}"  # the user may touch no other keys

    async def make_store(self) -> RunStore:
        return RedisCheckpointStore(self.url, prefix=self.prefix)

    async def foreign_keys(self, store: RunStore) -> list[str]:
        with redis.Redis.from_url(self.url) as client:
            return [key.decode() for key in client.scan_iter() if not key.startswith(b"agentraft:")]
