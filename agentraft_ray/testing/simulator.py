"""Runs simulated worlds: one seed, or thousands on several cores.

    python -m agentraft_ray.testing.simulator --seeds 1000 --from 0

A seed that breaks a law prints the one command that repeats it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

from agentraft_ray.testing.planted import BUGS
from agentraft_ray.testing.tally import Violation
from agentraft_ray.testing.world import World

__all__ = ["Outcome", "main", "repeat_command", "simulate", "simulate_many"]

_CHUNK = 25


@dataclass(slots=True)
class Outcome:
    """What one seed led to. `law` and `what` are "" for a world that kept all laws."""

    seed: int
    digest: str
    law: str = ""
    what: str = ""
    trace: str = ""
    seen: Counter[str] = field(default_factory=Counter)


def simulate(seed: int, bug: str | None = None, tell: Callable[[str], None] | None = None) -> Outcome:
    """Run the world of `seed`, with a planted bug if one is named. Deterministic: same seed, same digest."""
    with BUGS[bug]() if bug else nullcontext():
        world = World(seed, tell)
        try:
            world.run()
        except Violation as violation:
            return Outcome(seed, world.digest, violation.law, str(violation), traceback.format_exc(), world.seen)
        except Exception as error:  # noqa: BLE001 - whatever broke, the seed that did it must be named
            return Outcome(seed, world.digest, type(error).__name__, str(error), traceback.format_exc(), world.seen)
        return Outcome(seed, world.digest, seen=world.seen)


def repeat_command(seed: int, bug: str | None = None) -> str:
    """The one command that repeats a seed."""
    return f"python -m agentraft_ray.testing.simulator --seeds 1 --from {seed}" + (f" --bug {bug}" if bug else "")


def simulate_many(seeds: Iterable[int], bug: str | None = None, jobs: int = 1) -> Iterator[Outcome]:
    """The outcomes of many seeds, in order, on `jobs` processes."""
    if jobs <= 1:
        yield from map(partial(simulate, bug=bug), seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(partial(simulate, bug=bug), seeds, chunksize=_CHUNK)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status: 0 when every law was kept."""
    parser = argparse.ArgumentParser(prog="python -m agentraft_ray.testing.simulator", description="Simulate whole clusters from seeds.")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--bug", choices=sorted(BUGS), help="plant this bug")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--verbose", action="store_true", help="print everything that happens")
    options = parser.parse_args(arguments)
    seeds = range(options.first, options.first + options.seeds)
    started, broken, seen = time.monotonic(), 0, Counter[str]()
    if options.verbose:
        outcomes: Iterator[Outcome] = (simulate(seed, options.bug, print) for seed in seeds)
    else:
        outcomes = simulate_many(seeds, options.bug, options.jobs if len(seeds) > _CHUNK else 1)
    for done, outcome in enumerate(outcomes, 1):
        seen.update(outcome.seen)
        if outcome.law:
            broken += 1
            _print_broken(outcome, options.bug, full=len(seeds) == 1)
        if done % 1000 == 0 or (done % 100 == 0 and sys.stderr.isatty()):
            rate = done / (time.monotonic() - started)
            print(f"{done} of {len(seeds)} seeds, {broken} broken, {rate:.0f} seeds/s", file=sys.stderr, flush=True)
    _print_summary(len(seeds), broken, seen, time.monotonic() - started)
    return 1 if broken else 0


def _print_broken(outcome: Outcome, bug: str | None, *, full: bool) -> None:
    print(f"seed {outcome.seed} breaks a law: {outcome.what}")
    if full:
        print(outcome.trace)
    print(f"  repeat it: {repeat_command(outcome.seed, bug)}", flush=True)


def _print_summary(seeds: int, broken: int, seen: Counter[str], seconds: float) -> None:
    for name in sorted(seen):
        print(f"  {name:28} {seen[name]:>12,}")
    print(f"{seeds:,} seeds, {broken:,} broken, {seconds:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
