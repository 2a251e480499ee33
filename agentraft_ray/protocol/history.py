"""What a run remembers of a step that did not commit at once, and what its next attempt is told."""

from __future__ import annotations

from agentraft_ray.taxonomy import FailureCause

__all__ = ["FAILURE_HINTS", "StepHistory"]

FAILURE_HINTS = {
    FailureCause.RAISED.value: "The last attempt stopped with an error before it returned anything.",
    FailureCause.TIMED_OUT.value: "The last attempt took too long and was stopped. Do less, or do it faster.",
    FailureCause.NOT_ENCODABLE.value: "The last attempt returned something that is not plain data. Return text, numbers, lists and maps.",
    FailureCause.TOO_LARGE.value: "The last attempt returned too much data. Return less.",
    FailureCause.NO_MAJORITY.value: "The samples of the last attempt did not agree. Be more precise.",
}
"""The hint after an attempt that ended without an output, by `FailureCause`."""


class StepHistory:
    """What is remembered of a step that did not commit at once.

    `rejections` and `errors` count in the present lineage, `made` all attempts that ended. `attempt` is the number of the attempt
    that is open or comes next; it never goes back. `rejected` maps (inputs digest, output digest) to who rejected that output,
    each time; `judge` is who did so last.
    """

    __slots__ = (
        "attempt",
        "error_type",
        "errors",
        "failed_at",
        "final",
        "hint",
        "judge",
        "lineage",
        "made",
        "message",
        "rejected",
        "rejections",
    )

    def __init__(self) -> None:
        self.lineage = 0
        self.attempt = 0
        self.made = 0
        self.rejections = 0
        self.errors = 0
        self.final = False
        self.hint: str | None = None
        self.judge = ""
        self.message = ""
        self.error_type = ""
        self.failed_at = 0.0
        self.rejected: dict[tuple[bytes, bytes], tuple[str, ...]] = {}

    def start_lineage(self, hint: str | None) -> None:
        """A rollback closed whatever was open here."""
        self.lineage += 1
        self.attempt += 1
        self.rejections = self.errors = 0
        self.final = False
        self.hint = hint

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StepHistory) and all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]
