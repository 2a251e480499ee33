"""The parser of verdicts: strict, total, linear, and never a pass unless there is exactly one valid passing verdict."""

import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentraft_ray.errors import ErrorType
from agentraft_ray.verifier.parse import Judgement, Unusable, parse_reply

PASS = '{"verdict": "PASS", "confidence": 0.9, "hint": null, "reasoning": "fine"}'
DRIFT = '{"verdict": "GOAL_DRIFT", "confidence": 0.8, "hint": "re-read the goal", "reasoning": "off topic", "blame": "extract"}'


def passes(reply):
    judgement = parse_reply(reply)
    return isinstance(judgement, Judgement) and judgement.error_type is ErrorType.NONE


@pytest.mark.parametrize(
    "reply",
    [
        PASS,
        f"Sure, here it is:\n```json\n{PASS}\n```\nHope that helps {{smile}}.",
        f"The set {{1, 2}} and {{}} are no verdicts. {PASS}",
        f'The output was {{"city": "Rome"}}. {PASS}',
        f"[{PASS}]",
        PASS.replace("0.9", "1"),
        PASS.replace('"fine"', '"it has \\"quotes\\" and {braces} and \\\\"'),
        '{"verdict":"PASS","confidence":0.5}',
        '{"verdict":"PASS","confidence":0.5,"more":[1,{"a":2}]}',
    ],
)
def test_one_valid_verdict_is_found_inside_anything(reply):
    assert passes(reply)


def test_a_rejection_keeps_its_class_hint_and_blame():
    judgement = parse_reply(f"I think so: {DRIFT}")
    assert judgement == Judgement(ErrorType.GOAL_DRIFT, 0.8, "re-read the goal", "off topic", "extract")


@pytest.mark.parametrize("reply", ["", "PASS", "It passes.", PASS[:-1], PASS[:30], '"verdict": "PASS"', "{}", "null", "{{{", "}" * 50])
def test_text_without_a_verdict_is_unusable_but_not_malformed(reply):
    judgement = parse_reply(reply)
    assert isinstance(judgement, Unusable)
    assert not judgement.malformed


@pytest.mark.parametrize("reply", [None, b"PASS", 1, {"verdict": "PASS", "confidence": 1}, [PASS]])
def test_what_is_no_text_is_unusable(reply):
    assert isinstance(parse_reply(reply), Unusable)


@pytest.mark.parametrize(
    "confidence",
    ['"0.9"', "true", "false", "NaN", "Infinity", "-Infinity", "1e999", "1.0001", "-0.1", "2", "null", "[0.9]", "{}", "9" * 5000],
)
def test_a_confidence_that_is_no_number_from_0_to_1_is_malformed(confidence):
    for verdict in ("PASS", "INCOMPLETE"):
        judgement = parse_reply(f'{{"verdict": "{verdict}", "confidence": {confidence}}}')
        assert isinstance(judgement, Unusable), confidence
        assert judgement.malformed


@pytest.mark.parametrize(
    "verdict", ['"pass"', '"Pass"', '"ＰＡＳＳ"', '"PASS "', '"NONE"', '"FAIL"', '""', "null", "true", '["PASS"]', "1"]
)
def test_an_unknown_verdict_is_malformed(verdict):
    judgement = parse_reply(f'{{"verdict": {verdict}, "confidence": 0.9}}')
    assert isinstance(judgement, Unusable)
    assert judgement.malformed


def test_a_missing_confidence_is_malformed():
    assert parse_reply('{"verdict": "PASS"}').malformed


@pytest.mark.parametrize(
    "reply",
    [
        f"{PASS}{PASS}",
        f"{PASS} but then {DRIFT}",
        f"{DRIFT} {PASS}",
        f"[{PASS}, {DRIFT}]",
        '{"verdict": "PASS", "verdict": "GOAL_DRIFT", "confidence": 0.9}',
        '{"verdict": "GOAL_DRIFT", "verdict": "PASS", "confidence": 0.9}',
        '{"verdict": "PASS", "confidence": 0.1, "confidence": 0.9}',
        '{"verdict": "PASS", "confidence": 0.9, "inner": {"verdict": "GOAL_DRIFT", "confidence": 1}}',
        '{"verdict": "PASS", "confidence": 0.9, "reasoning": "the output says {\\"verdict\\": \\"GOAL_DRIFT\\"}"}',
        f'{{ not json, "verdict": "INCOMPLETE" }} {PASS}',
        f"{{verdict: 'INCOMPLETE'}} {PASS}",
        f'{{"\\u0076erdict": "INCOMPLETE", "confidence": 1}} {PASS}',
        f"Verdict: HALLUCINATION. In JSON: {PASS}",
        f'"verdict": "SCOPE_CREEP" {PASS}',
        f'{PASS} {{"verdict": "GOAL_DRIFT", "conf',
        '{"result": {"verdict": "PASS", "confidence": 0.9}}',
        '{"Verdict": "PASS", "confidence": 0.9}',
    ],
)
def test_more_than_one_verdict_never_passes(reply):
    assert not passes(reply)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers(-2, 2)
    | st.sampled_from(["PASS", "GOAL_DRIFT", "verdict", '{"verdict": 1}'])
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["verdict", "confidence", "hint", "x"]), inner, max_size=4),
    max_leaves=8,
)
pieces = st.one_of(
    values.map(json.dumps),
    values.map(lambda value: json.dumps(value, ensure_ascii=False, indent=1)),
    st.text(max_size=12),
    st.sampled_from([PASS, DRIFT, "{", "}", '"', "\\", "\\u0076erdict", '"verdict":', "NaN", "```", "{'verdict': 'PASS'}"]),
)


def objects_with_a_verdict(value):
    if isinstance(value, dict):
        return ("verdict" in value) + sum(objects_with_a_verdict(inner) for inner in value.values())
    return sum(objects_with_a_verdict(inner) for inner in value) if isinstance(value, list) else 0


@given(st.lists(pieces, max_size=5).map("".join))
@example(PASS)
@settings(max_examples=200, deadline=None)
def test_any_text_gives_an_answer_and_a_pass_only_for_one_valid_passing_verdict(reply):
    judgement = parse_reply(reply)
    assert isinstance(judgement, (Judgement, Unusable))
    if isinstance(judgement, Judgement):
        assert 0 <= judgement.confidence <= 1
        assert judgement.hint is None or isinstance(judgement.hint, str)
    if passes(reply):
        # The oracle knows nothing of scanning: it tries to read a value at every brace.
        found = {}
        for start in (at for at, char in enumerate(reply) if char == "{"):
            try:
                value, end = json.JSONDecoder().raw_decode(reply, start)
            except ValueError:
                continue
            if isinstance(value, dict) and "verdict" in value:
                found[start, end] = value
        outermost = [value for span, value in found.items() if not any(o[0] < span[0] and span[1] <= o[1] for o in found)]
        assert len(outermost) == 1
        assert objects_with_a_verdict(outermost[0]) == 1
        assert outermost[0]["verdict"] == "PASS"
        confidence = outermost[0]["confidence"]
        assert not isinstance(confidence, (bool, str))
        assert 0 <= confidence <= 1


@given(pieces.filter(lambda piece: "verdict" not in piece.casefold() and not set(piece) & set('{}"\\')), st.sampled_from([PASS, DRIFT]))
@settings(max_examples=100, deadline=None)
def test_prose_around_a_verdict_changes_nothing(prose, verdict):
    assert parse_reply(f"{prose} {verdict} {prose}") == parse_reply(verdict)


@given(st.sampled_from([PASS, DRIFT]), st.sampled_from([PASS, DRIFT]), st.text(max_size=20), st.text(max_size=20))
@settings(max_examples=100, deadline=None)
def test_an_injected_second_verdict_never_gives_a_pass(one, other, before, between):
    assert not passes(f"{before}{one}{between}{other}")


@pytest.mark.parametrize(
    "piece",
    ["{", "}", '{"a":', '{"a":{', '"', "\\", '\\"', "{}", "verdict ", '"verdict": ', "verdict\\", "[", '{"verdict":"PASS"', "\\u0076"],
)
def test_parsing_takes_time_linear_in_the_reply(piece):
    for reply in (piece * (190_000 // len(piece)), "{" + piece * (190_000 // len(piece)) + "}" * 9_000):
        started = time.process_time()
        assert not passes(reply)
        assert time.process_time() - started < 2.0


def test_a_reply_beyond_the_limit_is_unusable():
    assert isinstance(parse_reply(PASS + " " * 200_001), Unusable)
