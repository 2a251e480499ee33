"""Threads for packages that block: bounded, used again, and gone when there is no work. They never keep a program from ending."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["BoundedThreads"]

T = TypeVar("T")
_Work = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class BoundedThreads:
    """At most `threads_max` threads for one event loop; each ends after `idle_s` without work.

    A call that blocks cannot be stopped: whoever is cancelled stops waiting, but the thread keeps its place until the call returns.
    """

    def __init__(self, threads_max: int, idle_s: float, name: str) -> None:
        self._room = asyncio.Semaphore(threads_max)
        self._idle_s = idle_s
        self._name = name
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self.count = 0

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """`function(*arguments)` in a thread, once there is one. What it raises passes through."""
        await self._room.acquire()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._work.put((lambda: function(*arguments), loop, done))
        with self._lock:
            needs_one = self._idle == 0
            self._idle -= not needs_one
            self.count += needs_one
        if needs_one:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        return await done

    def close(self) -> None:
        """Have idle threads end now; busy ones end with their calls."""
        with self._lock:
            for _ in range(self.count):
                self._work.put(None)

    def _run(self) -> None:
        while True:
            try:
                item = self._work.get(timeout=self._idle_s)
            except queue.Empty:
                item = None
            if item is None and self._leaves():
                return
            if item is not None:
                self._do(*item)

    def _leaves(self) -> bool:
        with self._lock:
            if self._idle == 0:  # somebody counts on this thread: what it will do is in the queue, or about to be
                return False
            self._idle -= 1
            self.count -= 1
            return True

    def _do(self, work: Callable[[], Any], loop: asyncio.AbstractEventLoop, done: asyncio.Future[Any]) -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as problem:  # noqa: BLE001 - carried to the waiting coroutine
            error = problem
        with self._lock:
            self._idle += 1
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits
            loop.call_soon_threadsafe(self._settle, done, result, error)

    def _settle(self, done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._room.release()
        if done.done():
            return
        if error is None:
            done.set_result(result)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            done.set_exception(error)
        else:
            done.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
