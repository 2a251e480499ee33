"""A shard's own picture of the cluster's breakers: leave given here while a scope is closed, reports for the breaker actor, its word.

A state machine without I/O: `breaker_client.py` carries what it wants sent. Times are the shard's own clock, in seconds.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from agentraft_ray.actors.breaker_messages import Answer, Ask, Asked, Listen, Report, Reported, ScopeOutcomes, ScopeWord, Settled, Shut
from agentraft_ray.actors.messages import decode, encode
from agentraft_ray.breaker import BreakerPolicy, BreakerState, Permit, ScopedBreakers, Standing
from agentraft_ray.protocol.messages import AcquirePermit, PermitDenied, PermitGranted

__all__ = ["Leave", "Pace", "ShardBreakers"]

_UNTOLD = 2**63  # the number of a report that is not made yet


class Leave(msgspec.Struct, frozen=True, gc=False):
    """Leave for one attempt to work in a closed scope, given by the shard itself. Its outcome counts only in `generation`."""

    scope: str
    generation: int
    attempt_id: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Pace:
    """How soon a shard tells and asks what."""

    report_s: float = 0.1  # successes alone wait this long for company
    poll_s: float = 1.0  # how often the actor is asked for news while a scope is open, or while leave is given
    poll_half_open_s: float = 0.5  # the same once a cooldown is over: closed again is what parked runs wait for
    retry_s: float = 1.0  # a run that meets a half-open scope comes back after 1 to 2 times this
    report_outcomes_max: int = 20_000  # in one report; what is over waits for the next one


class _Scope:
    """One scope as this shard sees it. `generation` is the actor's last word; leave of any other one is void.

    `open_until_s` is None while the scope is closed. `successes` are the latest, not yet folded into `outcomes`; more than a window of
    them in a row never matters. `tripped_in` = number of the report that tells why it was opened here: failures, or (`is_shut`)
    somebody's word. It is open for at most `open_s_max`.
    """

    __slots__ = (
        "ask_at_s", "generation", "is_dirty", "is_shut", "known_version", "open_s_max", "open_until_s", "outcomes", "successes",
        "tripped_in",
    )  # fmt: skip

    def __init__(self, generation: int, window: int) -> None:
        self.generation = generation
        self.open_until_s: float | None = None
        self.open_s_max = 0.0
        self.is_shut = False
        self.ask_at_s = 0.0
        self.successes: deque[Leave] = deque(maxlen=window)
        self.outcomes: deque[tuple[str, str, bool]] = deque(maxlen=4 * window)
        self.is_dirty = False
        self.known_version = 0
        self.tripped_in: int | None = None

    def forget_outcomes(self) -> None:
        self.successes.clear()
        self.outcomes.clear()


class ShardBreakers:
    """The breakers of one policy in one shard.

    `acquire` and `settle` are for the shard; the rest is for whoever carries the messages: at most one report is under way
    (`take_report`, then `reported`; a lost one is `report_in_flight`, to be sent again as it is), and at most one batch of questions.
    `wake` is called when something is to be sent earlier than `next_report_at` said last.
    """

    def __init__(self, policy: BreakerPolicy, client: str, wake: Callable[[], None], pace: Pace | None = None) -> None:
        self.policy = policy
        self.pace = pace or Pace()
        self.report_in_flight: bytes | None = None
        self.questions_in_flight: bytes | None = None
        self._client = client
        self._wake = wake
        self._policy_bytes = encode(policy)
        self._scopes: dict[str, _Scope] = {}
        self._open: set[str] = set()
        self._local = ScopedBreakers(policy)  # the same rules over what was seen here alone
        self._first_generation = self._local.first_generation
        self._incarnation, self._version = "", 0
        self._number = self._heard = 0  # of the last report sent, and of the last one that was answered
        self._dirty: dict[str, None] = {}
        self._dirty_since_s: float | None = None
        self._settled: list[Settled] = []
        self._shut: dict[str, float] = {}
        self._is_at_work = False  # whether leave was given since the last report: steps may be long, and what others saw cannot wait
        self._is_urgent = True  # the first report is a greeting: it brings all that the actor knows
        self._reported_at_s = 0.0
        self._asking: dict[str, tuple[AcquirePermit, str]] = {}
        self._asked: tuple[str, ...] = ()

    # --- the shard's side: every attempt comes through here ----------------------------------------------------------------

    def acquire(self, command: AcquirePermit, run_id: str, now_s: float) -> PermitGranted | PermitDenied | None:
        """Leave, or when to ask again; None if the actor must be asked, whose answer comes out of `answered` or `give_up`."""
        found = self._scopes.get(command.scope)
        if found is None:
            found = self._meet(command.scope)
        if found.open_until_s is None:
            if not self._is_at_work:
                self._is_at_work = True
                self._wake()
            return PermitGranted(command.call, Leave(command.scope, found.generation, command.attempt_id, run_id))
        if now_s >= self._open_until_s(found, now_s) and now_s >= found.ask_at_s and command.scope not in self._asking:
            self._asking[command.scope] = (command, run_id)
            self._wake()
            return None
        return self._denied(found, command, now_s)

    def settle(self, permit: object, outcome: str, now_s: float) -> None:
        """How the work under a permit ended: "success", "failure" or "released". What is void or unknown changes nothing."""
        if type(permit) is Leave:
            found = self._scopes.get(permit.scope)
            if found is None or found.generation != permit.generation:
                return
            if outcome == "success":
                found.successes.append(permit)
                if not found.is_dirty:
                    self._mark(permit.scope, found, now_s)
            elif outcome == "failure":
                self._fail(found, permit, now_s)
        elif isinstance(permit, Permit):
            self._settled.append(Settled(permit, outcome))  # type: ignore[arg-type]
            self._hurry()

    def shut(self, scope: str, for_s: float, now_s: float) -> None:
        """Somebody has said that nothing shall be sent for so long: the scope is open from now on, here and soon everywhere."""
        found = self._scopes.get(scope) or self._meet(scope)
        until_s = now_s + for_s
        if found.open_until_s is not None and found.open_until_s >= until_s:
            return
        found.open_until_s = found.ask_at_s = until_s
        found.open_s_max = for_s
        found.tripped_in, found.is_shut = _UNTOLD, True
        self._open.add(scope)
        self._shut[scope] = for_s
        if not found.is_dirty:
            self._mark(scope, found, now_s)
        self._hurry()

    def state(self, scope: str, now_s: float) -> BreakerState:
        """The state of a scope as this shard sees it."""
        found = self._scopes.get(scope)
        if found is None or found.open_until_s is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now_s < self._open_until_s(found, now_s) else BreakerState.HALF_OPEN

    # --- reports -----------------------------------------------------------------------------------------------------------

    def next_report_at(self, now_s: float) -> float | None:
        """When the next report is due; None while one is under way, or there is nothing to tell or to hear."""
        if self.report_in_flight is not None:
            return None
        if self._is_urgent:
            return now_s
        due = []
        if self._dirty_since_s is not None:
            due.append(self._dirty_since_s + self.pace.report_s)
        if self._open or self._is_at_work:
            trying = any(now_s >= self._open_until_s(self._scopes[scope], now_s) for scope in self._open)
            due.append(self._reported_at_s + (self.pace.poll_half_open_s if trying else self.pace.poll_s))
        return min(*due, now_s + self.pace.poll_s) if due else None  # a clock that went back delays nothing

    @property
    def has_news(self) -> bool:
        """Whether there is anything that the actor was not told."""
        return bool(self._dirty or self._settled or self._shut)

    def take_report(self, now_s: float) -> bytes:
        """The report that is due. It stays under way until `reported`."""
        self._number += 1
        scopes: list[ScopeOutcomes] = []
        room = self.pace.report_outcomes_max
        for scope in list(self._dirty):
            if room <= 0:
                break
            del self._dirty[scope]
            found = self._scopes[scope]
            found.is_dirty = False
            self._fold(scope, found, now_s)
            if found.tripped_in == _UNTOLD:
                found.tripped_in = self._number
            if found.outcomes:
                scopes.append(ScopeOutcomes(scope, found.generation, tuple(found.outcomes)))
                room -= len(found.outcomes)
                found.outcomes.clear()
        settled, self._settled = tuple(self._settled), []
        shut, self._shut = tuple(Shut(scope, for_s) for scope, for_s in self._shut.items()), {}
        self._is_urgent, self._is_at_work = bool(self._dirty), False
        self._dirty_since_s = now_s if self._dirty else None
        watched = tuple(sorted(self._open))
        known = self._incarnation, self._version
        report = Report(self._client, self._number, self._policy_bytes, *known, tuple(scopes), settled, watched, shut)
        self.report_in_flight = encode(report)
        return self.report_in_flight

    def reported(self, data: bytes, now_s: float) -> None:
        """The actor answered the report under way: its word holds, whatever was thought here."""
        self.report_in_flight = None
        self._heard = self._number
        self._reported_at_s = now_s
        self.told(data, now_s)

    def listen(self) -> bytes:
        """The question for news; `told` takes the answer."""
        return encode(Listen(self._policy_bytes, self._incarnation, self._version))

    def told(self, data: bytes, now_s: float) -> None:
        """Take the actor's word for what has changed."""
        reply: Reported = decode(data, Reported)
        if reply.incarnation != self._incarnation:  # versions begin anew with every life of the actor
            for found in self._scopes.values():
                found.known_version = 0
            self._version = 0
        self._incarnation, self._version = reply.incarnation, max(self._version, reply.version)
        self._first_generation = reply.first_generation
        for word in reply.words:
            self._adopt(word, reply.version, now_s)

    # --- questions ---------------------------------------------------------------------------------------------------------

    def take_questions(self) -> bytes | None:
        """The questions that wait; None while others are under way, or there is none."""
        if self.questions_in_flight is not None or not self._asking:
            return None
        self._asked = tuple(self._asking)
        asks = (
            Ask(scope, command.attempt_id, f"{command.call.token.epoch}.{command.call.token.owner}", run_id)
            for scope, (command, run_id) in self._asking.items()
        )
        self.questions_in_flight = encode(Asked(self._policy_bytes, tuple(asks)))
        return self.questions_in_flight

    def answered(self, data: bytes, now_s: float) -> list[PermitGranted | PermitDenied]:
        """The actor answered the questions under way; what the runs that asked are to be told."""
        reply: Answer = decode(data, Answer)
        version = reply.version if reply.incarnation == self._incarnation else 0
        events: list[PermitGranted | PermitDenied] = []
        for word, permit in reply.answers:
            command, run_id = self._asking.pop(word.scope)
            found = self._adopt(word, version, now_s) or self._meet(word.scope)
            if permit is not None:
                events.append(PermitGranted(command.call, permit))
            elif found.open_until_s is None:
                events.append(PermitGranted(command.call, Leave(word.scope, found.generation, command.attempt_id, run_id)))
            else:
                events.append(self._denied(found, command, now_s))
        self.questions_in_flight, self._asked = None, ()
        return events

    def give_up(self, now_s: float) -> list[PermitGranted | PermitDenied]:
        """The actor cannot be asked: the runs whose questions are under way shall ask again."""
        events: list[PermitGranted | PermitDenied] = []
        for scope in self._asked:
            command, _ = self._asking.pop(scope)
            found = self._scopes.get(scope) or self._meet(scope)
            found.ask_at_s = max(found.ask_at_s, now_s + self.pace.retry_s)
            events.append(PermitDenied(command.call, scope, self._soon_s(command, now_s)))
        self.questions_in_flight, self._asked = None, ()
        return events

    # --- inside ------------------------------------------------------------------------------------------------------------

    def _denied(self, found: _Scope, command: AcquirePermit, now_s: float) -> PermitDenied:
        """Until the cooldown is over; after it, whoever is not the probe comes back soon, for the scope may close at any moment."""
        until_s = self._open_until_s(found, now_s)
        return PermitDenied(command.call, command.scope, until_s if now_s < until_s else self._soon_s(command, now_s))

    def _soon_s(self, command: AcquirePermit, now_s: float) -> float:
        """Spread out by a hash of the attempt's id, so that parked runs do not all come back in one moment."""
        return now_s + self.pace.retry_s * (1.0 + zlib.crc32(command.attempt_id.encode()) / 2**32)

    def _open_until_s(self, found: _Scope, now_s: float) -> float:
        if found.open_until_s is None:
            return now_s
        longest_s = max(self.policy.cooldown_s, found.open_s_max)
        if found.open_until_s > now_s + longest_s:  # the clock went back
            found.open_until_s = found.ask_at_s = now_s + longest_s
        return found.open_until_s

    def _fail(self, found: _Scope, leave: Leave, now_s: float) -> None:
        self._fold(leave.scope, found, now_s)
        found.outcomes.append((leave.attempt_id, leave.run_id, True))
        if not found.is_dirty:
            self._mark(leave.scope, found, now_s)
        if found.open_until_s is None:
            moved = self._local.observe(leave.scope, found.generation, leave.attempt_id, leave.run_id, True, now_s)
            if moved is BreakerState.OPEN:
                found.open_until_s = found.ask_at_s = now_s + self.policy.cooldown_s
                found.tripped_in, found.is_shut = _UNTOLD, False
                self._open.add(leave.scope)
        self._hurry()

    def _fold(self, scope: str, found: _Scope, now_s: float) -> None:
        """Put the latest successes where they belong in the order of outcomes."""
        if found.open_until_s is None:  # nothing happens here unless the local breaker has forgotten the scope
            self._local.adopt(scope, Standing(found.generation, BreakerState.CLOSED, now_s), now_s)
            for leave in found.successes:
                self._local.observe(scope, found.generation, leave.attempt_id, leave.run_id, False, now_s)
        found.outcomes.extend((leave.attempt_id, leave.run_id, False) for leave in found.successes)
        found.successes.clear()

    def _adopt(self, word: ScopeWord, version: int, now_s: float) -> _Scope | None:
        """Take the actor's word, unless it is older than the last one or from before it heard why the scope was opened here."""
        is_closed = word.state is BreakerState.CLOSED
        found = self._scopes.get(word.scope)
        if found is None:
            if is_closed and word.generation == self._first_generation:
                return None
            found = self._meet(word.scope)
        if version and version < found.known_version:
            return found
        found.known_version = version
        is_untold = found.tripped_in is not None and found.tripped_in > self._heard
        if word.generation != found.generation:
            found.forget_outcomes()
            is_untold = is_untold and found.is_shut  # failures of another generation count no more
        found.generation = word.generation
        if is_untold and (is_closed or (found.is_shut and (found.open_until_s or 0.0) > now_s + word.retry_in_s)):
            return found
        found.tripped_in = None
        if is_closed:
            found.open_until_s = None
            self._open.discard(word.scope)
            self._local.adopt(word.scope, Standing(word.generation, BreakerState.CLOSED, now_s), now_s)
            return found
        found.ask_at_s = now_s + word.retry_in_s
        found.open_until_s = found.ask_at_s if word.state is BreakerState.OPEN else now_s
        found.open_s_max = word.retry_in_s
        self._open.add(word.scope)
        return found

    def _meet(self, scope: str) -> _Scope:
        if len(self._scopes) >= self.policy.scopes_max:
            quiet = (name for name, found in self._scopes.items() if found.open_until_s is None and not found.is_dirty)
            gone = next(quiet, next(iter(self._scopes)))
            del self._scopes[gone]
            self._dirty.pop(gone, None)
            self._open.discard(gone)
        made = self._scopes[scope] = _Scope(self._first_generation, self.policy.window)
        return made

    def _mark(self, scope: str, found: _Scope, now_s: float) -> None:
        found.is_dirty = True
        self._dirty[scope] = None
        if self._dirty_since_s is None:
            self._dirty_since_s = now_s
            self._wake()

    def _hurry(self) -> None:
        if not self._is_urgent:
            self._is_urgent = True
            self._wake()
