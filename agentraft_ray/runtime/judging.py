"""Asking the verifier about an output: what it is given, and what becomes of whatever it answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from agentraft_ray.checkpoint.codec import decode_output
from agentraft_ray.config import Limits
from agentraft_ray.pipeline import Task
from agentraft_ray.protocol.messages import VerdictReturned, Verify
from agentraft_ray.protocol.records import TaskRecord
from agentraft_ray.protocol.state import RunState
from agentraft_ray.runtime.blueprint import Blueprint
from agentraft_ray.runtime.boundary import described
from agentraft_ray.runtime.environment import Environment
from agentraft_ray.runtime.outputs import History, RunOutputs
from agentraft_ray.runtime.steps import ends_us
from agentraft_ray.taxonomy import FREE, Allowance, Cost, VerificationResult
from agentraft_ray.verifier.base import VerifyInput
from agentraft_ray.verifier.spending import Spending, billed, fault

__all__ = ["RunningVerdict", "judge", "opinion", "task_copy", "waits_long"]


class RunningVerdict:
    """A verdict under way, with its clock and its bill, so that one that is called off is booked as well.

    `call` is what its host knows it by; it stands in the event.
    """

    __slots__ = ("_began", "_billed", "call", "spending")

    def __init__(self, call: Any, allowance: Allowance | None) -> None:
        self.call = call
        self.spending = Spending(allowance)
        self._began = time.perf_counter()
        self._billed: Cost | None = None

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return time.perf_counter() - self._began

    def bill(self) -> Cost:
        """What it has used, for a verdict that does not come any more, or not in time; nothing when asked again."""
        if self._billed is not None:
            return FREE
        self._billed = self.spending.so_far() + Cost(0, 0.0, self.seconds)
        return self._billed

    def called_off(self) -> VerdictReturned:
        """The event for a verdict that nobody waits for any more: it only carries the bill."""
        return VerdictReturned(self.call, VerificationResult.fault("it was called off", cost=self.bill()))

    def returned(self, result: VerificationResult | None) -> VerdictReturned:
        """The event for a verdict that was given; one that has had its bill already is free."""
        if self._billed is None:
            return VerdictReturned(self.call, result, self.seconds)
        return VerdictReturned(self.call, None if result is None else replace(result, cost=FREE))


async def judge(environment: Environment, outputs: RunOutputs, command: Verify, spending: Spending) -> VerificationResult | None:
    """The verdict that `command` asks for; None where a second opinion is wanted and there is no other mechanism.

    What the verifier raises is a fault; only cancellation passes through. Raises StoreError when what is to be judged cannot be read.
    """
    previous, payload = command.previous, command.output
    if payload is None:
        record = await outputs.fetch_record(command.position)
        previous, payload = record.certificate.verifier, record.output
    data = payload.data if payload.data is not None else await outputs.fetch_payload(payload, command.position)
    parents = outputs.state.plan.parents(command.step)
    near = outputs.at_hand(parents) or await outputs.fetch(parents)

    def request() -> VerifyInput:
        return VerifyInput(
            task=task_copy(outputs.state.task),
            step=environment.pipeline.steps[command.step],
            output=outputs.decode(command.step, data),
            history=History(outputs, command.step, near),
            attempt=command.attempt,
            deadline_s=command.timeout_s,
            spending=spending,
        )

    return await opinion(environment.blueprint, request, previous, environment.checked, is_suspect=command.output is None)


async def opinion(
    blueprint: Blueprint,
    request: Callable[[], VerifyInput],
    previous: str,
    checked: Callable[[object], VerificationResult],
    *,
    is_suspect: bool,
) -> VerificationResult | None:
    """The verdict of the blueprint's verifier about what `request` makes, through `checked`. What is raised is a fault; only
    cancellation passes. A fault too where HIGH steps need a calibration that there is not, or not any more.

    With `previous`, by another mechanism than that: None where there is none, but a suspect is then judged by the same one again.
    """
    verifier, spending = blueprint.verifier, Spending()
    try:
        asked = request()  # in here, because decoding an output is a matter of the user's types
        spending = asked.spending
        lack = blueprint.uncalibrated(asked.step.criticality, time.time())
        if lack is not None:
            return checked(VerificationResult.fault(lack, verifier=verifier.name))
        result: object = await verifier.second_opinion(asked, previous) if previous else None
        if result is None:
            if previous and not is_suspect:
                return None
            result = await verifier.verify(asked)
    except BaseException as error:
        if ends_us(error):
            raise
        return checked(fault(error, described(error), verifier.name, spending))
    verdict = checked(result)
    return verdict if verdict.cost is not FREE else billed(verdict, spending)


def waits_long(state: RunState, wait_s: float, limits: Limits) -> bool:
    """Whether a parked run waits for a verifier that has named a time further away than anybody should be kept waiting for."""
    return wait_s > limits.verifier_wait_s and any(reason.startswith("verifier:") for reason in state.parked or ())


def task_copy(task: TaskRecord) -> Task:
    """The task as one reader may have it: what that does to the inputs reaches nobody else."""
    return Task(task.goal, decode_output(task.inputs), task.id)
