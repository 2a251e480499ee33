"""How far the logs of unfinished runs had come when this process last heard of them: what a store lost shows against this."""

from __future__ import annotations

from dataclasses import dataclass

from agentraft_ray.checkpoint.base import RunMeta
from agentraft_ray.identity import OwnerToken

__all__ = ["Acknowledged", "AcknowledgedLogs"]


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A log as the store has acknowledged it: its owner, how many records it had, and the head hash over them."""

    token: OwnerToken
    index: int
    head: bytes

    def lost(self, meta: RunMeta) -> str:
        """What is missing from the log that the store shows now, in words; "" where nothing is."""
        if meta.index < self.index:
            return f"the store shows {meta.index} records, {self.index} were acknowledged"
        if meta.index == self.index and meta.head != self.head:
            return self.other
        if meta.token.epoch < self.token.epoch or (meta.token.epoch == self.token.epoch and meta.token != self.token):
            return f"epoch {meta.token.epoch} of {meta.token.owner or 'nobody'} owns it, {self.token.epoch} of {self.token.owner} had it"
        return ""

    @property
    def other(self) -> str:
        """What is to be said of a log whose first `index` records are not the acknowledged ones."""
        return f"its first {self.index} records are not those that were acknowledged"


class AcknowledgedLogs:
    """The newest `runs_max` unfinished runs; what is forgotten is taken as the store shows it."""

    def __init__(self, runs_max: int) -> None:
        self._runs_max = runs_max
        self._logs: dict[str, Acknowledged] = {}

    def get(self, run_id: str) -> Acknowledged | None:
        return self._logs.get(run_id)

    def remember(self, run_id: str, log: Acknowledged) -> None:
        self._logs.pop(run_id, None)  # so that the newest stands last
        self._logs[run_id] = log
        if len(self._logs) > self._runs_max:
            del self._logs[next(iter(self._logs))]

    def forget(self, run_id: str) -> None:
        self._logs.pop(run_id, None)
