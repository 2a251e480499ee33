"""Carries faults out: picks the process, waits until it has work in flight, strikes, and measures until an affected run goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Callable

import msgspec
import redis

from agentraft_ray.actors import names
from agentraft_ray.actors.gateway import RayPeer
from agentraft_ray.actors.messages import Pong, decode
from agentraft_ray.checkpoint.embedded import EmbeddedServer
from agentraft_ray.errors import AgentRaftError
from agentraft_ray.protocol.records import OwnerClaimed, StepCommitted
from benchmarks.chaos.plan import Fault
from benchmarks.chaos.tally import Tally
from benchmarks.chaos.watch import Watch

__all__ = ["SHARDS", "STALL_S", "VERIFIERS", "WORKERS", "Strike", "Striker"]

SHARDS, WORKERS, VERIFIERS = 2, 2, 1
STALL_S = 6.0  # the client gives a call 5 s

_FLIGHT_S = 3.0  # how long work in flight is waited for; a process without any is struck all the same, and it does not count
_RECOVERY_S = 60.0  # after this a run that does not go on is lost
_BACK_S = 60.0
_TAKEOVER_S = 15.0
_POLL_S = 0.004
_SETTLE_S = 0.02  # until what a killed process had sent has reached the server


class Strike(msgspec.Struct):
    """A fault that was carried out. `affected` = runs with work in flight there; 0: it does not count. `recovery_s` = from the kill,
    or from the end of the stall, to the next commit of one of them that was seen in the store; None: there was none in time."""

    kind: str
    victim: str
    at: float
    affected: int = 0
    recovery_s: float | None = None
    stalled_s: float = 0.0
    in_flight: int = 0


class Striker:
    """The hands of a campaign. `live` gives the runs that are under way."""

    def __init__(self, deployment: str, server: EmbeddedServer, tally: Tally, watch: Watch, live: Callable[[], set[str]]) -> None:
        self._deployment = deployment
        self._server = server
        self._tally = tally
        self._watch = watch
        self._live = live

    async def strike(self, fault: Fault) -> Strike:
        """Carry a fault out; returns when an affected run goes on, or with `recovery_s=None` if none does."""
        await asyncio.sleep(fault.pause_s)
        match fault.kind:
            case "worker" | "verifier":
                return await self._kill_busy(fault)
            case "coordinator":
                return await self._kill_coordinator(fault)
            case "store" | "breaker":
                return await self._kill_service(fault)
            case "server":
                return await self._kill_server(fault)
            case "stall":
                return await self._stall_server(fault)
            case "zombie":
                return await self._stop_coordinator(fault)
            case _:
                return await self._flush(fault)

    async def settle(self) -> None:
        """Wait until every actor answers and the server runs. Raises TimeoutError if one of them does not come back."""
        everybody = [names.store(self._deployment), names.breaker(self._deployment)]
        everybody += [names.coordinator(self._deployment, index) for index in range(SHARDS)]
        everybody += [names.worker(self._deployment, "", index) for index in range(WORKERS)]
        everybody += [names.verifier(self._deployment, index) for index in range(VERIFIERS)]
        for name in everybody:
            await self._pid(name)
        await self._server_pid()

    # --- one kind each -----------------------------------------------------------------------------------------------------------

    async def _kill_busy(self, fault: Fault) -> Strike:
        """A worker or verifier, at a moment at which it has something under way."""
        count = WORKERS if fault.kind == "worker" else VERIFIERS
        number = int(fault.victim * count)
        name = names.worker(self._deployment, "", number) if fault.kind == "worker" else names.verifier(self._deployment, number)
        pid = await self._pid(name)
        await self._until(lambda: bool(self._tally.open_at(pid)))
        strike = self._kill(fault.kind, name, pid)
        self._tally.look()
        return await self._recovered(strike, self._tally.open_at(pid) & self._live())

    async def _kill_coordinator(self, fault: Fault) -> Strike:
        index = int(fault.victim * SHARDS)
        name = names.coordinator(self._deployment, index)
        pid = await self._pid(name)
        await self._until(lambda: bool(self._of_shard(index)))
        affected = self._of_shard(index)
        strike = self._kill(fault.kind, name, pid)
        return await self._recovered(strike, affected, claimed=True)

    async def _kill_service(self, fault: Fault) -> Strike:
        name = names.store(self._deployment) if fault.kind == "store" else names.breaker(self._deployment)
        pid, in_flight = await self._pid(name), 0
        await self._until(lambda: bool(self._tally.open_now()))
        if fault.kind == "store":
            in_flight = await self._appends_in_flight(name)
        self._tally.look()
        affected = self._tally.open_now() & self._live() if fault.kind == "breaker" or in_flight else set()
        strike = self._kill(fault.kind, name, pid)
        strike.in_flight = in_flight
        return await self._recovered(strike, affected)

    async def _kill_server(self, fault: Fault) -> Strike:
        pid, affected = await self._server_in_use()
        lengths = self._watch.unfinished(affected)
        strike = self._kill(fault.kind, "server", pid)
        return await self._recovered(strike, affected, lengths)

    async def _stall_server(self, fault: Fault) -> Strike:
        pid, affected = await self._server_in_use()
        strike = Strike(fault.kind, f"server (pid {pid})", time.time())
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(STALL_S)
        finally:
            os.kill(pid, signal.SIGCONT)
        strike.stalled_s = STALL_S
        ended = time.monotonic()
        return await self._recovered(strike, affected, await asyncio.to_thread(self._unfinished, affected), since=ended)

    async def _stop_coordinator(self, fault: Fault) -> Strike:
        """Stop one until another one has taken over, then let it wake up as the zombie that it is."""
        index = int(fault.victim * SHARDS)
        name = names.coordinator(self._deployment, index)
        pid = await self._pid(name)
        await self._until(lambda: bool(self._of_shard(index)))
        affected = self._of_shard(index)
        strike, began = Strike(fault.kind, f"{name} (pid {pid})", time.time()), time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(_SETTLE_S)
            lengths = self._watch.unfinished(affected)
            taken = await asyncio.to_thread(self._watch.wait_for, lengths, OwnerClaimed, _TAKEOVER_S)
            await asyncio.sleep(random.Random(fault.victim).random())
        finally:
            os.kill(pid, signal.SIGCONT)
        ended = time.monotonic()
        strike.stalled_s = ended - began
        if taken is None:
            return strike
        strike = await self._recovered(strike, affected & self._live(), since=ended)
        if not strike.affected:  # those that took over have brought all of them to their ends before the zombie woke up
            strike.affected, strike.recovery_s = len(lengths), 0.0
        return strike

    async def _flush(self, fault: Fault) -> Strike:
        await self._until(lambda: bool(self._tally.open_now()))
        affected = self._tally.open_now() & self._live()
        strike = Strike(fault.kind, "server", time.time())
        self._watch.flush_scripts()
        return await self._recovered(strike, affected, since=time.monotonic())

    # --- what they share ---------------------------------------------------------------------------------------------------------

    async def _server_in_use(self) -> tuple[int, set[str]]:
        await self._server_pid()
        await self._until(lambda: bool(self._tally.open_now()))
        return await self._server_pid(), self._tally.open_now() & self._live()

    async def _server_pid(self) -> int:
        """The server's process, as soon as there is one. Raises TimeoutError."""
        async with asyncio.timeout(_BACK_S):
            while True:
                if (pid := self._server.pid) is not None:
                    return pid
                await asyncio.sleep(_POLL_S)

    def _kill(self, kind: str, name: str, pid: int) -> Strike:
        with contextlib.suppress(ProcessLookupError):  # a step may have ended its process a moment ago; then nothing was in flight
            os.kill(pid, signal.SIGKILL)
        return Strike(kind, f"{name} (pid {pid})", time.time())

    async def _recovered(
        self, strike: Strike, affected: set[str], lengths: dict[str, int] | None = None, *, since: float = 0.0, claimed: bool = False
    ) -> Strike:
        since = since or time.monotonic()
        if lengths is None:
            await asyncio.sleep(_SETTLE_S)
            lengths = await asyncio.to_thread(self._unfinished, affected)
        strike.affected = len(lengths)
        if not lengths:
            return strike
        seen = await asyncio.to_thread(self._watch.wait_for, lengths, StepCommitted, _RECOVERY_S, claimed=claimed)
        strike.recovery_s = None if seen is None else seen - since
        return strike

    def _unfinished(self, runs: set[str]) -> dict[str, int]:
        """As soon as the server answers; blocks."""
        deadline = time.monotonic() + _BACK_S
        while True:
            try:
                return self._watch.unfinished(runs)
            except redis.RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)

    def _of_shard(self, index: int) -> set[str]:
        """What is in flight of the runs that a coordinator owns: not always those of its number, it may have taken over others."""
        with contextlib.suppress(redis.RedisError):
            owners = self._watch.owners(self._tally.open_now() & self._live())
            return {run for run, owner in owners.items() if owner.split(".")[-2] == str(index)}
        return set()

    async def _until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _FLIGHT_S
        while time.monotonic() < deadline:
            self._tally.look()
            if is_so():
                return
            await asyncio.sleep(_POLL_S)

    async def _appends_in_flight(self, name: str) -> int:
        deadline = time.monotonic() + _FLIGHT_S
        peer = RayPeer(name)
        while time.monotonic() < deadline:
            with contextlib.suppress(AgentRaftError):
                if count := int((await peer.call("stats"))["in_flight"]):
                    return count
            await asyncio.sleep(_POLL_S)
        return 0

    async def _pid(self, name: str) -> int:
        """The process that has this name, as soon as it answers. Raises TimeoutError."""
        async with asyncio.timeout(_BACK_S):
            while True:
                try:
                    pong: Pong = decode(await RayPeer(name).call("ping"), Pong)
                    return pong.pid
                except AgentRaftError:
                    await asyncio.sleep(0.05)
