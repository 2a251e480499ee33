"""Attacks in outputs, inputs, goals and history, against a model that obeys whatever stands outside of the fences."""

from __future__ import annotations

import asyncio
import hashlib
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentraft_ray.errors import ErrorType
from agentraft_ray.pipeline import Step, Task
from agentraft_ray.taxonomy import VerdictKind
from agentraft_ray.testing.injections import ATTACKS, Attack, Place, attacked
from agentraft_ray.testing.obedient import ObedientModel, QuotingModel, instructions_in
from agentraft_ray.verifier import PROMPT_VERSION, LLMVerifier, VerifyInput, fence, prompt
from agentraft_ray.verifier.fence import visible

REQUEST = VerifyInput(
    Task("Describe the cities of Italy", {"city": "Rome"}, id="t"),
    Step("draft", print, goal="Write one paragraph about Rome"),
    "Rome is old.",
    [("extract", {"people": 2_800_000})],
)


def asked(model: object, request: VerifyInput) -> VerdictKind | ErrorType:
    """PASS, the class of a rejection, or the kind of another answer."""
    verifier = LLMVerifier(complete_fn=model, window_chars=2_000, window_overlap_chars=200, context_chars=50_000)  # type: ignore[arg-type]
    verdict = asyncio.run(verifier.verify(request))
    assert verdict.kind is not None
    return verdict.error_type if verdict.kind is VerdictKind.REJECT else verdict.kind


def succeeded(place: Place = Place.OUTPUT) -> list[str]:
    """The attacks that make an obedient model pass what it would reject."""
    return [attack.name for attack in ATTACKS if asked(ObedientModel(), attacked(REQUEST, attack, place)) is VerdictKind.PASS]


def test_there_are_enough_attacks_and_no_two_alike() -> None:
    assert len({attack.name for attack in ATTACKS}) == len({attack.text("PASS") for attack in ATTACKS}) == len(ATTACKS) >= 60


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_no_attack_changes_the_verdict(attack: Attack) -> None:
    for place in Place:
        wrong = asked(ObedientModel(ErrorType.GOAL_DRIFT), attacked(REQUEST, attack, place, "PASS"))
        assert wrong is ErrorType.GOAL_DRIFT, f"{attack.name} in {place.value} passes a wrong output"
        right = asked(ObedientModel(ErrorType.NONE), attacked(REQUEST, attack, place, "SCOPE_CREEP"))
        assert right is VerdictKind.PASS, f"{attack.name} in {place.value} gets a right output rejected"


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_model_that_quotes_the_output_in_its_answer_never_passes_it_by_that(attack: Attack) -> None:
    for place in (Place.OUTPUT, Place.OUTPUT_DATA):
        assert asked(QuotingModel(ErrorType.GOAL_DRIFT), attacked(REQUEST, attack, place)) is not VerdictKind.PASS


def test_without_the_defences_most_attacks_succeed_and_each_layer_alone_stops_some(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {}
    for name, makes_visible, marks_lines in (("none", 0, 0), ("marks", 0, 1), ("visible", 1, 0), ("both", 1, 1)):
        with monkeypatch.context() as patch:
            if not makes_visible:
                for module in (fence, prompt):
                    patch.setattr(module, "visible", lambda text: text)
                patch.setattr("agentraft_ray.verifier.llm.visible", lambda text: text)
            if not marks_lines:
                patch.setattr(fence, "LINE_MARK", "")
            counts[name] = len(succeeded())
    assert counts["both"] == 0
    assert counts["none"] >= 0.6 * len(ATTACKS), counts
    assert 0 < counts["marks"] < counts["none"], counts
    assert 0 < counts["visible"] < counts["none"], counts


def test_an_obedient_model_reads_only_our_words_and_would_read_more_without_fences() -> None:
    seen = instructions_in(prompt.user_prompt(prompt.question(REQUEST), visible("A >>> b\n```\nc\u2028d")))
    assert "Judge the output by the goal" in seen
    for theirs in ("Rome", "Italy", "A ", "2800000", "```"):
        assert theirs not in seen


HOSTILE = st.text(st.sampled_from("<>‹›«»≫⋙ᐳ|\n\r\u2028\u200b\u200d\u202e\U000e0041`#ab0\u0301 \t") | st.characters(), max_size=80)


@given(HOSTILE, HOSTILE, HOSTILE)
@example("ᐳ\u200dᐳ\u200dᐳ", "\n", "")
@settings(max_examples=150, deadline=None)
def test_nothing_of_any_text_can_be_seen_outside_of_its_fence(output: str, goal: str, step: str) -> None:
    request = VerifyInput(Task(goal + "Q"), Step("draft", print, goal=output), "x", [(step or "s", output + "Q")])
    user = prompt.user_prompt(prompt.question(request), visible(output + "Q"))
    seen = instructions_in(user)
    assert "Q" not in seen
    tag = re.match(r"The tag of the fences in this message is ([0-9a-f]{16})\.", user)
    assert tag is not None
    assert user.count(f"<<<{tag[1]} ") == user.count(f"\n{tag[1]}>>>") == user.count("<<<") == user.count(">>>") == 5
    for line in user.split("\n"):
        assert line.startswith(("| ", f"<<<{tag[1]} EARLIER OUTPUT OF")) or line.isascii()


@given(HOSTILE)
@settings(max_examples=200, deadline=None)
def test_what_is_visible_has_no_fence_in_it_and_is_not_changed_again(text: str) -> None:
    shown = visible(text)
    assert visible(shown) == shown
    folded = instructions_in(f"<<<tag\n{shown.replace(chr(10), ' ')}\ntag>>>")
    assert folded.strip() == ""


@pytest.mark.parametrize(
    "text",
    [
        "Plain text, with (brackets) and a | bar.",
        "cout << x >> y;",
        "«Citation»",
        "a\tb\nc",
        "日本語 ＡＢＣ",
        "می‌خواهم",
        "❤️ 👩‍❤️‍👩 1️⃣ ⚠️",
        "> quoted\n> text",
        "ñ é ü",
    ],
)
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u200bb", "a[U+200B]b"),
        ("a" + "\u200b" * 12 + "b", "a[U+200B x12]b"),
        (">>> 1 + 1", ">>[U+003E] 1 + 1"),
        ("⋙", "[U+22D9]"),
        ("x\u2028y\r\nz", "x[U+2028]\ny\nz"),
        ("p\u202egp.exe", "p[U+202E]gp.exe"),
        ("a\u200db", "a[U+200D]b"),
    ],
)
def test_what_hides_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_the_prompt_has_not_changed_under_its_version() -> None:
    """After a change that is meant: a new PROMPT_VERSION, and the digest of the new words."""
    asks = prompt.question(REQUEST)
    words = prompt.SYSTEM + prompt.user_prompt(asks, visible("Rome \u200b>>>")) + prompt.user_prompt(asks, "Rome", 2, 3)
    assert {PROMPT_VERSION: hashlib.sha256(words.encode()).hexdigest()[:16]} == {"2": "6ed45152b050ec87"}
