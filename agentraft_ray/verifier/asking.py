"""Calling code that is not ours: other verifiers, and functions that users hand in. Whatever that raises is caught here."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from agentraft_ray.taxonomy import FREE, Cost, ErrorType, FaultKind, VerdictKind, VerificationResult, VerifierFault
from agentraft_ray.verifier.base import Verifier, VerifyInput
from agentraft_ray.verifier.spending import billed, fault

__all__ = ["GIVEN", "Asked", "answer_of", "ask", "describe", "flaw_of", "in_thread", "rest_of", "stop"]

_REASON_CHARS_MAX = 500
_SECONDS_BOOKED_MIN = 0.001

GIVEN = (VerdictKind.PASS, VerdictKind.REJECT)
"""Verdicts that say something about the output."""


async def ask(verifier: Verifier, request: VerifyInput, *, bounded: bool = True) -> VerificationResult:
    """The verdict of `verifier`, under its name and with its wall time; a raise, a time-out or no verdict at all is a FAULT.

    `request.deadline_s` bounds the call unless `bounded` is False, which saves fixed rules the timer. Only a cancellation from
    outside comes through. The verdict's cost is what it says, or else what was paid within its part of `request.spending`. Less than
    a millisecond of wall time is not booked, so that shared verdicts stay shared.
    """
    started = time.perf_counter()
    if bounded:
        request = replace(request, spending=request.spending.part())
    try:
        verdict = await (verifier.verify(request) if request.deadline_s is None or not bounded else _in_time(verifier, request))
        flaw = flaw_of(verdict)
        if flaw:
            verdict = VerificationResult.fault(f"{verifier.name} returned {flaw}")
        verdict = billed(verdict, request.spending)
    except Exception as problem:  # noqa: BLE001 - the boundary: a verifier may be anybody's code
        verdict = fault(problem, f"{verifier.name} raised {describe(problem)}", verifier.name, request.spending)
    if not verdict.verifier:
        verdict = verdict.by(verifier.name)
    seconds = time.perf_counter() - started
    if seconds >= _SECONDS_BOOKED_MIN and verdict.cost.seconds == 0.0:
        verdict = replace(verdict, cost=verdict.cost + Cost(0, 0.0, seconds))
    return verdict


def rest_of(request: VerifyInput, started: float) -> VerifyInput:
    """The request with the time that is left, having `started` at that time of the monotonic clock."""
    if request.deadline_s is None:
        return request
    return replace(request, deadline_s=max(0.0, request.deadline_s - (time.monotonic() - started)))


class Asked:
    """A verifier that is asked in a task of its own, for whoever asks several and cancels some. `task` gives its verdict."""

    def __init__(self, verifier: Verifier, request: VerifyInput) -> None:
        self._part = request.spending.part()
        self._may_pay = verifier.uses_model(request.step.criticality)
        self._started = time.perf_counter()
        self.task = asyncio.create_task(ask(verifier, replace(request, spending=self._part)))

    @property
    def verdict(self) -> VerificationResult | None:
        """What it has said; None while it has not, and where it was cancelled."""
        return self.task.result() if self.task.done() and not self.task.cancelled() else None

    def cost(self) -> Cost:
        """What it has cost, also if it was cancelled. What a model costs that does not pay within `spending` nobody knows then."""
        if self.verdict is not None:
            return self.verdict.cost
        used = self._part.so_far()
        if used == FREE and self._may_pay:
            used = Cost(0, None, 0.0)
        return used if used == FREE else used + Cost(0, 0.0, time.perf_counter() - self._started)


async def stop(asked: Sequence[Asked]) -> None:
    """Cancel those that are still under way, and wait until they have ended."""
    tasks = [one.task for one in asked if not one.task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def flaw_of(verdict: object) -> str | None:
    """What makes `verdict` unusable (not a VerificationResult, it contradicts itself, a confidence outside [0, 1]), or None."""
    if not isinstance(verdict, VerificationResult):
        return f"{type(verdict).__name__}, not a VerificationResult"
    if verdict.passed != (verdict.kind is VerdictKind.PASS) or (verdict.passed and verdict.error_type is not ErrorType.NONE):
        return f"a verdict that contradicts itself: passed={verdict.passed}, kind={verdict.kind}, error_type={verdict.error_type}"
    if not 0.0 <= verdict.confidence <= 1.0:
        return f"a confidence of {verdict.confidence}, which is not in [0, 1]"
    return None


async def _in_time(verifier: Verifier, request: VerifyInput) -> VerificationResult:
    try:
        async with asyncio.timeout(request.deadline_s) as timer:
            return await verifier.verify(request)
    except TimeoutError:
        if not timer.expired():
            raise
        why = f"{verifier.name} did not answer within {request.deadline_s:.3g} s"
        return VerificationResult.fault(why, failure=VerifierFault(FaultKind.TIMEOUT, why, verifier.name))


def describe(problem: BaseException) -> str:
    """An exception in one bounded line."""
    text = " ".join(str(problem).split())
    return f"{type(problem).__name__}: {text}"[:_REASON_CHARS_MAX] if text else type(problem).__name__


async def answer_of(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a sync or async function, called on the event loop; for quick functions. Exceptions pass through."""
    result = function(*arguments)
    return await result if inspect.isawaitable(result) else result


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function that may block, run in a thread of its own that ends with it; async ones are simply awaited.

    Cancelling stops the waiting, not the thread. The thread is a daemon: a call that hangs does not keep the program alive.
    """
    if _is_async(function):
        return await function(*arguments)
    outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()
    context = contextvars.copy_context()

    def work() -> None:
        if not outcome.set_running_or_notify_cancel():
            return
        try:
            result = context.run(function, *arguments)
        except BaseException as problem:  # noqa: BLE001 - carried to the waiting coroutine
            outcome.set_exception(problem)
        else:
            outcome.set_result(result)

    threading.Thread(target=work, name="agentraft-verifier", daemon=True).start()
    result = await asyncio.wrap_future(outcome)
    return await result if inspect.isawaitable(result) else result


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
