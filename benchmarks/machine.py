"""Where figures were made: cores, load, Python, and what an fsync costs on the disk in question."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from pathlib import Path

import msgspec

__all__ = ["Machine", "describe_machine", "fsync_us"]

_SYNCS = 50


class Machine(msgspec.Struct, frozen=True):
    """The machine and its state when the measurement began. `load` = runnable processes in the last minute, ours excluded."""

    cores: int
    load: float
    cpu: str
    python: str
    disk: str
    fsync_us: float


def describe_machine(directory: Path) -> Machine:
    """Look at the machine, and at the disk that holds `directory`."""
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        load=os.getloadavg()[0],
        cpu=_cpu_name(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        disk=_file_system(directory),
        fsync_us=fsync_us(directory),
    )


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(directory: Path) -> str:
    said = subprocess.run(  # noqa: S603 - our own arguments, no shell
        ["/usr/bin/env", "stat", "--file-system", "--format=%T", str(directory)], capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or "unknown"


def fsync_us(directory: Path) -> float:
    """Median microseconds of a small write and fdatasync: what a lone durable step cannot go below."""
    path = directory / "fsync.probe"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        taken = []
        for _ in range(_SYNCS):
            started = time.perf_counter()
            os.write(fd, b"x" * 300)
            os.fdatasync(fd)
            taken.append(time.perf_counter() - started)
        return statistics.median(taken) * 1e6
    finally:
        os.close(fd)
        path.unlink()
