"""Real verifiers in place of the simulated one: the texts they get, the table of what they say, and whole pipelines under them."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import pytest

from agentraft_ray import RulesVerifier, TieredVerifier
from agentraft_ray.errors import ErrorType, InvalidConfig
from agentraft_ray.taxonomy import Cost, VerificationResult
from agentraft_ray.testing.model_server import Asked, ModelServer, Reply
from agentraft_ray.verifier.base import Verifier, VerifyInput
from agentraft_ray.verifier.callable import CallableVerifier
from agentraft_ray.verifier.providers import connections
from benchmarks import Scenario, evaluate
from benchmarks.__main__ import main
from benchmarks.faults import FaultConfig
from benchmarks.faults.confusion import confusion_of
from benchmarks.faults.corpus import CLASSES, facts_of, request_of, text_of
from benchmarks.faults.draws import key_of
from benchmarks.faults.twin import Twin

KEY = key_of(7)


class Knows(Verifier):
    """Knows every text that could be right, and says what is wrong with the others as far as it can tell."""

    async def verify(self, request: VerifyInput) -> VerificationResult:
        trial = int(request.task.inputs["trial"])
        step = int(request.step.name.rpartition("-")[2])
        cost = Cost(10, 0.001)
        for kind in (ErrorType.NONE, *CLASSES):
            if request.output in {text_of(KEY, trial, step, attempt, kind) for attempt in range(5)}:
                return VerificationResult.ok(cost=cost) if kind is ErrorType.NONE else VerificationResult.fail(kind, cost=cost)
        return VerificationResult.fault("an unknown text")


def test_texts_of_all_attempts_and_kinds_differ_and_right_ones_state_only_what_was_given() -> None:
    for trial in range(20):
        for step in range(5):
            texts = [text_of(KEY, trial, step, attempt, kind) for kind in (ErrorType.NONE, *CLASSES) for attempt in range(4)]
            fresh = [text for text in texts if text]  # an incomplete one may be empty
            assert len(set(fresh)) == len(fresh)
            right = text_of(KEY, trial, step, 0, ErrorType.NONE)
            given = {str(value) for value in facts_of(KEY, trial).values()} | {"5"}
            assert {word.strip(".,") for word in right.split() if word.strip(".,").isdigit()} <= given


async def test_the_confusion_table_counts_every_verdict_by_what_was_wrong() -> None:
    found = await confusion_of(Knows(), 12, 7)
    assert found.recall_under(FaultConfig().error_dist) == 1.0
    assert found.false_positives.estimate == 0.0
    for kind in CLASSES:
        assert found.verdicts[kind.value] == {kind.value: 12}
        assert found.named(kind) == 1.0
    assert found.verdicts["NONE"] == {"NONE": 12}
    assert found.cost.tokens == 7 * 12 * 10
    table = found.table()
    assert [row[0] for row in table.rows] == [*(kind.value for kind in CLASSES), "(right)"]
    assert all(len(row) == len(table.headers) for row in table.rows)


async def test_the_rules_see_what_is_incomplete_and_nothing_else() -> None:
    found = await confusion_of(RulesVerifier(), 15, 7)
    assert found.recall_of(ErrorType.INCOMPLETE).estimate > 0.5
    assert {kind for kind in CLASSES if found.recall_of(kind).estimate > 0} == {ErrorType.INCOMPLETE}


async def test_silence_is_neither_a_pass_nor_a_rejection() -> None:
    found = await confusion_of(CallableVerifier(lambda request: None, "forgets"), 3, 7)
    assert math.isnan(found.false_positives.estimate)
    assert math.isnan(found.recall_under(FaultConfig().error_dist))
    assert found.verdicts["NONE"] == {"fault": 3}


async def test_pipelines_under_a_real_verifier_have_the_faults_of_simulated_ones() -> None:
    scenario = Scenario(6, FaultConfig(p_fail=0.3, retry_improvement=1.0))
    perfect = await evaluate(scenario, trials=12, seed=7, verifier=Knows())
    assert perfect.protected.silent_corruption == 0
    assert perfect.baseline.success == int(Twin(scenario, 7).right_unprotected(0, 12).sum())
    blind = await evaluate(scenario, trials=12, seed=7, verifier=CallableVerifier(lambda request: True, "blind"))
    assert blind.protected.success == blind.baseline.success == perfect.baseline.success
    assert blind.protected.silent_corruption == 12 - blind.baseline.success


async def test_upstream_faults_are_refused_with_a_real_verifier() -> None:
    with pytest.raises(InvalidConfig, match="hidden from the verifier by decree"):
        await evaluate(Scenario(fault=FaultConfig(upstream=0.2)), trials=1, verifier=RulesVerifier())


def test_the_program_measures_the_rules_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--live", "--provider", "none", "--trials", "3", "--report", "headline", "--confusion-samples", "6"]
    assert main([*words, "--json", str(tmp_path / "found.json")]) == 0
    printed = capsys.readouterr().out
    assert "Confusion: what rules-l1" in printed
    assert "(right)" in printed
    found = json.loads((tmp_path / "found.json").read_bytes(), parse_constant=pytest.fail)
    assert found["confusions"][0]["verdicts"]["GOAL_DRIFT"] == {"NONE": 6}
    assert [cell["counts"]["trials"] for cell in found["studies"][0]["cells"]] == [3, 3, 3]


async def test_the_program_measures_a_model_over_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setattr(connections, "_process_guard", None)

    def judge(asked: Asked) -> Reply:
        is_bad = "I have also" in str(asked.body)
        verdict = {"verdict": "SCOPE_CREEP" if is_bad else "PASS", "confidence": 0.9, "hint": "stay in scope", "reasoning": "read"}
        return Reply(verdict=verdict)

    async with ModelServer() as server:
        server.script = judge
        words = ["--live", "--provider", "openai", "--model", "tiny", "--base-url", server.base_url("openai"), "--trials", "2"]
        words += ["--report", "headline", "--confusion-samples", "3", "--json", str(tmp_path / "found.json")]
        assert await asyncio.to_thread(main, words) == 0
    assert "tokens" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_bytes())
    by_model = found["confusions"][1]
    assert by_model["verifier"].startswith("llm-openai:tiny")
    assert by_model["verdicts"]["GOAL_DRIFT"] == {"NONE": 3}
    assert by_model["verdicts"]["SCOPE_CREEP"].get("SCOPE_CREEP", 0) >= 1
    assert by_model["tokens"] > 0


async def test_a_tier_that_is_asked_is_the_one_that_decides() -> None:
    found = await confusion_of(TieredVerifier(l1=RulesVerifier(), l2=Knows()), 4, 7)
    assert found.recall_under(FaultConfig().error_dist) == 1.0


def test_single_requests_carry_the_right_outputs_before_them() -> None:
    request = request_of(KEY, 4, ErrorType.NONE)
    assert [name for name, _ in request.history] == ["step-0", "step-1", "step-2", "step-3"]
