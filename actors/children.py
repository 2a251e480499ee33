"""What the supervisor decides about one child: a pure function of what is known, what was seen, and the time. After OTP's supervisor.erl.

No Ray, no clock, no waiting. `supervisor.py` looks, asks here, and does what is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agentraft_ray.actors.messages import Pong
from agentraft_ray.errors import InvalidConfig

__all__ = ["Child", "ChildSpec", "Create", "Decision", "Drain", "Kill", "RestartLedger", "Seen", "decide"]


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One actor to keep alive. Children are started by `order` from low to high and stopped the other way round.

    More than `restarts_max` restarts in `period_s` are a crash loop: the child is stopped, and made anew after a back-off that
    doubles from `back_off_s` to `back_off_max_s`. Ray restarts without a back-off (45 times in 25 s were seen), hence the limits.
    """

    name: str
    role: str
    order: int = 0
    restarts_max: int = 5
    period_s: float = 60.0
    start_s: float = 120.0  # until the first pong of a new process: imports take their time, models more
    hung_s: float = 20.0  # without a pong, or with a work loop that late: it hangs
    back_off_s: float = 5.0
    back_off_max_s: float = 300.0
    overdue_threads_max: int | None = None  # more threads than this that nobody waits for any more: it is replaced
    drain_s: float = 60.0  # how long a child that is replaced may finish what it has

    def __post_init__(self) -> None:
        if self.restarts_max < 0:
            raise InvalidConfig(f"child {self.name!r}: restarts_max={self.restarts_max} must be at least 0")
        for name in ("period_s", "start_s", "hung_s", "back_off_s", "drain_s"):
            if getattr(self, name) <= 0:
                raise InvalidConfig(f"child {self.name!r}: {name}={getattr(self, name)} must be over 0")
        if self.back_off_max_s < self.back_off_s:
            raise InvalidConfig(f"child {self.name!r}: back_off_max_s={self.back_off_max_s} is below back_off_s={self.back_off_s}")


@dataclass(frozen=True, slots=True)
class RestartLedger:
    """When a child was restarted; only what is within the period counts, and no more times are kept than can matter."""

    times_s: tuple[float, ...] = ()

    def add(self, now_s: float, period_s: float, restarts_max: int) -> RestartLedger:
        """One restart more, now."""
        recent = [one for one in self.times_s if now_s - period_s <= one <= now_s]
        return RestartLedger((*recent, now_s)[-(restarts_max + 1) :])

    def is_exceeded(self, now_s: float, period_s: float, restarts_max: int) -> bool:
        """Whether there were more than `restarts_max` restarts in the last `period_s`."""
        return sum(now_s - period_s <= one <= now_s for one in self.times_s) > restarts_max


@dataclass(frozen=True, slots=True)
class Child:
    """What is known of a child. `incarnation` is "" until a new process has answered; `stopped_until_s`: no process before that."""

    born_at_s: float
    answered_at_s: float | None = None
    incarnation: str = ""
    ledger: RestartLedger = RestartLedger()
    stopped_until_s: float | None = None
    loops: int = 0  # crash loops in a row
    draining_since_s: float | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a child: its pong, or none; whether it is gone for good; its figures where they were asked for."""

    pong: Pong | None = None
    is_gone: bool = False
    figures: Mapping[str, float | int | str] | None = None


@dataclass(frozen=True, slots=True)
class Kill:
    """End the process; with `restart` another one takes its place at once."""

    why: str
    restart: bool


@dataclass(frozen=True, slots=True)
class Create:
    """Make the child anew."""

    why: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Tell the child to take nothing new."""

    why: str


Decision = Kill | Create | Drain


def decide(spec: ChildSpec, child: Child, seen: Seen, now_s: float) -> tuple[Child, tuple[Decision, ...]]:
    """What is known after this look, and what is to be done."""
    if child.stopped_until_s is not None:
        if now_s < child.stopped_until_s:
            return child, ()
        return Child(now_s, loops=child.loops), (Create("its back-off is over"),)
    if seen.pong is not None:
        return _answered(spec, child, seen, seen.pong, now_s)
    if seen.is_gone:
        counted, is_loop = _restarted(spec, child, now_s)
        return (counted, ()) if is_loop else (counted, (Create("it was gone for good"),))
    silent_since_s, patience_s = (child.born_at_s, spec.start_s) if child.answered_at_s is None else (child.answered_at_s, spec.hung_s)
    if now_s - silent_since_s < patience_s:
        return child, ()
    return _hangs(spec, child, f"no answer for {now_s - silent_since_s:.0f} s", now_s)


def _answered(spec: ChildSpec, child: Child, seen: Seen, pong: Pong, now_s: float) -> tuple[Child, tuple[Decision, ...]]:
    if child.incarnation and pong.incarnation != child.incarnation:
        child, is_loop = _restarted(spec, child, now_s)
        if is_loop:
            return child, (Kill("it restarts over and over", restart=False),)
    if pong.lag_s >= spec.hung_s:
        return _hangs(spec, child, f"its work loop is blocked for {pong.lag_s:.0f} s", now_s)
    has_calmed_down = child.answered_at_s is not None and now_s - child.born_at_s >= max(spec.period_s, spec.back_off_max_s)
    child = replace(child, incarnation=pong.incarnation, answered_at_s=now_s, loops=0 if has_calmed_down else child.loops)
    return _replaced_if_overdue(spec, child, seen.figures, now_s)


def _replaced_if_overdue(
    spec: ChildSpec, child: Child, figures: Mapping[str, float | int | str] | None, now_s: float
) -> tuple[Child, tuple[Decision, ...]]:
    """A thread that overran its time cannot be ended, only its process: it finishes what else it has, then it goes."""
    if child.draining_since_s is None:
        overdue = _figure(figures, "overdue_threads")
        if spec.overdue_threads_max is None or overdue <= spec.overdue_threads_max:
            return child, ()
        return replace(child, draining_since_s=now_s), (Drain(f"{overdue:.0f} threads overran their time"),)
    busy = _figure(figures, "running") + _figure(figures, "queued") if figures is not None else 1.0
    if busy > 0 and now_s - child.draining_since_s < spec.drain_s:
        return child, ()
    fresh = replace(child, born_at_s=now_s, answered_at_s=None, incarnation="", draining_since_s=None)
    return fresh, (Kill("it is replaced", restart=True),)


def _hangs(spec: ChildSpec, child: Child, why: str, now_s: float) -> tuple[Child, tuple[Decision, ...]]:
    child, is_loop = _restarted(spec, child, now_s)
    return child, (Kill(why, restart=not is_loop),)


def _restarted(spec: ChildSpec, child: Child, now_s: float) -> tuple[Child, bool]:
    """Count a restart; whether the child is in a crash loop, and stopped for that."""
    ledger = child.ledger.add(now_s, spec.period_s, spec.restarts_max)
    fresh = Child(now_s, ledger=ledger, loops=child.loops)
    if not ledger.is_exceeded(now_s, spec.period_s, spec.restarts_max):
        return fresh, False
    wait_s = min(spec.back_off_max_s, spec.back_off_s * 2.0 ** min(child.loops, 30))
    return replace(fresh, stopped_until_s=now_s + wait_s, loops=child.loops + 1), True


def _figure(figures: Mapping[str, float | int | str] | None, name: str) -> float:
    found = (figures or {}).get(name, 0)
    return float(found) if isinstance(found, int | float) else 0.0
