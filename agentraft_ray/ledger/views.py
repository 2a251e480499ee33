"""What people and programs see of the runs in a store: plain values, ready for JSON. Made by the other files here; no behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from agentraft_ray.result import RunStatusName

__all__ = [
    "CostView",
    "EntryView",
    "NodeView",
    "OutputView",
    "RunPage",
    "RunSummary",
    "RunView",
    "StepStatus",
    "StepView",
    "Timeline",
    "VerdictView",
    "WaitView",
]

StepStatus = Literal["pending", "running", "waiting", "committed", "failed"]


@dataclass(frozen=True, slots=True)
class CostView:
    """Tokens, US dollars (None: the price is not known) and seconds of work."""

    tokens: int = 0
    usd: float | None = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run on one line. Times are seconds since the epoch.

    `committed` = steps that stand, of `steps`; None where nobody has counted them because the log is long. `error` also says why a log
    cannot be read; then `pipeline` is "". `records` and `size_bytes` are those of its log.
    """

    run_id: str
    pipeline: str
    goal: str
    status: RunStatusName
    steps: int
    committed: int | None
    waiting_for: tuple[str, ...] = ()
    error: str | None = None
    records: int = 0
    size_bytes: int = 0
    started_at: float = 0.0
    updated_at: float = 0.0
    forked_from: str | None = None


@dataclass(frozen=True, slots=True)
class RunPage:
    """Some runs, newest first, and where the next page begins; None where this one is the last.

    A page may be short, even empty, and still have a next one: looking for what is rare is bounded.
    """

    runs: tuple[RunSummary, ...]
    next: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictView:
    """A verdict as its certificate has it, and what went with it."""

    kind: str
    error_type: str
    confidence: float
    verifier: str
    prompt: str = ""
    calibration: str = ""
    hint: str = ""
    reasoning: str = ""
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """How one step stands. `attempts` = made so far; `position` = where in the log its commit stands, -1 for none."""

    index: int
    name: str
    status: StepStatus
    attempts: int
    lineage: int
    verdict: VerdictView | None = None
    cost: CostView = CostView()
    position: int = -1
    committed_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One step of the pipeline's graph. A repeated block has one node for all its repeats: `committed` of `total`."""

    name: str
    after: tuple[str, ...]
    status: StepStatus
    total: int
    committed: int
    goal: str = ""
    criticality: str = "medium"
    needs_approval: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitView:
    """What a person has to decide: whether an output may be committed (`about` "output", with its digest), or a step run."""

    step: str
    about: Literal["output", "running"]
    digest: str = ""
    size_bytes: int = 0
    verdict: VerdictView | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView(RunSummary):
    """One run in full, but for its log and its outputs. `steps_shown` begins at step `steps_from`.

    `charged` = cost with what is set aside; `budget` = the limits that there are, by name. `inputs` is None where they are too large
    to show. `owner_alive` = somebody works on it, or could at any moment.
    """

    inputs: Any = None
    fingerprint: str = ""
    epoch: int = 0
    owner: str = ""
    owner_alive: bool = False
    attempts: int = 0
    rollbacks: int = 0
    cost: CostView = CostView()
    charged: CostView = CostView()
    budget: dict[str, float] = field(default_factory=dict)
    waits: tuple[WaitView, ...] = ()
    graph: tuple[NodeView, ...] = ()
    steps_from: int = 0
    steps_shown: tuple[StepView, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryView:
    """One record of a log: `kind` is the record's name without its version (admitted, claimed, committed, rejected ...)."""

    position: int
    kind: str
    at: float = 0.0
    step: str = ""
    lineage: int = 0
    attempt: int = 0
    detail: str = ""
    verdict: VerdictView | None = None
    cost: CostView | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """Records of one run in their order, and the position at which the next page begins; None where the log ends here."""

    run_id: str
    entries: tuple[EntryView, ...]
    next: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputView:
    """An output: `state` says whether it is committed or waits for a decision. `value` is None where it is too large to show."""

    step: str
    state: Literal["committed", "proposed"]
    digest: str
    size_bytes: int
    is_shown: bool
    value: Any = None
