"""What goes into a run's machine (events) and what comes out of it (commands, `Ready`). Values only.

A reply names the call it answers; a call is (owner token, number), so that a reply to an earlier life of the run, to an attempt
that was closed, or one delivered twice, matches nothing that is open.
"""

from __future__ import annotations

import msgspec

from agentraft_ray.identity import OwnerToken
from agentraft_ray.protocol.records import Certificate, Payload, Record
from agentraft_ray.taxonomy import FREE, Allowance, Cost, FailureCause, VerificationResult

__all__ = [
    "AcquirePermit",
    "Announce",
    "AnyCommand",
    "AnyEvent",
    "Call",
    "CancelAttempt",
    "CommandReceived",
    "PermitDenied",
    "PermitGranted",
    "Ready",
    "ReleasePermit",
    "RunStep",
    "StepRaised",
    "StepReturned",
    "Tick",
    "VerdictReturned",
    "Verify",
    "WorkerLost",
]


class Call(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Names one request of one life of a run."""

    token: OwnerToken
    number: int


class _Event(msgspec.Struct, frozen=True, gc=False):
    """The base of all events."""


class StepReturned(_Event, frozen=True):
    """The step function returned; `data` is its encoded output."""

    call: Call
    data: bytes
    cost: Cost = FREE


class StepRaised(_Event, frozen=True):
    """The step function raised, or its output cannot be stored. `final` = trying again would end alike."""

    call: Call
    cause: FailureCause
    message: str
    cost: Cost = FREE
    final: bool = False


class WorkerLost(_Event, frozen=True):
    """Whoever ran the step or the verdict is gone; whether it did its work is unknown."""

    call: Call


class VerdictReturned(_Event, frozen=True):
    """A verdict; None answers a request for a second opinion where there is no other mechanism.

    `seconds` = the wall time that it took, where the verdict's own cost says less.
    """

    call: Call
    result: VerificationResult | None
    seconds: float = 0.0

    @property
    def cost(self) -> Cost:
        """What the verdict cost."""
        if self.result is None:
            return Cost(0, 0.0, self.seconds)
        cost = self.result.cost
        return cost if cost.seconds >= self.seconds else Cost(cost.tokens, cost.usd, self.seconds, cost.known_usd)


class PermitGranted(_Event, frozen=True):
    """The breaker lets this attempt go; `permit` comes back in `ReleasePermit`, unread."""

    call: Call
    permit: object


class PermitDenied(_Event, frozen=True):
    """The breaker is open until `retry_at` (same clock as all times here)."""

    call: Call
    scope: str
    retry_at: float


class CommandReceived(_Event, frozen=True):
    """A command from outside: approve, deny or cancel. `output` and `lineage` bind an approval to what the approver saw."""

    id: str
    kind: str
    step: int = -1
    lineage: int = 0
    output: bytes = b""
    by: str = ""
    note: str = ""


class Tick(_Event, frozen=True):
    """Time has passed."""


AnyEvent = StepReturned | StepRaised | WorkerLost | VerdictReturned | PermitGranted | PermitDenied | CommandReceived | Tick


class RunStep(_Event, frozen=True):
    """Run a step function. `fresh_worker` = alone in a new worker, since two have been lost with it."""

    call: Call
    step: int
    lineage: int
    attempt: int
    sample: int
    hint: str | None
    timeout_s: float | None
    fresh_worker: bool


class Verify(_Event, frozen=True):
    """Judge an output: the one given, or (a suspect) the one committed at log position `position`.

    `previous` = the verifier that a second opinion must differ from, "" for a first verdict; for a suspect it is the one in the
    commit's certificate, and where there is no other mechanism the same one judges again. `allowance` = what the verdict may cost
    under the run's budget, None without one.
    """

    call: Call
    step: int
    attempt: int
    output: Payload | None
    position: int
    previous: str
    timeout_s: float
    allowance: Allowance | None = None


class CancelAttempt(_Event, frozen=True):
    """Nobody waits for this call any more; stop it if you can."""

    call: Call


class AcquirePermit(_Event, frozen=True):
    """Ask the breaker of `scope`."""

    call: Call
    scope: str
    attempt_id: str


class ReleasePermit(_Event, frozen=True):
    """Tell the breaker how it ended: "success", "failure" or "released" (no information)."""

    permit: object
    outcome: str


class Announce(_Event, frozen=True):
    """Something that observers want to know. `position` = log position it derives from, -1 for live only; `n` counts within it."""

    type: str
    step: int
    attempt: int
    position: int = -1
    n: int = 0
    certificate: Certificate | None = None
    hint: str = ""
    detail: str = ""
    at: float = 0.0


AnyCommand = RunStep | Verify | CancelAttempt | AcquirePermit | ReleasePermit | Announce


class Ready(msgspec.Struct, frozen=True, gc=False):
    """What is to be done now: append `records` first, then act on `commands`.

    The log must have `index` records and the head hash `head`; it has `new_head` afterwards. If the append is refused, drop the
    machine and restore it from the log. `blobs` are (digest, data) of outputs that are not in their record,
    `needs` the digests of blobs that earlier appends wrote. `decided` are the records as values.
    """

    token: OwnerToken
    index: int
    head: bytes
    records: tuple[bytes, ...]
    decided: tuple[Record, ...]
    new_head: bytes
    blobs: tuple[tuple[bytes, bytes], ...]
    needs: tuple[bytes, ...]
    taken: tuple[str, ...]
    status: str
    outcome: str
    commands: tuple[AnyCommand, ...]
