"""What the kernel says about processes: CPU seconds and resident memory, and which belong to a Ray session, from /proc."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

__all__ = ["CpuMeter", "cpu_s", "ray_processes", "rss_bytes"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_RAY_SESSION = re.compile(r"/session_[\w-]+")


def cpu_s(pid: int) -> float:
    """CPU seconds that the process has used, user and system, all threads; in steps of 10 ms. Raises FileNotFoundError."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def rss_bytes(pid: int | None = None) -> int:
    """Resident bytes of the process, by default of this one."""
    return int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1]) * _PAGE_BYTES


def ray_processes(worker: int) -> set[int]:
    """The pids on this machine of the Ray session in which process `worker` runs: raylet, GCS, agents, monitors, all its workers.

    The driver is not among them. Empty when the process has gone, or is no worker of a Ray session.
    """
    parents = dict(_parents())
    raylet = worker
    while raylet in parents and not _comm(raylet).startswith("raylet"):
        raylet = parents[raylet]
    found = _RAY_SESSION.search(_command_line(raylet)) if raylet in parents else None
    if found is None:
        return set()
    session = {pid for pid in parents if found[0] in _command_line(pid)} | {raylet}
    return session | {pid for pid in parents if raylet in _ancestors(pid, parents)}  # a worker's command line is its name alone


class CpuMeter:
    """CPU seconds by role: some processes each, and optionally "rest of Ray", those of the session that no role names.

    The rest is looked up at every reading, because Ray starts and stops workers as it likes; what a process used that began and
    ended between two readings is not seen.
    """

    def __init__(self, roles: Mapping[str, Iterable[int]], *, ray_worker: int | None = None) -> None:
        """`ray_worker` = any process of the Ray session whose rest is to be counted."""
        self._roles = {name: frozenset(pids) for name, pids in roles.items()}
        self._ray_worker = ray_worker

    def read(self) -> dict[int, float]:
        """CPU seconds of every process so far, by pid; give two of these to `used`."""
        return {pid: seconds for pid in self._all() for seconds in _cpu_if_alive(pid)}

    def used(self, before: Mapping[int, float], after: Mapping[int, float]) -> dict[str, float]:
        """CPU seconds by role between two readings."""
        spent = {pid: seconds - before.get(pid, 0.0) for pid, seconds in after.items()}
        found = {name: sum(spent.pop(pid, 0.0) for pid in pids) for name, pids in self._roles.items()}
        return found if self._ray_worker is None else found | {"rest of Ray": sum(spent.values())}

    def _all(self) -> set[int]:
        named = {pid for pids in self._roles.values() for pid in pids}
        return named if self._ray_worker is None else named | ray_processes(self._ray_worker)


def _cpu_if_alive(pid: int) -> Iterator[float]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        yield cpu_s(pid)


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(ValueError, FileNotFoundError, ProcessLookupError):
            yield int(entry.name), int(_stat(int(entry.name))[1])


def _ancestors(pid: int, parents: Mapping[int, int]) -> Iterator[int]:
    while pid in parents:
        pid = parents[pid]
        yield pid


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on: [1] is the parent, [11] and [12] are user and system ticks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _comm(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text()
    return ""


def _command_line(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
