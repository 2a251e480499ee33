"""The command line of the benchmarks: one subcommand a program, imported only when it is chosen."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

PROGRAMS = {
    "faults": ("benchmarks.faults.command", "what the layer buys where agents and verifiers err; without a program's name this one runs"),
    "overhead": ("benchmarks.overhead.command", "steps/s, added latency, CPU, log bytes and memory, beside two baselines (4 min)"),
    "core": ("benchmarks.core.command", "CPU per step and memory per live run of the protocol core, also against another checkout (1 min)"),
    "throughput": ("benchmarks.throughput.command", "steps/s of the actor runtime on a local Ray cluster, beside the bare loop (6 min)"),
    "kill9": ("benchmarks.kill9.command", "kill -9 of the process, the server and both at random moments; what must hold after (2 min)"),
    "chaos": ("benchmarks.chaos.command", "a live cluster under a plan of kills, stops and stalls; what must hold after (an hour; 3 min)"),
    "cascade": (
        "benchmarks.cascade.command",
        "one step that breaks in 1,000 live runs: attempts, probes, other pipelines, recovery (1 min)",
    ),
    "bare-loop": (
        "benchmarks.bare_loop.command",
        "what Ray actors and an fsynced append alone could do: a bound, with CPU (30 s)",
    ),
    "peers": ("benchmarks.peers.command", "the same chain in LangGraph and DBOS: steps/s, ratios, what each promises to survive (10 min)"),
}

DEFAULT = "faults"
USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen program with the words after its name, `DEFAULT` where the first word is an option; its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in {"-h", "--help"}:
        print(_usage())
        return 0
    name, *rest = words if words and not words[0].startswith("-") else [DEFAULT, *words]
    if name not in PROGRAMS:
        print(f"benchmarks: there is no program {name!r}\n\n{_usage()}", file=sys.stderr)
        return USAGE_ERROR
    program = importlib.import_module(PROGRAMS[name][0])
    return int(program.main(rest))


def _usage() -> str:
    lines = ["usage: python -m benchmarks [PROGRAM] [options]", "", "programs (each has --help, and --quick for a first look):"]
    lines += [f"  {name:<12}{what}" for name, (_, what) in PROGRAMS.items()]
    lines += [
        "",
        "examples:",
        "  python -m benchmarks --quick",
        "  python -m benchmarks --trials 1000 --workers 2 --plots out/plots",
        "  python -m benchmarks --live --provider bedrock --model anthropic.claude-3-5-sonnet-20241022-v2:0",
        "  python -m benchmarks overhead --quick",
        "  python -m benchmarks overhead --store embedded --json figures.json",
    ]
    lines += ["  python -m benchmarks kill9 --kills 100 --seed 7"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
