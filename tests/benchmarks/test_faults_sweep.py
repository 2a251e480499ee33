"""The program: the same bytes whoever makes the trials and however often it was stopped, and options that cannot be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentraft_ray.errors import InvalidConfig
from benchmarks.__main__ import main
from benchmarks.faults.counts import Counts
from benchmarks.faults.experiments import CoreTrials, Fleets, StoppedTests, TwinTrials
from benchmarks.faults.findings import findings_of
from benchmarks.faults.fleet import FleetScenario
from benchmarks.faults.journal import Journal, identity_of
from benchmarks.faults.measure import Measured, StopRule, measure
from benchmarks.faults.plots import draw, draw_all
from benchmarks.faults.scenario import FaultConfig, Scenario
from benchmarks.faults.spread import Job, WorkersLost, in_processes, perform, serially
from benchmarks.faults.studies import SEED, STUDIES, Cell, Result

ROOT = Path(__file__).resolve().parents[2]
SMALL = Scenario(4, FaultConfig(p_fail=0.3))
STOPPED = StoppedTests(SMALL, 0.02, looks_max=5)
EXPERIMENTS = [CoreTrials(SMALL), TwinTrials(SMALL), Fleets(FleetScenario(3, 4, outage_from=1, outage_rounds=3)), STOPPED]


def backwards(jobs: Iterable[Job]) -> Iterator[tuple[Job, Counts]]:
    """Results in another order than the jobs."""
    for job in reversed(list(jobs)):
        yield job, perform(job)


# --- the same bytes ----------------------------------------------------------------------------------------------------------------


def test_results_do_not_depend_on_the_order_in_which_batches_end() -> None:
    one, other = (measure(EXPERIMENTS, seed=3, trials=1_100, spread=spread) for spread in (serially, backwards))
    assert one == other
    assert [measured.counts["trials"] for measured in one] == [1_100, 1_100, 27, 27]


@pytest.mark.slow
def test_one_process_and_four_and_a_killed_sweep_that_goes_on_write_the_same_bytes(tmp_path: Path) -> None:
    words = ["--trials", "1600", "--seed", "9", "--report", "headline"]
    assert main([*words, "--json", str(tmp_path / "one.json")]) == 0
    command = [sys.executable, "-m", "benchmarks", *words, "--workers", "4"]
    journal = tmp_path / "journal"
    four = [*command, "--json", str(tmp_path / "four.json"), "--journal", str(journal)]
    sweep = subprocess.Popen(four, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
        assert time.monotonic() < deadline, "the sweep wrote nothing"
        assert sweep.poll() is None, "the sweep ended by itself"
        time.sleep(0.01)
    os.killpg(sweep.pid, signal.SIGKILL)  # its processes with it
    sweep.wait()
    assert not (tmp_path / "four.json").exists()
    left = journal.read_bytes()
    journal.write_bytes(left[: left.rindex(b"\n", 0, -1) + 9])  # and its last line was cut off
    done = subprocess.run(four, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "four.json").read_bytes() == (tmp_path / "one.json").read_bytes()


def test_a_journal_is_asked_before_anything_is_made_and_serves_longer_sweeps(tmp_path: Path) -> None:
    made: list[Job] = []

    def counting(jobs: Iterable[Job]) -> Iterator[tuple[Job, Counts]]:
        for job in jobs:
            made.append(job)
            yield job, perform(job)

    with Journal(tmp_path / "journal") as journal:
        first = measure(EXPERIMENTS[:1], seed=3, trials=1_000, spread=counting, journal=journal)
    assert [(job.start, job.stop) for job in made] == [(0, 500), (500, 1_000)]
    with Journal(tmp_path / "journal") as journal:
        assert measure(EXPERIMENTS[:1], seed=3, trials=1_000, spread=counting, journal=journal) == first
        assert len(made) == 2
        measure(EXPERIMENTS[:1], seed=3, trials=1_500, spread=counting, journal=journal)
        assert [(job.start, job.stop) for job in made[2:]] == [(1_000, 1_500)]
        measure(EXPERIMENTS[:1], seed=4, trials=500, spread=counting, journal=journal)
        assert len(made) == 4


def test_what_is_measured_has_an_identity_of_its_own() -> None:
    settings = [one.settings() for one in EXPERIMENTS]
    assert all(json.loads(json.dumps(one)) == one for one in settings)
    identities = {identity_of(one, seed) for one in EXPERIMENTS for seed in (1, 2)}
    assert len(identities) == 8
    assert identity_of(CoreTrials(Scenario(4, FaultConfig(p_fail=0.3), label="named")), 1) in identities


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_torn_last_line_is_cut_off_and_nothing_else(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        journal.add("a", 0, 5, {"trials": 5})
        journal.add("b", 0, 5, {"trials": 5})
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(path) as journal:
        assert journal.get("a", 0, 5) == {"trials": 5}
        assert journal.get("b", 0, 5) is None
        journal.add("b", 0, 5, {"trials": 6})
    with Journal(path) as journal:
        assert journal.get("b", 0, 5) == {"trials": 6}


def test_a_journal_torn_in_its_first_line_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path).close()
    path.write_bytes(path.read_bytes()[:10])
    with Journal(path) as journal:
        journal.add("a", 0, 5, {"trials": 5})
    with Journal(path) as journal:
        assert journal.get("a", 0, 5) == {"trials": 5}


def test_files_that_are_no_journal_are_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    for content in (b"my notes\n", b"my notes", b'{"of": 1}\n'):
        path.write_bytes(content)
        with pytest.raises(InvalidConfig, match="is no journal of this program"):
            Journal(path)
        assert path.read_bytes() == content
    Journal(tmp_path / "journal").close()
    with (tmp_path / "journal").open("ab") as file:
        file.write(b"half a li\n")
    with pytest.raises(InvalidConfig, match="line 2 is damaged"):
        Journal(tmp_path / "journal")


def test_two_processes_do_not_write_to_one_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal"), pytest.raises(InvalidConfig, match="another process writes to it"):
        Journal(tmp_path / "journal")


class _Dies(CoreTrials):
    def run(self, seed: int, start: int, stop: int) -> Counts:
        os._exit(1)


class _Fails(CoreTrials):
    def run(self, seed: int, start: int, stop: int) -> Counts:
        raise ValueError("what a batch raises")


@pytest.mark.slow
def test_a_lost_process_and_a_failed_batch_end_the_sweep_with_their_reason() -> None:
    with in_processes(1) as spread:
        with pytest.raises(ValueError, match="what a batch raises"):
            measure([_Fails(SMALL)], seed=1, trials=5, spread=spread)
        with pytest.raises(WorkersLost, match="the same command with the same --journal goes on"):
            measure([_Dies(SMALL)], seed=1, trials=5, spread=spread)


# --- stopping early ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [serially, backwards])
def test_a_cell_stops_at_the_first_batch_that_decides_it_whatever_else_was_made(spread: Any) -> None:
    rule = StopRule(0.5)
    clear = CoreTrials(SMALL)
    measured = measure([clear, STOPPED], seed=3, trials=1_600, spread=spread, stop=rule)
    assert measured[0] == Measured(clear.run(3, 0, 500), "below")
    assert measured[1].side is None


def test_stopped_cells_are_judged_by_intervals_that_hold_at_any_time() -> None:
    study = STUDIES["headline"]
    rule = StopRule(0.5)
    measured = measure([cell.experiment for cell in study.cells], seed=3, trials=600, spread=serially, stop=rule)
    found = findings_of([study], measured, seed=3, trials=600, engine="core", stop=rule)
    assert [check.prediction.name for check in found.checks] == ["silent_corruption"] * 3
    assert not found.disagreements
    fixed = findings_of([study], measured, seed=3, trials=600, engine="core")
    wide, narrow = found.studies[0][1][1].share("silent_corruption"), fixed.studies[0][1][1].share("silent_corruption")
    assert wide.high - wide.low > narrow.high - narrow.low


# --- the program -------------------------------------------------------------------------------------------------------------------


def test_the_quick_run_prints_the_seeds_reports_and_writes_valid_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--json", str(tmp_path / "found.json")]) == 0
    printed = capsys.readouterr().out
    assert "50 trials a cell, seed 1234, engine core" in printed
    assert all(STUDIES[name].title in printed for name in SEED)
    assert "66 comparisons with formulas, 0 disagree" in printed
    found = json.loads((tmp_path / "found.json").read_bytes(), parse_constant=pytest.fail)
    assert [study["name"] for study in found["studies"]] == list(SEED)
    for study in found["studies"]:
        for cell in study["cells"]:
            counts = cell["counts"]
            assert counts["success"] + counts["silent_corruption"] + counts["caught_failure"] == counts["trials"] == 50
            assert cell["comparisons"]


def few_results(name: str) -> list[Result]:
    """A study's results at a few of its cells, of two trials each."""
    cells = STUDIES[name].cells
    chosen = cells if name in {"headline", "flat"} else (cells[0], cells[-1])
    return [Result(cell, cell.experiment.run(1, 0, 2)) for cell in chosen]


@pytest.mark.parametrize("name", STUDIES)
def test_every_report_has_a_whole_table_and_something_to_draw(name: str) -> None:
    results = few_results(name)
    table, picture = STUDIES[name].table(results), STUDIES[name].picture(results)
    assert all(len(row) == len(table.headers) for row in table.rows)
    assert all(panel.series for panel in picture.panels)
    found = findings_of([STUDIES[name]], [], seed=1, trials=2, engine="core", results=[results])
    json.loads(found.to_json(), parse_constant=pytest.fail)


def test_pictures_are_written_as_png_and_svg_the_same_ones_each_time(tmp_path: Path) -> None:
    names = ["flat", "early-stopping", "frontier"]
    results = [few_results(name) for name in names]
    found = findings_of([STUDIES[name] for name in names], [], seed=1, trials=2, engine="core", results=results)
    files = draw_all(found, tmp_path / "one")
    assert [file.name for file in files] == [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    for file in files:
        if file.suffix == ".svg":
            assert ET.fromstring(file.read_bytes()).tag == "{http://www.w3.org/2000/svg}svg"
        else:
            assert file.read_bytes().startswith(b"\x89PNG\r\n")
    draw(STUDIES["flat"].picture(results[0]), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "one" / "flat.svg").read_bytes()


def test_a_formula_that_disagrees_fails_the_run_and_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("benchmarks.faults.studies.base.pipeline_predictions", _off)
    assert main(["--report", "quality", "--trials", "300"]) == 1
    printed = capsys.readouterr().out
    assert "DISAGREES quality (recall=0.5): success measured" in printed
    assert "0 disagree" not in printed


def _off(scenario: Scenario) -> Any:
    from benchmarks.faults.predict import pipeline_predictions

    return pipeline_predictions(scenario)[1:2] if scenario.recall > 0.5 else (pipeline_predictions(scenario)[1]._replace(value=0.9),)


def test_the_twin_takes_the_place_of_the_core_after_it_was_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--report", "quality", "--twin", "--trials", "100000"]) == 0
    assert "engine twin" in capsys.readouterr().out
    assert main(["--report", "breaker", "--twin"]) == 2
    assert "report 'breaker' has no twin" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--report", "nonsense"], "there is no such report; there are all, headline, length, quality, flat"),
        (["--report", ","], "there is no such report"),
        (["--trials", "0"], "--trials=0 must be a whole number from 1 to 68,719,476,736"),
        (["--workers", "0"], "--workers=0 must be"),
        (["--seed", "-1"], "seed=-1 must be a whole number from 0"),
        (["--until-decided", "2"], "--until-decided=2.0 must be a share"),
        (["--provider", "openai"], "measured with --live"),
        (["--workers", "2", "--cluster"], "choose one"),
        (["--actors", "--cluster"], "choose one"),
        (["--actors", "--twin"], "choose one"),
        (["--live", "--journal", "x"], "not the same twice"),
        (["--address", "somewhere:1"], "--address names a Ray cluster"),
        (["--live", "--provider", "none", "--report", "quorum"], "quorum vary a simulated verifier"),
        (["--live", "--provider", "none", "--confusion-samples", "0"], "--confusion-samples=0"),
        (["--journal", "."], "journal . cannot be opened: [Errno 21] Is a directory"),
        (["--json", "/dev/null/x.json"], "results cannot be written to /dev/null/x.json"),
        (["--plots", "README.md"], "results cannot be written to README.md"),
    ],
)
def test_options_that_cannot_be_are_refused_in_plain_words(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_unknown_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--no-such-option"])
    assert ended.value.code == 2
    assert "--no-such-option" in capsys.readouterr().err


def test_an_interrupted_sweep_says_how_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.faults.command.measure", interrupted)
    assert main(["--quick", "--journal", str(tmp_path / "journal")]) == 130
    assert "goes on" in capsys.readouterr().err


def test_results_say_what_was_not_seen_instead_of_dividing_by_it() -> None:
    cell = Cell({"task": "one", "steps": 1, "p_fail": 0.0}, CoreTrials(Scenario(1, FaultConfig(p_fail=0.0), recall=1.0, fpr=0.0)))
    result = Result(cell, cell.experiment.run(1, 0, 3))
    assert STUDIES["headline"].table([result]).rows[0][7] == "1.0 x"
