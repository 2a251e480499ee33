"""`python -m benchmarks cascade`: the options, the play, the report."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.cascade.report import lines, shortfalls
from benchmarks.cascade.scene import play

__all__ = ["main"]

_RUNS, _QUICK_RUNS = 1_000, 100
_BROKEN_S = 12.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; 0 when all that must hold held, 1 otherwise."""
    options = _parser().parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="cascade-", dir=options.directory))
    try:
        played = play(
            directory,
            runs=options.runs or (_QUICK_RUNS if options.quick else _RUNS),
            broken_s=options.broken_s,
            tell=lambda text: print(text, flush=True),
        )
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print("\n".join(lines(played)), flush=True)
    if options.json:
        Path(options.json).write_bytes(msgspec.json.format(msgspec.json.encode(played)) + b"\n")
    for short in shortfalls(played):
        print(f"NOT AS IT MUST BE: {short}", file=sys.stderr)
    return 1 if shortfalls(played) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks cascade",
        description="Has one step of many live runs break on a local cluster of two coordinators: counts the attempts until its breaker "
        "opens and the probes while it is open, kills the breaker actor meanwhile, runs another pipeline beside it, heals the step, and "
        "waits until every parked run has finished.",
    )
    parser.add_argument("--runs", type=int, help=f"how many have the step (default {_RUNS:,})")
    parser.add_argument(
        "--broken-s", type=float, default=_BROKEN_S, help=f"seconds for which its breaker is open (default {_BROKEN_S:.0f})"
    )
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_RUNS} runs")
    parser.add_argument("--directory", default=None, help="where the data directory goes (default: the system's temporary one)")
    parser.add_argument("--json", metavar="FILE", help="write all that was seen there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
