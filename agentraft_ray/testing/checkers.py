"""Watches a simulated world: every write to the store, every execution, every permit is held against the laws at once.

Reads the store's bytes and the tally. The one exception is law 1, which compares a live state with the fold of its log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from agentraft_ray.breaker import Permit
from agentraft_ray.checkpoint.base import Answer, AnswerKind, AppendEntry
from agentraft_ray.protocol.messages import Verify
from agentraft_ray.protocol.records import decode_record
from agentraft_ray.protocol.state import RunState, fold
from agentraft_ray.testing.laws import EXECUTION_LAWS, RECORD_LAWS
from agentraft_ray.testing.log_model import LogModel
from agentraft_ray.testing.tally import Execution, Tally, Violation

__all__ = ["Checkers"]


_CLOCK_SLACK_S = 1e-6


class Checkers:
    """The laws of one world. Every method raises Violation."""

    def __init__(self, tally: Tally, seen: Counter[str]) -> None:
        self.tally = tally
        self.seen = seen
        self.logs: dict[str, LogModel] = {}
        self.failovers = 0
        self._granted: dict[tuple[str, str], set[int]] = {}  # numbers of the permits that an owner got for an attempt
        self._folds: dict[str, RunState] = {}

    # --- the store ---------------------------------------------------------------------------------------------------------

    def admitted(self, run: str, records: list[bytes]) -> None:
        log = self.logs[run] = LogModel(run)
        self._folds[run] = RunState(run)
        for stored in records:
            self._read(log, stored)

    def appended(self, entry: AppendEntry, answer: Answer, before: int, records: list[bytes], lease_alive: bool) -> None:
        """One call of the store: `before` records were there, `records` are there now."""
        log = self.logs[entry.run_id]
        new = records[before:]
        if len(records) < before:
            raise Violation("append only", f"{entry.run_id}: an append took {before - len(records)} records away")
        if new:
            self._written(log, entry, new, lease_alive)
        stands = tuple(records[entry.index : entry.index + len(entry.records)]) == entry.records
        if answer.kind is AnswerKind.APPENDED and not stands:
            raise Violation("acknowledged means written", f"{entry.run_id}: records of {entry.token} are not in the log")
        is_last = entry.index + len(entry.records) == len(records)
        if answer.kind is not AnswerKind.APPENDED and stands and is_last and log.owner == entry.token:
            raise Violation("one answer per append", f"{entry.run_id}: a retry was refused as {answer.kind} and stands in the log")

    def _written(self, log: LogModel, entry: AppendEntry, new: list[bytes], lease_alive: bool) -> None:
        """Law 3: only the owner writes, at the end of the log, and whoever takes over does so with a new token."""
        if tuple(new) != entry.records or entry.index != log.count or entry.head != log.head:
            raise Violation("law 3: the hash chain", f"{log.run}: records were written at {log.count} that were meant for {entry.index}")
        if entry.claim is None and entry.token != log.owner:
            raise Violation("law 3: a stale owner changes nothing", f"{log.run}: {entry.token} wrote, {log.owner} owns it")
        if entry.claim is not None:
            if entry.claim != log.owner or lease_alive:
                raise Violation("law 3: claims", f"{log.run}: {entry.token} took over from {entry.claim}; {log.owner} owned it")
            if entry.token in log.tokens or entry.token.epoch <= max([0, *(token.epoch for token in log.tokens)]):
                raise Violation("law 3: new tokens", f"{log.run}: {entry.token} is not newer than {log.tokens}")
        for stored in new:
            self._read(log, stored)
        if log.head != entry.new_head:
            raise Violation("law 3: the hash chain", f"{log.run}: the head is not the hash over the stored records")
        if log.cancelled and log.finished is None:
            raise Violation("cancel ends a run", f"{log.run}: a cancellation was taken and the run goes on")

    def _read(self, log: LogModel, stored: bytes) -> None:
        state = self._folds[log.run]
        record = decode_record(stored)
        if log.count:
            for law in RECORD_LAWS:
                wrong = law(log, record, self.tally)
                if wrong is not None:
                    raise Violation(law.__name__, f"{log.run}[{log.count}]: {wrong}")
        log.take(record, stored)
        state.apply(record, stored)
        self.seen[type(record).__name__] += 1

    def lost_tail(self, run: str, records: list[bytes] | None) -> None:
        """A failover: the log may have lost its end, and leases their renewals. What owners do who cannot know it is forgiven."""
        old = self.logs.pop(run)
        if records is None:
            del self._folds[run]
            return
        self.admitted(run, [])
        for stored in records:
            self.logs[run].take(decode_record(stored), stored)
        self._folds[run] = fold(run, records)
        log = self.logs[run]
        log.rewinds, log.doubtful = old.rewinds, old.doubtful
        if len(records) < old.count:
            log.rewinds += 1
            log.doubtful = {*old.doubtful, *old.tokens}
        began = len(self.tally.executed(run))
        log.executions_forgiven = max(old.executions_forgiven, began - log.started) if log.rewinds else 0

    def decide(self, run: str, call: Callable[..., None], *args: object) -> None:
        """Let a machine decide. A record that its own fold refuses, or an exception of any kind, is a violation."""
        try:
            call(*args)
        except Exception as error:
            raise Violation("a machine decides what its fold accepts", f"{run}: {type(error).__name__}: {error}") from error

    # --- law 1 -------------------------------------------------------------------------------------------------------------

    def live(self, run: str, state: RunState) -> None:
        """Law 1: where the log has all that a machine decided, the machine's state is the fold of the log."""
        folded = self._folds.get(run)
        if folded is not None and folded.token == state.token and folded.index == state.index and folded != state:
            raise Violation("law 1: fold(log) is the live state", f"{run} at {state.index} records")

    # --- workers -----------------------------------------------------------------------------------------------------------

    def executing(self, new: Execution, excused: bool) -> None:
        """A worker begins. `excused` = its owner cannot know that it lost the run: its clock stood still."""
        log = self.logs.get(new.run)
        if log is None or log.owner != new.token or new.token in log.doubtful:
            if not excused and not self.failovers:
                raise Violation("law 3: a stale owner starts nothing", f"{new.run}: {new} while {log and log.owner} owns it")
            self.seen["stale execution"] += 1
            if log is not None:
                log.executions_forgiven += 1
            return
        for law in EXECUTION_LAWS:
            for wrong in law(log, new, self.tally):
                raise Violation(law.__name__, f"{new.run}: {wrong}")

    def asking_a_verifier(self, rests_until: float, now: float, run: str, command: Verify) -> None:
        """A verifier that named a time is not asked the same before it."""
        if now < rests_until - _CLOCK_SLACK_S:
            raise Violation("a verifier is left alone until the time that it named", f"{run}: {command} {rests_until - now:.1f} s early")

    # --- the breaker -------------------------------------------------------------------------------------------------------

    def granted(self, permit: Permit, now: float) -> None:
        """Never two live probes of one scope."""
        self.tally.permits[permit.number] = permit
        self._granted.setdefault((permit.attempt_id, permit.owner), set()).add(permit.number)
        if not permit.probe:
            return
        self.seen["probe"] += 1
        live = [
            one
            for one in self.tally.permits.values()
            if one.probe and one.scope == permit.scope and one.number != permit.number and now < one.expires_at_s
        ]
        if live:
            raise Violation("one half-open probe", f"{permit} is granted while {live[0]} lives")

    def settled(self, permit: Permit, outcome: str, run: str) -> None:
        """A permit comes back when its work is over, not before."""
        step, lineage, attempt = (int(part) for part in permit.attempt_id.split("/")[1:])
        # Of several permits for one attempt (the first answer was late) only one is worked under, and nobody outside knows which.
        if outcome == "released" and len(self._granted[permit.attempt_id, permit.owner]) == 1:
            for one in self.tally.executed(run):
                its_owner = f"{one.token.epoch}.{one.token.owner}" == permit.owner
                if one.running and its_owner and (one.step, one.lineage, one.attempt) == (step, lineage, attempt):
                    raise Violation("a permit is held while its attempt runs", f"{permit} was released")
        self.tally.permits.pop(permit.number, None)

    # --- the end -----------------------------------------------------------------------------------------------------------

    def at_end(self, run: str, records: list[bytes]) -> None:
        """The whole log once more, from its bytes."""
        state, log = fold(run, records), self.logs[run]
        committed = {step: (state.position(step), state.output_digest(step)) for step in range(state.plan.size) if state.is_committed(step)}
        if committed != {step: (commit.position, commit.output) for step, commit in log.commits.items()}:
            raise Violation("law 7: commits stay", f"{run}: the fold has {committed}, a plain reading {log.commits}")
        if state.head != log.head or state.index != len(records):
            raise Violation("law 3: the hash chain", f"{run}: the fold ends in another head")
