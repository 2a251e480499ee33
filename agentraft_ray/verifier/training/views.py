"""What of a case a model is shown. The whole of it, or a part: a control that must not be able to tell right from wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from agentraft_ray.verifier.classifier import classifier_text, marks_of
from agentraft_ray.verifier.training.cases import Case

__all__ = ["VIEWS", "View", "view_of"]

View = Literal["whole", "request", "output", "unmarked", "marks"]
VIEWS: tuple[View, ...] = get_args(View)
"""``request`` and ``output`` alone are the controls; ``unmarked`` (without marks) and ``marks`` alone tell what the marks are worth."""


def view_of(case: Case, view: View = "whole") -> str:
    """The text that a model reads of `case`.

    >>> view_of(Case("f", "d", "i", "Larger of 3 and 8:", "3", "CONTRADICTION"), "output")
    'answer: 3'
    """
    whole = classifier_text(case.asked, case.output)
    if view == "whole":
        return whole
    request, _, rest = whole.partition(" answer:")
    answer, _, _ = f"answer:{rest}".rpartition(" checks:")
    parts: dict[View, Callable[[], str]] = {
        "request": lambda: request,
        "output": lambda: answer,
        "unmarked": lambda: f"{request} {answer}",
        "marks": lambda: f"checks: {marks_of(case.asked, case.output)}",
    }
    return parts[view]()
