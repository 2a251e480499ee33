"""`python -m benchmarks chaos`: the options, the campaign, the report."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.chaos.campaign import run_campaign
from benchmarks.chaos.report import lines, shortfalls

__all__ = ["main"]

_FAULTS, _RUNS = 1_000, 2_000
_QUICK_FAULTS, _QUICK_RUNS = 30, 150
_NODES = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; 0 when all that must hold held, 1 otherwise."""
    options = _parser().parse_args(arguments)
    count = options.faults or (_QUICK_FAULTS if options.quick else _FAULTS)
    runs = options.runs or (_QUICK_RUNS if options.quick else _RUNS)
    nodes = options.nodes if options.nodes is not None else 0 if options.quick else _NODES
    directory = Path(tempfile.mkdtemp(prefix="chaos-", dir=options.directory))
    found = run_campaign(directory, count=count, runs=runs, nodes=nodes, seed=options.seed, tell=lambda text: print(text, flush=True))
    print("\n".join(lines(found)), flush=True)
    if options.json:
        Path(options.json).write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    if shortfalls(found):
        again = f"python -m benchmarks chaos --faults {count} --runs {runs} --nodes {nodes} --seed {options.seed}"
        print(f"the same plan again: {again}; what is left of this one: {directory}", file=sys.stderr)
        return 1
    shutil.rmtree(directory)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks chaos",
        description="Keeps runs under way on a live local cluster (Ray, an embedded server, two coordinators, two workers, a verifier) "
        "while a plan of faults strikes: SIGKILL of every kind of process, the store server included, a coordinator that is stopped "
        "until it was replaced and then wakes up, a store that stalls, SCRIPT FLUSH, steps that die, hang, return 10 MB or raise what "
        "does not pickle. Then the logs and an outside tally of executions are judged: no run lost, no commit lost, doubled or "
        "unverified, no committed step run again.",
    )
    parser.add_argument("--faults", type=int, help=f"how many that hit work in flight (default {_FAULTS:,})")
    parser.add_argument("--runs", type=int, help=f"how many runs at least (default {_RUNS:,})")
    parser.add_argument("--nodes", type=int, help=f"removals of a Ray node, on a cluster of two, after that (default {_NODES}; --quick: 0)")
    parser.add_argument("--seed", type=int, default=1, help="of the plan (default 1)")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_FAULTS} faults over {_QUICK_RUNS} runs, no removals of nodes")
    parser.add_argument("--directory", default=None, help="where the data directory goes (default: the system's temporary one)")
    parser.add_argument("--json", metavar="FILE", help="write the findings there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
