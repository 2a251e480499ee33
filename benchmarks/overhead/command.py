"""`python -m benchmarks overhead`: plans the probes, runs each in a process of its own, prints the tables and the JSON."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from benchmarks.machine import Machine, describe_machine, fsync_us
from benchmarks.overhead.figures import Figures, LiveRuns, Load, LongRun, Probe, Storage
from benchmarks.overhead.report import report

__all__ = ["main"]

_ROOT = Path(__file__).resolve().parents[2]
_PROBE_S_MAX = 1_200
_TYPES: dict[str, type[Figures]] = {"load": Load, "storage": Storage, "live": LiveRuns, "long": LongRun}

F = TypeVar("F", bound=Figures)


class Measurement(msgspec.Struct, frozen=True):
    """Everything that one call of the program found; the JSON that it writes."""

    machine: Machine
    load_after: float
    fsync_us_after: float
    seconds: float
    figures: tuple[Figures, ...]

    def of(self, kind: type[F]) -> list[F]:
        """The figures of one kind."""
        return [one for one in self.figures if isinstance(one, kind)]


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; 0 when every probe could measure, 1 when one broke."""
    options = _parser().parse_args(arguments)
    base = Path(options.directory)
    base.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="overhead-", dir=base) as work:
        machine = describe_machine(Path(work))
        figures: list[Figures] = []
        broken = 0
        for number, probe in enumerate(_plan(options, work)):
            found = _run(msgspec.structs.replace(probe, directory=str(Path(work, str(number)))))
            if found is None:
                broken += 1
            else:
                figures.append(found)
        fsync_after = fsync_us(Path(work))
    measured = Measurement(machine, os.getloadavg()[0], fsync_after, time.perf_counter() - started, tuple(figures))
    print(report(machine, measured.of(Load), measured.of(Storage), measured.of(LiveRuns), measured.of(LongRun)))
    print(
        f"\nmeasured in {measured.seconds:,.0f} s; at the end load {measured.load_after:.1f}, {fsync_after:,.0f} us per write and fdatasync"
    )
    text = msgspec.json.encode(measured)
    if options.json:
        Path(options.json).write_bytes(msgspec.json.format(text, indent=2) + b"\n")
        print(f"figures: {options.json}")
    else:
        print(text.decode())
    return 1 if broken else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks overhead",
        description="What a verified, durable step costs: steps/s, time and CPU per step, log bytes and memory, in about 4 minutes. "
        "Beside each figure stands that of a loop without this library: for the memory store the bare steps and verdicts, for a durable "
        "one the same with an unfenced RPUSH per step on the same server.",
    )
    parser.add_argument("--quick", action="store_true", help="one short repetition and a short long run: half a minute, rough")
    parser.add_argument(
        "--store", nargs="+", default=["memory", "embedded"], metavar="STORE", help="memory, embedded (a server of ours) or redis:// URLs"
    )
    parser.add_argument("--runs-at-a-time", nargs="+", type=int, default=[1, 64, 1_000], metavar="N")
    parser.add_argument("--only", nargs="+", choices=sorted(_TYPES), default=sorted(_TYPES), help="some of the measurements")
    parser.add_argument("--long-steps", type=int, metavar="N", help="steps of the long run (default 100,000; 2,000 with --quick)")
    parser.add_argument("--directory", default=".agentraft", help="whose disk the embedded server writes to (default: .agentraft here)")
    parser.add_argument("--durability", default="", help="what is asked of the durable stores (default: fsync; else trust-server ...)")
    parser.add_argument(
        "--gc-threshold", type=int, default=0, metavar="N", help="let Python's collector run after N new objects (its default: 700)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the samples there instead of printing them on the last line")
    return parser


def _plan(options: argparse.Namespace, work: str) -> Iterator[Probe]:
    quick = options.quick
    repetitions, seconds, live = (1, 0.3, 200) if quick else (5, 1.5, 2_000)
    long_steps = options.long_steps or (2_000 if quick else 100_000)
    for store in options.store:
        durability = "" if store == "memory" else options.durability
        asked = Probe(
            "load", store, work, repetitions=repetitions, seconds=seconds, durability=durability, gc_threshold=options.gc_threshold
        )
        if "load" in options.only:
            yield from (msgspec.structs.replace(asked, runs_at_a_time=at_a_time) for at_a_time in options.runs_at_a_time)
        if "storage" in options.only:
            yield msgspec.structs.replace(asked, kind="storage")
        if "live" in options.only:
            yield msgspec.structs.replace(asked, kind="live", runs_at_a_time=live)
        if "long" in options.only and store != "memory":  # the memory store's log is in memory: it grows by what it is
            yield msgspec.structs.replace(asked, kind="long", steps=long_steps)


def _run(probe: Probe) -> Figures | None:
    """Measure in a process of its own; None, with a word to the reader, when that broke."""
    name = f"{probe.kind} on {probe.store}" + (f" at {probe.runs_at_a_time:,}" if probe.kind == "load" else "")
    print(f"measuring {name} ...", file=sys.stderr, flush=True)
    Path(probe.directory).mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.overhead.probe", msgspec.json.encode(probe).decode()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))}
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, timeout=_PROBE_S_MAX, check=True)  # noqa: S603
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"benchmarks: {name} broke: {error}", file=sys.stderr)
        return None
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=_TYPES[probe.kind])


if __name__ == "__main__":
    sys.exit(main())
