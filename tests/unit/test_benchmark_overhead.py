"""The overhead benchmark: its programs explain themselves, its probes measure, and its report judges by the figures alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import PROGRAMS, main
from benchmarks.machine import describe_machine
from benchmarks.overhead.figures import LiveRuns, Load, LongRun, Probe, Sample, ServerFacts, Storage
from benchmarks.overhead.load import measure_load
from benchmarks.overhead.memory import measure_live_runs, measure_long_run
from benchmarks.overhead.report import report
from benchmarks.overhead.storage import SIZES, measure_storage


def _load(steps_per_s: float) -> Load:
    sample = Sample(steps_per_s, 100.0, 200.0, 80.0, 25.0)
    server = ServerFacts("valkey 9.1.2", "always", 5, 0)
    return Load("embedded", 1_000, 2_000, "RPUSH loop", (sample,), (sample,), server)


def _report(directory: Path, *, steps_per_s: float = 12_000.0, large: int = 316_000) -> str:
    storage = Storage("embedded", {10: 3_600, 100: 32_000, 1_000: large}, {10: 7_000, 100: 60_000, 1_000: 600_000})
    long = LongRun("embedded", 100, ((10, 1.0, 2**20), (50, 2.0, 2**20), (100, 3.0, 2**20)), 90.0)
    return report(describe_machine(directory), [_load(steps_per_s)], [storage], [LiveRuns("memory", 10, 2_048.0)], [long])


@pytest.mark.parametrize(("steps_per_s", "verdict"), [(10_000.0, ": MET (10,000)"), (9_999.0, ": NOT MET (9,999)")])
def test_the_report_says_whether_the_aim_was_met_and_what_the_cpu_would_allow(tmp_path: Path, steps_per_s: float, verdict: str) -> None:
    text = _report(tmp_path, steps_per_s=steps_per_s)
    assert verdict in text
    assert "a core for Python allows 12,500 and one for the server 40,000" in text


@pytest.mark.parametrize(("large", "verdict"), [(316_000, "PASS"), (400_000, "FAIL")])
def test_the_report_says_whether_storage_is_linear(tmp_path: Path, large: int, verdict: str) -> None:
    assert f"linear within 10%: {verdict}" in _report(tmp_path, large=large)


async def test_a_load_pairs_every_repetition_with_its_baseline(tmp_path: Path) -> None:
    found = await measure_load(Probe("load", "memory", str(tmp_path), runs_at_a_time=4, steps=3, repetitions=2, seconds=0.01))
    assert len(found.ours) == len(found.baseline) == 2
    assert found.runs >= 4
    assert all(sample.steps_per_s > 0 and sample.p50_us <= sample.p99_us for sample in (*found.ours, *found.baseline))
    assert found.server is None


async def test_storage_of_the_memory_store_is_linear(tmp_path: Path) -> None:
    found = await measure_storage(Probe("storage", "memory", str(tmp_path)))
    low, high = found.slopes
    assert tuple(found.log_bytes) == SIZES
    assert high / low == pytest.approx(1.0, abs=0.1)


async def test_memory_probes_bring_their_runs_to_the_gate_and_to_the_end(tmp_path: Path) -> None:
    live = await measure_live_runs(Probe("live", "memory", str(tmp_path), runs_at_a_time=5, steps=4))
    long = await measure_long_run(Probe("long", "memory", str(tmp_path), steps=40))
    assert live.runs == 5
    assert [steps for steps, _, _ in long.marks] == [4, 20, 40]


def test_the_command_line_lists_its_programs_and_refuses_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in PROGRAMS)
    assert main(["no-such-program"]) == 2
    assert "there is no program 'no-such-program'" in capsys.readouterr().err
