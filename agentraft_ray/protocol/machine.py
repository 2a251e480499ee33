"""One run as a value: feed it events, take what is `Ready`, act on it. It never waits, reads a clock, or draws a random number.

    machine.feed(event, now)          # any number of times
    ready = machine.take_ready()      # None when there is nothing to do
    machine.wake_at                   # when to feed a Tick at the latest, after whatever was fed
    append ready.records; if that is refused: drop this machine, claim the run, restore it from the log
    act on ready.commands             # only after the append

While an append is in flight, keep feeding and take nothing. Which event leads where stands in one table, in `decide.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from agentraft_ray.identity import OwnerToken
from agentraft_ray.protocol import decide, dispatch
from agentraft_ray.protocol.announce import announcements
from agentraft_ray.protocol.attempt import WAITS_OUTSIDE, Attempt, Phase
from agentraft_ray.protocol.messages import (
    Announce,
    AnyCommand,
    AnyEvent,
    Call,
    CancelAttempt,
    CommandReceived,
    Ready,
    ReleasePermit,
)
from agentraft_ray.protocol.records import CostBooked, ErrorInfo, Payload, Record, RunFinished, RunParked, RunResumed, encode_record
from agentraft_ray.protocol.state import RunState
from agentraft_ray.taxonomy import FREE, Cost

__all__ = ["RunMachine", "Seal"]

Seal = Callable[[str, int, bytes], bytes]
"""(run id, index, record bytes) -> stored bytes: encryption, or nothing."""


def _plain(run_id: str, index: int, data: bytes) -> bytes:  # noqa: ARG001
    return data


class RunMachine:
    """Drives one run on behalf of the owner `state.token`.

    `state` is the fold of a log whose last claim is that token's. `seal` makes stored bytes of record bytes. `listening` = somebody
    observes events, so `Announce` commands are worth making.
    """

    __slots__ = (
        "_blobs",
        "_calls",
        "_commands",
        "_decided",
        "_drained",
        "_head",
        "_index",
        "_needs",
        "_next_call",
        "_outcome",
        "_records",
        "_seal",
        "_status",
        "_taken",
        "attempts",
        "late",
        "listening",
        "now",
        "plan",
        "policies",
        "state",
        "token",
    )

    def __init__(self, state: RunState, *, seal: Seal = _plain, listening: bool = True) -> None:
        self.state = state
        self.plan = state.plan
        self.policies = state.plan.policies
        self.token: OwnerToken = state.token
        self.listening = listening
        self.now = 0.0
        self.attempts: dict[int, Attempt] = {}
        self.late: Cost = FREE
        self._calls: dict[int, Attempt] = {}
        self._next_call = 0
        self._seal = seal
        self._records: list[bytes] = []
        self._decided: list[Record] = []
        self._blobs: tuple[tuple[bytes, bytes], ...] = ()
        self._needs: tuple[bytes, ...] = ()
        self._taken: tuple[str, ...] = ()
        self._commands: list[AnyCommand] = []
        # Where the log is, once what was taken is appended:
        self._index, self._head = state.index, state.head
        self._status = "finished" if state.finished is not None else "open" if state.parked is None else "parked"
        self._outcome = state.finished.outcome if state.finished is not None else ""
        self._drained = False

    # --- what a host does --------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin, or go on, with whatever the state says is to be done."""
        self.now = now
        if self.state.finished is None:
            dispatch.start_run(self)
            self._conclude()

    def feed(self, event: AnyEvent, now: float) -> None:
        """Take one event in. Replies to calls that are not open any more change nothing but the tally of late costs."""
        self.now = now
        if self.state.finished is not None or self._drained:
            self._take_late(event)
            return
        call = getattr(event, "call", None)
        if call is None:
            if type(event) is CommandReceived:
                decide.take_command(self, event)
            else:
                decide.take_tick(self)
        else:
            attempt = self._calls.get(call.number) if call.token == self.token else None
            row = decide.TABLE.get((attempt.phase, type(event))) if attempt is not None else None
            if attempt is None or row is None:
                self._take_late(event)
            else:
                row(self, attempt, event)
        self._conclude()

    def drain(self, now: float) -> None:
        """Give the run up in good order: what is under way is cancelled, the log says that the run waits for a new owner."""
        self.now = now
        if self.state.finished is None and not self._drained:
            self._drained = True
            for attempt in list(self.attempts.values()):
                self.abandon(attempt)
            self.book_late()
            if self.state.parked is None:
                self.persist(RunParked(("drained",), now))

    def take_ready(self) -> Ready | None:
        """All that is to be done since the last call, or None."""
        if self._records:
            return self._take_records()
        if not self._commands:
            return None
        commands = tuple(self._commands)
        self._commands.clear()
        return Ready(self.token, self._index, self._head, (), (), self._head, (), (), (), self._status, self._outcome, commands)

    def _take_records(self) -> Ready:
        state = self.state
        if state.finished is not None:
            self._status, self._outcome = "finished", state.finished.outcome
        else:
            self._status = "open" if state.parked is None else "parked"
        ready = Ready(
            self.token,
            self._index,
            self._head,
            tuple(self._records),
            tuple(self._decided),
            state.head,
            self._blobs,
            self._needs,
            self._taken,
            self._status,
            self._outcome,
            tuple(self._commands),
        )
        self._index, self._head = state.index, state.head
        self._records.clear()
        self._decided.clear()
        self._commands.clear()
        self._blobs = self._needs = self._taken = ()
        return ready

    @property
    def wake_at(self) -> float | None:
        """When a Tick is due at the latest, seconds; None = events alone move the run on."""
        earliest = None
        for attempt in self.attempts.values():
            if attempt.due is not None and (earliest is None or attempt.due < earliest):
                earliest = attempt.due
        budget = self.policies.budget
        if budget is not None and budget.seconds is not None and self.state.finished is None and self.state.parked is None:
            end = self.state.admitted_at + self.state.paused_s + budget.seconds
            earliest = end if earliest is None else min(earliest, end)
        return earliest

    @property
    def has_ready(self) -> bool:
        """Whether `take_ready` has something to give."""
        return bool(self._records or self._commands)

    def waits_for(self, call: Call) -> bool:
        """Whether the answer to `call` would still matter; a call that was given up need not even begin."""
        return call.token == self.token and call.number in self._calls

    def permits(self) -> list[object]:
        """Permits of the breaker that are held now; a host that drops the machine gives them back."""
        return [attempt.permit for attempt in self.attempts.values() if attempt.permit is not None]

    @property
    def idle(self) -> bool:
        """Nothing is under way: the run has finished, or it waits for the outside world."""
        return self.state.finished is not None or all(attempt.phase in WAITS_OUTSIDE for attempt in self.attempts.values())

    # --- what decisions are made of (used by decide.py) --------------------------------------------------------------------

    def persist(self, record: Record) -> None:
        """Decide on a record: fold it in and queue it for the log."""
        state = self.state
        position = state.index
        stored = self._seal(state.run_id, position, encode_record(record))
        state.apply(record, stored)
        self._records.append(stored)
        self._decided.append(record)
        if self.listening:
            self._commands.extend(announcements(state, record, position))

    def command(self, command: AnyCommand) -> None:
        self._commands.append(command)

    def announce(self, type_: str, step: int, attempt: int, detail: str = "") -> None:
        """Tell observers something that is live only."""
        if self.listening:
            self._commands.append(Announce(type_, step, attempt, detail=detail, at=self.now))

    def open_call(self, attempt: Attempt, purpose: int = -1) -> Call:
        """A new call that `attempt` waits for."""
        self._next_call = number = self._next_call + 1
        self._calls[number] = attempt
        attempt.calls[number] = purpose
        return Call(self.token, number)

    def close_call(self, attempt: Attempt, number: int) -> int:
        """The call was answered; what it was for."""
        del self._calls[number]
        return attempt.calls.pop(number)

    def abandon_calls(self, attempt: Attempt) -> None:
        """Nobody waits for the attempt's calls any more."""
        for number in attempt.calls:
            del self._calls[number]
            call = Call(self.token, number)
            waiting = len(self._commands)
            self._commands = [command for command in self._commands if getattr(command, "call", None) != call]
            # What was never sent needs no cancelling, and must not be sent after the append that closed it.
            if len(self._commands) == waiting and attempt.phase is not Phase.PERMIT:
                self._commands.append(CancelAttempt(call))
        attempt.calls.clear()

    def close(self, attempt: Attempt, outcome: str) -> None:
        """End an attempt; `outcome` goes to the breaker."""
        if attempt.calls:
            self.abandon_calls(attempt)
        if attempt.permit is not None:
            self.release(attempt, outcome)
        self.attempts.pop(attempt.step, None)

    def abandon(self, attempt: Attempt) -> None:
        """End an attempt that no record will tell of; what it has cost is booked all the same."""
        self.late = self.late + attempt.cost.less(attempt.booked)
        self.close(attempt, "released")

    def release(self, attempt: Attempt, outcome: str) -> None:
        if attempt.permit is not None:
            self._commands.append(ReleasePermit(attempt.permit, outcome))
            attempt.permit = None

    def stored(self, payload: Payload) -> Payload:
        """The payload as a record carries it: what is long goes to a blob of the same append."""
        if payload.data is None:
            self._needs += (payload.digest,)
            return payload
        if payload.size <= self.policies.inline_bytes_max:
            return payload
        self._blobs += ((payload.digest, payload.data),)
        return Payload(payload.digest, payload.size, None)

    def taken(self, command_id: str) -> None:
        self._taken += (command_id,)

    def finish(self, outcome: str, error: ErrorInfo | None) -> None:
        """End the run and everything that is under way."""
        for attempt in list(self.attempts.values()):
            self.abandon(attempt)
        self.persist(RunFinished(outcome, error, self.late, self.now))

    def book_late(self) -> None:
        """Put into the log what no other record tells of."""
        if self.late is not FREE and self.late != FREE:
            self.persist(CostBooked(self.late, self.now))
        self.late = FREE

    def _take_late(self, event: AnyEvent) -> None:
        self.late = self.late + getattr(event, "cost", FREE)
        permit = getattr(event, "permit", None)
        if permit is not None and permit not in self.permits():  # a grant that comes twice must not give away what is in use
            self._commands.append(ReleasePermit(permit, "released"))

    def _conclude(self) -> None:
        state = self.state
        if state.finished is not None:
            return
        if state.committed == self.plan.size:
            self.finish("succeeded", None)
            return
        if self.late is not FREE and (self._records or self.policies.budget is not None):
            self.book_late()
        if not self.attempts:
            return
        is_asking = False
        for attempt in self.attempts.values():
            if attempt.phase in WAITS_OUTSIDE:
                continue
            if state.parked is None:
                return
            if attempt.phase is not Phase.PERMIT and not attempt.parked:
                self.persist(RunResumed(self.now))
                return
            is_asking = True  # the breaker, or the verifier, once more: a parked run still waits while it does that
        if is_asking:
            return
        reasons = tuple(sorted({attempt.reason for attempt in self.attempts.values()}))
        if state.parked != reasons:
            self.persist(RunParked(reasons, self.now))
