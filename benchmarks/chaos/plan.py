"""What is to go wrong, and in which order: a function of the seed alone.

How far the runs have got when a fault strikes depends on the machine, so the same seed gives the same plan, not the same
interleaving. The kinds, and when a fault counts as effective, that is, as one that hit work in flight (of a run that had not ended):

- "worker", "verifier" (SIGKILL): an execution, or a verdict, was under way in that very process;
- "coordinator" (SIGKILL): an execution or a verdict for a run of that shard was under way;
- "store" (SIGKILL of the store actor): it had just said that calls were in flight, and executions or verdicts were under way;
- "breaker" (SIGKILL), "server" (SIGKILL of the store server), "stall" (SIGSTOP of the store server for longer than the client's
  time-out of 5 s, then SIGCONT), "flush" (SCRIPT FLUSH): an execution or a verdict was under way anywhere;
- "zombie" (SIGSTOP of a coordinator until another one has claimed one of its runs, then SIGCONT): as "coordinator", and such a
  claim stands in the log;
- "node" (a Ray node is removed with the workers on it): an execution was under way in a worker on that node;
- "die", "hang", "huge", "unpicklable" (a step dies after its side effect, hangs, returns 10 MB, raises what does not pickle): it
  happened, as its own note in the tally says; it is work in flight itself.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.chaos.work import PIPELINE, TROUBLES

__all__ = ["KILLED", "STALLED", "Fault", "faults", "trouble_of"]

KILLED = ("coordinator", "worker", "verifier", "store", "breaker", "server")
STALLED = ("stall", "zombie")

_DECK = {
    "coordinator": 4, "worker": 4, "verifier": 3, "store": 3, "breaker": 3, "server": 3, "stall": 1, "zombie": 1, "flush": 2,
}  # fmt: skip
_TROUBLED = 1 / 8  # of all runs
_PAUSE_S_MAX = 0.5
_OVERLAPPING = 0.25


class Fault(NamedTuple):
    """`victim` in [0, 1) picks one of several processes of the kind, `pause_s` is waited before. `overlaps`: the next fault does not
    wait for the process that this one hit to come back."""

    kind: str
    victim: float
    pause_s: float
    overlaps: bool


def faults(seed: int) -> Iterator[Fault]:
    """The faults that are brought about from outside, for ever: decks of 24 in which every kind has its share, each one shuffled."""
    rng = random.Random(f"faults {seed}")
    while True:
        deck = [kind for kind, count in _DECK.items() for _ in range(count)]
        rng.shuffle(deck)
        for kind in deck:
            yield Fault(kind, rng.random(), rng.random() * _PAUSE_S_MAX, rng.random() < _OVERLAPPING)


def trouble_of(seed: int, number: int) -> tuple[str, str] | None:
    """Which step of run `number` misbehaves, and how; most runs have none."""
    rng = random.Random(f"trouble {seed} {number}")
    if rng.random() >= _TROUBLED:
        return None
    return PIPELINE.step_name(rng.randrange(len(PIPELINE))), rng.choice(TROUBLES)
