"""Running step functions: async ones on the loop, sync ones in threads of their own. What happened comes back as an event."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from agentraft_ray.checkpoint.codec import decode_output, encode_output
from agentraft_ray.errors import OutputNotEncodable
from agentraft_ray.pipeline import StepContext
from agentraft_ray.protocol.messages import Call, StepRaised, StepReturned
from agentraft_ray.taxonomy import Cost, FailureCause

__all__ = ["StepThreads", "ends_us", "run_step"]


class StepThreads:
    """Threads for sync steps, one a call and at most `threads_max` at a time; each ends with its step.

    They are daemons: a step that never returns is given up when its time is over, and cannot keep the process from ending.
    """

    def __init__(self, threads_max: int) -> None:
        self._room = asyncio.Semaphore(threads_max)

    async def call(self, fn: Callable[[StepContext], Any], ctx: StepContext) -> Any:
        """`fn(ctx)` in a thread, with the caller's context variables. Cancelling it abandons the thread."""
        async with self._room:
            loop = asyncio.get_running_loop()
            done: asyncio.Future[Any] = loop.create_future()
            work = partial(contextvars.copy_context().run, fn, ctx)
            threading.Thread(target=_work, args=(work, loop, done), name=f"agentraft-step {ctx.step_name}", daemon=True).start()
            return await done


def _work(work: Callable[[], Any], loop: asyncio.AbstractEventLoop, done: asyncio.Future[Any]) -> None:
    try:
        settle = partial(_settle, done, work(), None)
    except BaseException as error:  # noqa: BLE001 - the boundary to the user's code; a thread has nobody else to tell
        settle = partial(_settle, done, None, error)
    with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits for an abandoned step
        loop.call_soon_threadsafe(settle)


def _settle(done: asyncio.Future[Any], output: Any, error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(output)
    elif isinstance(error, Exception) and not isinstance(error, StopIteration):
        done.set_exception(error)
    else:  # what would end the event loop, were it raised there
        done.set_exception(RuntimeError(f"the step raised {type(error).__name__}: {error}"))


async def run_step(
    call: Call, fn: Callable[[StepContext], Any], ctx: StepContext, threads: StepThreads, bytes_max: int, wanted: Any = None
) -> StepReturned | StepRaised:
    """Run one attempt to its end. Whatever it raises is a value here; only cancellation passes through.

    `wanted` = the type that the function declares for its output, None for plain data; what does not fit it is no output.
    """
    started = time.perf_counter()
    try:
        if _is_async(fn):
            output = await fn(ctx)
        else:
            output = await threads.call(fn, ctx)
            if inspect.isawaitable(output):
                output = await output
    except BaseException as error:
        if ends_us(error):
            raise
        return StepRaised(call, FailureCause.RAISED, _describe(error), _cost(ctx, started))
    try:
        data = encode_output(output)
        if wanted is not None:
            decode_output(data, wanted)
    except OutputNotEncodable as error:
        return StepRaised(call, FailureCause.NOT_ENCODABLE, f"OutputNotEncodable: {error}", _cost(ctx, started))
    if len(data) > bytes_max:
        message = f"PayloadTooLarge: the output is {len(data):,} bytes, over {bytes_max:,}; store it elsewhere and return a reference"
        return StepRaised(call, FailureCause.TOO_LARGE, message, _cost(ctx, started), final=True)
    return StepReturned(call, data, _cost(ctx, started))


def ends_us(error: BaseException) -> bool:
    """Whether what user code let through is meant for this task or this process, and not a failure of that code."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt)


def _is_async(fn: Callable[..., Any]) -> bool:
    while isinstance(fn, partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def _cost(ctx: StepContext, started: float) -> Cost:
    used = ctx.cost
    return Cost(used.tokens, used.usd, used.seconds + time.perf_counter() - started)


def _describe(error: BaseException) -> str:
    text = "".join(traceback.format_exception_only(error)).strip()
    return text[:2000]
