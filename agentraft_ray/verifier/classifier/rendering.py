"""What a classifying verifier reads: the one text that training and serving make of a request and its output.

Change a word here, or what the marks say, and RENDERING_VERSION must change: a head is bound to it, and it is part of every certificate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentraft_ray.verifier.base import VerifyInput
from agentraft_ray.verifier.classifier.marks import marks_of
from agentraft_ray.verifier.content import is_empty, leaves, render
from agentraft_ray.verifier.windows import windows

__all__ = ["RENDERING_VERSION", "classifier_text", "classifier_texts", "request_text"]

RENDERING_VERSION = "1"

REQUEST_CHARS_MAX = 700
"""How much of the request is read, in characters; of a longer one the beginning and the end. Marks look at all of it."""

OUTPUT_CHARS_MAX = 500
"""The size of a window of the output, in characters. A longer output is read in several, and must pass in each."""

MARKS_CHARS_MAX = 500

_OVERLAP_CHARS = 60
_PARTS = ("request:", "answer:", "checks:")


def classifier_texts(request: VerifyInput) -> tuple[str, ...]:
    """One text per window of the output, in order; nothing of the output is left out."""
    asked = request_text(request)
    output = "" if is_empty(request.output) else _compact(request.output)
    return tuple(classifier_text(asked, window) for window in windows(output, OUTPUT_CHARS_MAX, _OVERLAP_CHARS))


def classifier_text(asked: str, output: str) -> str:
    """The text of one window: the request, the output and the marks. No part can pretend to be another one.

    >>> classifier_text("Numbers: 3 and 8. Larger:", "8")
    'request: Numbers: 3 and 8. Larger: answer: 8 checks: answer given, second, largest'
    """
    shown = (_middle_out(asked, REQUEST_CHARS_MAX), output, marks_of(asked, output)[:MARKS_CHARS_MAX])
    return " ".join(f"{part} {_defused(text)}".rstrip() for part, text in zip(_PARTS, shown, strict=True))


def request_text(request: VerifyInput) -> str:
    """What was asked, as one text: the goals, the inputs and the earlier outputs, without names that only our own data has."""
    parts = [request.task.goal]
    if request.step.goal and request.step.goal != request.task.goal:
        parts.append(request.step.goal)
    parts.extend(f"{step}: {_compact(output)}" for step, output in request.history)
    parts.append(_inputs_text(request.task.inputs))
    return "\n".join(part.strip() for part in parts if part and part.strip())


def _inputs_text(inputs: Any) -> str:
    found = list(leaves(inputs))
    if len(found) == 1 and isinstance(found[0][1], str):
        return found[0][1]
    if isinstance(inputs, Mapping):
        return "\n".join(f"{key}: {_compact(value)}" for key, value in inputs.items())
    return _compact(inputs) if found else ""


def _compact(value: Any) -> str:
    """Text as it is, data as JSON on one line: room is short, and models of this size read indentation as noise."""
    if isinstance(value, (str, bytes)):
        return render(value)
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return " ".join(render(value).split())


def _middle_out(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    kept = room // 2
    return f"{text[:kept]} [...] {text[-kept:]}"


def _defused(text: str) -> str:
    """One line, in which none of the words that part the text stands, nor a special token of a tokenizer."""
    line = " ".join(text.split()).replace("[", "(").replace("]", ")").replace("<", "(").replace(">", " to ").replace("|", "/")
    for part in _PARTS:
        line = line.replace(part, part[:-1])
    return line
