"""Looking at the runs of a store and deciding about them: what the command line, the HTTP API and the monitor have in common."""

from agentraft_ray.ledger.audit import AuditReport, audit_file
from agentraft_ray.ledger.ledger import Ledger
from agentraft_ray.ledger.listing import PAGE_RUNS_MAX, STATUSES, RunFilter, statuses_of
from agentraft_ray.ledger.pulse import Beat, Change
from agentraft_ray.ledger.scoreboard import VerifierScore
from agentraft_ray.ledger.views import (
    CostView,
    EntryView,
    NodeView,
    OutputView,
    RunPage,
    RunSummary,
    RunView,
    StepView,
    Timeline,
    VerdictView,
    WaitView,
)

__all__ = [
    "PAGE_RUNS_MAX",
    "STATUSES",
    "AuditReport",
    "Beat",
    "Change",
    "CostView",
    "EntryView",
    "Ledger",
    "NodeView",
    "OutputView",
    "RunFilter",
    "RunPage",
    "RunSummary",
    "RunView",
    "StepView",
    "Timeline",
    "VerdictView",
    "VerifierScore",
    "WaitView",
    "audit_file",
    "statuses_of",
]
