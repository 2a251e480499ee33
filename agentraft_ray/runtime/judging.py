"""Asking the verifier about an output: what it is given, and what becomes of whatever it answers."""

from __future__ import annotations

from collections.abc import Callable

from agentraft_ray.checkpoint.codec import decode_output
from agentraft_ray.config import Limits
from agentraft_ray.pipeline import Task
from agentraft_ray.protocol.messages import Verify
from agentraft_ray.protocol.records import TaskRecord
from agentraft_ray.protocol.state import RunState
from agentraft_ray.runtime.boundary import described
from agentraft_ray.runtime.environment import Environment
from agentraft_ray.runtime.outputs import History, RunOutputs
from agentraft_ray.runtime.steps import ends_us
from agentraft_ray.taxonomy import VerificationResult
from agentraft_ray.verifier.base import Verifier, VerifyInput

__all__ = ["judge", "opinion", "task_copy", "waits_long"]


async def judge(environment: Environment, outputs: RunOutputs, command: Verify) -> VerificationResult | None:
    """The verdict that `command` asks for; None where a second opinion is wanted and there is no other mechanism.

    What the verifier raises is a fault; only cancellation passes through. Raises StoreError when what is to be judged cannot be read.
    """
    verifier, previous, payload = environment.verifier, command.previous, command.output
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
        )

    return await opinion(verifier, request, previous, environment.checked, is_suspect=command.output is None)


async def opinion(
    verifier: Verifier,
    request: Callable[[], VerifyInput],
    previous: str,
    checked: Callable[[object], VerificationResult],
    *,
    is_suspect: bool,
) -> VerificationResult | None:
    """The verdict of `verifier` about what `request` makes, through `checked`. What is raised is a fault; only cancellation passes.

    With `previous`, by another mechanism than that: None where there is none, but a suspect is then judged by the same one again.
    """
    try:
        asked = request()  # in here, because decoding an output is a matter of the user's types
        result: object = await verifier.second_opinion(asked, previous) if previous else None
        if result is None:
            if previous and not is_suspect:
                return None
            result = await verifier.verify(asked)
    except BaseException as error:
        if ends_us(error):
            raise
        return VerificationResult.fault(described(error), verifier=verifier.name)
    return checked(result)


def waits_long(state: RunState, wait_s: float, limits: Limits) -> bool:
    """Whether a parked run waits for a verifier that has named a time further away than anybody should be kept waiting for."""
    return wait_s > limits.verifier_wait_s and any(reason.startswith("verifier:") for reason in state.parked or ())


def task_copy(task: TaskRecord) -> Task:
    """The task as one reader may have it: what that does to the inputs reaches nobody else."""
    return Task(task.goal, decode_output(task.inputs), task.id)
