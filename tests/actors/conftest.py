"""A real server for the tests of this folder that need one; each test has a key prefix of its own on it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from agentraft_ray.actors.store_spec import StoreSpec
from tests.actors.local_cluster import LIMITS, LocalCluster, running
from tests.store.servers import TestServer, binaries
from tests.store.servers import running as running_server

Start = Callable[..., Awaitable[LocalCluster]]


@pytest.fixture(scope="session")
def server() -> Iterator[TestServer]:
    """The bundled server, with `appendfsync always`."""
    with running_server(binaries()["bundled"]) as made:
        yield made


@pytest.fixture
def spec(server: TestServer) -> StoreSpec:
    return StoreSpec.server(server.url, prefix=f"t{secrets.token_hex(4)}", limits=LIMITS)


@pytest.fixture
async def start(spec: StoreSpec) -> AsyncIterator[Start]:
    """Starts clusters over one store; they end with the test."""
    async with AsyncExitStack() as stack:

        async def begin(**words: Any) -> LocalCluster:
            return await stack.enter_async_context(running(words.pop("spec", spec), **words))

        yield begin


@pytest.fixture
async def cluster(start: Start) -> LocalCluster:
    return await start()
