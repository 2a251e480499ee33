"""Replies that no model should give, by the million: ``python -m agentraft_ray.testing.verdict_fuzz --iterations 1000000 --seed 0``.

Each is made of verdicts and pieces of verdicts by random changes. The parser must answer every one of them without raising, and may
call one a pass only if a reader that knows nothing of the parser finds exactly one strict, passing verdict in it and no trace of
another. The reader tries to read a value at every brace, which is slow and hard to get wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from agentraft_ray.errors import ErrorType
from agentraft_ray.verifier.parse import Judgement, Unusable, parse_reply

__all__ = ["Found", "fuzz", "is_one_strict_pass", "main"]

_PASS = '{"verdict": "PASS", "confidence": 0.9, "hint": null, "reasoning": "fine", "blame": null}'
_DRIFT = '{"verdict": "GOAL_DRIFT", "confidence": 0.8, "hint": "re-read the goal", "reasoning": "off topic", "blame": "extract"}'
_PIECES = (
    _PASS, _DRIFT, '{"verdict": "PASS"}', '{"verdict":"PASS","confidence":1}', "{", "}", "[", "]", '"', "\\", "\\\\", '\\"', ":", ",",
    "\n", " ", "PASS", "FAIL", "NONE", "GOAL_DRIFT", "INCOMPLETE", "verdict", '"verdict"', "'verdict'", "Verdict: ", '"confidence": ',
    "confidence", "NaN", "Infinity", "-1", "1e999", "0.5", "1.0000001", "true", "null", '"0.9"', "```json\n", "```", "\\u0076erdict",
    "\\u007b", "\u200b", "ＰＡＳＳ", "Sure, here is my answer: ", "\ud800", "\x00", '{"result": ', '{"a": {', "}}", "//", "/*", "*/", "#",
)  # fmt: skip
_CHANGES_MAX = 6


class Found(NamedTuple):
    """What a fuzz run has seen."""

    replies: int
    passes: int
    rejections: int
    unusable: int


def fuzz(iterations: int, seed: int, parse: Callable[[str], object] = parse_reply) -> Found:
    """Put so many replies through `parse`. Raises AssertionError with the reply and what repeats it where one is misjudged."""
    passes = rejections = unusable = 0
    rng = random.Random(seed)
    for number in range(iterations):
        reply = _reply(rng)
        where = f"reply {number} of seed {seed}: {reply!r}"
        try:
            answer = parse(reply)
        except Exception as problem:
            raise AssertionError(f"{where} raises {type(problem).__name__}: {problem}") from problem
        if isinstance(answer, Unusable):
            unusable += 1
        elif not isinstance(answer, Judgement) or not 0.0 <= answer.confidence <= 1.0:
            raise AssertionError(f"{where} gives {answer!r}, which is no answer")
        elif answer.error_type is not ErrorType.NONE:
            rejections += 1
        elif not is_one_strict_pass(reply):
            raise AssertionError(f"{where} passes, and is not exactly one strict verdict")
        else:
            passes += 1
    return Found(iterations, passes, rejections, unusable)


def is_one_strict_pass(reply: str) -> bool:
    """Whether exactly one strict, passing verdict can be read in `reply`, and nothing else that says what a verdict is."""
    spans: list[tuple[int, int, list[tuple[str, Any]]]] = []
    for start in (at for at, char in enumerate(reply) if char == "{"):
        try:
            value, end = json.JSONDecoder(object_pairs_hook=_Pairs, parse_constant=_refuse).raw_decode(reply, start)
        except (ValueError, RecursionError):
            continue
        spans.append((start, end, value))
    outer = [span for span in spans if not any(one[0] < span[0] and span[1] <= one[1] for one in spans)]
    verdicts = [pairs for _, _, pairs in outer if _verdicts_in(pairs)]
    if len(verdicts) != 1 or _verdicts_in(verdicts[0]) != 1:
        return False
    fields = dict(verdicts[0])
    confidence = fields.get("confidence")
    is_number = isinstance(confidence, int | float) and not isinstance(confidence, bool) and 0 <= confidence <= 1
    return len(fields) == len(verdicts[0]) and fields.get("verdict") == "PASS" and is_number


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON with its keys as they stand there, one that stands twice too."""


def _verdicts_in(value: object) -> int:
    """How many objects in `value` have a verdict, those that a text in it spells out included."""
    if isinstance(value, _Pairs):
        own = sum(key == "verdict" for key, _ in value)
        return own + sum(_verdicts_in(inner) for _, inner in value)
    if isinstance(value, list):
        return sum(_verdicts_in(inner) for inner in value)
    return isinstance(value, str) and '"verdict"' in value.replace(" ", "").replace("\\", "")


def _refuse(name: str) -> Any:
    raise ValueError(name)


def _reply(rng: random.Random) -> str:
    reply = "".join(rng.choice(_PIECES) for _ in range(rng.randint(0, 3)))
    if rng.random() < 0.7:
        reply = rng.choice((_PASS, _PASS, _DRIFT)) + reply if rng.random() < 0.5 else reply + rng.choice((_PASS, _DRIFT))
    for _ in range(rng.randint(0, _CHANGES_MAX)):
        reply = _changed(reply, rng)
    return reply


def _changed(reply: str, rng: random.Random) -> str:
    at, to = sorted((rng.randint(0, len(reply)), rng.randint(0, len(reply))))
    match rng.randrange(8):
        case 0:
            return reply[:at] + rng.choice(_PIECES) + reply[at:]
        case 1:
            return reply[:at] + reply[min(to, at + 4) :]
        case 2:
            return reply[:at] + chr(rng.choice((rng.randrange(32, 127), rng.randrange(0x3000)))) + reply[at + 1 :]
        case 3:
            return reply[:to] + reply[at:to] + reply[to:]  # a part of it twice
        case 4:
            return reply[:to] if rng.random() < 0.3 else reply
        case 5:
            return reply.replace(rng.choice(("PASS", "verdict", "confidence", '"', "0.9")), rng.choice(_PIECES), 1)
        case 6:
            return json.dumps(reply) if rng.random() < 0.2 else reply
        case _:
            return f"{rng.choice(_PIECES)}{reply}" if rng.random() < 0.5 else f"{reply}{rng.choice(_PIECES)}"


def main(words: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser("python -m agentraft_ray.testing.verdict_fuzz", description="Fuzz the parser of verdicts.")
    parser.add_argument("--iterations", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(words)
    try:
        found = fuzz(asked.iterations, asked.seed)
    except AssertionError as problem:
        print(f"FAILED: {problem}", file=sys.stderr)
        return 1
    print(
        f"{found.replies:,} replies, seed {asked.seed}: {found.passes:,} passes, each exactly one strict verdict; {found.rejections:,}"
        f" rejections, {found.unusable:,} unusable"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
