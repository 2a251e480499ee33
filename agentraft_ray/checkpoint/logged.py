"""The seed's checkpoint calls over a run store: hand-saved entries of a task if there are any, else a view of its run's log.

The view needs the protocol (it folds a log), which stores must not import; a composition root puts it into `log_view`.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import ClassVar

from agentraft_ray.checkpoint.base import Checkpoint, CheckpointStore, RunStore
from agentraft_ray.errors import OutputNotEncodable
from agentraft_ray.identity import check_run_id

__all__ = ["LogView", "LoggedCheckpointStore"]

LogView = Callable[[RunStore, str], Awaitable[list[Checkpoint]]]


class LoggedCheckpointStore(CheckpointStore, RunStore):
    """A run store that also answers the seed's calls. What is saved by hand never enters a log, nor hides in one."""

    log_view: ClassVar[LogView | None] = None
    """The view for stores of plain logs."""

    own_log_view: LogView | None = None
    """The view for one store whose logs are sealed."""

    async def save(self, checkpoint: Checkpoint) -> None:
        """Add a checkpoint by hand. Raises OutputNotEncodable for what JSON cannot hold."""
        try:
            text = json.dumps(checkpoint.to_dict(), ensure_ascii=False, separators=(",", ":")).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise OutputNotEncodable(
                f"checkpoint {checkpoint.step_index} of task {checkpoint.task_id!r} is not plain data: {error}; save JSON",
                field="output",
            ) from None
        await self._save_text(check_run_id(checkpoint.task_id), checkpoint.step_index, text)

    async def history(self, task_id: str) -> list[Checkpoint]:
        """Hand-saved checkpoints, oldest first; where there are none, those of the task's log."""
        texts = await self._saved_texts(check_run_id(task_id))
        if texts:
            return [Checkpoint.from_dict(json.loads(text)) for text in texts]
        view = self.own_log_view or type(self).log_view
        return await view(self, task_id) if view else []

    async def rollback_to(self, task_id: str, step_index: int) -> None:
        """Keep the hand-saved checkpoints up to `step_index` (inclusive); -1 removes all. A log is not touched."""
        await self._keep_texts(check_run_id(task_id), step_index)

    async def clear(self, task_id: str) -> None:
        """Remove the hand-saved checkpoints. A log is not touched."""
        await self._keep_texts(check_run_id(task_id), None)

    @abstractmethod
    async def _save_text(self, task_id: str, step_index: int, text: bytes) -> None: ...

    @abstractmethod
    async def _saved_texts(self, task_id: str) -> list[bytes]: ...

    @abstractmethod
    async def _keep_texts(self, task_id: str, step_index: int | None) -> None:
        """Keep those up to `step_index`; None keeps none at all."""
