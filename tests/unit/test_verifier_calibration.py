"""Calibration: what is measured, on what, with what certainty, and of exactly which verifier."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentraft_ray.config import FreshCalibration
from agentraft_ray.errors import ErrorType, InvalidConfig
from agentraft_ray.pipeline import Criticality
from agentraft_ray.taxonomy import Cost, FaultKind, VerifierFault
from agentraft_ray.verifier import (
    CachedVerifier,
    Calibration,
    CallableVerifier,
    HedgedVerifier,
    LabelledCase,
    LLMVerifier,
    Proportion,
    QuorumVerifier,
    RulesVerifier,
    TieredVerifier,
    Verifier,
    read_cases,
)
from agentraft_ray.verifier.calibration.__main__ import main
from agentraft_ray.verifier.calibration.threshold import best_threshold
from tests.unit.judges import Model, judge, request, says

ROOT = Path(__file__).resolve().parents[2]


def case(output: Any, label: ErrorType | str = ErrorType.NONE, **more: Any) -> LabelledCase:
    return LabelledCase.of(output, label, goal="Describe a city", step_goal="One sentence", **more)


def scored(system: str, user: str) -> str:
    """A model whose confidence stands in the output: "0.8 ..." passes with 0.8, "no GOAL_DRIFT" is rejected."""
    shown = user.rpartition(" OUTPUT TO JUDGE\n| ")[2].split()
    return says(shown[1], 0.9) if shown[0] == "no" else says(confidence=float(shown[0]))


def cases(right: list[str], wrong: list[str]) -> list[LabelledCase]:
    return [case(f"{one} r{n}") for n, one in enumerate(right)] + [case(f"{one} w{n}", "GOAL_DRIFT") for n, one in enumerate(wrong)]


def verifier(**options: Any) -> LLMVerifier:
    return LLMVerifier(complete_fn=scored, **options)


def measured(of: Verifier | None = None, given: list[LabelledCase] | None = None, **options: Any) -> Calibration:
    some = given if given is not None else cases(["0.9"] * 8 + ["no INCOMPLETE"] * 2, ["no GOAL_DRIFT"] * 7 + ["no FORMAT", "0.9", "0.4"])
    return asyncio.run(Calibration.measure(of or verifier(), some, **options))


# --- intervals and thresholds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),  # scipy.stats.binomtest(...).proportion_ci(method="wilson")
    [
        (8, 10, 0.4901625, 0.9433178),
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (1, 200, 0.0008832, 0.0277737),
        (50, 100, 0.4038315, 0.5961685),
    ],
)
def test_intervals_are_wilsons(count: int, of: int, low: float, high: float) -> None:
    found = Proportion(count, of)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


@given(st.integers(0, 400), st.integers(1, 400), st.none() | st.integers(1, 400))
def test_an_interval_holds_the_share_and_fewer_groups_make_it_wider(count: int, of: int, groups: int | None) -> None:
    count = min(count, of)
    found, whole = Proportion(count, of, groups), Proportion(count, of)
    assert found.rate is not None
    assert 0.0 <= found.low <= found.rate <= found.high <= 1.0
    assert found.high - found.low >= whole.high - whole.low - 1e-12


def test_nothing_measured_could_be_anything() -> None:
    nothing = Proportion(0, 0)
    assert (nothing.rate, nothing.low, nothing.high, str(nothing)) == (None, 0.0, 1.0, "no cases")


def test_scipy_agrees() -> None:
    stats = pytest.importorskip("scipy.stats")
    for count, of in ((3, 17), (0, 5), (199, 200)):
        interval = stats.binomtest(count, of).proportion_ci(0.95, method="wilson")
        assert (Proportion(count, of).low, Proportion(count, of).high) == (pytest.approx(interval.low), pytest.approx(interval.high))


confidences = st.lists(st.none() | st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]), min_size=1, max_size=12)


@given(confidences, confidences, st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]))
@settings(max_examples=200)
def test_no_other_threshold_catches_more_within_the_same_false_alarms(
    right: list[float | None], wrong: list[float | None], rate: float
) -> None:
    def rejected(some: list[float | None], threshold: float) -> int:
        return sum(one is None or one < threshold for one in some)

    allowed = [step / 100 for step in range(101) if rejected(right, step / 100) <= rate * len(right)]
    if not allowed:
        with pytest.raises(InvalidConfig, match="no threshold"):
            best_threshold(right, wrong, rate)
        return
    chosen = best_threshold(right, wrong, rate)
    assert rejected(right, chosen) <= rate * len(right)
    if max(filter(None, right + wrong), default=0) < 1:
        reachable = [one for one in allowed if one <= max([one for one in right + wrong if one is not None], default=0.0)]
        assert rejected(wrong, chosen) >= max(rejected(wrong, one) for one in reachable or [0.0])


def test_a_threshold_needs_right_and_wrong_outputs() -> None:
    for right, wrong in (([], [0.5]), ([0.5], [])):
        with pytest.raises(InvalidConfig, match="right and wrong"):
            best_threshold(right, wrong, 0.1)


# --- measuring ---------------------------------------------------------------------------------------------------------------


def test_recall_false_alarms_and_confusion_are_counted() -> None:
    found = measured()
    assert (found.recall.count, found.recall.of) == (9, 10)  # 0.4 is under the threshold of 0.5
    assert (found.false_positives.count, found.false_positives.of) == (2, 10)
    assert found.confusion == {
        "GOAL_DRIFT": {"FORMAT": 1, "GOAL_DRIFT": 7, "INCOMPLETE": 1, "pass": 1},
        "NONE": {"INCOMPLETE": 2, "pass": 8},
    }
    assert found.recall_by_class[ErrorType.GOAL_DRIFT] == found.recall
    assert (found.cases, found.unanswered, found.threshold, found.chosen_on) == (20, 0, 0.5, 0)


def test_a_threshold_is_chosen_on_one_half_and_measured_on_the_other() -> None:
    rng = random.Random(5)
    right = [f"{rng.uniform(0.6, 1.0):.3f}" for _ in range(80)]
    wrong = [f"{rng.uniform(0.3, 0.8):.3f}" for _ in range(80)]
    found = measured(given=cases(right, wrong), false_positive_rate=0.1)
    assert found.threshold is not None
    assert 0.6 < found.threshold < 0.7
    assert (found.chosen_on, found.cases, found.false_positives.of, found.recall.of) == (80, 80, 40, 40)
    assert found.false_positives.rate is not None
    assert found.false_positives.low <= 0.1
    assert found.recall.rate is not None
    assert found.recall.rate > 0.5
    strict = measured(given=cases(right, wrong), false_positive_rate=0.4)
    assert strict.threshold is not None
    assert strict.threshold > found.threshold


def test_cases_of_one_group_stay_in_one_half_and_count_as_one_in_the_interval() -> None:
    given = [case(f"0.9 r{n}", group=f"g{n // 4}") for n in range(40)] + [
        case(f"0.3 w{n}", "FORMAT", group=f"h{n // 4}") for n in range(40)
    ]
    found = measured(given=given, false_positive_rate=0.0)
    assert (found.cases, found.groups) == (40, {"FORMAT": 5, "NONE": 5})
    assert found.recall.low == Proportion(5, 5).low


def test_cases_without_a_verdict_count_neither_way_and_are_told() -> None:
    down = VerifierFault(FaultKind.CONNECTION, "no")
    found = measured(judge(Model(down, says(), down, says("GOAL_DRIFT"))), cases(["x", "x"], ["x", "x"]), at_a_time=1)
    assert (found.cases, found.unanswered) == (2, 2)
    assert (found.recall.of, found.false_positives.of) == (1, 1)
    assert "without a verdict    2" in found.report()


def test_no_more_than_so_many_at_a_time_and_every_one_is_told() -> None:
    busy = most = 0
    told: list[tuple[int, int]] = []

    async def slow(system: str, user: str) -> str:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        busy -= 1
        return says()

    measured(LLMVerifier(complete_fn=slow), cases(["x"] * 10, ["x"] * 10), at_a_time=3, progress=lambda done, of: told.append((done, of)))
    assert most == 3
    assert told == [(n, 20) for n in range(1, 21)]


def test_any_verifier_can_be_measured_one_without_a_threshold_too() -> None:
    of = CallableVerifier(lambda asked: "bad" not in asked.output, "mine", error_type=ErrorType.SCOPE_CREEP)
    found = measured(of, [case("good"), case("bad", "FORMAT"), case("well", "FORMAT")])
    assert (found.threshold, found.confusion["FORMAT"]) == (None, {"SCOPE_CREEP": 1, "pass": 1})
    with pytest.raises(InvalidConfig, match="has no threshold"):
        measured(of, cases(["x"] * 4, ["x"] * 4), false_positive_rate=0.1)


@pytest.mark.parametrize("given", [[], [case("0.9")], [case("0.9", "FORMAT")]])
def test_cases_that_tell_nothing_are_refused(given: list[LabelledCase]) -> None:
    with pytest.raises(InvalidConfig, match="right and wrong"):
        measured(given=given)


def test_what_it_has_cost_is_summed() -> None:
    found = measured(judge(Model()), cases(["x"] * 3, ["x"] * 2))
    assert (found.cost.tokens, found.cost.usd) == (5_050, pytest.approx(0.55))
    assert "$0.5500" in found.report()


# --- bound to one verifier ---------------------------------------------------------------------------------------------------


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    made = measured(false_positive_rate=0.5)
    made.save(tmp_path / "c.json")
    loaded = Calibration.load(tmp_path / "c.json")
    assert loaded == made
    assert loaded.version == made.version
    shown = json.loads((tmp_path / "c.json").read_text())["shown"]
    assert shown["recall"]["all"]["of"] == made.recall.of


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"pass": 8', '"pass": 9'),
        ('"threshold": 0.5', '"threshold": 0.1'),
        ("prompt=", "prompt=x"),
        ('"format": 1', '"format": 2'),
        ("+00:00", ""),
        ("{", ""),
    ],
)
def test_a_file_that_was_changed_is_refused(tmp_path: Path, old: str, new: str) -> None:
    file = tmp_path / "c.json"
    measured().save(file)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(InvalidConfig, match=r"c\.json"):
        Calibration.load(file)
    with pytest.raises(InvalidConfig):
        Calibration.load(tmp_path / "none.json")


def test_its_threshold_and_version_are_those_of_the_verifier_that_uses_it() -> None:
    made = measured(given=cases(["0.9"] * 8, ["0.7"] * 8), false_positive_rate=0.0)
    assert made.threshold == 0.8
    used = verifier(calibration=made)
    assert (used.pass_threshold, used.calibrations(Criticality.HIGH)) == (0.8, (made,))
    assert f"calibration={made.version}" in used.identity
    verdict = asyncio.run(used.verify(request("0.7 x")))
    assert (verdict.passed, verdict.calibration) == (False, made.version)
    assert asyncio.run(used.verify(request("0.9 x"))).passed
    again = measured(used, cases(["0.9"] * 8, ["0.7"] * 8))
    assert again.identity == made.identity  # the same verifier, measured again


@pytest.mark.parametrize(
    "options", [{"temperature": 0.7}, {"max_tokens": 200}, {"window_chars": 9_000}, {"model": "another"}, {"context_chars": 5}]
)
def test_it_is_refused_for_another_verifier(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig, match="another verifier") as refused:
        verifier(calibration=measured(), **options)
    assert "python -m agentraft_ray.verifier.calibration" in str(refused.value)


def test_it_is_refused_for_another_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    made = measured()
    monkeypatch.setattr("agentraft_ray.verifier.llm.PROMPT_VERSION", "3")
    with pytest.raises(InvalidConfig, match="another verifier"):
        verifier(calibration=made)


def test_a_threshold_beside_a_calibration_contradicts_it() -> None:
    with pytest.raises(InvalidConfig, match="contradict"):
        verifier(calibration=measured(), pass_threshold=0.9)


def test_verifiers_made_of_others_name_the_calibrations_of_all_their_models() -> None:
    made = measured()
    calibrated, plain = verifier(calibration=made), verifier()
    high = Criticality.HIGH
    assert RulesVerifier().calibrations(high) == ()
    assert CallableVerifier(bool).calibrations(high) == (None,)
    assert CachedVerifier(calibrated).calibrations(high) == HedgedVerifier(calibrated, hedge_after_s=1).calibrations(high) == (made,)
    assert HedgedVerifier(calibrated, plain, hedge_after_s=1).calibrations(high) == (made, None)
    assert QuorumVerifier([RulesVerifier(), calibrated, plain]).calibrations(high) == (made, None)
    tiers = TieredVerifier(l2=plain, l3=calibrated)
    assert (tiers.calibrations(high), tiers.calibrations(Criticality.MEDIUM)) == ((made,), (None, made))
    assert (
        measured(CachedVerifier(plain), cases(["0.9"] * 4, ["0.4"] * 4), false_positive_rate=0.0).identity
        == plain.at_threshold(0.65).identity
    )


@pytest.mark.parametrize(
    ("wanted", "flaw"),
    [
        (FreshCalibration(cases_min=20), None),
        (FreshCalibration(cases_min=21), "20 cases, fewer than 21"),
        (FreshCalibration(cases_min=20, max_age_days=1), "within the last 1 days"),
        (FreshCalibration(cases_min=20, recall_min=0.5), None),
        (FreshCalibration(cases_min=20, recall_min=0.9), "lower bound is under 90.0%"),
    ],
)
def test_a_calibration_is_fresh_or_says_what_it_lacks(wanted: FreshCalibration, flaw: str | None) -> None:
    made = measured()
    found = made.flaw(wanted, (made.measured_at + timedelta(days=2)).timestamp())
    assert found is None if flaw is None else flaw in str(found)
    ahead = replace(made, measured_at=datetime.now(UTC) + timedelta(days=9))
    assert ahead.flaw(wanted, made.measured_at.timestamp()) is not None


@pytest.mark.parametrize("options", [{"max_age_days": 0}, {"cases_min": 0}, {"recall_min": 1.5}])
def test_a_freshness_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig):
        FreshCalibration(**options)


# --- as files and as a command -----------------------------------------------------------------------------------------------

LINES = [
    {"output": "0.9 fine", "label": "NONE", "goal": "g", "step": "draft", "step_goal": "s", "inputs": {"a": 1}, "group": "x"},
    {"output": "no GOAL_DRIFT", "label": "GOAL_DRIFT", "history": [["extract", {"n": 1}]], "criticality": "high"},
]


def file_of(folder: Path, lines: list[Any]) -> Path:
    file = folder / "cases.jsonl"
    file.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines) + "\n")
    return file


def test_cases_are_read_from_lines_of_json(tmp_path: Path) -> None:
    first, second = read_cases(file_of(tmp_path, [LINES[0], "", LINES[1]]))
    assert (first.is_right, first.request.task.inputs, first.request.step.goal, first.group) == (True, {"a": 1}, "s", "x")
    assert (second.expected, second.request.history, second.request.step.criticality) == (
        ErrorType.GOAL_DRIFT,
        [("extract", {"n": 1})],
        Criticality.HIGH,
    )


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"output": 1}', {"output": 1, "label": "BAD"},
     {"output": 1, "label": "NONE", "more": 1}, {"output": 1, "label": "NONE", "goal": 1},
     {"output": 1, "label": "NONE", "history": [["a"]]}, '{"output": NaN, "label": "NONE"}'],
)  # fmt: skip
def test_a_line_that_is_no_case_is_named(tmp_path: Path, line: Any) -> None:
    with pytest.raises(InvalidConfig, match="line 2"):
        read_cases(file_of(tmp_path, [LINES[0], line]))


def make_verifier() -> LLMVerifier:
    """What the command is given by import path."""
    return verifier()


def test_the_command_measures_and_writes_what_a_verifier_can_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"output": f"0.9 {n}", "label": "NONE"} for n in range(8)] + [{"output": f"0.6 {n}", "label": "FORMAT"} for n in range(8)]
    out = tmp_path / "calibration.json"
    words = [str(file_of(tmp_path, lines)), "--verifier", f"{__name__}:make_verifier", "--false-positive-rate", "0.1", "--out", str(out)]
    assert main(words) == 0
    assert "recall               4/4 = 100.0% (51.0 to 100.0)" in capsys.readouterr().out
    assert verifier(calibration=Calibration.load(out)).pass_threshold == 0.75


@pytest.mark.parametrize(
    "words", [["none.jsonl", "--verifier", "os:sep"], ["none.jsonl", "--verifier", "nothing:x"], ["none.jsonl", "--provider", "no"]]
)
def test_the_command_says_what_is_wrong(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    assert "error: " in capsys.readouterr().err


def test_the_command_explains_itself() -> None:
    found = subprocess.run(
        [sys.executable, "-W", "error", "-m", "agentraft_ray.verifier.calibration", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "labelled cases" in found.stdout
    assert not found.stderr


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "verifiers.md").read_text()
    section = page[page.index("\n## Calibration\n") :]
    code = re.search(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(compile(code[1], "docs/verifiers.md", "exec"), names)
    assert isinstance(names["calibration"], Calibration)
    assert (tmp_path / "calibration.json").exists()


def test_costs_do_not_make_two_calibrations_differ() -> None:
    made = measured()
    other = replace(made, cost=Cost(7, None))
    assert made == other
    assert made.version == other.version
    assert math.isclose(made.recall.low, other.recall.low)
