"""The fuzz run of the verdict parser: a short one of it, and that it would find something."""

from __future__ import annotations

import json
import re

import pytest

from agentraft_ray.errors import ErrorType
from agentraft_ray.testing.verdict_fuzz import fuzz, is_one_strict_pass, main
from agentraft_ray.verifier.parse import Judgement, Unusable, parse_reply


@pytest.mark.parametrize("seed", [1, 2])
def test_no_reply_passes_that_is_not_exactly_one_strict_verdict(seed: int) -> None:
    found = fuzz(5_000, seed)
    assert min(found.passes, found.rejections, found.unusable) > 100
    assert found.replies == found.passes + found.rejections + found.unusable


def first_verdict(reply: str) -> Judgement | Unusable:
    """What many a parser does: take the first object that reads well."""
    for text in re.findall(r"\{[^{}]*\}", reply):
        try:
            value = json.loads(text)
            return Judgement(ErrorType(value["verdict"].replace("PASS", "NONE")), float(value["confidence"]), None, "", None)
        except (ValueError, LookupError, TypeError, AttributeError):
            continue
    return Unusable("none", malformed=False)


def last_key_wins(reply: str) -> Judgement | Unusable:
    judged = parse_reply(reply)
    if isinstance(judged, Unusable) and judged.malformed and "twice" in judged.reason:
        return Judgement(ErrorType.NONE, 1.0, None, "", None)
    return judged


@pytest.mark.parametrize("parse", [first_verdict, last_key_wins, json.loads])
def test_careless_parsers_are_found_out(parse) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(AssertionError, match="of seed 1"):
        fuzz(20_000, 1, parse)


def test_the_reader_that_it_compares_with_knows_a_pass() -> None:
    good = '{"verdict": "PASS", "confidence": 1}'
    assert is_one_strict_pass(f"So: {good}.")
    for bad in (
        "",
        good[:-1],
        good * 2,
        good.replace("1", "true"),
        good.replace("1", "2"),
        good.replace("PASS", "pass"),
        f'{{"a": {good}, "b": {good}}}',
    ):
        assert not is_one_strict_pass(bad)


def test_the_command_says_what_it_has_seen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--iterations", "500", "--seed", "3"]) == 0
    assert "500 replies, seed 3" in capsys.readouterr().out
