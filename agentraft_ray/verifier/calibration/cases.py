"""Labelled cases: outputs of which it is known whether they are right. Values, and their form as lines of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentraft_ray.errors import ErrorType, InvalidConfig
from agentraft_ray.pipeline import Criticality, Step, StepContext, Task
from agentraft_ray.verifier.base import VerifyInput
from agentraft_ray.verifier.content import strict_json

__all__ = ["LabelledCase", "read_cases"]

_KEYS = {"output", "label", "goal", "step", "step_goal", "inputs", "history", "criticality", "group"}


@dataclass(frozen=True, slots=True)
class LabelledCase:
    """A request, and what the verdict about it should be: `expected` is NONE for a right output, else the class of what is wrong.

    Cases of one `group` belong together, such as several outputs for the same request: what is chosen on some of a group is not
    measured on others of it. "" = a group of its own.
    """

    request: VerifyInput
    expected: ErrorType = ErrorType.NONE
    group: str = ""

    @property
    def is_right(self) -> bool:
        """Whether the output is right."""
        return self.expected is ErrorType.NONE

    @classmethod
    def of(
        cls,
        output: Any,
        label: ErrorType | str = ErrorType.NONE,
        *,
        goal: str = "",
        step: str = "step",
        step_goal: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        history: list[tuple[str, Any]] | None = None,
        criticality: Criticality | str = Criticality.MEDIUM,
        group: str = "",
    ) -> LabelledCase:
        """A case of its parts. `goal` is that of the task, `history` the outputs of earlier steps as (step, output)."""
        judged = Step(step, _never_run, step_goal, Criticality(criticality))
        task = Task(goal, dict(inputs or {}), id="calibration")
        return cls(VerifyInput(task, judged, output, list(history or [])), ErrorType(label), group)

    @classmethod
    def from_dict(cls, value: Any) -> LabelledCase:
        """A case of one line of JSON. Raises ValueError or TypeError for keys, labels or types that are none of ours."""
        if not isinstance(value, Mapping) or "output" not in value or "label" not in value:
            raise ValueError('a case is an object with at least "output" and "label"')
        unknown = sorted(set(value) - _KEYS)
        if unknown:
            raise ValueError(f"unknown keys {', '.join(unknown)}; there are {', '.join(sorted(_KEYS))}")
        rest = {key: found for key, found in value.items() if key not in ("output", "label", "history")}
        if any(not isinstance(found, dict if key == "inputs" else str) for key, found in rest.items() if found is not None):
            raise TypeError("inputs must be an object, every other key but output and history a text")
        history = [_pair(item) for item in value.get("history") or ()]
        return cls.of(value["output"], value["label"], history=history, **rest)


def read_cases(path: Path | str) -> list[LabelledCase]:
    """The cases of a file with one JSON object a line; blank lines are skipped. Raises InvalidConfig that names the line."""
    cases = []
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    cases.append(LabelledCase.from_dict(strict_json(line)))
                except (ValueError, TypeError) as problem:
                    raise InvalidConfig(f"{path}, line {number}: {problem}") from problem
    return cases


def _pair(item: Any) -> tuple[str, Any]:
    if isinstance(item, list) and len(item) == 2 and isinstance(item[0], str):
        return item[0], item[1]
    raise ValueError('history is a list of pairs ["name of a step", its output]')


def _never_run(_: StepContext) -> None:
    raise AssertionError("the step of a labelled case is judged, never run")
