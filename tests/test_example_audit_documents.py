"""The audit of real files: its steps catch what really goes wrong, and the program resumes, repeats and refuses as it says."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentraft_ray import ErrorType, StepContext, VerificationResult, VerifyInput
from examples.audit_documents.checks import audit_verifier
from examples.audit_documents.licences import declared_ids, licence_ids
from examples.audit_documents.pipeline import Audit, audit_of
from examples.audit_documents.report import publish

ROOT = Path(__file__).resolve().parents[1]
LONG = (
    "The committee that was formed in the spring of last year has looked at all 14,250 applications that came in, found that "
    "37% of them were incomplete, and recommends that the form be made shorter before the next round begins."
)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """A few files that disagree with each other, one of them not in UTF-8, one of them no text at all."""
    folder = tmp_path / "documents"
    (folder / "notes").mkdir(parents=True)
    (folder / "plan.md").write_text(f"# Plan\n\nTotal budget: 1,200 EUR\n\n{LONG} See [the notes](notes/gone.md).\n")
    (folder / "notes" / "budget.txt").write_bytes("Total budget: 1,250 EUR\n\nThe café costs 12% of all that we have.\n".encode("latin-1"))
    (folder / "picture.bin").write_bytes(bytes(range(256)))
    return folder


def attempts_of(audit: Audit, *, spoil: dict[str, Any] | None = None) -> tuple[list[tuple[str, ErrorType]], dict[str, Any]]:
    """Run the steps and their checks by hand: what each attempt was judged, and the committed outputs.

    `spoil` maps a step to a function that changes its output behind its back.
    """
    verifier = audit_verifier()
    outputs: dict[str, Any] = {}
    verdicts: list[tuple[str, ErrorType]] = []
    for step in audit.pipeline.steps:
        hint = None
        for attempt in range(3):
            output = step.fn(StepContext(audit.task, dict(outputs), attempt, hint, audit.task.id, step.name))
            if spoil and step.name in spoil:
                output = spoil[step.name](output)
            verdict: VerificationResult = asyncio.run(
                verifier.verify(VerifyInput(audit.task, step, output, list(outputs.items()), attempt))
            )
            verdicts.append((step.name, verdict.error_type))
            if verdict.passed:
                outputs[step.name] = output
                break
            hint = verdict.hint
        else:
            break
    return verdicts, outputs


def test_wrong_first_tries_are_rejected_for_what_is_wrong_and_recover(documents: Path, tmp_path: Path) -> None:
    verdicts, outputs = attempts_of(audit_of(str(documents), str(tmp_path / "out")))
    assert verdicts == [
        ("survey", ErrorType.NONE),
        ("extract_0", ErrorType.INCOMPLETE),  # budget.txt is not UTF-8
        ("extract_0", ErrorType.NONE),
        ("cross_check", ErrorType.NONE),
        ("draft", ErrorType.HALLUCINATION),  # the long sentence was cut
        ("draft", ErrorType.NONE),
        ("review", ErrorType.NONE),
        ("publish", ErrorType.NONE),
    ]
    report = Path(outputs["publish"]["path"]).read_text()
    assert LONG in report
    assert "Total budget: 1,250 EUR" in report
    assert "notes/gone.md" in report
    assert "`picture.bin`: not a text file." in report


@pytest.mark.parametrize(
    ("step", "spoil", "kind"),
    [
        ("extract_0", lambda facts: facts[1:], ErrorType.INCOMPLETE),
        ("cross_check", lambda found: {**found, "findings": []}, ErrorType.CONTRADICTION),
        ("draft", lambda draft: {name: claims for name, claims in draft.items() if name != "Findings"}, ErrorType.INCOMPLETE),
        (
            "draft",
            lambda draft: {**draft, "Summary": [{"text": "4 documents.", "counts": {"documents": 4}, "quotes": []}]},
            ErrorType.CONTRADICTION,
        ),
        (
            "draft",
            lambda draft: {**draft, "Summary": [{"text": "4 documents.", "counts": {}, "quotes": []}]},
            ErrorType.HALLUCINATION,
        ),
        (
            "draft",
            lambda draft: {
                **draft,
                "Figures": [{"text": "", "counts": {}, "quotes": [{"text": "We sold it all.", "source": "plan.md"}]}],
            },
            ErrorType.HALLUCINATION,
        ),
        ("review", lambda review: {**review, "problems": ["plan.md does not say: all is well"]}, ErrorType.CONTRADICTION),
        ("review", lambda review: {**review, "checked": {"claims": 0}}, ErrorType.INCOMPLETE),
        ("publish", lambda published: {**published, "sha256": "0"}, ErrorType.CONTRADICTION),
    ],
)
def test_what_a_step_gets_wrong_never_passes(documents: Path, tmp_path: Path, step: str, spoil: Any, kind: ErrorType) -> None:
    verdicts, outputs = attempts_of(audit_of(str(documents), str(tmp_path / "out")), spoil={step: spoil})
    assert verdicts[-1] == (step, kind)
    assert step not in outputs


def test_files_that_change_during_the_audit_are_noticed(documents: Path, tmp_path: Path) -> None:
    audit = audit_of(str(documents), str(tmp_path / "out"))
    (documents / "plan.md").write_text("Something else.")
    assert attempts_of(audit)[0] == [("survey", ErrorType.CONTRADICTION)] * 3


def test_a_changed_document_makes_another_run_and_the_report_itself_does_not(documents: Path) -> None:
    first = audit_of(str(documents), str(documents))
    (documents / "report.md").write_text("an earlier report")
    assert audit_of(str(documents), str(documents)).task == first.task
    (documents / "plan.md").write_text("Something else.")
    assert audit_of(str(documents), str(documents)).task.id != first.task.id


def test_many_files_make_many_shards_of_bounded_size(tmp_path: Path) -> None:
    for number in range(600):
        (tmp_path / f"{number}.txt").write_text(f"On day {number} we sold {number * 37} boxes.")
    audit = audit_of(str(tmp_path), str(tmp_path / "out"))
    assert [step.name for step in audit.pipeline.steps if step.name.startswith("extract")] == [f"extract_{shard}" for shard in range(3 + 1)]


def test_publishing_twice_changes_nothing_and_leaves_no_partial_file(tmp_path: Path) -> None:
    path = Path(publish(str(tmp_path), "# Report\n", "key"))
    written = path.stat()
    assert publish(str(tmp_path), "# Report\n", "key") == str(path)
    assert path.stat().st_mtime_ns == written.st_mtime_ns
    assert [one.name for one in tmp_path.iterdir()] == ["report.md"]


def test_licences_are_recognised_by_their_words() -> None:
    mit = "Permission is hereby granted, free of charge, ... The above copyright notice and this permission notice shall be"
    assert licence_ids(mit) == ["MIT"]
    assert licence_ids("Apache License\n   Version 2.0, January 2004") == ["Apache-2.0"]
    assert licence_ids("All rights reserved.") == []
    assert declared_ids("Apache-2.0 OR BSD-3-Clause") == ["Apache-2.0", "BSD-3-Clause"]
    assert declared_ids("OSI Approved :: MIT License".rpartition("::")[2]) == ["MIT"]
    assert declared_ids("BSD") == []


def run_audit(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.audit_documents", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        **_where(tmp_path),
    )


def _where(tmp_path: Path) -> dict[str, Any]:
    return {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT), "AGENTRAFT_HOME": str(tmp_path / "home")}}


@pytest.mark.server
def test_a_second_run_shows_the_first_and_fresh_makes_another(documents: Path, tmp_path: Path) -> None:
    first = run_audit(tmp_path, str(documents))
    assert first.returncode == 0, first.stderr
    assert "🎉 run_success verified 6/6" in first.stdout
    path = Path(first.stdout.rpartition("report: ")[2].strip())
    text = path.read_text()
    path.unlink()
    second = run_audit(tmp_path, str(documents))
    assert second.returncode == 0, second.stderr
    assert "audited before" in second.stdout
    assert "COMMITTED" not in second.stdout
    assert path.read_text() == text
    fresh = run_audit(tmp_path, str(documents), "--fresh")
    assert fresh.returncode == 0, fresh.stderr
    assert "publish COMMITTED" in fresh.stdout


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_stopped_in_the_middle_it_resumes_where_it_was(tmp_path: Path, how: signal.Signals, code: int) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(400):
        (folder / f"{number}.txt").write_text(f"On day {number} we sold {number * 37} boxes.\n" * 600)
    command = [sys.executable, "-m", "examples.audit_documents", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **_where(tmp_path)) as process:
        assert process.stdout is not None
        assert any("survey COMMITTED" in line for line in process.stdout)
        process.send_signal(how)  # the files are long: no shard is read by now
        _, told = process.communicate(timeout=60)
    assert process.returncode == code, told
    resumed = run_audit(tmp_path, str(folder))
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming run" in resumed.stdout
    assert "survey COMMITTED" not in resumed.stdout
    assert "🎉 run_success verified 9/9" in resumed.stdout


def test_wrong_usage_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run_audit(tmp_path, "nowhere").returncode == 2
    told = run_audit(tmp_path, "empty")
    assert told.returncode == 2
    assert "holds no files" in told.stderr
    told = run_audit(tmp_path, str(ROOT / "examples"), "--store", "nonsense")
    assert told.returncode == 2
    assert "nonsense" in told.stderr
    assert "--fresh" in run_audit(tmp_path, "--help").stdout
