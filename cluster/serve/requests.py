"""What clients send, and the short answers that they get to it. What they read of runs is made by the ledger."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from agentraft_ray.ledger import NodeView

__all__ = ["Accepted", "Decision", "Done", "Forked", "Forking", "PipelineView", "RunId", "Submission", "Whoami"]

_NOTE_CHARS_MAX = 2_000
_GOAL_CHARS_MAX = 100_000
_STEP_CHARS_MAX = 250

RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$", description="1 to 128 of A-Z a-z 0-9 . _ -", examples=["memo-17"])]
StepName = Annotated[str, Field(min_length=1, max_length=_STEP_CHARS_MAX, description="the name of a step of the run's pipeline")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Submission(_Body):
    """A task for a pipeline that is served here. With a `run_id` of your own it is safe to send it again."""

    pipeline: str = Field(max_length=500, description="one of the names that GET /v1/pipelines lists")
    goal: str = Field(max_length=_GOAL_CHARS_MAX)
    inputs: dict[str, Any] = Field({}, description="plain data for the steps")
    run_id: RunId | None = None


class Decision(_Body):
    """A decision about what a run waits for at a step; with `digest` only if it is about exactly that output."""

    step: StepName
    digest: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="of the output that was looked at")
    note: str = Field("", max_length=_NOTE_CHARS_MAX, description="of a denial: the hint for the next attempt")


class Forking(_Body):
    """A new run that shares everything before `step`."""

    step: StepName
    run_id: RunId | None = Field(None, description="of the new run; with one of your own it is safe to send it again")


class Accepted(BaseModel):
    """A run that stands in the store. `created`: by this very request."""

    run_id: str
    created: bool


class Forked(BaseModel):
    """A new run; `is_driven`: it goes on here. Else it runs when somebody resumes it."""

    run_id: str
    is_driven: bool


class Done(BaseModel):
    """A decision that was taken in. `is_ended`: the run has ended; else whoever drives it acts on it."""

    run_id: str
    is_ended: bool = False


class PipelineView(BaseModel):
    """A pipeline that may be submitted."""

    name: str
    pipeline: str
    steps: int
    graph: list[NodeView]


class Whoami(BaseModel):
    """Who asks, as the server sees it, and what he may."""

    name: str
    scopes: list[str]
    version: str
