"""What is under way for one step right now: volatile, lost in a crash, and started anew from the state by the next owner."""

from __future__ import annotations

from enum import Enum

import msgspec

from agentraft_ray.protocol.plan import StepSpec
from agentraft_ray.protocol.records import Certificate, Payload
from agentraft_ray.taxonomy import FREE, Cost

__all__ = ["JUDGING", "PERMIT", "RUNNING", "WAITS_OUTSIDE", "Attempt", "Phase"]


class Phase(Enum):
    """Where an attempt stands. The first six go on by themselves, the last four wait for something outside the run."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is slow Python, and phases key the table of decisions

    BACKOFF = "waits for its delay to pass"
    PERMIT = "has asked the breaker"
    RUNNING = "is with a worker"
    JUDGING = "is with a verifier"
    FAULTED = "waits to ask the verifier again"
    RECHECK = "waits while its suspect is judged again"
    GATE = "waits for a person to let it run"
    APPROVAL = "waits for a person to approve its output"
    BREAKER = "waits for an open breaker"
    BLOCKED = "waits for a verifier that does not answer"


# The phases of every step, as names of the module: in 3.11 a look-up in an Enum's class goes through slow Python.
PERMIT, RUNNING, JUDGING = Phase.PERMIT, Phase.RUNNING, Phase.JUDGING

WAITS_OUTSIDE = frozenset({Phase.GATE, Phase.APPROVAL, Phase.BREAKER, Phase.BLOCKED})


class Attempt(msgspec.Struct, gc=False, eq=False):
    """One open attempt at the step that `spec` describes.

    `calls` maps the numbers of its open calls to what each is for (sample number, or -1). `due` is when time alone moves it on
    (None: never). `cost` sums what it used so far. `votes` holds samples by digest.
    """

    step: int
    spec: StepSpec
    lineage: int
    number: int
    hint: str | None
    phase: Phase = Phase.PERMIT
    calls: dict[int, int] = {}
    due: float | None = None
    losses: dict[int, int] = {}  # by sample
    faults: int = 0
    samples: int = 0
    votes: dict[bytes, list[bytes]] | None = None
    cost: Cost = FREE
    booked: Cost = FREE  # the part of it that stands in the log
    payload: Payload | None = None
    certificate: Certificate | None = None
    opinion: str = ""  # the verifier that a second opinion must differ from
    permit: object = None
    reason: str = ""
    parked: bool = False  # it has waited for a verifier: asking that once more does not wake a run that is parked
