"""Breakers by scope that many runs share: a pure state machine. Time comes in as an argument; nothing is random, nothing waits.

So the in-process runtime, the simulator and an actor can host it alike, and a restarted host goes on from a snapshot.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from agentraft_ray.breaker.plain import BreakerState
from agentraft_ray.errors import InvalidConfig

__all__ = ["BreakerPolicy", "Denied", "Outcome", "Permit", "ScopedBreakers"]

Outcome = Literal["success", "failure", "released"]
_SNAPSHOT_VERSION = 1


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a scope opens, for how long, and how long a permit is waited for.

    A scope opens when either holds, counting only failures that come from at least `runs_min` different runs:

    - `failure_threshold` failures in a row (the seed's rule for a cascade);
    - `failure_share` of the last `window` outcomes failed, of which there are at least `samples_min`, so that a success now and
      then does not hide a cascade. Both numbers follow from the threshold (8 and 4 times), so that raising the one relaxes the
      other; with the defaults that is half of the last 20 to 40 outcomes.

    One run alone, however often it fails, opens nothing unless `runs_min=1`.
    """

    failure_threshold: int = 5
    cooldown_s: float = 30.0
    runs_min: int = 3
    failure_share: float = 0.5
    permit_ttl_s: float = 3600.0  # longer than a step may sensibly take; only bounds what lost permits occupy
    probe_ttl_s: float = 60.0  # doubled for every probe lost in a row, so that a step slower than this is heard in the end
    scopes_max: int = 10_000  # the oldest closed scope is forgotten for a new one
    counted_max: int = 10_000  # attempts remembered so that none counts twice

    def __post_init__(self) -> None:
        least = {"failure_threshold": 1, "runs_min": 1, "scopes_max": 1, "counted_max": 1, "cooldown_s": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InvalidConfig(f"breaker policy: {name}={getattr(self, name)} must be at least {low}")
        if not 0 < self.failure_share <= 1:
            raise InvalidConfig(f"breaker policy: failure_share={self.failure_share} must be over 0 and at most 1")
        if not 0 < self.probe_ttl_s <= self.permit_ttl_s:
            raise InvalidConfig(f"breaker policy: need 0 < probe_ttl_s <= permit_ttl_s, not {self.probe_ttl_s} and {self.permit_ttl_s}")

    @property
    def window(self) -> int:
        """How many outcomes the failure share looks back over."""
        return 8 * self.failure_threshold

    @property
    def samples_min(self) -> int:
        """How many outcomes there must be before the failure share means anything."""
        return 4 * self.failure_threshold


class Permit(msgspec.Struct, frozen=True, gc=False):
    """Leave for one attempt to work in a scope. Every permit is unique by its `number`; generations are never used twice.

    The outcome counts only before `expires_at_s` (the time that the host passes in) and only while the scope is in `generation`.
    """

    scope: str
    generation: int
    attempt_id: str
    owner: str
    expires_at_s: float
    probe: bool
    number: int


class Denied(msgspec.Struct, frozen=True, gc=False):
    """No permit now; asking again before `retry_at_s` is pointless."""

    scope: str
    retry_at_s: float


@dataclass(slots=True)
class _Window:
    """The outcomes of a closed scope that may open it: the failures in a row, and the last `window` outcomes."""

    in_a_row: int = 0
    runs_in_a_row: set[str] = field(default_factory=set)  # never more than runs_min
    outcomes: deque[tuple[str, bool]] = field(default_factory=deque)  # (run, failed), oldest first
    failures_by_run: Counter[str] = field(default_factory=Counter)

    def add(self, run_id: str, failed: bool, policy: BreakerPolicy) -> None:
        self.outcomes.append((run_id, failed))
        if failed:
            self.in_a_row += 1
            if len(self.runs_in_a_row) < policy.runs_min:
                self.runs_in_a_row.add(run_id)
            self.failures_by_run[run_id] += 1
        elif self.in_a_row:
            self.in_a_row = 0
            self.runs_in_a_row.clear()
        if len(self.outcomes) > policy.window:
            self._forget_oldest()

    def is_cascade(self, policy: BreakerPolicy) -> bool:
        if self.in_a_row >= policy.failure_threshold and len(self.runs_in_a_row) >= policy.runs_min:
            return True
        samples = len(self.outcomes)
        if samples < policy.samples_min or len(self.failures_by_run) < policy.runs_min:
            return False
        return self.failures_by_run.total() >= policy.failure_share * samples

    def _forget_oldest(self) -> None:
        run_id, failed = self.outcomes.popleft()
        if failed:
            self.failures_by_run[run_id] -= 1
            if not self.failures_by_run[run_id]:
                del self.failures_by_run[run_id]


@dataclass(slots=True)
class _Scope:
    """One scope. `tripped_at_s` is None while it is closed; open and half-open differ only by the time that has passed."""

    generation: int
    tripped_at_s: float | None = None
    probe: Permit | None = None
    probes_lost: int = 0
    granted: dict[str, tuple[Permit, str]] = field(default_factory=dict)  # attempt -> (permit, run), oldest first; closed only
    window: _Window = field(default_factory=_Window)


class ScopedBreakers:
    """Breakers by scope, shared by many runs: permits out, outcomes in, nothing else changes them.

    `now_s` is any clock that all callers of one instance share (the server's, say); a clock that went back delays nothing by more
    than one cooldown. One instance has one policy; a host that wants another policy for another kind of scope holds another one.
    """

    def __init__(self, policy: BreakerPolicy | None = None) -> None:
        self.policy = policy or BreakerPolicy()
        self._scopes: dict[str, _Scope] = {}
        self._generations = 0
        self._permits = 0
        self._counted: set[tuple[int, str]] = set()
        self._counted_in_order: deque[tuple[int, str]] = deque()

    def state(self, scope: str, now_s: float) -> BreakerState:
        """The state of a scope; CLOSED for one that was never heard of."""
        found = self._scopes.get(scope)
        if found is None or found.tripped_at_s is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now_s < found.tripped_at_s + self.policy.cooldown_s else BreakerState.HALF_OPEN

    def acquire(self, scope: str, attempt_id: str, owner: str, run_id: str, now_s: float) -> Permit | Denied:
        """Leave for `attempt_id` to work, or when to ask again.

        Closed: always granted. Open: denied. Half-open: one probe at a time. Asking again for an attempt whose permit still
        stands gives the same owner the same permit; in a closed scope a new owner of the attempt gets a new one, the old is void.
        """
        found = self._scopes.get(scope) or self._open_scope(scope)
        if found.tripped_at_s is not None:
            # A clock that went back starts the cooldown anew, or the scope would stay open until time has caught up.
            found.tripped_at_s = min(found.tripped_at_s, now_s)
            retry_at_s = found.tripped_at_s + self.policy.cooldown_s
            if now_s < retry_at_s:
                return Denied(scope, retry_at_s)
            return self._acquire_probe(found, scope, attempt_id, owner, now_s)
        self._drop_expired(found, now_s)
        known = found.granted.pop(attempt_id, None)
        if known is not None and known[0].owner == owner:
            found.granted[attempt_id] = known
            return known[0]
        permit = self._issue(found, scope, attempt_id, owner, now_s + self.policy.permit_ttl_s, probe=False)
        found.granted[attempt_id] = (permit, run_id)
        return permit

    def settle(self, permit: Permit, outcome: Outcome, now_s: float) -> BreakerState | None:
        """Report how the work under `permit` ended; "released" frees it and counts nothing.

        Returns OPEN or CLOSED if this outcome moved the scope there, else None. A permit that is expired, void, of an earlier
        generation, or settled before changes nothing; in one generation an attempt counts once, however many permits it had.
        """
        found = self._scopes.get(permit.scope)
        if found is None or found.generation != permit.generation:
            return None
        if found.tripped_at_s is not None:
            return self._settle_probe(found, permit, outcome, now_s)
        known = found.granted.get(permit.attempt_id)
        if known is None or known[0] != permit:
            return None
        del found.granted[permit.attempt_id]
        if outcome == "released" or now_s >= permit.expires_at_s or not self._counts(permit):
            return None
        found.window.add(known[1], outcome == "failure", self.policy)
        if outcome == "success" or not found.window.is_cascade(self.policy):
            return None
        return self._trip(permit.scope, now_s)

    def snapshot(self) -> dict[str, Any]:
        """All state as plain data (JSON or msgpack), for `restore`. The policy is not in it."""
        return {
            "version": _SNAPSHOT_VERSION,
            "generations": self._generations,
            "permits": self._permits,
            "counted": [list(one) for one in self._counted_in_order],
            "scopes": {name: _scope_to_plain(found) for name, found in self._scopes.items()},
        }

    def restore(self, data: dict[str, Any]) -> None:
        """Replace all state by that of a `snapshot`. Raises InvalidConfig for another version of it."""
        if data.get("version") != _SNAPSHOT_VERSION:
            raise InvalidConfig(f"breaker snapshot of version {data.get('version')!r}; this release reads {_SNAPSHOT_VERSION}")
        self._generations = data["generations"]
        self._permits = data["permits"]
        self._counted_in_order = deque((generation, attempt_id) for generation, attempt_id in data["counted"])
        self._counted = set(self._counted_in_order)
        self._scopes = {name: _scope_from_plain(plain) for name, plain in data["scopes"].items()}

    def _acquire_probe(self, found: _Scope, scope: str, attempt_id: str, owner: str, now_s: float) -> Permit | Denied:
        if found.probe is not None:
            # A probe that expires later than it could is from before the clock went back: lost as well.
            if now_s < found.probe.expires_at_s <= now_s + self._probe_ttl_s(found):
                same = (found.probe.attempt_id, found.probe.owner) == (attempt_id, owner)
                return found.probe if same else Denied(scope, found.probe.expires_at_s)
            found.probes_lost += 1
        found.generation = self._next_generation()
        expires_at_s = now_s + self._probe_ttl_s(found)
        found.probe = self._issue(found, scope, attempt_id, owner, expires_at_s, probe=True)
        return found.probe

    def _settle_probe(self, found: _Scope, permit: Permit, outcome: Outcome, now_s: float) -> BreakerState | None:
        if found.probe != permit or now_s >= permit.expires_at_s:
            return None
        found.probe = None
        if outcome == "released":
            return None
        if outcome == "failure":
            return self._trip(permit.scope, now_s)
        self._scopes[permit.scope] = _Scope(self._next_generation())
        return BreakerState.CLOSED

    def _trip(self, scope: str, now_s: float) -> BreakerState:
        self._scopes[scope] = _Scope(self._next_generation(), tripped_at_s=now_s)
        return BreakerState.OPEN

    def _counts(self, permit: Permit) -> bool:
        key = (permit.generation, permit.attempt_id)
        if key in self._counted:
            return False
        self._counted.add(key)
        self._counted_in_order.append(key)
        if len(self._counted_in_order) > self.policy.counted_max:
            self._counted.discard(self._counted_in_order.popleft())
        return True

    def _open_scope(self, scope: str) -> _Scope:
        if len(self._scopes) >= self.policy.scopes_max:
            closed = (name for name, found in self._scopes.items() if found.tripped_at_s is None)
            del self._scopes[next(closed, next(iter(self._scopes)))]
        made = self._scopes[scope] = _Scope(self._next_generation())
        return made

    def _issue(self, found: _Scope, scope: str, attempt_id: str, owner: str, expires_at_s: float, *, probe: bool) -> Permit:
        self._permits += 1
        return Permit(scope, found.generation, attempt_id, owner, expires_at_s, probe, self._permits)

    def _drop_expired(self, found: _Scope, now_s: float) -> None:
        # All permits of a closed scope live equally long, so the oldest expire first.
        while found.granted:
            attempt_id = next(iter(found.granted))
            if now_s < found.granted[attempt_id][0].expires_at_s:
                return
            del found.granted[attempt_id]

    def _probe_ttl_s(self, found: _Scope) -> float:
        return min(self.policy.permit_ttl_s, self.policy.probe_ttl_s * 2.0 ** min(found.probes_lost, 30))

    def _next_generation(self) -> int:
        self._generations += 1
        return self._generations


def _scope_to_plain(found: _Scope) -> dict[str, Any]:
    return {
        "generation": found.generation,
        "tripped_at_s": found.tripped_at_s,
        "probe": None if found.probe is None else msgspec.to_builtins(found.probe),
        "probes_lost": found.probes_lost,
        "granted": [[msgspec.to_builtins(permit), run_id] for permit, run_id in found.granted.values()],
        "in_a_row": found.window.in_a_row,
        "runs_in_a_row": sorted(found.window.runs_in_a_row),
        "outcomes": [list(one) for one in found.window.outcomes],
    }


def _scope_from_plain(plain: dict[str, Any]) -> _Scope:
    outcomes = deque((run_id, failed) for run_id, failed in plain["outcomes"])
    granted = [(msgspec.convert(permit, Permit), run_id) for permit, run_id in plain["granted"]]
    return _Scope(
        generation=plain["generation"],
        tripped_at_s=plain["tripped_at_s"],
        probe=None if plain["probe"] is None else msgspec.convert(plain["probe"], Permit),
        probes_lost=plain["probes_lost"],
        granted={permit.attempt_id: (permit, run_id) for permit, run_id in granted},
        window=_Window(
            in_a_row=plain["in_a_row"],
            runs_in_a_row=set(plain["runs_in_a_row"]),
            outcomes=outcomes,
            failures_by_run=Counter(run_id for run_id, failed in outcomes if failed),
        ),
    )
