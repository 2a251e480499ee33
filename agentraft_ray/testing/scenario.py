"""What a simulated world is asked to run: plans of every shape, drawn at random. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import msgspec

from agentraft_ray.protocol.plan import BudgetSpec, PlanSpec, Policies, StepSpec
from agentraft_ray.protocol.records import TaskRecord

__all__ = ["STEP_TOKENS_MAX", "VERDICT_TOKENS", "Scenario", "draw_scenarios"]

STEP_TOKENS_MAX = 8
VERDICT_TOKENS = 2
_RESERVE = (STEP_TOKENS_MAX + VERDICT_TOKENS, 0.0, 0.0)
_VERIFIER = "simulated"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run of a world: its id, its task, its plan, and when it is submitted (seconds)."""

    run_id: str
    task: TaskRecord
    plan: PlanSpec
    submitted_at_s: float


def draw_scenarios(rng: Random) -> list[Scenario]:
    """Two to five runs of one or two pipelines, so that the runs of one pipeline share their breakers."""
    plans = [_draw_plan(rng, f"p{k}") for k in range(rng.choice((1, 1, 2)))]
    return [
        Scenario(f"run{k}", TaskRecord(f"goal {k}", b"%d" % k, f"run{k}"), rng.choice(plans), rng.random() * 10.0)
        for k in range(rng.randint(2, 5))
    ]


def _draw_plan(rng: Random, name: str) -> PlanSpec:
    shape = rng.choice(("chain", "chain", "dag", "dag", "repeat"))
    width = rng.randint(1, 7)
    steps = []
    for k in range(width):
        parents = _draw_parents(rng, k) if shape == "dag" else ((k - 1,) if k else ())
        steps.append(_draw_step(rng, f"s{k}", parents))
    if shape == "dag" and rng.random() < 0.3:
        steps = _in_another_order(rng, steps)
    repeats = rng.randint(2, 4) if shape == "repeat" and width < 4 else 1
    return PlanSpec(name, tuple(steps), repeats, _draw_policies(rng))


def _draw_parents(rng: Random, k: int) -> tuple[int, ...]:
    return tuple(sorted(rng.sample(range(k), rng.randint(0, min(k, 2))))) if k else ()


def _in_another_order(rng: Random, steps: list[StepSpec]) -> list[StepSpec]:
    """The same graph, listed so that children may come before their parents."""
    places = list(range(len(steps)))
    rng.shuffle(places)
    listed = [steps[0]] * len(steps)
    for old, new in enumerate(places):
        listed[new] = msgspec.structs.replace(steps[old], parents=tuple(places[parent] for parent in steps[old].parents))
    return listed


def _draw_step(rng: Random, name: str, parents: tuple[int, ...]) -> StepSpec:
    ahead_by = rng.choice((0, 0, 0, 0, 0, 1, 2))
    return StepSpec(
        name,
        parents,
        goal=f"the goal of {name}",
        max_retries=rng.choice((0, 1, 2, 2, 3, 4)),
        max_errors=rng.choice((None, None, 0, 1, 3)),
        timeout_s=rng.choice((None, 4.0, 12.0)),
        needs_approval=rng.random() < 0.12,
        approve_before=rng.random() < 0.08,
        ahead_by=ahead_by,
        samples_max=ahead_by * 4,
    )


def _draw_policies(rng: Random) -> Policies:
    return Policies(
        verifier=_VERIFIER,
        base_delay_s=rng.choice((0.0, 0.0, 1.0)),
        max_delay_s=4.0,
        rollback_on_failure=rng.random() < 0.85,
        max_rollback_depth=rng.choice((0, 1, 2, 4, 4, 4)),
        rollbacks_max=rng.randint(1, 4),
        back_when_exhausted=rng.random() < 0.5,
        on_open="park" if rng.random() < 0.75 else "fail",
        breaker=rng.random() < 0.5,
        budget=_draw_budget(rng) if rng.random() < 0.4 else None,
        claims_max=rng.choice((3, 3, 6)),
        verifier_faults_max=rng.choice((1, 2, 3)),
        verifier_timeout_s=rng.choice((6.0, 15.0)),
        inline_bytes_max=rng.choice((20, 65_536)),
    )


def _draw_budget(rng: Random) -> BudgetSpec:
    return BudgetSpec(
        attempts=rng.choice((None, rng.randint(1, 40))),
        tokens=rng.choice((None, rng.randint(20, 250), rng.randint(20, 250))),
        seconds=rng.choice((None, None, float(rng.randint(20, 120)))),
        reserve=_RESERVE,
    )
