"""``python -m agentraft_ray.verifier.calibration CASES``: measure a verifier on labelled cases and write what was found."""

from __future__ import annotations

import argparse
import asyncio
import pkgutil
import sys

from agentraft_ray.errors import AgentRaftError, InvalidConfig
from agentraft_ray.verifier.base import Verifier
from agentraft_ray.verifier.calibration.cases import read_cases
from agentraft_ray.verifier.calibration.measured import Calibration
from agentraft_ray.verifier.llm import LLMVerifier

_CASES = """\
CASES is a file with one JSON object a line:
  {"output": ..., "label": "NONE" or the class of what is wrong,
   "goal": "goal of the task", "step": "name", "step_goal": "goal of the step", "inputs": {...},
   "history": [["earlier step", its output], ...], "criticality": "low|medium|high",
   "group": "cases that belong together, such as several outputs for one request"}
Only output and label are needed. Label natural errors of the agent that is to be judged; made-up ones measure something else.
"""


def main(words: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    asked = _parser().parse_args(words)
    try:
        verifier = _verifier(asked)
        cases = read_cases(asked.cases)
        measured = asyncio.run(
            Calibration.measure(
                verifier,
                cases,
                false_positive_rate=asked.false_positive_rate,
                at_a_time=asked.at_a_time,
                deadline_s=asked.deadline_s,
                progress=_tell if sys.stderr.isatty() else None,
            )
        )
    except (AgentRaftError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    print(measured.report())
    if asked.out:
        measured.save(asked.out)
        print(f"written to {asked.out}; use it with LLMVerifier(calibration=Calibration.load({asked.out!r}))")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m agentraft_ray.verifier.calibration",
        description="Measure how often a verifier is right: recall, false alarms and confusion of classes, with 95%% intervals.",
        epilog=_CASES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", help="labelled cases, one JSON object a line")
    parser.add_argument("--verifier", metavar="MODULE:NAME", help="the verifier, by import path (a Verifier, or a function that makes one)")
    parser.add_argument("--provider", help="or a model: bedrock, openai, anthropic, gemini (default: the one in the environment)")
    parser.add_argument("--model", help="the model's id (default: the provider's)")
    parser.add_argument(
        "--false-positive-rate", type=_share, metavar="SHARE", help="choose the threshold for at most so many false alarms, 0.05 say"
    )
    parser.add_argument("--out", metavar="FILE", help="write the calibration there, as JSON")
    parser.add_argument("--at-a-time", type=int, default=8, help="verdicts at the same time (default 8)")
    parser.add_argument("--deadline-s", type=float, default=120.0, help="seconds for one verdict (default 120)")
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError("a share is a number from 0 to 1")
    return value


def _verifier(asked: argparse.Namespace) -> Verifier:
    if not asked.verifier:
        return LLMVerifier(provider=asked.provider, model=asked.model)
    try:
        found = pkgutil.resolve_name(asked.verifier)
    except (ValueError, ImportError, AttributeError) as problem:
        raise InvalidConfig(f"--verifier {asked.verifier}: {problem}") from problem
    if not isinstance(found, Verifier) and callable(found):
        found = found()
    if not isinstance(found, Verifier):
        raise InvalidConfig(f"--verifier {asked.verifier} is a {type(found).__name__}, not a Verifier")
    return found


def _tell(done: int, of: int) -> None:
    sys.stderr.write(f"\r{done}/{of}" + "\n" * (done == of))
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
