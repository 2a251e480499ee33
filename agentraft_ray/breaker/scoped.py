"""Breakers by scope that many runs share: a pure state machine. Time comes in as an argument; nothing is random, nothing waits.

So the in-process runtime, the simulator and an actor can host it alike, and a restarted host goes on from a snapshot.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agentraft_ray.breaker.plain import BreakerState
from agentraft_ray.breaker.policy import BreakerPolicy, Denied, Outcome, Permit, Standing
from agentraft_ray.breaker.window import Window
from agentraft_ray.errors import InvalidConfig

__all__ = ["ScopedBreakers"]

_SNAPSHOT_VERSION = 2
_Counted = tuple[str, int, str]  # scope, generation, attempt


@dataclass(slots=True)
class _Scope:
    """One scope. `tripped_at_s` is None while it is closed; open and half-open differ only by the time that has passed.

    `open_s` = for how long it is open where that is not the policy's cooldown.
    """

    generation: int
    tripped_at_s: float | None = None
    probe: Permit | None = None
    probes_lost: int = 0
    granted: dict[str, tuple[Permit, str]] = field(default_factory=dict)  # attempt -> (permit, run), oldest first; closed only
    window: Window = field(default_factory=Window)
    open_s: float | None = None


class ScopedBreakers:
    """Breakers by scope, shared by many runs: permits out, outcomes in, nothing else changes them.

    `now_s` is any clock that all callers of one instance share (the server's, say); a clock that went back delays nothing by more
    than one cooldown. One instance has one policy; a host that wants another policy for another kind of scope holds another one.

    A scope that nothing is known of is closed in `first_generation`. That number changes whenever a scope is forgotten, so that what
    began before cannot count in a later life of the scope. `after_generation`: no generation will be lower; a host whose snapshot is
    out of reach passes a number that no earlier life can have come to.
    """

    def __init__(self, policy: BreakerPolicy | None = None, *, after_generation: int = 0) -> None:
        self.policy = policy or BreakerPolicy()
        self._scopes: dict[str, _Scope] = {}
        self._generations = after_generation
        self._first_generation = after_generation
        self._permits = 0
        self._counted: set[_Counted] = set()
        self._counted_in_order: deque[_Counted] = deque()

    @property
    def generations(self) -> int:
        """The highest generation used so far."""
        return self._generations

    @property
    def first_generation(self) -> int:
        """The generation of a closed scope that nothing is known of."""
        return self._first_generation

    def state(self, scope: str, now_s: float) -> BreakerState:
        """The state of a scope; CLOSED for one that was never heard of."""
        found = self._scopes.get(scope)
        if found is None or found.tripped_at_s is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now_s < found.tripped_at_s + self._open_s(found) else BreakerState.HALF_OPEN

    def acquire(self, scope: str, attempt_id: str, owner: str, run_id: str, now_s: float) -> Permit | Denied:
        """Leave for `attempt_id` to work, or when to ask again.

        Closed: always granted. Open: denied. Half-open: one probe at a time. Asking again for an attempt whose permit still
        stands gives the same owner the same permit; in a closed scope a new owner of the attempt gets a new one, the old is void.
        """
        found = self._scopes.get(scope) or self._open_scope(scope)
        if found.tripped_at_s is not None:
            # A clock that went back starts the cooldown anew, or the scope would stay open until time has caught up.
            found.tripped_at_s = min(found.tripped_at_s, now_s)
            retry_at_s = found.tripped_at_s + self._open_s(found)
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
        if outcome == "released" or now_s >= permit.expires_at_s:
            return None
        return self._count(found, permit.scope, permit.attempt_id, known[1], outcome == "failure", now_s)

    def observe(self, scope: str, generation: int, attempt_id: str, run_id: str, failed: bool, now_s: float) -> BreakerState | None:
        """Count an outcome under a closed scope for which another host gave leave, by what `standing` said; no permit was issued.

        Returns OPEN if it opened the scope, else None. It counts once per attempt and only while the scope is closed in `generation`.
        """
        found = self._scopes.get(scope)
        if found is None and generation == self._first_generation:
            found = self._open_scope(scope)
        if found is None or found.generation != generation or found.tripped_at_s is not None:
            return None
        return self._count(found, scope, attempt_id, run_id, failed, now_s)

    def shut(self, scope: str, for_s: float, now_s: float) -> None:
        """Open a scope for `for_s` seconds, whatever its outcomes were: somebody has said that it takes so long.

        One that stays open for longer anyway stays as it is.
        """
        found = self._scopes.get(scope)
        if found is None:
            self._make_room()
        elif found.tripped_at_s is not None and min(found.tripped_at_s, now_s) + self._open_s(found) >= now_s + for_s:
            return
        self._scopes[scope] = _Scope(self._next_generation(), tripped_at_s=now_s, open_s=for_s)

    def standing(self, scope: str, now_s: float) -> Standing:
        """How a scope stands, for a host elsewhere that gives leave in its stead while it is closed."""
        found = self._scopes.get(scope)
        if found is None:
            return Standing(self._first_generation, BreakerState.CLOSED, now_s)
        if found.tripped_at_s is None:
            return Standing(found.generation, BreakerState.CLOSED, now_s)
        retry_at_s = min(found.tripped_at_s, now_s) + self._open_s(found)
        if now_s < retry_at_s:
            return Standing(found.generation, BreakerState.OPEN, retry_at_s)
        if found.probe is not None and self._is_awaited(found, found.probe, now_s):
            retry_at_s = found.probe.expires_at_s
        return Standing(found.generation, BreakerState.HALF_OPEN, max(retry_at_s, now_s))

    def standings(self, now_s: float) -> dict[str, tuple[Standing, int, int]]:
        """Every scope that is remembered: how it stands, and how many of its last outcomes failed, of how many."""
        windows = {scope: found.window for scope, found in self._scopes.items()}
        return {
            scope: (self.standing(scope, now_s), window.failures_by_run.total(), len(window.outcomes)) for scope, window in windows.items()
        }

    def adopt(self, scope: str, standing: Standing, now_s: float) -> None:
        """Take another host's word for how a scope stands. A scope that was closed in that generation already keeps its window."""
        self._generations = max(self._generations, standing.generation)
        found = self._scopes.get(scope)
        tripped_at_s = open_s = None
        if standing.state is not BreakerState.CLOSED:
            tripped_at_s, open_s = now_s, max(0.0, standing.retry_at_s - now_s) if standing.state is BreakerState.OPEN else 0.0
        elif found is not None and found.generation == standing.generation and found.tripped_at_s is None:
            return
        if found is None:
            self._make_room()
        self._scopes[scope] = _Scope(standing.generation, tripped_at_s, open_s=open_s)

    def snapshot(self) -> dict[str, Any]:
        """All state as plain data (JSON or msgpack), for `restore`. The policy is not in it."""
        return {
            "version": _SNAPSHOT_VERSION,
            "generations": self._generations,
            "first_generation": self._first_generation,
            "permits": self._permits,
            "counted": [list(one) for one in self._counted_in_order],
            "scopes": {name: _scope_to_plain(found) for name, found in self._scopes.items()},
        }

    def restore(self, data: dict[str, Any]) -> None:
        """Replace all state by that of a `snapshot`. Raises InvalidConfig for another version of it."""
        if data.get("version") != _SNAPSHOT_VERSION:
            raise InvalidConfig(f"breaker snapshot of version {data.get('version')!r}; this release reads {_SNAPSHOT_VERSION}")
        self._generations = data["generations"]
        self._first_generation = data["first_generation"]
        self._permits = data["permits"]
        self._counted_in_order = deque((scope, generation, attempt_id) for scope, generation, attempt_id in data["counted"])
        self._counted = set(self._counted_in_order)
        self._scopes = {name: _scope_from_plain(plain) for name, plain in data["scopes"].items()}

    def recall(self, data: dict[str, Any]) -> None:
        """Add what a `snapshot` of an earlier life knows, found only now. Scopes that have opened in this life stay as they are."""
        earlier = ScopedBreakers(self.policy)
        earlier.restore(data)
        for name, found in earlier._scopes.items():
            mine = self._scopes.get(name)
            if mine is None or (mine.tripped_at_s is None and mine.generation == self._first_generation):
                self._scopes[name] = found
        self._generations = max(self._generations, earlier._generations)
        self._permits = max(self._permits, earlier._permits)

    def _count(self, found: _Scope, scope: str, attempt_id: str, run_id: str, failed: bool, now_s: float) -> BreakerState | None:
        if not self._is_new((scope, found.generation, attempt_id)):
            return None
        found.window.add(run_id, failed, self.policy)
        if not failed or not found.window.is_cascade(self.policy):
            return None
        return self._trip(scope, now_s)

    def _acquire_probe(self, found: _Scope, scope: str, attempt_id: str, owner: str, now_s: float) -> Permit | Denied:
        if found.probe is not None:
            if self._is_awaited(found, found.probe, now_s):
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

    def _is_new(self, key: _Counted) -> bool:
        if key in self._counted:
            return False
        self._counted.add(key)
        self._counted_in_order.append(key)
        if len(self._counted_in_order) > self.policy.counted_max:
            self._counted.discard(self._counted_in_order.popleft())
        return True

    def _open_scope(self, scope: str) -> _Scope:
        self._make_room()
        made = self._scopes[scope] = _Scope(self._first_generation)
        return made

    def _make_room(self) -> None:
        if len(self._scopes) < self.policy.scopes_max:
            return
        closed = (name for name, found in self._scopes.items() if found.tripped_at_s is None)
        del self._scopes[next(closed, next(iter(self._scopes)))]
        self._first_generation = self._next_generation()

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

    def _open_s(self, found: _Scope) -> float:
        return self.policy.cooldown_s if found.open_s is None else found.open_s

    def _probe_ttl_s(self, found: _Scope) -> float:
        return min(self.policy.permit_ttl_s, self.policy.probe_ttl_s * 2.0 ** min(found.probes_lost, 30))

    def _is_awaited(self, found: _Scope, probe: Permit, now_s: float) -> bool:
        # A probe that expires later than it could is from before the clock went back: lost as well.
        return now_s < probe.expires_at_s <= now_s + self._probe_ttl_s(found)

    def _next_generation(self) -> int:
        self._generations += 1
        return self._generations


def _scope_to_plain(found: _Scope) -> dict[str, Any]:
    return {
        "generation": found.generation,
        "tripped_at_s": found.tripped_at_s,
        "open_s": found.open_s,
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
        open_s=plain.get("open_s"),  # releases before 0.2 wrote none
        probe=None if plain["probe"] is None else msgspec.convert(plain["probe"], Permit),
        probes_lost=plain["probes_lost"],
        granted={permit.attempt_id: (permit, run_id) for permit, run_id in granted},
        window=Window(
            in_a_row=plain["in_a_row"],
            runs_in_a_row=set(plain["runs_in_a_row"]),
            outcomes=outcomes,
            failures_by_run=Counter(run_id for run_id, failed in outcomes if failed),
        ),
    )
