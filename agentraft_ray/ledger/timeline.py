"""The log of a run as people read it: one entry a record, in the order in which it happened. Needs no fold, so any page costs alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentraft_ray.errors import InvalidConfig, LogCorrupted
from agentraft_ray.ledger.following import refuse_absent
from agentraft_ray.ledger.plain import cost_view, verdict_view
from agentraft_ray.ledger.views import EntryView, Timeline
from agentraft_ray.protocol.plan import Plan
from agentraft_ray.protocol.records import (
    AttemptFailed,
    AttemptRejected,
    AttemptStarted,
    CommandTaken,
    CostBooked,
    OutputProposed,
    OwnerClaimed,
    Record,
    RolledBack,
    RunAdmitted,
    RunFinished,
    RunParked,
    RunResumed,
    StepCommitted,
    SuspectCleared,
    decode_record,
)
from agentraft_ray.runtime.logs import RunLogs

__all__ = ["TIMELINE_ENTRIES_MAX", "entry_view", "timeline"]

TIMELINE_ENTRIES_MAX = 1_000


async def timeline(logs: RunLogs, run_id: str, start: int, count: int) -> Timeline:
    """Up to `count` entries from position `start`. Raises RunNotFound, RunExpired, LogCorrupted, InvalidConfig."""
    if start < 0 or not 1 <= count <= TIMELINE_ENTRIES_MAX:
        raise InvalidConfig(f"a page of a timeline has 1 to {TIMELINE_ENTRIES_MAX} entries from a position on, not {count} from {start}")
    await refuse_absent(logs, run_id)
    plan = await logs.admitted_plan(run_id)
    stored = await logs.store.read(run_id, start, count + 1)
    opened = [decode_record(logs.seal.open(run_id, position, one)) for position, one in enumerate(stored[:count], start)]
    entries = tuple(entry_view(plan, position, record) for position, record in enumerate(opened, start))
    return Timeline(run_id, entries, start + count if len(stored) > count else None)


def entry_view(plan: Plan, position: int, record: Record) -> EntryView:
    """One record of a run with this plan. Raises LogCorrupted for a step that the plan does not have."""
    kind, tell = _ENTRIES[type(record)]
    subject = getattr(record, "certificate", None) or record
    step = getattr(record, "suspect", getattr(subject, "step", -1))
    try:
        more: dict[str, Any] = tell(plan, record)
        name = _name(plan, step)
    except IndexError:
        what = f"record {position} is about a step that the pipeline {plan.spec.name!r} does not have"
        raise LogCorrupted(what, index=position) from None
    cost = getattr(record, "cost", None)
    return EntryView(
        position=position,
        kind=kind,
        at=getattr(record, "at", 0.0),
        step=name,
        lineage=getattr(subject, "lineage", 0),
        attempt=getattr(subject, "attempt", 0),
        **{"cost": None if cost is None else cost_view(cost), **more},
    )


def _admitted(plan: Plan, record: RunAdmitted) -> dict[str, Any]:
    origin = record.forked_from
    return {"detail": f"{plan.spec.name}, {plan.size} steps" + (f", forked from {origin[0]} at record {origin[1]}" if origin else "")}


def _claimed(_: Plan, record: OwnerClaimed) -> dict[str, Any]:
    return {"detail": f"epoch {record.epoch} by {record.owner}"}


def _started(_: Plan, record: AttemptStarted) -> dict[str, Any]:
    return {"detail": "set aside for this attempt", "cost": cost_view(record.reserved)}


def _proposed(_: Plan, record: OutputProposed) -> dict[str, Any]:
    certificate = record.certificate
    waits_for = "a verifier" if certificate is None else "a person"
    return {
        "detail": f"{record.output.size:,} bytes wait for {waits_for}",
        "verdict": None if certificate is None else verdict_view(certificate),
    }


def _committed(_: Plan, record: StepCommitted) -> dict[str, Any]:
    return {"detail": f"{record.output.size:,} bytes", "verdict": verdict_view(record.certificate)}


def _rejected(plan: Plan, record: AttemptRejected) -> dict[str, Any]:
    return {
        "detail": f"blames {_name(plan, record.blame)}" if record.blame >= 0 else "",
        "verdict": verdict_view(record.certificate, record.hint, record.reasoning, record.evidence),
    }


def _failed(_: Plan, record: AttemptFailed) -> dict[str, Any]:
    return {"detail": f"{record.cause}: {record.message}"}


def _rolled_back(plan: Plan, record: RolledBack) -> dict[str, Any]:
    names = ", ".join(_name(plan, step) for step, _ in record.removed)
    return {
        "detail": f"removed {names}; accused by {_name(plan, record.accuser)}",
        "verdict": verdict_view(record.certificate, record.hint),
    }


def _cleared(plan: Plan, record: SuspectCleared) -> dict[str, Any]:
    return {"detail": f"stands; accused by {_name(plan, record.accuser)}", "verdict": verdict_view(record.certificate)}


def _command(_: Plan, record: CommandTaken) -> dict[str, Any]:
    who = f" by {record.by}" if record.by else ""
    note = f": {record.note}" if record.note else ""
    return {"detail": record.kind + who + note + ("" if record.applied else " (no effect)")}


def _parked(_: Plan, record: RunParked) -> dict[str, Any]:
    return {"detail": "; ".join(record.reasons)}


def _finished(_: Plan, record: RunFinished) -> dict[str, Any]:
    error = record.error
    return {"detail": record.outcome + (f": {error.kind}: {error.message}" if error is not None else "")}


def _nothing(_: Plan, record: Record) -> dict[str, Any]:  # noqa: ARG001
    return {}


def _name(plan: Plan, step: int) -> str:
    return plan.name(step) if step >= 0 else ""


_ENTRIES: dict[type, tuple[str, Callable[[Plan, Any], dict[str, Any]]]] = {
    RunAdmitted: ("admitted", _admitted),
    OwnerClaimed: ("claimed", _claimed),
    AttemptStarted: ("started", _started),
    OutputProposed: ("proposed", _proposed),
    StepCommitted: ("committed", _committed),
    AttemptRejected: ("rejected", _rejected),
    AttemptFailed: ("failed", _failed),
    RolledBack: ("rolled_back", _rolled_back),
    SuspectCleared: ("cleared", _cleared),
    CommandTaken: ("command", _command),
    RunParked: ("parked", _parked),
    RunResumed: ("resumed", _nothing),
    CostBooked: ("booked", _nothing),
    RunFinished: ("finished", _finished),
}
