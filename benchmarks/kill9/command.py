"""`python -m benchmarks kill9`: the options, the campaign, the summary."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.kill9.campaign import run_campaign, summary_lines

__all__ = ["main"]

_QUICK_KILLS = 9


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; 0 when all that must hold held, 1 otherwise."""
    options = _parser().parse_args(arguments)
    kills = options.kills or (_QUICK_KILLS if options.quick else 100)
    directory = Path(tempfile.mkdtemp(prefix="kill9-", dir=options.directory))
    found = asyncio.run(run_campaign(directory, kills=kills, seed=options.seed, tell=lambda text: print(text, flush=True)))
    print("\n".join(summary_lines(found)))
    if options.json:
        Path(options.json).write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    if found.violations:
        print(
            f"repeat it: python -m benchmarks kill9 --kills {kills} --seed {options.seed}; what is left of it: {directory}", file=sys.stderr
        )
        return 1
    shutil.rmtree(directory)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks kill9",
        description="Kills runs of 200 steps on the embedded server with SIGKILL at random moments, a third each of the Python "
        "process, the server, and both, and lets them live again until they finish. Then: every run finished, its outputs equal "
        "the undisturbed ones, and no step that was committed in the log before a life began has run in that life. A killed "
        "process does not lose what the kernel holds, so this says nothing about a power cut; fsync is for that.",
    )
    parser.add_argument("--kills", type=int, help="how many (default 100)")
    parser.add_argument("--seed", type=int, default=1, help="of kinds and moments (default 1)")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_KILLS} kills")
    parser.add_argument("--directory", default=None, help="where the data directories go (default: the system's temporary one)")
    parser.add_argument("--json", metavar="FILE", help="write the findings there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
