"""L1: what the fixed rules reject and what they must let pass."""

import pytest

from agentraft_ray.errors import ErrorType, InvalidConfig
from agentraft_ray.pipeline import Step, Task
from agentraft_ray.verifier import RulesVerifier, VerifyInput

TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\nKeyError: 1'


async def judge(output, **settings):
    return await RulesVerifier(**settings).verify(VerifyInput(Task("t"), Step("s", print), output))


@pytest.mark.parametrize("output", [None, "", " \n\t", "\u200b\ufeff", b"", b"  ", [], {}, (), set()])
async def test_what_says_nothing_is_incomplete(output):
    verdict = await judge(output)
    assert (verdict.passed, verdict.error_type, verdict.verifier) == (False, ErrorType.INCOMPLETE, "rules-l1")
    assert "empty" in verdict.hint


@pytest.mark.parametrize(
    "output",
    [
        TRACEBACK,
        f"Here is what happened:\n{TRACEBACK}",
        "log: Traceback (most recent call last):\n  File x",
        "Error: connection refused",
        "ERROR: no such file",
        "fatal: not a git repository",
        "ValueError: invalid literal for int()",
        "requests.exceptions.ConnectionError: Max retries exceeded",
        "java.lang.NullPointerException: null",
        'Exception in thread "main" java.lang.Error',
        "thread 'main' panicked at src/main.rs:2",
        "Segmentation fault (core dumped)",
        "502 Bad Gateway",
        "HTTP/1.1 503 Service Unavailable",
        "Internal Server Error",
        "[object Object]",
        {"answer": {"text": ["fine", TRACEBACK]}},
    ],
)
async def test_a_report_of_failure_is_incomplete(output):
    verdict = await judge(output)
    assert verdict.error_type is ErrorType.INCOMPLETE
    assert "failure" in verdict.hint
    assert (await judge(output, forbid_error_signatures=False)).passed


@pytest.mark.parametrize(
    "output",
    [
        "OK",
        "Error handling is described in chapter 3.",
        "The job ended with an error: the disk was full.",
        "Errors: 0",
        "404 Not Found is a status code that servers send.",
        'Python prints "Traceback (most recent call last)" above an exception.',
        "No exceptions were raised. ValueError is a class.",
        "null",
        '{"a": null}',
        '{"error": null, "items": []}',
        {"a": None},
        {"error": ""},
        [None],
        [""],
        0,
        0.0,
        -1,
        False,
        True,
        float("nan"),
        "0",
        "…",
        "日本",
    ],
)
async def test_what_says_something_passes(output):
    assert (await judge(output)).passed


async def test_lengths_and_keywords():
    assert (await judge("abc", min_length=4)).error_type is ErrorType.INCOMPLETE
    assert (await judge("abc   ", min_length=4)).error_type is ErrorType.INCOMPLETE
    assert (await judge("abcd", min_length=4, max_length=4)).passed
    too_long = await judge("abcde", max_length=4)
    assert too_long.error_type is ErrorType.SCOPE_CREEP
    assert "4" in too_long.hint
    missing = await judge("the RISKS", required_keywords=["risks", "costs"])
    assert missing.error_type is ErrorType.INCOMPLETE
    assert missing.evidence == ("costs",)
    assert "costs" in missing.hint
    assert (await judge({"Risks": 1, "note": "costs"}, required_keywords=["risks", "costs"])).passed
    assert (await judge(7, min_length=5, max_length=6)).passed
    assert (await judge({"a": "x" * 50}, max_length=20)).error_type is ErrorType.SCOPE_CREEP


def test_settings_that_contradict_each_other_are_refused():
    for settings in ({"min_length": -1}, {"max_length": 0}, {"min_length": 5, "max_length": 4}):
        with pytest.raises(InvalidConfig):
            RulesVerifier(**settings)


async def test_passing_verdicts_are_one_shared_value():
    verifier = RulesVerifier()
    requests = [VerifyInput(Task("t"), Step("s", print), output) for output in ("one", "two", 3)]
    assert len({id(await verifier.verify(request)) for request in requests}) == 1


def test_the_identity_tells_settings_apart():
    assert RulesVerifier().identity != RulesVerifier(min_length=2).identity
    assert RulesVerifier(required_keywords=["a"]).identity != RulesVerifier().identity
