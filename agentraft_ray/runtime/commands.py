"""Commands from outside as they lie in a run's inbox: approve, deny, cancel."""

from __future__ import annotations

import uuid

import msgspec

from agentraft_ray.checkpoint.base import Command
from agentraft_ray.errors import AgentRaftError
from agentraft_ray.protocol.messages import CommandReceived
from agentraft_ray.protocol.state import RunState
from agentraft_ray.runtime.boundary import plain_text

__all__ = ["approval_command", "cancel_command", "command_event"]

_TEXT_CHARS_MAX = 2_000  # as long as a hint may be, since a note becomes one


class _Body(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: str
    step: int = -1
    lineage: int = 0
    output: bytes = b""
    by: str = ""
    note: str = ""


def command_event(command: Command) -> CommandReceived:
    """The machine's event for a command; what cannot be read is taken as one without effect, so that it leaves the inbox."""
    try:
        body = msgspec.msgpack.decode(command.body, type=_Body)
    except (msgspec.MsgspecError, ValueError):
        body = _Body("unreadable")
    return CommandReceived(command.id, body.kind, body.step, body.lineage, body.output, body.by, body.note)


def approval_command(state: RunState, kind: str, step: str, by: str, note: str) -> Command:
    """Approve or deny what the run waits for now: exactly this output in this lineage, or the running of the step.

    Raises AgentRaftError when the step waits for nobody.
    """
    index = state.plan.index_of(step)
    if index is None:
        raise AgentRaftError(f"run {state.run_id}: pipeline {state.plan.spec.name!r} has no step {step!r}", step=step)
    by, note = plain_text(by, _TEXT_CHARS_MAX), plain_text(note, _TEXT_CHARS_MAX)
    lineage = state.history(index).lineage
    proposal = state.proposed.get(index)
    if proposal is not None and proposal.certificate is not None:
        body = _Body(kind, index, lineage, proposal.output.digest, by, note)
    elif index in state.ready and state.plan.step(index).approve_before and (index, lineage) not in state.let_go:
        body = _Body(kind, index, lineage, b"", by, note)
    else:
        raise AgentRaftError(f"run {state.run_id}: step {step!r} waits for no approval now; look at the run first", step=step)
    return Command(uuid.uuid4().hex, msgspec.msgpack.encode(body))


def cancel_command(by: str) -> Command:
    """End the run, whatever it does."""
    return Command(uuid.uuid4().hex, msgspec.msgpack.encode(_Body("cancel", by=plain_text(by, _TEXT_CHARS_MAX))))
