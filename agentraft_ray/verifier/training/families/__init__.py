"""Task families with exact truth: requests, right answers, and the class of every wrong one. Pure and seeded; no model."""

from __future__ import annotations

from agentraft_ray.verifier.training.families.arithmetic import ARITHMETIC
from agentraft_ray.verifier.training.families.calendar import CALENDAR
from agentraft_ray.verifier.training.families.first_ten import FIRST_TEN
from agentraft_ray.verifier.training.families.item import Draw, Family, Item
from agentraft_ray.verifier.training.families.judging import judge
from agentraft_ray.verifier.training.families.lists import LISTS
from agentraft_ray.verifier.training.families.more_choices import MORE_CHOICES
from agentraft_ray.verifier.training.families.pools import PLAIN, POOLS, SHOTS, TEST, TRAIN, Pool
from agentraft_ray.verifier.training.families.records import RECORDS

__all__ = [
    "FAMILIES", "FIRST_TEN", "PLAIN", "POOLS", "SHOTS", "TEST", "TRAIN", "Draw", "Family", "Item", "Pool", "judge",
]  # fmt: skip

FAMILIES: dict[str, Family] = {family.name: family for family in (*FIRST_TEN, *ARITHMETIC, *CALENDAR, *LISTS, *MORE_CHOICES, *RECORDS)}
"""Every family by its name."""
