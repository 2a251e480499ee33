"""The routes about the store and the server as a whole: what can be submitted, verifiers, breakers, who asks."""

from __future__ import annotations

from fastapi import APIRouter

from agentraft_ray import __version__
from agentraft_ray.cluster.serve.access import Reader, Serving
from agentraft_ray.cluster.serve.host import BreakerView
from agentraft_ray.cluster.serve.problems import problems
from agentraft_ray.cluster.serve.requests import PipelineView, Whoami
from agentraft_ray.ledger import NodeView, VerifierScore
from agentraft_ray.protocol.plan import PlanSpec

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["store"])


@router.get("/pipelines", response_model=list[PipelineView], responses=problems())
async def list_pipelines(services: Serving, _: Reader) -> list[PipelineView]:
    """What may be submitted here, by name."""
    return [_pipeline(name, spec) for name, spec in sorted(services.host.plans().items())]


@router.get("/verifiers", response_model=list[VerifierScore], responses=problems())
async def list_verifiers(services: Serving, _: Reader) -> list[VerifierScore]:
    """What verifiers did, counted from the logs that the pulse of this server has read; empty while nobody feels it."""
    return services.ledger.pulse.scoreboard.scores()


@router.get("/breakers", response_model=list[BreakerView], responses=problems())
async def list_breakers(services: Serving, _: Reader) -> list[BreakerView]:
    """How the breakers of whoever drives runs for this server stand, the open ones first."""
    return await services.host.breakers()


@router.get("/me", response_model=Whoami, responses=problems())
async def who_am_i(who: Reader) -> Whoami:
    """Who asks, and what he may."""
    return Whoami(name=who.name, scopes=sorted(who.scopes), version=__version__)


def _pipeline(name: str, spec: PlanSpec) -> PipelineView:
    graph = [
        NodeView(
            name=step.name,
            after=tuple(spec.block[parent].name for parent in step.parents),
            status="pending",
            total=spec.repeats,
            committed=0,
            goal=step.goal,
            criticality=step.criticality,
            needs_approval=step.needs_approval or step.approve_before,
        )
        for step in spec.block
    ]
    return PipelineView(name=name, pipeline=spec.name, steps=len(spec.block) * spec.repeats, graph=graph)
