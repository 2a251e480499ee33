"""``python -m agentraft_ray.verifier.training``: what can be asked for. What is done about it stands in `commands`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from agentraft_ray.errors import AgentRaftError
from agentraft_ray.verifier.training import commands
from agentraft_ray.verifier.training.bases import ENCODER, GENERATOR
from agentraft_ray.verifier.training.families import POOLS
from agentraft_ray.verifier.training.views import VIEWS

_ABOUT = """\
Train a small model that judges the outputs of an agent's steps, and measure what it is worth.

  1 collect   natural errors of a small agent on tasks with exact answers, and what the logs of your runs know
  2 train     an encoder (or decoder) with LoRA on what was collected, and on perturbed right answers
  3 eval      figures per task and per class of error, with intervals; your own cases too
  4 study     the same by models that never saw what they are tested on: tasks, domains, kinds of errors; controls
  5 freeze    the rules of a cascade (checks, agreement, score), before the outputs that it is measured on are drawn
    cascade   ... and what it then catches
  6 export    a directory that a verifier loads: adapter, temperature and threshold, model card

Every command can be stopped with Ctrl-C and goes on where it was when it is given again.
"""
_EXAMPLE = """\
a first model in a few minutes, without an agent:
  python -m agentraft_ray.verifier.training train --out first --items 20 --epochs 1
"""


def main(words: list[str] | None = None) -> int:
    """Run one command; the exit status."""
    asked = parser().parse_args(words)
    try:
        commands.COMMANDS[asked.command](asked)
    except (AgentRaftError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on where it was", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """Everything that can be asked for."""
    top = argparse.ArgumentParser(
        "python -m agentraft_ray.verifier.training", description=_ABOUT, epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verbs = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _collect(verbs.add_parser("collect", help="natural errors of a small agent into a bank"))
    _logs(verbs.add_parser("logs", help="labelled cases out of the logs of runs"))
    _train(verbs.add_parser("train", help="train a verifier", formatter_class=argparse.ArgumentDefaultsHelpFormatter))
    _evaluate(verbs.add_parser("eval", help="measure a training or an export on cases"))
    _study(verbs.add_parser("study", help="train and test once per fold", formatter_class=argparse.ArgumentDefaultsHelpFormatter))
    _freeze(verbs.add_parser("freeze", help="fix the rules of a cascade"))
    _cascade(verbs.add_parser("cascade", help="measure a frozen cascade on fresh generations"))
    _export(verbs.add_parser("export", help="write a directory that a verifier loads"))
    return top


def _collect(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--bank", type=Path, required=True, help="the bank (JSONL) to add to; what is in it already is not drawn again")
    verb.add_argument("--families", default="all", help="all, first-ten, beyond (the others), checked, or names with commas (default all)")
    verb.add_argument("--pool", choices=sorted(POOLS), default="train", help="entities that the requests are made of (default train)")
    verb.add_argument("--items", type=int, default=40, help="requests of each family (default 40)")
    verb.add_argument("--samples", type=int, default=8, help="answers to each request (default 8)")
    verb.add_argument("--temperature", type=float, default=0.7, help="of the sampling (default 0.7)")
    verb.add_argument("--shots", type=int, default=4, help="examples in a prompt (default 4)")
    verb.add_argument("--seed", default="0", help="of the requests: a number, or frozen:FILE for the seed of frozen rules (default 0)")
    verb.add_argument("--agent", default=GENERATOR, help=f"the agent: {GENERATOR} (its package), a path, or a hub id")
    verb.add_argument(
        "--host", choices=("auto", "vllm", "transformers"), default="auto", help="what runs the agent (default: what is there)"
    )
    verb.add_argument("--batch", type=int, default=8, help="requests at a time (default 8)")


def _logs(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--store", required=True, help="the URL of the Redis or Valkey that holds the logs (unix:// too)")
    verb.add_argument("--out", type=Path, required=True, help="the file of cases (JSONL) to write")
    verb.add_argument("--runs", default="", help="ids of runs with commas (default: all finished ones)")


def _data(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--first", type=Path, help="a file of natural errors, {family: [[request, gold, [output], [correct]]]}")
    verb.add_argument("--bank", type=Path, action="append", default=[], help="a bank of generations; may be given several times")
    verb.add_argument("--items", type=int, default=40, help="requests of each family that perturbed answers are made for")
    verb.add_argument("--negatives", type=int, default=3, help="perturbed answers to each of them")
    verb.add_argument("--seed", type=int, default=0, help="of data, order and weights")


def _model(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--kind", choices=("encoder", "decoder"), default="encoder", help="of the base model")
    verb.add_argument("--base", default=ENCODER, help=f"{ENCODER} (its package), {GENERATOR}, a path, or a hub id")
    verb.add_argument("--rank", type=int, default=16, help="of the LoRA; 0 trains all weights")
    verb.add_argument("--tokens-max", type=int, default=256, help="the longest text that is read")
    verb.add_argument("--epochs", type=float, default=3.0, help="passes over the data; parts of one are allowed")
    verb.add_argument("--batch", type=int, default=32, help="cases in a step")
    verb.add_argument("--learning-rate", type=float, default=1e-3, help="the highest, after the warm-up")
    verb.add_argument("--contrast", type=float, default=0.5, help="weight of ranking the answers to one request")


def _train(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--out", type=Path, required=True, help="the directory of the training; gone on with if it holds a part of it")
    verb.add_argument("--cases", type=Path, action="append", default=[], help="more labelled cases (JSONL), such as those of `logs`")
    verb.add_argument("--view", choices=VIEWS, default="whole", help="what of a case is shown: parts of it are controls")
    _data(verb)
    _model(verb)


def _evaluate(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--model", type=Path, required=True, help="a directory of train or export")
    verb.add_argument("--set", dest="sets", action="append", required=True, metavar="NAME=FILE",
                      help="a test set: a bank, a file of cases, or a file of natural errors; may be given several times")  # fmt: skip
    verb.add_argument("--json", type=Path, help="write the figures there")
    verb.add_argument("--plot", type=Path, help="draw the reliability diagram there (PNG)")


def _study(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--out", type=Path, required=True, help="the directory of the study; folds that are done there are not done again")
    verb.add_argument("--only", default="", help="folds, or what their names begin with, with commas: family, items, control, ...")
    _data(verb)
    _model(verb)


def _freeze(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--model", type=Path, required=True, help="a directory of train or export")
    verb.add_argument("--bank", type=Path, action="append", required=True, help="generations that the rules are chosen on")
    verb.add_argument("--out", type=Path, required=True, help="the file of rules to write; commit it before you draw fresh outputs")


def _cascade(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--frozen", type=Path, required=True, help="the rules that `freeze` wrote")
    verb.add_argument("--model", type=Path, required=True, help="the model that they were frozen with")
    verb.add_argument("--bank", type=Path, required=True, help="generations drawn afterwards: collect --seed frozen:FILE --pool test")
    verb.add_argument("--json", type=Path, help="write the figures there")


def _export(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--model", type=Path, required=True, help="a directory of train")
    verb.add_argument("--out", type=Path, required=True, help="the directory to write")
    verb.add_argument("--figures", type=Path, help="what `eval --json` wrote, for the model card")
    verb.add_argument("--study", type=Path, help="the directory of a study, for the model card")


if __name__ == "__main__":
    sys.exit(main())
