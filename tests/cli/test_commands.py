"""The command line inside a project with an embedded store: every command, what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from agentraft_ray.cluster.cli.exits import worst
from agentraft_ray.cluster.cli.main import cli
from tests.cli.conftest import Said

Agentraft = Callable[..., Said]
ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.server


def start(project: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "AGENTRAFT_VERIFIER_PROVIDER": "none", **environment}
    command = [sys.executable, "-m", "agentraft_ray.cluster.cli", *words]
    return subprocess.Popen(command, cwd=project, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# --- run, resume -------------------------------------------------------------------------------------------------------------


def test_a_new_project_runs_and_its_run_can_be_looked_at(agentraft: Agentraft, project: Path) -> None:
    said = agentraft("run", "memo", "--goal", "rollbacks", "--id", "memo-1")
    assert said.out == "# rollbacks\n\n- the idea of rollbacks\n- why it matters\n- what to do next\n"
    assert "✗ draft INCOMPLETE  Mention 'what to do next' too." in said.err
    assert "memo-1 succeeded: verified 3/3, 1 rollback" in said.err
    assert agentraft("run", "memo", "--goal", "rollbacks", "--id", "memo-1", "--quiet").out == said.out, "answered from its log"
    shown = agentraft("show", "memo-1", "--outputs")
    for part in ("memo-1  succeeded  memo  3/3 steps", "rejected", "every_point_is_there: INCOMPLETE", "--- draft (committed"):
        assert part in shown.out, part
    document = agentraft("show", "memo-1", "--json", "--outputs").document
    assert (document["status"], document["outputs"]["publish"]["value"]) == ("succeeded", said.out[:-1])
    assert [entry["kind"] for entry in document["log"]][:3] == ["admitted", "claimed", "committed"]
    tail = agentraft("tail", "memo-1", "--json").out.splitlines()
    events = [json.loads(line) for line in tail]
    assert (events[0]["type"], events[-1]["type"]) == ("run_start", "run_success")
    rest = agentraft("tail", "memo-1", "--no-follow", "--after", events[-2]["id"], "--json")
    assert [json.loads(line) for line in rest.out.splitlines()] == events[-1:]
    listed = agentraft("ls", "--pipeline", "memo")
    assert re.search(r"memo-1 +memo +succeeded +3/3", listed.out)
    test = subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=project, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert test.returncode == 0


def test_inputs_are_json_or_text_and_the_result_is_one_document(agentraft: Agentraft) -> None:
    said = agentraft("run", "more:hostile", "--goal", "g", "--input", "n=3", "--input", "name=Ann", "--json", "--id", "inputs")
    document = said.document
    assert (document["status"], document["verified"], document["output"]) == ("succeeded", "1/1", "\x1b[31mred\x07 g")
    assert said.err == ""
    assert agentraft("show", "inputs", "--json").document["inputs"] == {"n": 3, "name": "Ann"}


def test_no_control_character_of_an_output_reaches_a_terminal(agentraft: Agentraft) -> None:
    for said in (
        agentraft("run", "more:hostile", "--goal", "\x1b]0;title\x07", "--id", "hostile"),
        agentraft("show", "hostile", "--outputs"),
        agentraft("ls"),
        agentraft("tail", "hostile"),
    ):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\x9b]", said.out + said.err)


def test_the_exit_code_says_how_a_run_ended(agentraft: Agentraft) -> None:
    assert "ZeroDivisionError" in agentraft("run", "more:broken", "--goal", "g", "--id", "broken", code=1).err
    waiting = agentraft("run", "more:gated", "--goal", "g", "--id", "gated", code=3)
    assert "agentraft approve gated" in waiting.err
    assert "BudgetExhausted" in agentraft("run", "more:dear", "--goal", "g", "--budget", "tokens=100", "--id", "dear", code=4).err
    assert agentraft("cancel", "gated").out == "gated has ended\n"
    assert agentraft("resume", "gated", code=1).err.count("RunCancelled")
    assert [worst(codes) for codes in ((0, 0), (0, 3), (3, 4, 0), (4, 1), ())] == [0, 3, 4, 1, 0]


def test_a_run_waits_for_a_person_and_goes_on_after_the_decision(agentraft: Agentraft) -> None:
    agentraft("run", "more:gated", "--goal", "g", "--id", "asks", code=3)
    assert [run["run_id"] for run in agentraft("ls", "--status", "waiting", "--text", "asks", "--json").document["runs"]] == ["asks"]
    digest = agentraft("show", "asks", "--json").document["waits"][0]["digest"]
    assert "another output" in agentraft("approve", "asks", "--digest", "0" * 64, code=1).err
    denied = agentraft("deny", "asks", "--note", "too long", "--by", "ann")
    assert "agentraft resume asks" in denied.err
    agentraft("resume", "asks", "--quiet", code=3)
    approved = agentraft("approve", "asks", "publish", "--json", "--by", "ann").document
    assert approved == {"run_id": "asks", "step": "publish", "decision": "approve"}
    assert agentraft("resume", "asks").out == "out 1\n"
    log = agentraft("show", "asks", "--json").document["log"]
    assert [entry["detail"] for entry in log if entry["kind"] == "command"] == ["deny by ann: too long", "approve by ann"]
    assert digest
    assert "waits for no decision" in agentraft("approve", "asks", code=2).err


def test_a_fork_shares_the_first_steps_and_is_resumed(agentraft: Agentraft) -> None:
    agentraft("run", "memo", "--goal", "g", "--id", "trunk", "--quiet")
    made = agentraft("fork", "trunk", "--step", "draft", "--id", "branch")
    assert made.out == "branch\n"
    assert agentraft("resume", "branch", "--json").document["verified"] == "3/3"
    assert agentraft("show", "branch", "--json").document["forked_from"] == "trunk"
    assert "no step 'x'" in agentraft("fork", "trunk", "--step", "x", code=1).err


def test_a_file_of_tasks_runs_many_and_goes_on_where_it_was_stopped(agentraft: Agentraft, project: Path) -> None:
    lines = [json.dumps({"goal": f"memo {number}"}) for number in range(12)]
    (project / "tasks.jsonl").write_text("\n".join([*lines, "", json.dumps({"goal": "named", "id": "named-1"})]))
    said = agentraft("run", "memo", "--tasks", "tasks.jsonl", "--at-a-time", "4")
    assert said.out == "13 runs, 13 succeeded\n"
    assert "13/13 runs" in said.err
    document = agentraft("run", "memo", "--tasks", "tasks.jsonl", "--json", "--quiet").document
    assert len(document["runs"]) == 13
    assert {run["status"] for run in document["runs"]} == {"succeeded"}
    listed = agentraft("ls", "--text", "tasks-", "--all", "--json").document["runs"]
    assert len(listed) == 12, "the same tasks again are the same runs"
    for bad in ("{", "[]", '{"goal": 1}', '{"inputs": {}}', '{"goal": "g", "more": 1}'):
        (project / "bad.jsonl").write_text(bad)
        assert "bad.jsonl, line 1" in agentraft("run", "memo", "--tasks", "bad.jsonl", code=2).err


def test_what_cannot_be_run_is_a_usage_error(agentraft: Agentraft) -> None:
    for words, text in (
        (("run", "memo"), "give the task"),
        (("run", "nothing", "--goal", "g"), "neither module:variable nor a name in"),
        (("run", "no.module:x", "--goal", "g"), "cannot be imported"),
        (("run", "more:nothing", "--goal", "g"), "has no 'nothing'"),
        (("run", "more:MORE", "--goal", "g"), "has no 'MORE'"),
        (("run", "memo", "--goal", "g", "--id", "bad id"), "not allowed"),
        (("run", "memo", "--goal", "g", "--budget", "time=1"), "no limit 'time'"),
        (("run", "memo", "--goal", "g", "--input", "x"), "no NAME=VALUE"),
        (("run", "memo", "--goal", "g", "--store", "mysql://x"), "is not one of"),
        (("ls", "--limit", "0"), "limit"),
        (("prune", "--older-than", "soon"), "no duration"),
        (("audit",), "name the runs"),
        (("nothing",), "No such command"),
        (("show",), "Missing argument"),
    ):
        assert text in agentraft(*words, code=2).err, words
    assert "RunNotFound" in agentraft("show", "nowhere", code=1).err
    assert "RunNotFound" in agentraft("resume", "nowhere", code=1).err
    agentraft("run", "more:gated", "--goal", "g", "--id", "changed", code=3)
    assert "no run id" not in agentraft("resume", "changed", "--pipeline", "more:broken", code=1).err


def test_ctrl_c_puts_a_run_aside_and_resume_goes_on_with_it(agentraft: Agentraft, project: Path) -> None:
    (project / "slow.py").write_text(
        "import asyncio, pathlib\n"
        "from agentraft_ray import Pipeline, Step\n"
        "async def wait(ctx):\n"
        "    while not pathlib.Path('go').exists():\n"
        "        await asyncio.sleep(0.02)\n"
        "    return 'waited'\n"
        "pipeline = Pipeline([Step('first', lambda ctx: 1), Step('wait', wait)], name='slow')\n"
    )
    process = start(project, "run", "slow:pipeline", "--goal", "g", "--id", "stopped")
    assert process.stderr is not None
    for line in process.stderr:
        if "▶ wait" in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "agentraft resume stopped" in err
    assert agentraft("show", "stopped", "--json").document["waiting_for"] == ["drained"]
    (project / "go").touch()
    assert agentraft("resume", "stopped", "--json").document["status"] == "succeeded"


def test_tail_follows_a_run_that_another_process_drives(agentraft: Agentraft, project: Path) -> None:
    (project / "go").unlink(missing_ok=True)
    process = start(project, "run", "slow:pipeline", "--goal", "g", "--id", "followed", "--quiet")
    while agentraft("show", "followed", "--json", code=None).code:
        assert process.poll() is None
    opener = threading.Timer(0.3, (project / "go").touch)
    opener.start()
    followed = [json.loads(line)["type"] for line in agentraft("tail", "followed", "--json").out.splitlines()]
    assert followed == ["run_start", "step_committed", "step_committed", "run_success"]
    process.communicate(timeout=60)
    opener.join()
    assert process.returncode == 0


# --- care --------------------------------------------------------------------------------------------------------------------


def test_logs_are_audited_here_and_exported_ones_anywhere(agentraft: Agentraft, project: Path, tmp_path: Path) -> None:
    agentraft("run", "memo", "--goal", "g", "--id", "audited", "--quiet")
    file = tmp_path / "audited.log"
    said = agentraft("audit", "audited", "--export", file)
    assert "ok   audited" in said.out
    assert "3 commits (3 by every_point_is_there), 1 rejection" in said.out
    assert agentraft("audit", "--all", "--json").document["is_sound"] is True
    assert "1 log checked, all sound" in agentraft("audit", "--file", file).out
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], *lines[2:]]))
    bad = agentraft("audit", "--file", file, "--json", code=1).document
    assert bad["is_sound"] is False
    assert bad["reports"][0]["problems"]


def test_finished_runs_are_pruned_and_leave_a_tombstone(agentraft: Agentraft) -> None:
    agentraft("run", "memo", "--goal", "g", "--id", "old", "--quiet", "--prefix", "pruned")
    assert agentraft("prune", "--prefix", "pruned").out.startswith("0 runs removed")
    assert agentraft("prune", "--older-than", "0s", "--dry-run", "--prefix", "pruned").out.startswith("1 run would be removed")
    assert agentraft("prune", "--older-than", "0s", "--prefix", "pruned", "--json").document["run_ids"] == ["old"]
    assert "RunExpired" in agentraft("show", "old", "--prefix", "pruned", code=1).err
    assert "no runs here yet" in agentraft("ls", "--prefix", "pruned").err


def test_the_doctor_finds_what_is_well_and_what_is_not(agentraft: Agentraft) -> None:
    found = agentraft("doctor", "--json").document
    states = {one["what"]: one["state"] for one in found["findings"]}
    assert found["is_well"] is True
    assert {states[what] for what in ("store", "durability", "eviction", "clock", "versions")} == {"ok"}
    assert "rules judge alone" in agentraft("doctor").out
    ill = agentraft("doctor", "--store", "redis://127.0.0.1:1/0", "--json", code=1).document
    [store] = [one for one in ill["findings"] if one["what"] == "store"]
    assert store["state"] == "missing"
    assert "--store" in store["fix"]


def test_the_bench_measures_this_store(agentraft: Agentraft) -> None:
    figures = agentraft("bench", "--runs", "4", "--steps", "2", "--at-a-time", "2", "--json").document
    assert figures["loads"][0]["steps"] == 8
    assert figures["loads"][0]["steps_per_s"] > 0
    assert agentraft("ls", "--prefix", "agentraft-bench", "--json").document["runs"] == []


def test_settings_are_shown_with_their_sources(agentraft: Agentraft, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTRAFT_SHARDS", "3")
    monkeypatch.setenv("AGENTRAFT_ENCRYPTION_KEY", "c2VjcmV0")
    found = agentraft("config", "show", "--sources", "--json").document
    assert (found["cluster"]["shards"]["value"], found["cluster"]["shards"]["source"]) == (3, "environment AGENTRAFT_SHARDS")
    assert found["cluster"]["encryption_key"]["value"] == "********"
    assert found["serve"]["pipelines"]["source"] == "agentraft.toml"
    assert found["serve"]["pipelines"]["value"]["memo"]["path"] == "pipeline:pipeline"
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:1/0")
    said = agentraft("config", "show", "--sources")
    assert re.search(r"store +redis://elsewhere:1/0 +environment REDIS_URL", said.out)


def test_a_token_is_made_and_only_its_digest_is_kept(agentraft: Agentraft) -> None:
    said = agentraft("serve", "--new-token", "ann", "--scope", "read")
    secret = said.out.strip()
    assert secret.startswith("art_")
    assert "ann read sha256:" in said.err
    assert secret not in said.err
    assert "make a token" in agentraft("serve", "--host", "0.0.0.0", code=2).err


# --- help --------------------------------------------------------------------------------------------------------------------


def commands(group: click.Group, *path: str) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        found += commands(command, *path, name) if isinstance(command, click.Group) else [(*path, name)]
    return found


@pytest.mark.parametrize("path", commands(cli), ids=" ".join)
def test_every_command_has_help_with_an_example_and_takes_json(path: tuple[str, ...], agentraft: Agentraft) -> None:
    said = agentraft(*path, "--help")
    assert "Examples:" in said.out
    assert f"agentraft {' '.join(path)}" in said.out
    if path[0] != "completion":
        assert "--json" in said.out


def test_the_overview_loads_neither_ray_nor_a_web_framework(agentraft: Agentraft) -> None:
    assert "Exit codes:" in agentraft("--help").out
    assert re.fullmatch(r"agentraft, version \d+\.\d+\.\d+\n", agentraft("--version").out)
    script = (
        "import sys\n"
        "from agentraft_ray.cluster.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'ray', 'fastapi', 'pydantic', 'redis', 'rich', 'uvicorn'} & set(sys.modules)\n"
        "print('heavy', sorted(heavy), file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stderr.strip() == "heavy []"


def test_completion_completes_commands(agentraft: Agentraft) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_AGENTRAFT_COMPLETE" in agentraft("completion", shell).out
    words: dict[str, Any] = {"_AGENTRAFT_COMPLETE": "bash_complete", "COMP_WORDS": "agentraft pr", "COMP_CWORD": "1"}
    process = start(ROOT, **words)
    out, _ = process.communicate(timeout=60)
    assert out.strip() == "plain,prune"
