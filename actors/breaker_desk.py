"""The cluster's breakers of one policy, as the breaker actor keeps them: who changed when, and which reports were heard. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from agentraft_ray.actors.breaker_messages import Ask, Report, ScopeWord
from agentraft_ray.breaker import BreakerPolicy, BreakerState, Permit, ScopedBreakers

__all__ = ["Desk"]


class Desk:
    """All scopes of one policy. `version` grows with every change of a scope; `news_since` tells what changed after a version.

    Versions mean something only within one life of the actor, so they are not in the snapshot.
    """

    def __init__(self, policy: BreakerPolicy, clients_max: int, after_generation: int) -> None:
        self.version = 0
        self.open: set[str] = set()  # open or half-open
        self._breakers = ScopedBreakers(policy, after_generation=after_generation)
        self._clients_max = clients_max
        self._heard: OrderedDict[str, int] = OrderedDict()  # shard -> number of its last report
        self._changed: OrderedDict[str, int] = OrderedDict()  # scope -> version of its last change, oldest first

    @property
    def generations(self) -> int:
        """No generation given out so far is higher."""
        return self._breakers.generations

    @property
    def first_generation(self) -> int:
        """The generation of a closed scope of which nothing is known."""
        return self._breakers.first_generation

    def hear(self, report: Report, now_s: float) -> bool:
        """Count what a report tells; whether it was new. One that came before changes nothing."""
        if report.number <= self._heard.get(report.client, 0):
            return False
        self._heard[report.client] = report.number
        self._heard.move_to_end(report.client)
        if len(self._heard) > self._clients_max:
            self._heard.popitem(last=False)
        first = self.first_generation
        for seen in report.scopes:
            for attempt_id, run_id, failed in seen.outcomes:
                if self._breakers.observe(seen.scope, seen.generation, attempt_id, run_id, failed, now_s) is not None:
                    self._note(seen.scope, now_s)
        for settled in report.settled:
            self._breakers.settle(settled.permit, settled.outcome, now_s)
            self._note(settled.permit.scope, now_s)
        for one in report.shut:
            self._breakers.shut(one.scope, one.for_s, now_s)
            self._note(one.scope, now_s)
        if first != self.first_generation:
            self.version += 1  # a scope was forgotten: the snapshot must say so before anybody hears of the new number
        return True

    def ask(self, ask: Ask, now_s: float) -> Permit | None:
        """The permit, if this attempt is the probe of a half-open scope."""
        before = self._breakers.standing(ask.scope, now_s)
        if before.state is not BreakerState.HALF_OPEN:
            return None
        answer = self._breakers.acquire(ask.scope, ask.attempt_id, ask.owner, ask.run_id, now_s)
        if not isinstance(answer, Permit):
            return None
        if answer.generation != before.generation:
            self._note(ask.scope, now_s)
        return answer

    def word(self, scope: str, now_s: float) -> ScopeWord:
        """How a scope stands."""
        standing = self._breakers.standing(scope, now_s)
        return ScopeWord(scope, standing.generation, standing.state, max(0.0, standing.retry_at_s - now_s))

    def news_since(self, version: int) -> list[str]:
        """The scopes that changed after `version`."""
        found = []
        for scope, changed_at in reversed(self._changed.items()):
            if changed_at <= version:
                break
            found.append(scope)
        return found

    def snapshot(self, *, lean: bool = False) -> dict[str, Any]:
        """All memory as plain data; a lean one has no outcomes and only the scopes that have opened at some time."""
        plain = self._breakers.snapshot()
        if lean:
            opened = {name: one for name, one in plain["scopes"].items() if one["generation"] != plain["first_generation"]}
            for one in opened.values():
                one.update(in_a_row=0, runs_in_a_row=[], outcomes=[])
            plain.update(counted=[], scopes=opened)
        return {"breakers": plain, "heard": dict(self._heard)}

    def restore(self, data: dict[str, Any], now_s: float) -> None:
        """Go on from the snapshot of an earlier life; what this life has seen meanwhile stays. Raises InvalidConfig, KeyError."""
        if self.version or self._heard:
            self._breakers.recall(data["breakers"])
        else:
            self._breakers.restore(data["breakers"])
        for client, number in data["heard"].items():
            self._heard[client] = max(number, self._heard.get(client, 0))
        for scope in data["breakers"]["scopes"]:
            self._note(scope, now_s)

    def _note(self, scope: str, now_s: float) -> None:
        self.version += 1
        self._changed[scope] = self.version
        self._changed.move_to_end(scope)
        if len(self._changed) > self._breakers.policy.scopes_max:
            self._changed.popitem(last=False)
        if self._breakers.standing(scope, now_s).state is BreakerState.CLOSED:
            self.open.discard(scope)
        else:
            self.open.add(scope)
