"""`python -m benchmarks peers`: plans the measurements, runs each in a process of its own, prints the table and the JSON."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from benchmarks.machine import describe_machine
from benchmarks.peers import environment, ours
from benchmarks.peers.figures import COMMON_RUNS, OURS, SYSTEMS, Answer, Comparison, Figures, System
from benchmarks.peers.postgres import PostgresUnavailable, find_postgres, postgres_server
from benchmarks.peers.report import report

__all__ = ["main", "reasons_to_skip"]

_ROOT = Path(__file__).resolve().parents[2]
_RUNS = (1, 16, COMMON_RUNS, 256)
_PROBE_S_MAX = 900
_STORES = ("none", "memory", "sqlite", "postgres")


class _Plan(msgspec.Struct, frozen=True):
    """What one call of the program was asked to do."""

    python: Path
    runs_at_a_time: tuple[int, ...]
    steps: int
    repetitions: int
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; 0 when everything that is installed could be measured, 1 when one broke."""
    options = _parser().parse_args(arguments)
    place = Path(options.environment)
    if options.install:
        environment.install(place)
    runs = tuple(options.runs_at_a_time or ((16, COMMON_RUNS) if options.quick else _RUNS))
    repetitions, seconds = (1, 0.5) if options.quick else (options.repetitions, options.seconds)
    plan = _Plan(environment.python_of(place), runs, options.steps, repetitions, seconds)
    chosen = [one for one in SYSTEMS if one.name.lower() in options.only and (one.name == OURS or one.store in options.store)]
    missing = reasons_to_skip(chosen, environment.installed(place), place)
    for label, reason in missing.items():
        print(f"benchmarks: {label} is skipped: {reason}", file=sys.stderr)
    base = Path(options.directory).resolve()
    base.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="peers-", dir=base) as work:
        Path(work).chmod(0o711)  # Postgres runs as another user when we are root, and must come through
        machine = describe_machine(Path(work))
        measurable = [one for one in chosen if one.label not in missing]
        figures, broken = _measure_all(plan, measurable, Path(work))
    taken = time.perf_counter() - started
    found = Comparison(machine, os.getloadavg()[0], taken, plan.steps, figures, missing | broken)
    print(report(found))
    text = msgspec.json.encode(found)
    if options.json:
        Path(options.json).write_bytes(msgspec.json.format(text, indent=2) + b"\n")
        print(f"figures: {options.json}")
    else:
        print(text.decode())
    return 1 if broken else 0


def reasons_to_skip(systems: Iterable[System], installed: Mapping[str, str], place: Path) -> dict[str, str]:
    """Why some of the systems cannot be measured here, in one line each, by their labels."""
    reasons = {}
    try:
        find_postgres()
        postgres = ""
    except PostgresUnavailable as error:
        postgres = str(error)
    for one in systems:
        absent = [name for name in one.needs if name not in installed]
        if one.name == OURS and not ours.is_built():
            reasons[one.label] = ours.NOT_BUILT
        elif absent:
            reasons[one.label] = f"{', '.join(absent)} not installed in {place}: run make peers-env, or add --install"
        elif one.store == "postgres" and postgres:
            reasons[one.label] = postgres
    return reasons


def _measure_all(plan: _Plan, systems: Sequence[System], work: Path) -> tuple[tuple[Figures, ...], dict[str, str]]:
    """The figures, and what broke. All systems at one number of runs follow each other, so that they see the same machine."""
    answers: dict[System, dict[int, Answer]] = {one: {} for one in systems}
    broken: dict[str, str] = {}
    for runs in plan.runs_at_a_time:
        for one in systems:
            if one.label in broken:
                continue
            print(f"measuring {one.label} at {runs:,} ...", file=sys.stderr, flush=True)
            directory = work / f"{one.name}-{one.store}-{runs}".lower()
            directory.mkdir(mode=0o711)
            try:
                answers[one][runs] = _measure(plan, one, runs, directory)
            except PostgresUnavailable as error:
                broken[one.label] = str(error)
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired, msgspec.DecodeError, IndexError) as error:
                broken[one.label] = f"broke at {runs:,} runs: {error}"
    return tuple(Figures(one, found) for one, found in answers.items() if found), broken


def _measure(plan: _Plan, system: System, runs: int, directory: Path) -> Answer:
    """One process, on a database of its own that is gone afterwards."""
    with ExitStack() as stack:
        where = str(directory / "database.db") if system.store == "sqlite" else ""
        if system.store == "postgres":
            where = stack.enter_context(postgres_server(directory))
        asked: dict[str, object] = {"runs_at_a_time": runs, "steps": plan.steps, "repetitions": plan.repetitions, "seconds": plan.seconds}
        if system.name != OURS:
            asked |= {"store": system.store, "where": where}
        python = sys.executable if system.name == OURS else str(plan.python)
        command = [python, "-m", system.module, msgspec.json.encode(asked).decode()]
        done = subprocess.run(  # noqa: S603 - our own arguments, no shell
            command, stdout=subprocess.PIPE, env=_environment(system, directory), timeout=_PROBE_S_MAX, check=True
        )
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Answer)


def _environment(system: System, directory: Path) -> dict[str, str]:
    """Ours as it is; the peers see this repository for the closed loop, none of our packages, and report to nobody."""
    if system.name == OURS:
        paths = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        return {**os.environ, "PYTHONPATH": paths, "AGENTRAFT_HOME": str(directory)}  # on the disk that the others get
    return {**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONNOUSERSITE": "1", "LANGSMITH_TRACING": "false", "LANGCHAIN_TRACING_V2": "false"}


def _parser() -> argparse.ArgumentParser:
    names = sorted({one.name.lower() for one in SYSTEMS})
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks peers",
        description="Runs of 10 trivial steps in LangGraph (durability sync), in DBOS and here, one after another on this machine: steps "
        "per second, each at its own best number of runs at a time and all at 64, the ratios, and what each promises to survive. About "
        "10 minutes. The peers run in an environment of their own (make peers-env, or --install); what is not installed is skipped.",
    )
    parser.add_argument("--quick", action="store_true", help="one short repetition at 16 and 64 runs: a minute, rough")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="some of the systems")
    parser.add_argument("--store", nargs="+", choices=_STORES, default=list(_STORES), help="some of the peers' stores")
    parser.add_argument("--runs-at-a-time", nargs="+", type=int, metavar="N", help=f"default: {' '.join(map(str, _RUNS))}")
    parser.add_argument("--steps", type=int, default=10, help="of a run (default 10)")
    parser.add_argument("--repetitions", type=int, default=3, help="of each (default 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="that a repetition lasts at least, in whole rounds (default 2)")
    parser.add_argument("--install", action="store_true", help="first make the peers' environment; needs a package index")
    parser.add_argument("--environment", default=str(environment.default_environment()), metavar="DIR", help="default: .venv-peers here")
    parser.add_argument("--directory", default="build/peers", help="whose disk the databases write to (default: build/peers here)")
    parser.add_argument("--json", metavar="FILE", help="write the samples there instead of printing them on the last line")
    return parser


if __name__ == "__main__":
    sys.exit(main())
