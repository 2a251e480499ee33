"""Running step functions: async ones on the loop, sync ones in threads that end with the last run. What happened comes back as an event."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from agentraft_ray.checkpoint.codec import encode_output
from agentraft_ray.errors import OutputNotEncodable
from agentraft_ray.pipeline import StepContext
from agentraft_ray.protocol.messages import Call, StepRaised, StepReturned
from agentraft_ray.taxonomy import Cost, FailureCause

__all__ = ["StepThreads", "run_step"]


class StepThreads:
    """A pool of threads for sync steps that exists only while runs do."""

    def __init__(self, threads_max: int) -> None:
        self._threads_max = threads_max
        self._pool: ThreadPoolExecutor | None = None
        self._users = 0
        self._busy = 0

    def __enter__(self) -> StepThreads:
        self._users += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._users -= 1
        if self._users == 0 and self._pool is not None:
            # A step that overran its time may still sit in a thread; waiting for it would hang the caller.
            self._pool.shutdown(wait=self._busy == 0, cancel_futures=True)
            self._pool = None

    async def call(self, fn: Callable[[StepContext], Any], ctx: StepContext) -> Any:
        """`fn(ctx)` in a thread, with the caller's context variables."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads_max, thread_name_prefix="agentraft-step")
        self._busy += 1
        future = self._pool.submit(contextvars.copy_context().run, fn, ctx)
        future.add_done_callback(self._done)
        return await asyncio.wrap_future(future)

    def _done(self, _: object) -> None:
        self._busy -= 1


async def run_step(
    call: Call, fn: Callable[[StepContext], Any], ctx: StepContext, threads: StepThreads, bytes_max: int
) -> StepReturned | StepRaised:
    """Run one attempt to its end. Whatever it raises is a value here; only cancellation passes through."""
    started = time.perf_counter()
    try:
        if _is_async(fn):
            output = await fn(ctx)
        else:
            output = await threads.call(fn, ctx)
            if inspect.isawaitable(output):
                output = await output
    except Exception as error:  # noqa: BLE001 - the boundary to the user's code
        return StepRaised(call, FailureCause.RAISED, _describe(error), _cost(ctx, started))
    try:
        data = encode_output(output)
    except OutputNotEncodable as error:
        return StepRaised(call, FailureCause.NOT_ENCODABLE, f"OutputNotEncodable: {error}", _cost(ctx, started))
    if len(data) > bytes_max:
        message = f"PayloadTooLarge: the output is {len(data):,} bytes, over the limit of {bytes_max:,}; store it elsewhere and return a reference"
        return StepRaised(call, FailureCause.TOO_LARGE, message, _cost(ctx, started), final=True)
    return StepReturned(call, data, _cost(ctx, started))


def _is_async(fn: Callable[..., Any]) -> bool:
    while isinstance(fn, partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def _cost(ctx: StepContext, started: float) -> Cost:
    used = ctx.cost
    return Cost(used.tokens, used.usd, used.seconds + time.perf_counter() - started)


def _describe(error: Exception) -> str:
    text = "".join(traceback.format_exception_only(error)).strip()
    return text[:2000]
