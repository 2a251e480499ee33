"""What a program that uses a cluster and the shards say to each other: submissions, and notices about how runs go on."""

from __future__ import annotations

import msgspec

from agentraft_ray.protocol.messages import Announce
from agentraft_ray.protocol.records import TaskRecord
from agentraft_ray.taxonomy import FREE, Cost

__all__ = [
    "SHARD_FULL",
    "UNKNOWN_DEFINITION",
    "Accepted",
    "Attached",
    "Collected",
    "Failed",
    "Notice",
    "Outcome",
    "Submission",
    "Submitted",
    "Told",
]

UNKNOWN_DEFINITION = "UnknownDefinition"
"""In `Accepted.error`: register the definition, then submit again."""

SHARD_FULL = "ShardFull"
"""In `Accepted.error`: nothing was done, submit again; other runs must end first."""


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The base of all messages."""


class Submission(_Message, frozen=True):
    """Run a task, or go on with it. `task` is None for a run that must exist. `listening`: its events are wanted. `trace` = the
    context of the span that submits it, "" for none."""

    run_id: str
    definition: bytes
    task: TaskRecord | None
    listening: bool = False
    trace: str = ""


class Accepted(_Message, frozen=True):
    """The run exists, durably; or why it does not: an error class of ours, its text and its fields."""

    run_id: str
    created: bool = False
    error: str = ""
    message: str = ""
    fields: dict[str, str | int | float | bool | None] = {}


class Outcome(_Message, frozen=True, tag=1):
    """How a run ended, or what it waits for (`status` "waiting"). `output` = the encoded output of a run that succeeded."""

    run_id: str
    status: str
    output: bytes | None = None
    verified: int = 0
    steps_total: int = 0
    rollbacks: int = 0
    cost: Cost = FREE
    error_kind: str = ""
    error: str | None = None
    error_fields: dict[str, str | int | float | bool | None] = {}
    waiting_for: tuple[str, ...] = ()
    resume_at: float | None = None


class Told(_Message, frozen=True, tag=2):
    """An event of a run."""

    run_id: str
    announce: Announce


class Attached(_Message, frozen=True, tag=3):
    """From log position `index` on, the events of this run come as `Told`; what is before it stands in the log."""

    run_id: str
    index: int


class Failed(_Message, frozen=True, tag=4):
    """The shard cannot go on with a run: an error class of ours, its text and its fields. The run's log is as it was."""

    run_id: str
    error: str
    message: str
    fields: dict[str, str | int | float | bool | None] = {}


Notice = Outcome | Told | Attached | Failed


class Submitted(_Message, frozen=True):
    """The answers to a batch of submissions, in its order. `session` as in `Collected`: it will tell of these runs."""

    session: str
    answers: list[Accepted]


class Collected(_Message, frozen=True):
    """What a client has not confirmed yet: notices of its `session`, the first of which has the number `start`.

    In another session than that of a submission, nothing will be told of its run: it is to be made again.
    """

    session: str
    start: int
    notices: list[Notice]
