"""Stores: where run logs live. Importing this imports no server client; `RedisCheckpointStore` is loaded when first named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentraft_ray.checkpoint.base import (
    Admission,
    Answer,
    AnswerKind,
    AppendEntry,
    Checkpoint,
    CheckpointStore,
    Command,
    NewRun,
    RunMeta,
    RunPart,
    RunPlace,
    RunStatus,
    RunStore,
)
from agentraft_ray.checkpoint.log_table import LogTable
from agentraft_ray.checkpoint.logged import LoggedCheckpointStore
from agentraft_ray.checkpoint.memory import InMemoryCheckpointStore
from agentraft_ray.checkpoint.retention import PruneReport, prune

if TYPE_CHECKING:
    from agentraft_ray.checkpoint.redis import RedisCheckpointStore

__all__ = [
    "Admission",
    "Answer",
    "AnswerKind",
    "AppendEntry",
    "Checkpoint",
    "CheckpointStore",
    "Command",
    "InMemoryCheckpointStore",
    "LogTable",
    "LoggedCheckpointStore",
    "NewRun",
    "PruneReport",
    "RedisCheckpointStore",
    "RunMeta",
    "RunPart",
    "RunPlace",
    "RunStatus",
    "RunStore",
    "prune",
]


def __getattr__(name: str) -> Any:
    if name == "RedisCheckpointStore":
        from agentraft_ray.checkpoint.redis import RedisCheckpointStore  # noqa: PLC0415

        return RedisCheckpointStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
