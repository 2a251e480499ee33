"""Items of task families: one request with its exact answer, and what makes another answer plausible but wrong. Data only."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from agentraft_ray.errors import ErrorType
from agentraft_ray.verifier.training.families.pools import Pool

__all__ = ["Draw", "Family", "Form", "Item", "Lane"]

Form = Literal["value", "computed", "json", "pairs", "state", "list", "sentence"]
Lane = Literal["A", "B", "C"]


class Draw:
    """The source of chance of one item: a seeded generator and the entities of one split."""

    def __init__(self, rng: random.Random, pool: Pool) -> None:
        self.rng = rng
        self.pool = pool

    def number(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def one(self, options: tuple[str, ...]) -> str:
        return self.rng.choice(options)

    def some(self, options: tuple[str, ...], count: int) -> list[str]:
        """`count` different ones."""
        return self.rng.sample(options, count)

    def numbers(self, low: int, high: int, count: int) -> list[int]:
        """`count` different ones."""
        return self.rng.sample(range(low, high + 1), count)


@dataclass(frozen=True, slots=True)
class Item:
    """One request. `foils` are wrong answers of a kind that agents give, with their class; `ask` varies with the item's wording.

    `form` says how an answer is read: "value" stands in the request, "computed" follows from it, the others have slots.
    `any_case`: capitals make no difference.
    """

    request: str
    gold: str
    form: Form = "value"
    foils: tuple[tuple[str, ErrorType], ...] = ()
    any_case: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """A task with exact truth. Lane A: real errors that can be recovered; B: repeatable, agreeing, wrong; C: mostly wrong."""

    name: str
    domain: str
    lane: Lane
    goal: str
    make: Callable[[Draw], Item]
    tokens_max: int = 12

    def items(self, seed: int, pool: Pool, count: int) -> list[Item]:
        """`count` items with different requests where the family has so many, the same for the same seed."""
        draw = Draw(random.Random(f"{self.name}:{pool.name}:{seed}"), pool)
        found: dict[str, Item] = {}
        for _ in range(count * 20):
            if len(found) == count:
                break
            item = self.make(draw)
            found.setdefault(item.request, item)
        return list(found.values())

    def prompt(self, item: Item, shots: list[Item]) -> str:
        """The few-shot completion prompt that a small base model continues; the answer ends at the first line break."""
        return "\n\n".join([*(f"{shot.request} {shot.gold}" for shot in shots), item.request])
