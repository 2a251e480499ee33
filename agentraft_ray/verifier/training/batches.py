"""Which cases a step of training sees: whole items, so that right and wrong answers to one request meet; the same for the same seed."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from agentraft_ray.verifier.training.cases import Case

__all__ = ["batches_of"]

_WINDOW = 16  # batches that are sorted by length together: less padding, still a new order every epoch


def batches_of(cases: Sequence[Case], lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    """The places of `cases` in batches of about `size`, for one epoch. An item is never torn apart unless it alone is larger."""
    rng = random.Random(f"batches:{seed}:{epoch}")
    items: dict[str, list[int]] = defaultdict(list)
    for place, case in enumerate(cases):
        items[case.item].append(place)
    groups = [group[at : at + size] for group in items.values() for at in range(0, len(group), size)]
    rng.shuffle(groups)
    mean = max(1, len(cases) // max(1, len(groups)))
    window = max(1, _WINDOW * size // mean)
    found: list[list[int]] = []
    for start in range(0, len(groups), window):
        near = sorted(groups[start : start + window], key=lambda group: max(lengths[place] for place in group))
        found.extend(_filled(near, size))
    rng.shuffle(found)
    return found


def _filled(groups: Sequence[list[int]], size: int) -> list[list[int]]:
    found: list[list[int]] = [[]]
    for group in groups:
        if found[-1] and len(found[-1]) + len(group) > size:
            found.append([])
        found[-1].extend(group)
    return [batch for batch in found if batch]
