"""The plan of a run: what its pipeline looks like to the protocol. Static data and graph questions about it; no functions to call.

The plan travels in `RunAdmitted`, so that a log can be folded, audited and resumed without the code it was made by; its digest is
the fingerprint. A repeated block is stored once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache

import msgspec

from agentraft_ray.config import OnOpen
from agentraft_ray.errors import InvalidPipeline
from agentraft_ray.identity import digest, digest_of_parts
from agentraft_ray.taxonomy import Cost

__all__ = ["BudgetSpec", "Plan", "PlanSpec", "Policies", "StepSpec", "fingerprint_of", "plan_of"]

_PLAN_FORMAT = b"plan.1"


class BudgetSpec(msgspec.Struct, frozen=True):
    """Limits of one run; None = none. `reserve` = tokens, US dollars and seconds that are set aside for every dispatch.

    It has the form that it was first stored in, since the fingerprint of a plan is over its bytes.
    """

    attempts: int | None = None
    tokens: int | None = None
    usd: float | None = None
    seconds: float | None = None
    reserve: tuple[int, float | None, float] = (0, 0.0, 0.0)

    @property
    def reserved(self) -> Cost:
        """`reserve` as a cost."""
        return Cost(*self.reserve)


class StepSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step of the block. `parents` are positions in the block; `goal` is the text that its outputs are judged by."""

    name: str
    parents: tuple[int, ...]
    goal: str = ""
    criticality: str = "medium"
    max_retries: int = 2
    max_errors: int | None = None
    timeout_s: float | None = None
    needs_approval: bool = False
    approve_before: bool = False
    ahead_by: int = 0
    samples_max: int = 0
    version: str = ""
    output_schema: str = ""


class Policies(msgspec.Struct, frozen=True, omit_defaults=True):
    """What holds for the whole run. Units: seconds. `breaker` = permits are asked for; `verifier` = its identity.

    `host_times_steps` = the host answers a step that overruns its time, and counts from when it really began.
    """

    verifier: str = ""
    base_delay_s: float = 0.0
    max_delay_s: float = 8.0
    rollback_on_failure: bool = True
    max_rollback_depth: int = 0
    rollbacks_max: int = 8
    back_when_exhausted: bool = False
    on_open: OnOpen = "park"
    breaker: bool = False
    budget: BudgetSpec | None = None
    worker_losses_max: int = 3
    claims_max: int = 3
    verifier_faults_max: int = 3
    verifier_retry_delay_s: float = 0.5
    verifier_timeout_s: float = 120.0
    inline_bytes_max: int = 65_536
    host_times_steps: bool = False
    verifier_hold_s: float = 5.0


class PlanSpec(msgspec.Struct, frozen=True, cache_hash=True):
    """The stored form of a plan: a block of steps, how often it is repeated in a chain, and the run's policies.

    Every admission looks it up twice (`plan_of`, `fingerprint_of`), so its hash is kept.
    """

    name: str
    block: tuple[StepSpec, ...]
    repeats: int = 1
    policies: Policies = Policies()


class Plan:
    """A `PlanSpec` with its graph. Steps are positions from 0 to `size` - 1. Runs of one pipeline share one plan."""

    def __init__(self, spec: PlanSpec) -> None:
        if spec.repeats > 1 and any(step.parents != ((k - 1,) if k else ()) for k, step in enumerate(spec.block)):
            raise InvalidPipeline(f"plan {spec.name!r}: a repeated block must be a chain")
        self.spec = spec
        self.policies = spec.policies
        self.width = len(spec.block)
        self.size = self.width * spec.repeats
        self.is_chain = all(step.parents == ((k - 1,) if k else ()) for k, step in enumerate(spec.block))
        self._block = spec.block
        self._children = _invert(spec.block)
        self._scopes = tuple(f"{spec.name}/{step.name}" for step in spec.block)
        self._goals = tuple(digest(step.goal.encode()) for step in spec.block)
        self._judged_by = tuple(
            digest_of_parts(spec.policies.verifier.encode(), step.criticality.encode(), step.output_schema.encode()) for step in spec.block
        )

    @cached_property
    def fingerprint(self) -> bytes:
        """Digest over names, edges, goals, policies, schemas, verifier identities and versions; never over code."""
        return fingerprint_of(self.spec)

    def step(self, index: int) -> StepSpec:
        return self._block[index % self.width]

    def name(self, index: int) -> str:
        name = self.spec.block[index % self.width].name
        return name if self.spec.repeats == 1 else f"{name}[{index // self.width}]"

    def index_of(self, name: str) -> int | None:
        """The position of the step with this name, or None."""
        return self._index.get(name) if self.spec.repeats == 1 else self._index_of_repeat(name)

    def goal(self, index: int) -> bytes:
        """Digest of the goal that outputs of this step are judged by."""
        return self._goals[index % self.width]

    def judged_by(self, index: int) -> bytes:
        """Digest of the policy that its verdicts are made under: verifier, criticality, output schema."""
        return self._judged_by[index % self.width]

    def scope(self, index: int) -> str:
        """The breaker's name for this step, the same in all runs and in all repeats of a block."""
        return self._scopes[index % self.width]

    def parents(self, index: int) -> tuple[int, ...]:
        if self.is_chain:
            return (index - 1,) if index else ()
        return self._block[index].parents

    def children(self, index: int) -> tuple[int, ...]:
        if self.is_chain:
            return (index + 1,) if index + 1 < self.size else ()
        return self._children[index]

    def descendants(self, index: int) -> Iterator[int]:
        """All steps that need `index`, directly or not; without itself."""
        if self.is_chain:
            yield from range(index + 1, self.size)
            return
        yield from _reach(index, self._children)

    def ancestors(self, index: int) -> Iterator[int]:
        """All steps that `index` needs, directly or not, nearest first where it is a chain; without itself."""
        if self.is_chain:
            yield from range(index - 1, -1, -1)
            return
        yield from _reach(index, tuple(step.parents for step in self.spec.block))

    def depth_to(self, index: int, ancestor: int) -> int | None:
        """Edges on the shortest way from `index` back to `ancestor`; None if it is no ancestor."""
        if self.is_chain:
            return index - ancestor if 0 <= ancestor < index else None
        level, depth, seen = {index}, 0, {index}
        while level:
            level = {parent for step in level for parent in self.spec.block[step].parents} - seen
            seen |= level
            depth += 1
            if ancestor in level:
                return depth
        return None

    @cached_property
    def _index(self) -> dict[str, int]:
        return {step.name: k for k, step in enumerate(self.spec.block)}

    def _index_of_repeat(self, name: str) -> int | None:
        base, bracket, number = name.rpartition("[")
        place = self._index.get(base)
        if not bracket or place is None or not number[:-1].isdigit() or not number.endswith("]"):
            return None
        index = int(number[:-1]) * self.width + place
        return index if index < self.size else None


@lru_cache(maxsize=256)
def fingerprint_of(spec: PlanSpec) -> bytes:
    """The fingerprint of the plan of `spec`, which need not be sound."""
    # Over what a log gives back: a limit of 5 is written as an int and read as the float 5.0.
    as_read = msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=PlanSpec)
    return digest(_PLAN_FORMAT + msgspec.msgpack.encode(as_read))


@lru_cache(maxsize=256)
def plan_of(spec: PlanSpec) -> Plan:
    """The plan of `spec`; thousands of runs of one pipeline share it."""
    return Plan(spec)


def _invert(block: tuple[StepSpec, ...]) -> tuple[tuple[int, ...], ...]:
    children: list[list[int]] = [[] for _ in block]
    for position, step in enumerate(block):
        for parent in step.parents:
            children[parent].append(position)
    return tuple(map(tuple, children))


def _reach(start: int, edges: tuple[tuple[int, ...], ...]) -> Iterator[int]:
    seen, queue = {start}, list(edges[start])
    while queue:
        step = queue.pop(0)
        if step not in seen:
            seen.add(step)
            yield step
            queue.extend(edges[step])
