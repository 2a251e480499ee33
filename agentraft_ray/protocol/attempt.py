"""What is under way for one step right now: volatile, lost in a crash, and started anew from the state by the next owner."""

from __future__ import annotations

from enum import Enum

from agentraft_ray.protocol.plan import StepSpec
from agentraft_ray.protocol.records import Certificate, Payload
from agentraft_ray.taxonomy import FREE, Cost

__all__ = ["WAITS_OUTSIDE", "Attempt", "Phase"]


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


WAITS_OUTSIDE = frozenset({Phase.GATE, Phase.APPROVAL, Phase.BREAKER, Phase.BLOCKED})


class Attempt:
    """One open attempt at the step that `spec` describes.

    `calls` maps the numbers of its open calls to what each is for (sample number, or -1). `due` is when time alone moves it on
    (None: never). `cost` sums what it used so far. `votes` holds samples by digest.
    """

    __slots__ = (
        "booked",
        "calls",
        "certificate",
        "cost",
        "due",
        "faults",
        "hint",
        "lineage",
        "losses",
        "number",
        "opinion",
        "payload",
        "permit",
        "phase",
        "reason",
        "samples",
        "spec",
        "step",
        "votes",
    )

    def __init__(self, step: int, spec: StepSpec, lineage: int, number: int, hint: str | None) -> None:
        self.step = step
        self.spec = spec
        self.lineage = lineage
        self.number = number
        self.hint = hint
        self.phase = Phase.PERMIT
        self.calls: dict[int, int] = {}
        self.due: float | None = None
        self.losses: dict[int, int] = {}  # by sample
        self.faults = 0
        self.samples = 0
        self.votes: dict[bytes, list[bytes]] | None = None
        self.cost: Cost = FREE
        self.booked: Cost = FREE  # the part of it that stands in the log
        self.payload: Payload | None = None
        self.certificate: Certificate | None = None
        self.opinion = ""  # the verifier that a second opinion must differ from
        self.permit: object = None
        self.reason = ""
