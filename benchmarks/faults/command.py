"""`python -m benchmarks` and `python -m benchmarks faults`: the options, the sweep, tables, JSON, pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from agentraft_ray.errors import AgentRaftError, InvalidConfig
from benchmarks.faults.draws import TRIALS_MAX, key_of
from benchmarks.faults.experiments import CoreTrials, Disagreement, TwinTrials, core_trials, disagreement_of
from benchmarks.faults.findings import findings_of
from benchmarks.faults.journal import Journal
from benchmarks.faults.measure import StopRule, measure
from benchmarks.faults.model import TrialModel
from benchmarks.faults.report import console, print_findings, progress_on
from benchmarks.faults.scenario import check_count, check_share
from benchmarks.faults.spread import Spread, WorkersLost, in_processes, on_ray, serially
from benchmarks.faults.studies import SEED, STUDIES, Study
from benchmarks.faults.twin import Twin

__all__ = ["main"]

_TRIALS, _QUICK_TRIALS, _LIVE_TRIALS = 400, 50, 20
_CHECKED_TRIALS = 300  # of every cell, through the protocol too, before its twin is believed
_WORKERS_MAX = 1_024
_FAILED, _USAGE_ERROR, _INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The program: 0 when formulas and claims hold, 1 when one does not, 2 for options that cannot be."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except AgentRaftError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except (Disagreement, WorkersLost) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        again = f"the same command with --journal {options.journal} goes on" if options.journal else "with --journal FILE it could go on"
        print(f"\nbenchmarks: stopped; {again}", file=sys.stderr)
        return _INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    _check(options)
    studies = [STUDIES[name] for name in _names(options)]
    trials = options.trials or (_QUICK_TRIALS if options.quick else _LIVE_TRIALS if options.live else _TRIALS)
    if options.live:
        from benchmarks.faults.live_command import run_live  # noqa: PLC0415 - the runtime and providers only where they are used

        return run_live(options, studies, trials)
    if options.twin:
        studies = [_of_twins(study, options.seed) for study in studies]
    stop = None if options.until_decided is None else StopRule(options.until_decided)
    out = console()
    engine = "twin" if options.twin else "actors" if options.actors else "core"
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(options.journal)) if options.journal else None
        spread = stack.enter_context(_spread(options))
        progress = stack.enter_context(progress_on("trials"))
        experiments = [cell.experiment for study in studies for cell in study.cells]
        measured = measure(experiments, seed=options.seed, trials=trials, spread=spread, journal=journal, stop=stop, progress=progress)
    findings = findings_of(studies, measured, seed=options.seed, trials=trials, engine=engine, stop=stop)
    out.print(f"{trials:,} trials a cell, seed {options.seed}, engine {engine}")
    print_findings(out, findings)
    if options.json:
        options.json.write_bytes(findings.to_json())
        out.print(f"figures: {options.json}")
    if options.plots:
        from benchmarks.faults.plots import draw_all  # noqa: PLC0415 - matplotlib only where it is used

        out.print(f"pictures: {len(draw_all(findings, options.plots))} files in {options.plots}")
    return _FAILED if findings.disagreements or findings.broken_claims else 0


def _names(options: argparse.Namespace) -> list[str]:
    if not options.report:
        return list(SEED)
    asked = [name for word in options.report for name in word.split(",") if name]
    unknown = [name for name in asked if name not in STUDIES and name != "all"]
    if unknown or not asked:
        raise InvalidConfig(f"--report {','.join(unknown) or '(nothing)'}: there is no such report; there are all, {', '.join(STUDIES)}")
    return list(STUDIES) if "all" in asked else [name for name in STUDIES if name in asked]


def _check(options: argparse.Namespace) -> None:
    """Raise InvalidConfig for options that cannot be, or do not go together."""
    if options.trials is not None:
        check_count("--trials", options.trials, 1, TRIALS_MAX)
    check_count("--workers", options.workers, 1, _WORKERS_MAX)
    key_of(options.seed)
    if options.until_decided is not None:
        check_share("--until-decided", options.until_decided)
    if (options.provider or options.model or options.base_url) and not options.live:
        raise InvalidConfig("--provider, --model and --base-url choose a real verifier, which is measured with --live")
    places = [flag for flag in ("cluster", "actors", "live") if getattr(options, flag)] + ["workers"] * (options.workers > 1)
    if len(places) > 1:
        raise InvalidConfig(f"--{' and --'.join(places)} are different ways to make trials; choose one")
    if options.twin and (options.actors or options.live):
        raise InvalidConfig("--twin makes trials without the protocol; --actors and --live measure the real thing; choose one")
    if options.live and (options.journal or options.until_decided is not None or options.plots):
        raise InvalidConfig("--live goes without --journal, --until-decided and --plots: a model's verdicts are not the same twice")
    for path in (options.json, options.plots and options.plots / "headline.png"):
        if path is not None:
            _check_writable(path)
    if options.address and not (options.cluster or options.actors):
        raise InvalidConfig("--address names a Ray cluster for --cluster or --actors")


def _check_writable(path: Path) -> None:
    """Raise InvalidConfig where a result could not be written in the end."""
    was_there = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
        if not was_there:
            path.unlink()
    except OSError as error:
        raise InvalidConfig(f"results cannot be written to {path}: {error}") from None


@contextmanager
def _spread(options: argparse.Namespace) -> Iterator[Spread]:
    """Where the trials are made."""
    if options.actors:
        from benchmarks.faults.actors import on_actors  # noqa: PLC0415 - Ray only where it is used

        with on_actors(options.address) as spread:
            yield spread
    elif options.cluster:
        with on_ray(options.address) as spread:
            yield spread
    elif options.workers > 1:
        with in_processes(options.workers) as spread:
            yield spread
    else:
        yield serially


def _of_twins(study: Study, seed: int) -> Study:
    """The same study through the twin, after some trials of every cell have gone both ways. Raises Disagreement."""
    cells = []
    for cell in study.cells:
        if not isinstance(cell.experiment, CoreTrials):
            raise InvalidConfig(f"report {study.name!r} has no twin: its trials are {cell.experiment.name}s; leave it out or --twin")
        scenario = cell.experiment.scenario
        core = core_trials(TrialModel(scenario, seed), 0, _CHECKED_TRIALS)
        different = disagreement_of(scenario, seed, 0, core, Twin(scenario, seed).run(0, _CHECKED_TRIALS))
        if different is not None:
            raise Disagreement(different)
        cells.append(replace(cell, experiment=TwinTrials(scenario)))
    return replace(study, cells=tuple(cells))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks [faults]",
        description="Fault injection: what the layer buys where agents and verifiers err at known rates. Every trial is a run through the "
        "real protocol core; every figure stands beside what a formula says, and a disagreement ends the program with exit code 1. "
        "Other programs of this folder: python -m benchmarks --help",
        epilog="reports: " + ", ".join(STUDIES) + "; benchmarks/README.md explains them",
    )
    what = parser.add_argument_group("what is measured")
    what.add_argument("--report", action="append", metavar="NAMES", help=f"names with commas between, or all (default {','.join(SEED)})")
    what.add_argument("--trials", type=int, metavar="N", help=f"of every cell (default {_TRIALS}; with --live {_LIVE_TRIALS})")
    what.add_argument("--quick", action="store_true", help=f"{_QUICK_TRIALS} trials")
    what.add_argument("--seed", type=int, default=1234, help="of all random draws (default 1234)")
    what.add_argument(
        "--until-decided", type=float, metavar="SHARE", help="stop a cell when silent corruption is decided to be below or above this"
    )
    where = parser.add_argument_group("where trials are made")
    where.add_argument("--workers", type=int, default=1, metavar="N", help="processes of this machine (default 1)")
    where.add_argument(
        "--cluster", action="store_true", help="tasks of a Ray cluster: the one at --address or RAY_ADDRESS, else a local one"
    )
    where.add_argument("--actors", action="store_true", help="through live coordinators, workers and verifiers on a Ray cluster")
    where.add_argument("--twin", action="store_true", help="by the protocol's twin in NumPy, for very many trials; some are checked first")
    where.add_argument("--address", help="of the Ray cluster")
    where.add_argument("--journal", type=Path, metavar="FILE", help="keep results of batches there; a sweep that was killed goes on")
    live = parser.add_argument_group("a real verifier")
    live.add_argument("--live", action="store_true", help="measure a real verifier on texts, with a confusion table by error class")
    live.add_argument(
        "--provider", help="bedrock, openai, anthropic, gemini, or none for rules alone (default: what the environment names)"
    )
    live.add_argument("--model", help="the provider's model")
    live.add_argument("--base-url", metavar="URL", help="of a server that speaks the provider's protocol: a model of your own, a gateway")
    live.add_argument("--confusion-samples", type=int, default=20, metavar="N", help="texts of every class (default 20)")
    results = parser.add_argument_group("results")
    results.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    results.add_argument("--plots", type=Path, metavar="FOLDER", help="draw a picture of every report there, as PNG and SVG")
    return parser
