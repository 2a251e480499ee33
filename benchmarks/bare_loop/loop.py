"""Measuring the bare loop in a Ray session, on a server that is passed in: for other benchmarks, to stand beside their figures.

    from benchmarks.bare_loop.loop import measure
    rates = measure(64, socket="/path/of/the/server.sock")          # steps/s, one figure a repetition

Joins the Ray session of this process when there is one, and leaves it as it was; workers find this package through a `runtime_env`
of their own, whatever the session was started with.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import redis

from benchmarks.bare_loop.actors import BareCoordinator, BareWorker
from benchmarks.processes import CpuMeter
from benchmarks.ray_session import ray_session, worker_environment

__all__ = ["BareLoop", "LoopSample", "bare_loop", "measure"]

WORKERS = 2
_CALL_S_MAX = 600
_WARM_UP_STEPS = 5_000


class LoopSample(msgspec.Struct, frozen=True):
    """One repetition. `cpu_us` = CPU microseconds per step by role: coordinator, workers, server, driver, rest of Ray."""

    runs_at_a_time: int
    steps: int
    seconds: float
    cpu_us: dict[str, float]

    @property
    def steps_per_s(self) -> float:
        return self.steps / self.seconds


class BareLoop:
    """A coordinator and its workers, ready to be measured as often as one likes; `bare_loop` opens and closes it."""

    def __init__(self, ray: Any, coordinator: Any, server: int, workers: list[int]) -> None:
        self._ray = ray
        self._coordinator = coordinator
        pid = ray.get(coordinator.pid.remote(), timeout=_CALL_S_MAX)
        roles = {"coordinator": [pid], "workers": workers, "server": [server], "driver": [os.getpid()]}
        self._meter = CpuMeter(roles, ray_worker=pid)
        self._rounds: dict[tuple[int, int], int] = {}

    def repetition(self, runs: int, steps: int = 10, *, seconds: float = 1.0) -> LoopSample:
        """Keep `runs` runs of `steps` steps going for about `seconds`; the first one of its kind is preceded by a warm-up.

        Raises ray.exceptions.RayTaskError when an append was refused or the server went away.
        """
        rounds = self._rounds.get((runs, steps))
        if rounds is None:
            warm_up = self._measure(runs, steps, max(1, math.ceil(_WARM_UP_STEPS / (runs * steps))))
            rounds = self._rounds[runs, steps] = max(1, math.ceil(warm_up.steps_per_s * seconds / (runs * steps)))
        return self._measure(runs, steps, rounds)

    def _measure(self, runs: int, steps: int, rounds: int) -> LoopSample:
        prefix = f"bare-loop:{secrets.token_hex(4)}:"
        before = self._meter.read()
        elapsed = self._ray.get(self._coordinator.seconds.remote(prefix, runs, steps, rounds), timeout=_CALL_S_MAX)
        spent = self._meter.used(before, self._meter.read())
        self._ray.get(self._coordinator.unlink.remote(prefix, runs * rounds), timeout=_CALL_S_MAX)
        done = runs * steps * rounds
        return LoopSample(runs, done, elapsed, {role: seconds / done * 1e6 for role, seconds in spent.items()})


def measure(runs: int, steps: int = 10, repetitions: int = 5, *, socket: Path | str, seconds: float = 1.0) -> list[float]:
    """Steps per second of the bare loop at `runs` runs of `steps` steps at a time, one figure a repetition.

    `socket` = unix socket of a Redis or Valkey server; the keys are removed afterwards.

    Raises:
        ValueError: the server does not fsync every write, so the figure would not be a bound of anything durable.
    """
    with bare_loop(socket) as loop:
        return [loop.repetition(runs, steps, seconds=seconds).steps_per_s for _ in range(repetitions)]


@contextmanager
def bare_loop(socket: Path | str, *, workers: int = WORKERS) -> Iterator[BareLoop]:
    """The actors of a bare loop on a server with ``appendfsync always``; they are killed at the end. Raises ValueError, see `measure`."""
    server = _durable_server(socket)
    with ray_session() as ray:
        # No CPUs: in a session whose CPUs all belong to other actors these must start too. Never restarted: that would spoil the figure.
        settings = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0, "runtime_env": worker_environment()}
        actors = []
        try:
            actors += [ray.remote(BareWorker).options(**settings).remote() for _ in range(workers)]
            coordinator = ray.remote(BareCoordinator).options(**settings).remote(list(actors), str(socket))
            pids = ray.get([actor.pid.remote() for actor in actors], timeout=_CALL_S_MAX)
            actors.append(coordinator)
            yield BareLoop(ray, coordinator, server, pids)
        finally:
            for actor in actors:
                ray.kill(actor)


def _durable_server(socket: Path | str) -> int:
    """The server's pid."""
    with redis.Redis(unix_socket_path=str(socket)) as client:
        enabled = bool(client.info("persistence")["aof_enabled"])
        setting = str(client.config_get("appendfsync").get("appendfsync", "unknown")) if enabled else "off"
        if setting != "always":
            raise ValueError(f"the server on {socket} has appendfsync {setting}; start it with --appendonly yes --appendfsync always")
        return int(client.info("server")["process_id"])
