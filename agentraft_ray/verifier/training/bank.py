"""The bank of generations: every answer that a real model gave, with its truth. Append-only JSONL; evidence adds up over runs."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.verifier.training.cases import Case, item_id
from agentraft_ray.verifier.training.dataset import asked_text
from agentraft_ray.verifier.training.families import FAMILIES, Item

__all__ = ["Bank", "Generation", "cases_of", "prompt_hash", "read_bank"]


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer. `prompt` is the hash of all that the model was shown, `sample` counts its answers to it, `truth` is a label.

    `generator` names model, prompt style and temperature: what is drawn from another one is another test.
    """

    generator: str
    prompt: str
    sample: int
    family: str
    pool: str
    request: str
    gold: str
    output: str
    truth: str

    @property
    def key(self) -> tuple[str, str, int]:
        return (self.generator, self.prompt, self.sample)


def prompt_hash(prompt: str) -> str:
    """The hash under which answers to `prompt` are banked."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:24]


class Bank:
    """A bank that is open for adding. One process at a time; what a killed one left half-written is cut off.

    Raises InvalidConfig when another process has it open, or a line in it is no generation.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._keys: set[tuple[str, str, int]] = set()

    def __enter__(self) -> Bank:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise InvalidConfig(f"another process adds to {self._path} now; wait for it, or write to another file") from None
        _cut_half_line(file)
        self._keys = {one.key for one in read_bank(self._path)}
        self._file = file
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __len__(self) -> int:
        return len(self._keys)

    def missing(self, generator: str, prompt: str, samples: int) -> list[int]:
        """Which of the first `samples` answers to a prompt are not here yet."""
        return [sample for sample in range(samples) if (generator, prompt, sample) not in self._keys]

    def add(self, generations: Iterable[Generation]) -> int:
        """Add what is not here yet, whole lines only, on the disk when it returns; how many that were."""
        if self._file is None:
            raise ValueError("open the bank first: with Bank(path) as bank")
        fresh = {one.key: one for one in generations if one.key not in self._keys}
        self._file.write("".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in fresh.values()).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._keys.update(fresh)
        return len(fresh)


def _cut_half_line(file: IO[bytes]) -> None:
    size = file.seek(0, os.SEEK_END)
    if not size:
        return
    file.seek(0)
    whole = file.read().rfind(b"\n") + 1
    if whole < size:
        file.truncate(whole)
    file.seek(0, os.SEEK_END)


def read_bank(path: Path) -> Iterator[Generation]:
    """The generations in a bank; a last line without its end is left out. Raises InvalidConfig that names a bad line."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            try:
                yield Generation(**json.loads(line))
            except (TypeError, ValueError) as problem:
                raise InvalidConfig(f"{path}, line {number}, is no generation: {problem}") from None


def cases_of(generations: Iterable[Generation]) -> list[Case]:
    """The labelled cases that generations are, in their order; the goal is shown with some requests and not with others."""
    found: list[Case] = []
    for one in generations:
        family = FAMILIES.get(one.family)
        item = item_id(one.family, one.request)
        asked = one.request
        if family is not None:
            chance = random.Random(f"asked:{item}")
            asked = asked_text(family, Item(one.request, one.gold), chance)
        domain = family.domain if family is not None else ""
        found.append(Case(one.family, domain, item, asked, one.output, one.truth, "natural", one.generator, one.pool))
    return found
