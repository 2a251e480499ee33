"""What the commands do: they put the parts together, and tell how far they are. No logic of their own."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.verifier.training.bank import Bank, cases_of, read_bank
from agentraft_ray.verifier.training.bases import ENCODER, GENERATOR
from agentraft_ray.verifier.training.cascade import Frozen, Signals, agreement, freeze, measure
from agentraft_ray.verifier.training.cases import Case, read_cases, write_cases
from agentraft_ray.verifier.training.checks import CHECKED_FAMILIES, verdicts_of
from agentraft_ray.verifier.training.collecting import Plan, collect_natural
from agentraft_ray.verifier.training.cost import cost_of
from agentraft_ray.verifier.training.dataset import made_cases, natural_cases, renamed
from agentraft_ray.verifier.training.evaluation import figures
from agentraft_ray.verifier.training.export import export
from agentraft_ray.verifier.training.families import FAMILIES, FIRST_TEN, PLAIN, POOLS, TRAIN, Family
from agentraft_ray.verifier.training.fit import Settings
from agentraft_ray.verifier.training.generators import agent_directory, open_generator
from agentraft_ray.verifier.training.model import Architecture
from agentraft_ray.verifier.training.report import class_rows, family_rows, fold_rows, plot_reliability, summary, table
from agentraft_ray.verifier.training.study import Materials, results_in, run_study, scored
from agentraft_ray.verifier.training.trained import TRAINING, open_trained, opened_name, train
from agentraft_ray.verifier.training.views import View, view_of

__all__ = ["COMMANDS"]


def _do_collect(asked: Namespace) -> None:
    plan = Plan(
        _families(asked.families),
        POOLS[asked.pool],
        asked.items,
        asked.samples,
        _seed(asked.seed),
        asked.temperature,
        asked.shots,
        asked.batch,
    )
    generator = open_generator(asked.agent, asked.host)
    progress = _Progress()
    with Bank(asked.bank) as bank:
        try:
            added = collect_natural(generator, bank, plan, lambda family, done, of: progress(family, done, of, None))
        finally:
            progress.end()
        print(f"{added} answers added; {len(bank)} in {asked.bank}")
    for name, (wrong, of) in _rates(asked.bank).items():
        print(f"  {name:<14} {wrong:5d} of {of:5d} wrong ({wrong / of:.0%})")


def _families(named: str) -> list[Family]:
    groups = {
        "all": list(FAMILIES.values()),
        "first-ten": list(FIRST_TEN),
        "beyond": [family for family in FAMILIES.values() if family not in FIRST_TEN],
        "checked": [FAMILIES[name] for name in sorted(CHECKED_FAMILIES)],
    }
    if named in groups:
        return groups[named]
    unknown = [name for name in named.split(",") if name not in FAMILIES]
    if unknown:
        raise InvalidConfig(f"no family {', '.join(unknown)}; there are {', '.join(FAMILIES)}, and the groups {', '.join(groups)}")
    return [FAMILIES[name] for name in named.split(",")]


def _seed(told: str) -> int:
    kind, _, file = told.partition(":")
    if kind == "frozen":
        return Frozen.load(Path(file)).seed
    if not told.lstrip("-").isdigit():
        raise InvalidConfig(f"a seed is a number or frozen:FILE, not {told!r}")
    return int(told)


def _rates(bank: Path) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for one in read_bank(bank):
        wrong, of = found.get(one.family, (0, 0))
        found[one.family] = (wrong + (one.truth != "PASS"), of + 1)
    return found


def _do_logs(asked: Namespace) -> None:
    from agentraft_ray.checkpoint.redis import RedisCheckpointStore  # noqa: PLC0415 - a store, and its client, for this command alone
    from agentraft_ray.verifier.training.from_logs import finished_cases  # noqa: PLC0415

    async def read() -> list[Case]:
        store = RedisCheckpointStore(asked.store)
        await store.open()
        try:
            runs = asked.runs.split(",") if asked.runs else None
            return [case async for case in finished_cases(store, runs=runs)]
        finally:
            await store.close()

    count = write_cases(asked.out, asyncio.run(read()))
    print(f"{count} labelled cases written to {asked.out}")


def _do_train(asked: Namespace) -> None:
    cases = list(_training_cases(asked))
    progress = _Progress()
    try:
        told = train(cases, _settings(asked), asked.out, lambda step, of, loss: progress("train", step, of, loss))
    finally:
        progress.end()
    print(json.dumps(told["data"], indent=1))
    print(f"trained in {told['seconds']:.0f} s; measure it with: eval --model {asked.out} --set NAME=FILE")


def _training_cases(asked: Namespace) -> Iterable[Case]:
    yield from made_cases(FAMILIES.values(), TRAIN, asked.seed, asked.items, asked.negatives)
    for bank in asked.bank:
        yield from cases_of(read_bank(bank))
    if asked.first is not None:
        yield from renamed(natural_cases(asked.first), PLAIN, TRAIN, asked.seed)
    for file in asked.cases:
        yield from read_cases(file)


def _settings(asked: Namespace) -> Settings:
    base = agent_directory(GENERATOR) if asked.base == GENERATOR else asked.base
    kind: Literal["encoder", "decoder"] = "decoder" if asked.base == GENERATOR else asked.kind
    architecture = Architecture(base, kind, asked.rank, asked.tokens_max)
    view: View = getattr(asked, "view", "whole")
    return Settings(architecture, asked.seed, asked.epochs, asked.batch, asked.learning_rate, contrast=asked.contrast, view=view)


def _do_eval(asked: Namespace) -> None:
    trained, scoring = open_trained(asked.model)
    sets = dict(_named(one) for one in asked.sets)
    found: dict[str, Any] = {"model": opened_name(asked.model), "sets": {}}
    for name, cases in sets.items():
        found["sets"][name] = figures(scored(trained, cases), scoring)
        print(
            summary(name, found["sets"][name]),
            table(family_rows(found["sets"][name])),
            table(class_rows(found["sets"][name])),
            "",
            sep="\n",
        )
    found["cost"] = cost_of(trained, [view_of(case) for cases in sets.values() for case in cases[:256]])
    print("cost of a verdict:", ", ".join(f"{name} {value}" for name, value in found["cost"].items()))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if asked.plot:
        plot_reliability(found["sets"], asked.plot)


def _named(told: str) -> tuple[str, list[Case]]:
    name, sign, file = told.partition("=")
    if not sign:
        raise InvalidConfig(f"a test set is given as NAME=FILE, not {told!r}")
    return name, cases_in(Path(file))


def cases_in(path: Path) -> list[Case]:
    """The cases of a bank, of a file of cases, or of a file of natural errors, by what its first line looks like."""
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    if '"truth"' in first and '"prompt"' in first:
        return cases_of(read_bank(path))
    return list(read_cases(path)) if '"label"' in first else natural_cases(path)


def _do_study(asked: Namespace) -> None:
    if asked.first is None:
        raise InvalidConfig("a study is about the first ten families: give their natural errors with --first FILE")
    natural = [case for bank in asked.bank for case in cases_of(read_bank(bank))]
    materials = Materials(natural_cases(asked.first), natural, asked.items, asked.negatives, asked.seed)
    progress = _Progress()
    only = [name for name in asked.only.split(",") if name]
    try:
        run_study(materials, _settings(asked), asked.out, progress, only)
    finally:
        progress.end()
        print(table(fold_rows(results_in(asked.out))))


def _do_freeze(asked: Namespace) -> None:
    generations = [one for bank in asked.bank for one in read_bank(bank)]
    told = f"{len(generations)} generations of {', '.join(sorted({one.generator for one in generations}))}"
    rules = freeze(_signals(asked.model, cases_of(generations)), opened_name(asked.model), told)
    rules.save(asked.out)
    commits = [name for name, regime in rules.regimes.items() if regime == "commit"]
    print(f"frozen as {rules.digest[:16]} in {asked.out}")
    print(f"passes need {rules.votes_min} of {rules.samples} votes and P(wrong) < {rules.learned_max:.4f}")
    print(f"commits in {', '.join(commits) or 'no family'}; abstains everywhere else")
    print(f"commit that file, then draw fresh outputs: collect --bank FRESH --pool test --seed frozen:{asked.out}")


def _signals(model: Path, cases: Sequence[Case]) -> list[Signals]:
    trained, scoring = open_trained(model)
    learned = [scoring.of_logits(row).wrong for row in scored(trained, cases).logits.tolist()]

    async def check() -> list[dict[str, bool]]:
        return [await verdicts_of(case) for case in cases]

    return [
        Signals(case, checks, votes, samples, wrong)
        for case, checks, (votes, samples), wrong in zip(cases, asyncio.run(check()), agreement(cases), learned, strict=True)
    ]


def _do_cascade(asked: Namespace) -> None:
    frozen = Frozen.load(asked.frozen)
    if (name := opened_name(asked.model)) != frozen.model:
        raise InvalidConfig(f"{asked.frozen} was frozen with the model {frozen.model}, this is {name}")
    found = measure(frozen, _signals(asked.model, cases_of(read_bank(asked.bank))))
    text = json.dumps(found, indent=1)
    print(text)
    if asked.json:
        asked.json.write_text(text + "\n", encoding="utf-8")


def _do_export(asked: Namespace) -> None:
    trained, scoring = open_trained(asked.model)
    told = json.loads((asked.model / TRAINING).read_text(encoding="utf-8"))
    card: dict[str, Any] = {
        "data": told["data"],
        "training": {**_flat(told["settings"]), "seconds": told["seconds"], "machine": told["machine"]},
    }
    if asked.figures:
        card |= {key: value for key, value in json.loads(asked.figures.read_text(encoding="utf-8")).items() if key in ("sets", "cost")}
    if asked.study:
        card["study"] = results_in(asked.study)
    made = export(trained, scoring, card, asked.out)
    size = sum(size for size, _ in made.manifest.files.values())
    print(f"{made.manifest.kind} of {size:,} bytes written to {asked.out}, identity {made.identity}")


def _flat(told: dict[str, Any]) -> dict[str, Any]:
    inner = {key: value for key, value in told["architecture"].items() if key != "base" or value == ENCODER}
    return {**inner, **{key: value for key, value in told.items() if key != "architecture"}}


class _Progress:
    """One line on a terminal that tells how far it is; nothing where nobody looks."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._on = sys.stderr.isatty()
        self._told = 0.0

    def __call__(self, what: str, done: int, of: int, loss: float | None) -> None:
        now = time.monotonic()
        began = self._began.setdefault(what, now)
        if not self._on or (now - self._told < 0.2 and done < of):
            return
        self._told = now
        left = (now - began) / max(1, done) * (of - done)
        shown = "" if loss is None else f", loss {loss:.3f}"
        sys.stderr.write(f"\r\x1b[K{what}: {done}/{of}{shown}, {left / 60:.0f} min left" + "\n" * (done == of))
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the line as it is."""
        if self._on:
            sys.stderr.write("\n")


COMMANDS: dict[str, Callable[[Namespace], None]] = {
    "collect": _do_collect,
    "logs": _do_logs,
    "train": _do_train,
    "eval": _do_eval,
    "study": _do_study,
    "freeze": _do_freeze,
    "cascade": _do_cascade,
    "export": _do_export,
}
