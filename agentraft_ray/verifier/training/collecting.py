"""Natural errors: the small agent answers items of the families, every answer is judged and banked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from agentraft_ray.verifier.classifier import label_of
from agentraft_ray.verifier.training.bank import Bank, Generation, prompt_hash
from agentraft_ray.verifier.training.families import SHOTS, Family, Item, Pool, judge
from agentraft_ray.verifier.training.generators import Generator

__all__ = ["Plan", "collect_natural"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to draw: `items` of each family from `pool`, `samples` answers each. `shots` examples stand in every prompt."""

    families: Sequence[Family]
    pool: Pool
    items: int
    samples: int
    seed: int
    temperature: float = 0.7
    shots: int = 4
    batch: int = 8

    def generator_name(self, model: str) -> str:
        return f"{model}:{self.shots}-shot:t{self.temperature:g}"


def collect_natural(generator: Generator, bank: Bank, plan: Plan, progress: Callable[[str, int, int], None]) -> int:
    """Bank what `plan` asks for and is not there yet; how many answers that were. Stopping it loses at most one batch.

    `progress(family, done, of)` is called after every batch.
    """
    name = plan.generator_name(generator.name)
    added = 0
    for family in plan.families:
        shown = family.items(plan.seed, SHOTS, plan.shots)
        open_items = [
            (item, prompt, wanted)
            for item in family.items(plan.seed, plan.pool, plan.items)
            if (wanted := bank.missing(name, prompt_hash(prompt := family.prompt(item, shown)), plan.samples))
        ]
        for start in range(0, len(open_items), plan.batch):
            batch = open_items[start : start + plan.batch]
            most = max(len(wanted) for _, _, wanted in batch)
            answers = generator.sample([prompt for _, prompt, _ in batch], most, family.tokens_max, plan.temperature)
            added += bank.add(_judged(name, family, plan.pool, batch, answers))
            progress(family.name, start + len(batch), len(open_items))
    return added


def _judged(
    name: str, family: Family, pool: Pool, batch: Sequence[tuple[Item, str, list[int]]], answers: Sequence[Sequence[str]]
) -> Iterator[Generation]:
    for (item, prompt, wanted), outputs in zip(batch, answers, strict=True):
        for sample, output in zip(wanted, outputs, strict=False):
            truth = label_of(judge(item, output))
            yield Generation(name, prompt_hash(prompt), sample, family.name, pool.name, item.request, item.gold, output, truth)
