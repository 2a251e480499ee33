"""The labels of a classifying verifier, in the order of its head. A head is bound to them by name, never by position alone."""

from __future__ import annotations

from agentraft_ray.errors import ErrorType

__all__ = ["LABELS", "PASS", "label_of"]

PASS = "PASS"

LABELS: tuple[str, ...] = (PASS, *(kind.value for kind in ErrorType if kind is not ErrorType.NONE))
"""``PASS`` and the failure classes, in the order of `ErrorType`. A model directory repeats them in its config as ``id2label``."""


def label_of(kind: ErrorType) -> str:
    """The label of a class of errors; `ErrorType.NONE` is a pass."""
    return PASS if kind is ErrorType.NONE else kind.value
