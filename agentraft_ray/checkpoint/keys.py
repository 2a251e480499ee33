"""The registry of keys: every key that we write to a Redis server is made here and nowhere else."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DOCUMENTS", "Keys", "RunKeys"]

DOCUMENTS = "documents"
"""The hash tag of the key with the named documents."""


class RunKeys(NamedTuple):
    """The keys of one run, in the order in which the script gets them. All share the hash tag `{run_id}`."""

    meta: str
    log: str
    tombstone: str
    blobs: str
    inbox: str
    commands: str


class Keys:
    """Every key that we use, made here and nowhere else."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.open = f"{prefix}:{{runs}}:open"
        self.finished = f"{prefix}:{{runs}}:finished"
        self.documents = f"{prefix}:{{{DOCUMENTS}}}"

    def run(self, run_id: str) -> RunKeys:
        """All keys of a run."""
        stem = f"{self.prefix}:{{{run_id}}}:"
        return RunKeys(stem + "meta", stem + "log", stem + "tombstone", stem + "blobs", stem + "inbox", stem + "commands")

    def core(self, run_id: str) -> tuple[str, str, str]:
        """The first three of `run`, which is all that most appends need."""
        stem = f"{self.prefix}:{{{run_id}}}:"
        return stem + "meta", stem + "log", stem + "tombstone"

    def saved(self, task_id: str) -> str:
        """Checkpoints of a task that were saved by hand."""
        return f"{self.prefix}:{{{task_id}}}:saved"

    def barrier(self, run_id: str) -> str:
        """A write of no meaning that marks a place in the replication stream; it lives for a second."""
        return f"{self.prefix}:{{{run_id}}}:barrier"

    def lease(self, owner: str) -> str:
        """The lease of a coordinator."""
        return f"{self.prefix}:lease:{{{owner}}}"

    def is_ours(self, key: str) -> bool:
        """Whether a key is one that this registry can make."""
        if key in {self.open, self.finished, self.documents}:
            return True
        head, _, rest = key.partition(":{")
        inside, _, suffix = rest.partition("}")
        if head == f"{self.prefix}:lease":
            return bool(inside) and not suffix
        return head == self.prefix and bool(inside) and suffix[1:] in {*RunKeys._fields, "saved", "barrier"}
