"""What the kernel says about a process: CPU seconds and resident memory, from /proc."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cpu_s", "rss_bytes"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """CPU seconds that the process has used, user and system, all threads; in steps of 10 ms. Raises FileNotFoundError."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def rss_bytes(pid: int | None = None) -> int:
    """Resident bytes of the process, by default of this one."""
    return int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1]) * _PAGE_BYTES
