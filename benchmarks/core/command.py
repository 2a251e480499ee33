"""`python -m benchmarks core`: CPU per step and memory per live run of the protocol core, beside those of another checkout."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.core.load import SCENARIOS, Load

__all__ = ["main"]

_WARM_UP = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; 0 when it could measure."""
    options = _parser().parse_args(arguments)
    print(f"{platform.python_version()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}; us of CPU per step, median")
    here = Load()
    other = Load(options.against.resolve()) if options.against is not None else None
    for scenario in SCENARIOS:
        print(_line(scenario, here, other, 20 if options.quick else options.batches), flush=True)
    for load, name in ((here, "here"), (other, "against")):
        if load is not None:
            held, containers = load.live()
            print(f"a live run, {name:<8} {held:8,.0f} bytes {containers:6.1f} containers that the garbage collector visits")
    return 0


def _line(scenario: str, here: Load, other: Load | None, batches: int) -> str:
    """Batches of both alternate, so that what else the machine does falls on both alike: the ratio of pairs is what to believe."""
    ours = here.batch(scenario)
    theirs = other.batch(scenario) if other is not None else None
    mine: list[float] = []
    before: list[float] = []
    for number in range(batches + _WARM_UP):
        turns = [(ours, mine)] if theirs is None else [(ours, mine), (theirs, before)]
        for measure, found in turns if number % 2 else reversed(turns):
            found.append(measure())
    line = f"{scenario:<24} {statistics.median(mine[_WARM_UP:]):6.1f}"
    if theirs is None:
        return line
    ratio = statistics.median(new / old for new, old in zip(mine[_WARM_UP:], before[_WARM_UP:], strict=True))
    return f"{line}   against {statistics.median(before[_WARM_UP:]):6.1f}   ratio of pairs {ratio:.3f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks core", description=__doc__)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="root of another checkout to compare with, in the same process")
    parser.add_argument("--batches", type=int, default=150, help="batches of 300 steps per scenario (default 150)")
    parser.add_argument("--quick", action="store_true", help="20 batches")
    return parser
