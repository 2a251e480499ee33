"""The routes under ``/v1/runs``: submitting, looking, deciding."""

from __future__ import annotations

import uuid
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from agentraft_ray.cluster.serve.access import IdempotencyKey, Operator, Reader, RunPath, Serving, Submitter, key_id
from agentraft_ray.cluster.serve.problems import problems
from agentraft_ray.cluster.serve.requests import Accepted, Decision, Done, Forked, Forking, Submission
from agentraft_ray.ledger import AuditReport, OutputView, RunFilter, RunPage, RunView, Timeline
from agentraft_ray.pipeline import Task
from agentraft_ray.result import RunStatusName

__all__ = ["router"]

router = APIRouter(prefix="/v1/runs", tags=["runs"])


@router.post(
    "",
    status_code=201,
    response_model=Accepted,
    responses={200: {"model": Accepted, "description": "The run was there before"}, **problems(409, 410)},
)
async def submit_run(
    asked: Submission, response: Response, services: Serving, who: Submitter, idempotency_key: IdempotencyKey = None
) -> Accepted:
    """Start a run. The answer comes when the run stands in the store; from then on it is not lost.

    With an `Idempotency-Key` or a `run_id` the same request can be sent again at any time, by a client that missed the answer: it
    never makes a second run.
    """
    run_id = asked.run_id or key_id(who, idempotency_key, "submit") or uuid.uuid4().hex
    created = await services.host.start(asked.pipeline, Task(asked.goal, asked.inputs, run_id), run_id)
    response.status_code = 201 if created else 200
    response.headers["location"] = f"/v1/runs/{run_id}"
    return Accepted(run_id=run_id, created=created)


@router.get("", response_model=RunPage, responses=problems())
async def list_runs(
    services: Serving,
    _: Reader,
    status: Annotated[list[RunStatusName] | None, Query(description="only runs of these statuses")] = None,
    pipeline: Annotated[str, Query(max_length=500)] = "",
    text: Annotated[str, Query(max_length=200, description="in the id or the goal")] = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    after: Annotated[str | None, Query(max_length=200, description="`next` of the page before")] = None,
) -> RunPage:
    """Runs, newest first: those that have not finished, then the others. A page may be short and still have a `next`."""
    wanted = RunFilter(frozenset(status or ()), pipeline, text)
    return await services.ledger.page(wanted, limit=limit, after=after)


@router.get("/{run_id}", response_model=RunView, responses=problems(404, 410))
async def get_run(
    run_id: RunPath,
    services: Serving,
    _: Reader,
    steps_from: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    steps_count: Annotated[int, Query(ge=0, le=500)] = 100,
) -> RunView:
    """One run in full, with some of its steps."""
    return await services.ledger.view(run_id, steps_from=steps_from, steps_count=steps_count)


@router.get("/{run_id}/timeline", response_model=Timeline, responses=problems(404, 410))
async def get_timeline(
    run_id: RunPath,
    services: Serving,
    _: Reader,
    start: Annotated[int, Query(ge=0, le=10_000_000_000)] = 0,
    count: Annotated[int, Query(ge=1, le=1_000)] = 200,
) -> Timeline:
    """The records of its log, one entry each."""
    return await services.ledger.timeline(run_id, start=start, count=count)


@router.get("/{run_id}/output", response_model=OutputView, responses=problems(404, 409, 410))
async def get_output(
    run_id: RunPath, services: Serving, _: Reader, step: Annotated[str, Query(min_length=1, max_length=250)]
) -> OutputView:
    """What a step has made: the output that waits for a decision, else the one that is committed."""
    return await services.ledger.output(run_id, step)


@router.get("/{run_id}/audit", response_model=AuditReport, responses=problems(404, 410))
async def audit_run(run_id: RunPath, services: Serving, _: Reader) -> AuditReport:
    """Whether its log is whole, and every commit carries a passing verdict about exactly its output."""
    return await services.ledger.audit(run_id)


@router.post("/{run_id}/approve", status_code=202, response_model=Done, responses=problems(404, 409, 410))
async def approve_step(
    run_id: RunPath, decision: Decision, services: Serving, who: Operator, idempotency_key: IdempotencyKey = None
) -> Done:
    """Approve what the run waits for at a step."""
    return await _decide(services, who, "approve", run_id, decision, idempotency_key)


@router.post("/{run_id}/deny", status_code=202, response_model=Done, responses=problems(404, 409, 410))
async def deny_step(run_id: RunPath, decision: Decision, services: Serving, who: Operator, idempotency_key: IdempotencyKey = None) -> Done:
    """Refuse it: the output is thrown away and the step tries again, within its retries; a step that may not run ends the run."""
    return await _decide(services, who, "deny", run_id, decision, idempotency_key)


@router.post("/{run_id}/cancel", status_code=202, response_model=Done, responses=problems(404, 410))
async def cancel_run(run_id: RunPath, services: Serving, who: Operator, idempotency_key: IdempotencyKey = None) -> Done:
    """End a run, whatever it does. One that has finished stays as it is."""
    command_id = key_id(who, idempotency_key, "cancel", run_id)
    is_ended = await services.ledger.cancel(run_id, by=who.name, command_id=command_id)
    if not is_ended:
        await services.host.look(run_id)
    return Done(run_id=run_id, is_ended=is_ended)


@router.post("/{run_id}/fork", status_code=201, response_model=Forked, responses=problems(404, 409, 410))
async def fork_run(
    run_id: RunPath, asked: Forking, response: Response, services: Serving, who: Operator, idempotency_key: IdempotencyKey = None
) -> Forked:
    """A new run of the same pipeline that shares everything before a step, and goes on from there."""
    new_id = asked.run_id or key_id(who, idempotency_key, "fork", run_id) or None
    made = await services.ledger.fork(run_id, asked.step, new_id=new_id)
    response.headers["location"] = f"/v1/runs/{made}"
    return Forked(run_id=made, is_driven=await services.host.go_on(made))


async def _decide(
    services: Serving, who: Operator, kind: Literal["approve", "deny"], run_id: str, decision: Decision, key: str | None
) -> Done:
    words = {"by": who.name, "note": decision.note, "digest": decision.digest or "", "command_id": key_id(who, key, kind, run_id)}
    decide = services.ledger.approve if kind == "approve" else services.ledger.deny
    await decide(run_id, decision.step, **words)
    await services.host.look(run_id)
    return Done(run_id=run_id)
