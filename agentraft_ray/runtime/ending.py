"""Ending a run that nobody drives: it takes what lies in its inbox, a cancellation among it. Needs no code of its pipeline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from agentraft_ray.checkpoint.base import AnswerKind
from agentraft_ray.protocol.machine import RunMachine
from agentraft_ray.protocol.messages import Announce
from agentraft_ray.protocol.state import RunState
from agentraft_ray.runtime.commands import command_event
from agentraft_ray.runtime.logs import RunLogs, append_entry

__all__ = ["end_unattended"]


async def end_unattended(
    logs: RunLogs,
    owner: str,
    run_id: str,
    *,
    poll_s: float,
    epoch: int = 0,
    tell: Callable[[RunState, Announce], None] | None = None,
) -> bool:
    """Claim a run for `owner` and let it take its commands without starting anything; whether it has finished now.

    False also where another coordinator works on it: that one finds the commands by itself. `epoch` = the highest one that is known
    of; `poll_s` = before looking again at a run that somebody else was first to claim. Raises StoreError, RunNotFound.
    """
    while True:
        meta = await logs.meta(run_id)
        if meta.status == "finished":
            return True
        if not await logs.store.inbox(run_id):
            return False
        claimed = await logs.claim(run_id, owner, meta, epoch, None)
        if claimed.kind is AnswerKind.LEASED:
            return False
        if claimed.kind is AnswerKind.FOREIGN:
            raise logs.refuse_foreign(run_id)
        if claimed.kind is not AnswerKind.APPENDED or not await _take_commands(logs, run_id, tell):
            await asyncio.sleep(poll_s)


async def _take_commands(logs: RunLogs, run_id: str, tell: Callable[[RunState, Announce], None] | None) -> bool:
    """Whether what the commands lead to stands in the log; False where somebody has taken the run from us."""
    state = await logs.fold(run_id)
    machine = RunMachine(state, seal=logs.seal.seal, listening=tell is not None)
    for command in await logs.store.inbox(run_id):
        machine.feed(command_event(command), time.time())
    ready = machine.take_ready()
    if ready is None:
        return True
    answer = await logs.store.append(append_entry(run_id, ready, logs.seal))
    if answer.kind is not AnswerKind.APPENDED:
        return False
    for asked in ready.commands:
        if tell is not None and isinstance(asked, Announce):
            tell(state, asked)
    return True
