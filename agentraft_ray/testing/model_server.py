"""A local server that speaks the wire formats of all providers, scripted: for tests of what models and networks may do.

    async with ModelServer(lambda asked: Reply(verdict={"verdict": "PASS", ...})) as server:
        LLMVerifier.openai(model="any", api_key="key", base_url=server.base_url("openai"))

`python -m agentraft_ray.testing.model_server` serves one that passes everything, and prints its address.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Self

from agentraft_ray.testing.wire_formats import FORMATS, Asked, Reply

__all__ = ["PASS", "Asked", "ModelServer", "Reply"]

PASS = {"verdict": "PASS", "confidence": 0.9, "hint": None, "reasoning": "it does what was asked", "blame": None}
Script = Callable[[Asked], "Reply | Awaitable[Reply]"]


@dataclass
class ModelServer:
    """Listens on the loopback interface while entered. `script` answers every request; `asked` holds the requests so far.

    `open_connections` = how many there are now. `address` says where it listens.
    """

    script: Script = lambda asked: Reply(verdict=PASS)
    asked: list[Asked] = field(default_factory=list)
    open_connections: int = 0
    address: str = ""
    keep_asked: bool = True
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def base_url(self, provider: str) -> str:
        """What to give to that provider's verifier as `base_url`."""
        return self.address + ("/v1" if provider == "openai" else "")

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26)
        self.address = "http://127.0.0.1:{1}".format(*self._server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open_connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the server goes
        finally:
            self._tasks.discard(task)
            self.open_connections -= 1
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection stays."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        path = first.split(" ")[1].partition("?")[0]
        for wire in FORMATS:
            found = re.fullmatch(wire.path, path)
            if found is not None:
                asked = wire.asked(found, headers, json.loads(body))
                break
        else:
            await _send(writer, 404, {}, b'{"error": {"message": "no such path"}}')
            return True
        if self.keep_asked:
            self.asked.append(asked)
        answer = self.script(asked)
        reply = answer if isinstance(answer, Reply) else await answer
        if reply.delay_s:
            await asyncio.sleep(reply.delay_s)
        status, more, data = wire.answer(reply, asked)
        await _send(writer, status, more, data, reply.cut_after)
        return reply.cut_after is None


async def _send(writer: asyncio.StreamWriter, status: int, headers: dict[str, str], body: bytes, cut_after: int | None = None) -> None:
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Overloaded"
    lines = [f"HTTP/1.1 {status} {phrase}", "content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body[:cut_after])
    await writer.drain()


async def _main(delay_s: float) -> None:
    async with ModelServer(lambda asked: Reply(verdict=PASS, delay_s=delay_s), keep_asked=False) as server:
        print(server.address, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve a model that passes everything, over the wire formats of all providers.")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before every answer")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(parser.parse_args().delay))
