"""`python -m benchmarks bare-loop`: a server and a Ray session of its own, the loop at several numbers of runs, a table and JSON."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from agentraft_ray.checkpoint.embedded import EmbeddedServer
from agentraft_ray.checkpoint.server_binary import find_server
from benchmarks.bare_loop.loop import LoopSample, bare_loop
from benchmarks.machine import Machine, describe_machine

__all__ = ["main"]

_RUNS = (64, 256, 1_000, 4_000)


class Measurement(msgspec.Struct, frozen=True):
    """Everything that one call of the program found; the JSON that it writes."""

    machine: Machine
    load_after: float
    server: str
    steps_per_run: int
    samples: dict[int, tuple[LoopSample, ...]]  # by runs at a time


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; 0 when it could measure."""
    options = _parser().parse_args(arguments)
    base = Path(options.directory)
    base.mkdir(parents=True, exist_ok=True)
    repetitions, seconds = (1, 0.3) if options.quick else (options.repetitions, options.seconds)
    runs = options.runs_at_a_time or (_RUNS[:3] if options.quick else _RUNS)
    with tempfile.TemporaryDirectory(prefix="bare-loop-", dir=base) as work:
        machine = describe_machine(Path(work))
        with EmbeddedServer(work) as url, bare_loop(unquote(urlsplit(url).path)) as loop:
            samples = {
                at_a_time: tuple(loop.repetition(at_a_time, options.steps, seconds=seconds) for _ in range(repetitions))
                for at_a_time in runs
            }
    binary = find_server()
    server = f"{binary.path.name} {'.'.join(map(str, binary.version))}, appendfsync always"
    measured = Measurement(machine, os.getloadavg()[0], server, options.steps, samples)
    print("\n".join(lines_of(measured)))
    text = msgspec.json.encode(measured)
    if options.json:
        Path(options.json).write_bytes(msgspec.json.format(text, indent=2) + b"\n")
        print(f"figures: {options.json}")
    else:
        print(text.decode())
    return 0


def lines_of(measured: Measurement) -> Iterator[str]:
    """The table for people."""
    machine = measured.machine
    yield f"{machine.cores} cores ({machine.cpu}), load {machine.load:.1f} before the start and {measured.load_after:.1f} at the end"
    yield f"{machine.python}; {machine.disk} with {machine.fsync_us:,.0f} us per small write and fdatasync; {measured.server}"
    yield f"\nThe bare loop: one Ray coordinator, two Ray workers, one compare-and-append a step; runs of {measured.steps_per_run} steps"
    roles = list(next(iter(measured.samples.values()))[0].cpu_us)
    yield f"{'runs':>6} {'steps/s':>9} {'spread':>7}   CPU us/step: " + " ".join(f"{role:>12}" for role in roles) + f" {'together':>9}"
    for runs, samples in measured.samples.items():
        rates = [sample.steps_per_s for sample in samples]
        middle = statistics.median(rates)
        cpu = _median_cpu(samples)
        shown = " ".join(f"{cpu[role]:>12.1f}" for role in roles)
        yield f"{runs:>6,} {middle:>9,.0f} {(max(rates) - min(rates)) / middle:>7.0%} {'':>15} {shown} {sum(cpu.values()):>9.1f}"


def _median_cpu(samples: Sequence[LoopSample]) -> Mapping[str, float]:
    return {role: statistics.median(sample.cpu_us[role] for sample in samples) for role in samples[0].cpu_us}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks bare-loop",
        description="What two cores could do if every feature were free: real Ray actors, one compare-and-append per step in an "
        "append-only file with appendfsync always, everything batched. No protocol, no recovery, no verdict. A bound for the other "
        "figures, in about half a minute, with the CPU time of each process per step.",
    )
    parser.add_argument("--quick", action="store_true", help="one short repetition at 64, 256 and 1,000 runs")
    parser.add_argument("--runs-at-a-time", nargs="+", type=int, metavar="N", help=f"default: {' '.join(map(str, _RUNS))}")
    parser.add_argument("--steps", type=int, default=10, help="of a run (default 10)")
    parser.add_argument("--repetitions", type=int, default=5, help="of each (default 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="that a repetition lasts at least (default 1)")
    parser.add_argument("--directory", default=".agentraft", help="whose disk the server writes to (default: .agentraft here)")
    parser.add_argument("--json", metavar="FILE", help="write the samples there instead of printing them on the last line")
    return parser


if __name__ == "__main__":
    sys.exit(main())
