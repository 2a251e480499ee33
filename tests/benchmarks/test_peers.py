"""The comparison with peers, without the peers: what is skipped and why, ratios, promises, the table, our side, and Postgres itself."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from benchmarks.machine import describe_machine
from benchmarks.peers import command, environment, ours
from benchmarks.peers.figures import OURS, SYSTEMS, Answer, Comparison, Figures, promise_of, ratio_at, ratio_of_bests
from benchmarks.peers.postgres import PostgresUnavailable, find_postgres, postgres_server
from benchmarks.peers.programs.closed_loop import Asked, measure
from benchmarks.peers.report import report

ROOT = Path(__file__).resolve().parents[2]
BY_LABEL = {one.label: one for one in SYSTEMS}
EVERYTHING = {name: "1.0" for one in SYSTEMS for name in one.needs}


def _figures(label: str, settings: dict[str, str] | None = None, **by_runs: tuple[float, ...]) -> Figures:
    answers = {int(runs.removeprefix("at_")): Answer(rates, settings or {}) for runs, rates in by_runs.items()}
    return Figures(BY_LABEL[label], answers)


OUR_FIGURES = _figures(OURS, {"durability": "fsync"}, at_64=(9_000.0, 10_000.0, 12_000.0), at_256=(20_000.0,))
THEIR_FIGURES = _figures("LangGraph (sqlite)", {"journal_mode": "wal", "synchronous": "2"}, at_16=(500.0,), at_64=(400.0, 400.0, 300.0))


def _comparison(directory: Path, *figures: Figures, **missing: str) -> str:
    return report(Comparison(describe_machine(directory), 1.0, 60.0, 10, figures, missing))


def test_each_stands_at_its_own_best_number_of_runs_and_both_at_the_common_one() -> None:
    assert (OUR_FIGURES.best_runs, THEIR_FIGURES.best_runs) == (256, 16)
    assert ratio_of_bests(OUR_FIGURES, THEIR_FIGURES) == 40.0
    assert ratio_at(64, OUR_FIGURES, THEIR_FIGURES) == 25.0


def test_there_is_no_ratio_without_ours_of_ours_or_where_one_was_not_measured() -> None:
    assert ratio_of_bests(None, THEIR_FIGURES) is None
    assert ratio_of_bests(OUR_FIGURES, OUR_FIGURES) is None
    assert ratio_at(16, OUR_FIGURES, THEIR_FIGURES) is None


def test_the_table_shows_ratios_spread_promises_and_settings(tmp_path: Path) -> None:
    text = _comparison(tmp_path, OUR_FIGURES, THEIR_FIGURES, **{"DBOS (sqlite)": "dbos not installed"})
    row = next(line for line in text.splitlines() if line.startswith("LangGraph (sqlite)"))
    assert row.split() == "LangGraph (sqlite) 500 16 0% 40.0x 400 25% 25.0x kill -9 and a power cut (fsync)".split()
    assert "dbos not installed" in text
    assert "16: 500  64: 400" in text
    assert "journal_mode wal, synchronous 2" in text


def test_without_ours_the_table_has_dashes_and_says_why(tmp_path: Path) -> None:
    text = _comparison(tmp_path, THEIR_FIGURES, **{OURS: ours.NOT_BUILT})
    assert "not built yet: there is no benchmarks.throughput.load" in text
    row = next(line for line in text.splitlines() if line.startswith("LangGraph (sqlite)"))
    assert row.split()[5] == row.split()[8] == "-"


@pytest.mark.parametrize(("load", "warned"), [(1.0, False), (5.0, True)])
def test_the_table_warns_when_others_used_the_machine(tmp_path: Path, load: float, warned: bool) -> None:
    machine = msgspec.structs.replace(describe_machine(tmp_path), cores=2, load=0.5)
    assert ("these figures say little" in report(Comparison(machine, load, 60.0, 10, (THEIR_FIGURES,), {}))) is warned


@pytest.mark.parametrize(
    ("store", "settings", "promise"),
    [
        ("none", {}, "nothing (it is not stored)"),
        ("memory", {}, "nothing (it is in the process)"),
        ("sqlite", {"journal_mode": "wal", "synchronous": "2"}, "kill -9 and a power cut (fsync)"),
        ("sqlite", {"journal_mode": "wal", "synchronous": "1"}, "kill -9, no power cut"),
        ("sqlite", {"journal_mode": "delete", "synchronous": "2"}, "kill -9; a power cut but for the last commit"),
        ("postgres", {"fsync": "on", "synchronous_commit": "on"}, "kill -9 and a power cut (fsync)"),
        ("postgres", {"fsync": "off", "synchronous_commit": "on"}, "kill -9, no power cut"),
        ("postgres", {"fsync": "on", "synchronous_commit": "off"}, "kill -9 of the client only"),
        ("postgres", {}, "?"),
        ("", {"durability": "fsync"}, "kill -9 and a power cut (fsync)"),
        ("", {}, "?"),
    ],
)
def test_a_promise_follows_from_the_settings_that_were_read_back(store: str, settings: dict[str, str], promise: str) -> None:
    assert promise_of(store, settings) == promise


def test_what_is_not_installed_is_skipped_with_the_command_that_installs_it() -> None:
    reasons = command.reasons_to_skip([BY_LABEL["LangGraph (sqlite)"]], {"langgraph": "1.2"}, Path("peers"))
    assert reasons["LangGraph (sqlite)"] == "langgraph-checkpoint-sqlite not installed in peers: run make peers-env, or add --install"
    assert command.reasons_to_skip([BY_LABEL["LangGraph (sqlite)"]], EVERYTHING, Path("peers")) == {}


def test_postgres_is_skipped_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing() -> Path:
        return find_postgres(tmp_path)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(command, "find_postgres", find_nothing)
    reasons = command.reasons_to_skip([BY_LABEL["DBOS (postgres)"], BY_LABEL["DBOS (sqlite)"]], EVERYTHING, Path("peers"))
    assert list(reasons) == ["DBOS (postgres)"]
    assert "install Debian's package postgresql" in reasons["DBOS (postgres)"]


def test_the_newest_postgres_of_debian_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for version in ("9", "15", "common"):
        folder = tmp_path / version / "bin"
        folder.mkdir(parents=True)
        for name in ("initdb", "postgres"):
            (folder / name).touch()
    assert find_postgres(tmp_path) == tmp_path / "15" / "bin"


def test_ours_is_measured_once_a_repetition_through_the_agreed_function() -> None:
    asked = {"runs_at_a_time": 64, "steps": 10, "repetitions": 3, "seconds": 0.5}
    calls: list[tuple[int, int, float]] = []

    def measure_ours(runs_at_a_time: int, steps: int, seconds: float) -> SimpleNamespace:
        calls.append((runs_at_a_time, steps, seconds))
        return SimpleNamespace(steps_per_s=100.0 * len(calls), settings={"durability": "fsync", "shards": 1})

    found = ours.measure_with(measure_ours, asked)
    assert calls == [(64, 10, 0.5)] * 3
    assert found == Answer((100.0, 200.0, 300.0), {"durability": "fsync", "shards": "1"})


def test_a_module_that_is_not_there_is_not_built_and_is_not_imported() -> None:
    assert not ours.is_built("benchmarks.no_such_package.load")
    assert not ours.is_built("benchmarks.peers.no_such_module")
    assert ours.is_built("benchmarks.peers.ours")


async def test_the_closed_loop_keeps_so_many_runs_going_and_never_repeats_a_run_id() -> None:
    ids: list[str] = []
    live, most = 0, 0

    async def run_once(run_id: str) -> None:
        nonlocal live, most
        ids.append(run_id)
        live += 1
        most = max(most, live)
        live -= 1

    rates = await measure(run_once, Asked("none", "", 4, 10, 3, 0.001))
    assert len(rates) == 3
    assert min(rates) > 0
    assert len(set(ids)) == len(ids)


def test_every_pinned_requirement_names_one_version() -> None:
    lines = [line for line in environment.REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    pinned = {line.partition("==")[0].lower() for line in lines}
    assert all(line.count("==") == 1 for line in lines)
    assert {name for one in SYSTEMS for name in one.needs} <= pinned


def test_the_program_prints_its_reasons_and_writes_json_where_nothing_is_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "is_built", lambda: False)
    figures = tmp_path / "figures.json"
    words = ["--quick", "--environment", str(tmp_path / "none"), "--directory", str(tmp_path / "data"), "--json", str(figures)]
    assert command.main(words) == 0
    said = capsys.readouterr()
    assert said.err.count("is skipped") == len(SYSTEMS)
    found = msgspec.json.decode(figures.read_bytes(), type=Comparison)
    assert set(found.missing) == set(BY_LABEL)
    assert found.figures == ()


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """One that an unprivileged user may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="pg-test-") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


@pytest.mark.slow
def test_postgres_runs_with_every_commit_on_disk_on_a_socket_alone_and_is_gone_afterwards(open_directory: Path) -> None:
    try:
        programs = find_postgres()
    except PostgresUnavailable as error:
        pytest.skip(str(error))
    if not (programs / "psql").exists():
        pytest.skip("there is no psql to ask it with")
    with postgres_server(open_directory) as url:
        ask = [str(programs / "psql"), url, "--no-psqlrc", "--tuples-only", "--no-align", "-c"]
        names = ("fsync", "synchronous_commit", "full_page_writes", "listen_addresses")
        words = [word for name in names for word in (f"SHOW {name}", "-c")][:-1]
        done = subprocess.run([*ask, *words], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.split("\n")[:4] == ["on", "on", "on", ""]
        pid = int((open_directory / "postgres" / "postmaster.pid").read_text().split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow
def test_the_peers_really_run_where_they_are_installed(tmp_path: Path) -> None:
    if "dbos" not in environment.installed(environment.default_environment()):
        pytest.skip("the peers are not installed here: make peers-env")
    figures = tmp_path / "figures.json"
    words = ["--quick", "--only", "langgraph", "dbos", "--store", "memory", "sqlite", "--runs-at-a-time", "4"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "peers", *words, "--directory", str(tmp_path / "data"), "--json", str(figures)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode(figures.read_bytes(), type=Comparison)
    assert [one.system.label for one in found.figures] == ["LangGraph (memory)", "LangGraph (sqlite)", "DBOS (sqlite)"]
    assert all(one.best.median > 0 for one in found.figures)
