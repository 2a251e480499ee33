"""Asking the verifier about an output: what it is given, and what becomes of whatever it answers."""

from __future__ import annotations

from agentraft_ray.checkpoint.codec import decode_output
from agentraft_ray.pipeline import Task
from agentraft_ray.protocol.messages import Verify
from agentraft_ray.protocol.state import RunState
from agentraft_ray.runtime.boundary import described
from agentraft_ray.runtime.environment import Environment
from agentraft_ray.runtime.outputs import History, RunOutputs
from agentraft_ray.runtime.steps import ends_us
from agentraft_ray.taxonomy import VerificationResult
from agentraft_ray.verifier.base import VerifyInput

__all__ = ["judge", "task_copy"]


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
    try:
        request = VerifyInput(
            task=task_copy(outputs.state),
            step=environment.pipeline.steps[command.step],
            output=outputs.decode(command.step, data),
            history=History(outputs, command.step, near),
            attempt=command.attempt,
            deadline_s=command.timeout_s,
        )
        if previous:
            result = await verifier.second_opinion(request, previous)
            if result is None and command.output is not None:
                return None
            result = result or await verifier.verify(request)
        else:
            result = await verifier.verify(request)
    except BaseException as error:
        if ends_us(error):
            raise
        return VerificationResult.fault(described(error), verifier=verifier.name)
    return environment.checked(result)


def task_copy(state: RunState) -> Task:
    """The task as one reader may have it: what that does to the inputs reaches nobody else."""
    task = state.task
    return Task(task.goal, decode_output(task.inputs), task.id)
