"""Waiting to be told to stop, for commands that keep something up."""

from __future__ import annotations

import signal
import threading

__all__ = ["until_told"]


def until_told() -> None:
    """Return at Ctrl-C or SIGTERM; whatever handled these before does so again afterwards. For the main thread."""
    told = threading.Event()
    before = {number: signal.signal(number, lambda *_: told.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        told.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
