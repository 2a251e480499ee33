"""Running step functions: async ones on the loop, sync ones in threads of their own. What happened comes back as an event."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from agentraft_ray.checkpoint.codec import decode_output, encode_output
from agentraft_ray.errors import OutputNotEncodable
from agentraft_ray.pipeline import StepContext
from agentraft_ray.protocol.messages import StepRaised, StepReturned
from agentraft_ray.runtime.boundary import described, plain_text
from agentraft_ray.taxonomy import FREE, Cost, FailureCause
from agentraft_ray.telemetry.logs import running_step

__all__ = ["RunningStep", "StepThreads", "ends_us"]

_log = logging.getLogger("agentraft_ray")


class StepThreads:
    """Threads for sync steps, one a call and at most `threads_max` at a time; each ends with its step.

    They are daemons: a step that never returns is given up when its time is over, and cannot keep the process from ending. Its
    thread cannot be stopped, so it keeps its room; when all room is held like that, sync steps wait until one of them returns.
    """

    def __init__(self, threads_max: int) -> None:
        self._threads_max = threads_max
        self._room = asyncio.Semaphore(threads_max)
        self._overdue: list[str] = []

    @property
    def overdue(self) -> int:
        """How many threads hang in steps that were given up."""
        return len(self._overdue)

    async def take_room(self) -> None:
        """Wait for room for one more thread. `call` must follow at once; it gives the room back when its thread ends."""
        await self._room.acquire()

    async def call(self, fn: Callable[[StepContext], Any], ctx: StepContext) -> Any:
        """`fn(ctx)` in a thread, with the caller's context variables. Cancelling it abandons the thread."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        work = partial(contextvars.copy_context().run, fn, ctx)
        ended = partial(self._ended, done, ctx.step_name)
        try:
            threading.Thread(target=_work, args=(work, loop, ended), name=f"agentraft-step {ctx.step_name}", daemon=True).start()
        except RuntimeError:  # the system has no thread to give
            self._room.release()
            raise
        try:
            return await done
        finally:
            if done.cancelled():
                self._abandon(ctx.step_name)

    def _abandon(self, step: str) -> None:
        self._overdue.append(step)
        if len(self._overdue) == self._threads_max:
            names = ", ".join(sorted(set(self._overdue)))
            _log.warning(
                "all %d threads for sync steps hang in steps that were given up (%s); no sync step starts before one returns. "
                "Give what they wait for a time-out, or raise Limits(step_threads_max=)",
                self._threads_max,
                names,
            )

    def _ended(self, done: asyncio.Future[Any], step: str, output: Any, error: BaseException | None) -> None:
        self._room.release()
        if done.cancelled():
            self._overdue.remove(step)
        elif error is None:
            done.set_result(output)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            done.set_exception(error)
        else:  # what would end the event loop, were it raised there
            done.set_exception(RuntimeError(f"the step raised {described(error)}"))


def _work(work: Callable[[], Any], loop: asyncio.AbstractEventLoop, ended: Callable[[Any, BaseException | None], None]) -> None:
    try:
        settle = partial(ended, work(), None)
    except BaseException as error:  # noqa: BLE001 - the boundary to the user's code; a thread has nobody else to tell
        settle = partial(ended, None, error)
    with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits for an abandoned step
        loop.call_soon_threadsafe(settle)


class RunningStep:
    """One attempt at a step function, with its clock and its bill. `call` is what its host knows it by; it stands in the event.

    The clock starts when the function does: waiting for a thread costs a step none of its own time.
    """

    __slots__ = ("_began", "_billed", "_ctx", "_fn", "call", "timeout_s")

    def __init__(self, call: Any, fn: Callable[[StepContext], Any], ctx: StepContext, timeout_s: float | None) -> None:
        self.call = call
        self.timeout_s = timeout_s
        self._fn = fn
        self._ctx = ctx
        self._began = 0.0
        self._billed = FREE

    async def run(
        self, threads: StepThreads, bytes_max: int, wanted: Any, overdue: Callable[[RunningStep], None] | None
    ) -> StepReturned | StepRaised:
        """Run to its end. Whatever the function raises is a value here; only cancellation passes through.

        `wanted` = the type that the function declares for its output, None for plain data; what does not fit it is no output.
        `overdue` is called when the time is over; None where the host looks after the time of an async function, by `left_s`.
        """
        fn, ctx = self._fn, self._ctx
        timer = None
        labelled = running_step.set(ctx)
        try:
            is_async = _is_async(fn)
            if not is_async:
                await threads.take_room()
            self._began = time.perf_counter()
            if self.timeout_s is not None and overdue is not None:
                timer = asyncio.get_running_loop().call_later(self.timeout_s, overdue, self)
            output = await (fn(ctx) if is_async else threads.call(fn, ctx))
            if not is_async and inspect.isawaitable(output):
                output = await output
        except BaseException as error:
            if ends_us(error):
                raise
            return self.raised(error)
        finally:
            running_step.reset(labelled)
            if timer is not None:
                timer.cancel()
        return self._returned(output, bytes_max, wanted)

    @property
    def is_async(self) -> bool:
        """Whether the function runs on the event loop."""
        return _is_async(self._fn)

    def left_s(self) -> float | None:
        """How much of its time a running step has left; None where it has no bound."""
        return None if self.timeout_s is None else self.timeout_s - (time.perf_counter() - self._began)

    def bill(self) -> Cost:
        """What the attempt has used since this was last asked."""
        used = self._ctx.cost
        seconds = time.perf_counter() - self._began if self._began else 0.0
        if used is FREE and self._billed is FREE:  # it has booked nothing, as most steps
            self._billed = Cost(0, 0.0, seconds)
            return self._billed
        try:
            total = Cost.of(used.tokens, used.usd, used.seconds + seconds, used.known_usd)
        except (TypeError, ValueError, AttributeError):  # somebody has put a thing of their own into `ctx.cost`
            total = Cost(0, None, seconds)
        part = total if self._billed is FREE else total.less(self._billed)
        self._billed = total
        return part

    def raised(self, error: BaseException) -> StepRaised:
        """The event for an attempt that ended in `error`."""
        return self._raised(FailureCause.RAISED, described(error))

    def timed_out(self) -> StepRaised:
        """The event for an attempt whose time is over, with what it has booked so far."""
        return self._raised(FailureCause.TIMED_OUT, f"it did not return within {self.timeout_s} s")

    def called_off(self) -> StepRaised:
        """The event for an attempt that nobody waits for any more: it only carries the bill."""
        return self._raised(FailureCause.RAISED, "it was called off")

    def _returned(self, output: Any, bytes_max: int, wanted: Any) -> StepReturned | StepRaised:
        try:
            data = encode_output(output)
            if wanted is not None:
                decode_output(data, wanted)
        except OutputNotEncodable as error:
            return self._raised(FailureCause.NOT_ENCODABLE, plain_text(f"OutputNotEncodable: {error}"))
        except Exception as error:  # noqa: BLE001 - the boundary to the user's code: their types take part in encoding
            return self._raised(FailureCause.NOT_ENCODABLE, described(error))
        if len(data) > bytes_max:
            message = f"PayloadTooLarge: the output is {len(data):,} bytes, over {bytes_max:,}; store it elsewhere and return a reference"
            return self._raised(FailureCause.TOO_LARGE, message, final=True)
        return StepReturned(self.call, data, self.bill())

    def _raised(self, cause: FailureCause, message: str, *, final: bool = False) -> StepRaised:
        return StepRaised(self.call, cause, message, self.bill(), final)


def ends_us(error: BaseException) -> bool:
    """Whether what user code let through is meant for this task or this process, and not a failure of that code."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt)


def _is_async(fn: Callable[..., Any]) -> bool:
    code = getattr(fn, "__code__", None)
    if code is not None and code.co_flags & inspect.CO_COROUTINE:  # most are; it is asked for every attempt
        return True
    while isinstance(fn, partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004
