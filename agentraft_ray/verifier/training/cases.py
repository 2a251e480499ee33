"""Labelled cases: a request, an output, the truth, and where all three come from. JSONL, one case a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.verifier.classifier import LABELS

__all__ = ["Case", "item_id", "read_cases", "write_cases"]


@dataclass(frozen=True, slots=True)
class Case:
    """One labelled output. `item` is the same for all outputs to one request; `origin` says who made the output and how.

    `label` is one of `LABELS`. `generator` names the model, prompt style and temperature of a natural output, "" for a made one.
    """

    family: str
    domain: str
    item: str
    asked: str
    output: str
    label: str
    origin: str = "natural"
    generator: str = ""
    pool: str = ""

    @property
    def wrong(self) -> bool:
        return self.label != LABELS[0]

    @property
    def natural(self) -> bool:
        return self.origin == "natural"


def item_id(family: str, request: str) -> str:
    """The same for the same request of a family, whoever answered it."""
    return hashlib.sha256(f"{family}\x00{request}".encode()).hexdigest()[:16]


def write_cases(path: Path, cases: Iterable[Case]) -> int:
    """Write `cases` to `path`, all or nothing; returns how many."""
    count = 0
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        for case in cases:
            file.write(json.dumps(asdict(case), ensure_ascii=False) + "\n")
            count += 1
    partial.replace(path)
    return count


def read_cases(path: Path) -> Iterator[Case]:
    """The cases in a JSONL file. Raises InvalidConfig that names the line for what is none."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                case = Case(**json.loads(line))
            except (TypeError, ValueError) as problem:
                raise InvalidConfig(f"{path}, line {number}, is no labelled case: {problem}") from None
            if case.label not in LABELS:
                raise InvalidConfig(f"{path}, line {number}, has the label {case.label!r}; use one of {', '.join(LABELS)}")
            yield case
