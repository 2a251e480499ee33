"""One run in full: how it stands, what it waits for, its graph, its steps. A function of its fold and of who owns it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agentraft_ray.checkpoint.base import RunMeta
from agentraft_ray.checkpoint.codec import decode_output
from agentraft_ray.ledger.folds import RunFold
from agentraft_ray.ledger.plain import cost_view, json_value, verdict_view
from agentraft_ray.ledger.views import CostView, NodeView, RunView, StepStatus, StepView, VerdictView, WaitView
from agentraft_ray.protocol.plan import BudgetSpec
from agentraft_ray.protocol.state import RunState
from agentraft_ray.result import RunResult
from agentraft_ray.runtime.results import standing_of

__all__ = ["STEPS_SHOWN_MAX", "run_view", "waits_of"]

STEPS_SHOWN_MAX = 500
_INPUTS_BYTES_MAX = 64 * 1024
_URGENT: tuple[StepStatus, ...] = ("failed", "waiting", "running")  # what the repeats of one step look like as one


def run_view(fold: RunFold, meta: RunMeta, *, owner_alive: bool, steps_from: int, steps_count: int) -> RunView:
    """The run as its fold has it; `meta` is what the store says of it."""
    state = fold.state
    standing = standing_of(state)
    task, policies = state.task, state.plan.policies
    waits = waits_of(state)
    waiting = frozenset(wait.step for wait in waits)
    last = min(steps_from + steps_count, state.plan.size)
    return RunView(
        run_id=state.run_id,
        pipeline=state.plan.spec.name,
        goal=task.goal,
        status=standing.status,
        steps=state.plan.size,
        committed=state.committed,
        waiting_for=standing.waiting_for,
        error=standing.error if state.finished is not None else None,
        records=state.index,
        size_bytes=meta.size_bytes,
        started_at=state.admitted_at,
        updated_at=fold.updated_at,
        forked_from=None if state.forked_from is None else state.forked_from[0],
        inputs=_inputs(task.inputs),
        fingerprint=state.plan.fingerprint.hex(),
        epoch=state.token.epoch,
        owner=state.token.owner,
        owner_alive=owner_alive,
        attempts=state.committed + len(state.proposed) + sum(history.made for history in state.histories.values()),
        rollbacks=standing.rollbacks,
        cost=cost_view(state.cost),
        charged=cost_view(state.charged),
        budget=_limits(policies.budget),
        waits=waits,
        graph=tuple(_nodes(state, standing, waiting)),
        steps_from=steps_from,
        steps_shown=tuple(_step(fold, standing, waiting, step) for step in range(steps_from, last)),
    )


def waits_of(state: RunState) -> tuple[WaitView, ...]:
    """What a person has to decide about this run now."""
    if state.finished is not None:
        return ()
    found = []
    for step in sorted(state.ready):
        proposal = state.proposed.get(step)
        if proposal is not None and proposal.certificate is not None:
            output, verdict = proposal.output, verdict_view(proposal.certificate)
            found.append(
                WaitView(step=state.plan.name(step), about="output", digest=output.digest.hex(), size_bytes=output.size, verdict=verdict)
            )
        elif state.plan.step(step).approve_before and (step, state.history(step).lineage) not in state.let_go:
            found.append(WaitView(step=state.plan.name(step), about="running"))
    return tuple(found)


def _inputs(encoded: bytes) -> Any:
    return None if len(encoded) > _INPUTS_BYTES_MAX else json_value(decode_output(encoded))


def _limits(budget: BudgetSpec | None) -> dict[str, float]:
    if budget is None:
        return {}
    named = {"attempts": budget.attempts, "tokens": budget.tokens, "usd": budget.usd, "seconds": budget.seconds}
    return {name: limit for name, limit in named.items() if limit is not None}


def _status(state: RunState, standing: RunResult, waiting: frozenset[str], step: int) -> StepStatus:
    if state.is_committed(step):
        return "committed"
    if state.plan.name(step) in waiting:
        return "waiting"
    if state.finished is not None:
        return "failed" if state.history(step).made and standing.status == "failed" else "pending"
    if step not in state.ready:
        return "pending"
    return "running" if standing.status == "running" else "waiting"


def _step(fold: RunFold, standing: RunResult, waiting: frozenset[str], step: int) -> StepView:
    state = fold.state
    history, commit = state.history(step), fold.commits.get(step)
    status = _status(state, standing, waiting, step)
    is_committed = status == "committed"
    verdict: VerdictView | None = None
    if commit is not None:
        verdict = verdict_view(commit.certificate)
    elif history.error_type:
        verdict = VerdictView(
            kind="reject",
            error_type=history.error_type,
            confidence=1.0,
            verifier=history.judge,
            hint=history.hint or "",
            reasoning=history.message,
        )
    return StepView(
        index=step,
        name=state.plan.name(step),
        status=status,
        attempts=history.made + is_committed + (step in state.proposed),
        lineage=history.lineage,
        verdict=verdict,
        cost=CostView() if commit is None else cost_view(commit.cost),
        position=state.position(step) if is_committed else -1,
        committed_at=commit.at if commit is not None else 0.0,
    )


def _nodes(state: RunState, standing: RunResult, waiting: frozenset[str]) -> Iterable[NodeView]:
    plan = state.plan
    for place, spec in enumerate(plan.spec.block):
        steps = range(place, plan.size, plan.width)
        committed = sum(map(state.is_committed, steps))
        active = {_status(state, standing, waiting, step) for step in state.ready if step % plan.width == place}
        yield NodeView(
            name=spec.name,
            after=tuple(plan.spec.block[parent].name for parent in spec.parents),
            status=next((status for status in _URGENT if status in active), "committed" if committed == len(steps) else "pending"),
            total=len(steps),
            committed=committed,
            goal=spec.goal,
            criticality=spec.criticality,
            needs_approval=spec.needs_approval or spec.approve_before,
        )
