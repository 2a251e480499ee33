"""All that needs a GPU and is not vLLM's: which ones are ours, that no other engine of ours is on them, and that their memory is free.

Where there is no GPU none of this is used. `nvidia-smi` is asked, so that nothing of CUDA is loaded before vLLM does it.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from agentraft_ray.errors import AgentRaftError, InvalidConfig
from agentraft_ray.verifier.engine.settings import EngineSettings

__all__ = ["Gpu", "GpuLease", "GpuTaken", "visible_gpus"]

_ASK_S = 20.0
_POLL_S = 0.2
_WAIT_S = 60.0  # what an engine that was killed held is free after some seconds
_FREE_SHARE = 0.5  # of a GPU's memory, before an engine is started on it
_MIB = 1024**2


class GpuTaken(AgentRaftError):
    """Another engine, or another program, holds the GPU. Fields: gpu."""


class Gpu(NamedTuple):
    """One GPU of this machine; memory in bytes."""

    number: str
    uuid: str
    total: int
    free: int


def visible_gpus(environ: Mapping[str, str] = os.environ) -> tuple[Gpu, ...]:
    """The GPUs that this process may use, by CUDA_VISIBLE_DEVICES (which Ray sets for an actor); () where there are none."""
    found = [
        Gpu(number, uuid, int(total) * _MIB, int(free) * _MIB)
        for number, uuid, total, free in _asked("--query-gpu=index,uuid,memory.total,memory.free")
    ]
    wanted = environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return tuple(found)
    names = [one.strip() for one in wanted.split(",") if one.strip()]
    return tuple(gpu for name in names for gpu in found if name == gpu.number or gpu.uuid.startswith(name))


def _asked(query: str) -> list[list[str]]:
    try:
        done = subprocess.run(  # noqa: S603
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=_ASK_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


class GpuLease:
    """A hold on some GPUs, one engine each: a locked file per GPU, which the kernel unlocks when its holder dies.

    It is taken before the engine starts, so that two that start together do not count each other's memory, and held for as long as
    the engine lives.
    """

    def __init__(self, files: Sequence[IO[str]]) -> None:
        self._files = list(files)

    @classmethod
    def take(cls, settings: EngineSettings, *, wait_s: float = _WAIT_S) -> GpuLease:
        """Hold as many GPUs as the settings ask for, once they are free. Raises InvalidConfig where there are fewer, else GpuTaken."""
        gpus = visible_gpus()
        if len(gpus) < settings.tensor_parallel:
            raise InvalidConfig(
                f"tensor_parallel={settings.tensor_parallel} GPUs are wanted, this process sees {len(gpus)}"
                f" (CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')})"
            )
        lease = cls.of([gpu.uuid for gpu in gpus[: settings.tensor_parallel]], wait_s=wait_s)
        try:
            _wait_for_memory(settings.tensor_parallel, wait_s)
        except BaseException:
            lease.release()
            raise
        return lease

    @classmethod
    def of(cls, names: Sequence[str], *, wait_s: float) -> GpuLease:
        """Hold the files of these GPUs. Raises GpuTaken when another process does so for longer than `wait_s`."""
        folder = Path(tempfile.gettempdir()) / f"agentraft-gpus-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        deadline = time.monotonic() + wait_s
        held: list[IO[str]] = []
        try:
            for name in sorted(names):  # in one order, so that two who want the same ones do not wait for each other
                file = _locked(folder / f"{name}.lock", deadline)
                held.append(file)
        except BaseException:
            cls(held).release()
            raise
        return cls(held)

    def release(self) -> None:
        """Let go of the GPUs."""
        for file in self._files:
            file.close()


def _locked(path: Path, deadline: float) -> IO[str]:
    file = path.open("a+", encoding="utf-8")
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() >= deadline:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                file.close()
                raise GpuTaken(
                    f"GPU {path.stem} has an engine already (process {holder}); end that, or give this one another GPU", gpu=path.stem
                ) from None
            time.sleep(_POLL_S)
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _wait_for_memory(count: int, wait_s: float) -> None:
    """Wait until most of each GPU's memory is free: of an engine that was killed just now it is not. Raises GpuTaken."""
    deadline = time.monotonic() + wait_s
    while True:
        full = [gpu for gpu in visible_gpus()[:count] if gpu.free < _FREE_SHARE * gpu.total]
        if not full:
            return
        if time.monotonic() >= deadline:
            gpu = full[0]
            users = ", ".join(
                f"process {pid} with {used} MiB"
                for pid, used, uuid in _asked("--query-compute-apps=pid,used_memory,gpu_uuid")
                if uuid == gpu.uuid
            )
            raise GpuTaken(
                f"of GPU {gpu.number} only {gpu.free // _MIB} of {gpu.total // _MIB} MiB are free; there: {users or 'nobody who shows'}",
                gpu=gpu.uuid,
            )
        time.sleep(_POLL_S)
