"""What a cascade did, for people, and what of it must not be."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.cascade.scene import COOLDOWN_S, THRESHOLD, Played
from benchmarks.cascade.work import CONVERT_S
from benchmarks.chaos.tally import BEGAN, ENDED, Line

__all__ = ["Execution", "executions", "lines", "shortfalls"]

SPREAD_S = 2.0
"""So long after the opening every shard has heard of it, and what was in flight has come back."""

Execution = tuple[float, float, str]
"""When it began and ended, and the run."""


def executions(lines: Sequence[Line], pipeline: str) -> list[Execution]:
    """The executions of the middle step of a pipeline, in the order of their beginning."""
    began: dict[tuple[str, int, int, int], float] = {}
    found: list[Execution] = []
    for line in lines:
        call = (line.run, line.lineage, line.attempt, line.pid)
        if not line.run.startswith(pipeline):
            continue
        if line.kind == BEGAN:
            began[call] = line.at
        elif line.kind == ENDED and call in began:
            found.append((began.pop(call), line.at, line.run))
    return sorted(found)


def _probes(played: Played) -> list[Execution]:
    """What ran while the breaker was open and everybody knew it."""
    return [one for one in executions(played.lines, "fragile") if played.opened_at + SPREAD_S <= one[0] < played.healed_at]


def _late(played: Played) -> list[Execution]:
    """What ran after the opening because it had been let through before."""
    return [one for one in executions(played.lines, "fragile") if played.opened_at <= one[0] < played.opened_at + SPREAD_S]


def _at_a_time(found: Sequence[Execution]) -> int:
    edges = sorted([(began, 1) for began, _, _ in found] + [(ended, -1) for _, ended, _ in found])
    count = most = 0
    for _, change in edges:
        count += change
        most = max(most, count)
    return most


def _probes_max(played: Played) -> int:
    """One per cooldown; one more for the edges, and one because the actor that was killed may have heard of none."""
    return int((played.healed_at - played.opened_at - SPREAD_S) / COOLDOWN_S) + 2


def shortfalls(played: Played) -> list[str]:
    """What did not hold; empty where all is well."""
    probes, attempts = _probes(played), Counter(run for _, _, run in executions(played.lines, "fragile"))
    again = [run for run, count in played.attempts.items() if attempts[run] != count]
    found = [f"{len(played.failed)} runs failed, for instance {played.failed[0]}"] if played.failed else []
    if played.succeeded != played.runs:
        found.append(f"{played.succeeded} of {played.runs} runs succeeded")
    if played.wrong:
        found.append(f"{len(played.wrong)} runs have a wrong output")
    if again:
        found.append(f"{len(again)} runs executed the middle step more or less often than their logs say, for instance {again[0]}")
    if _at_a_time(probes) > 1:
        found.append(f"{_at_a_time(probes)} probes at a time")
    if len(probes) > _probes_max(played):
        found.append(f"{len(probes)} probes; {_probes_max(played)} are allowed in that time")
    if any(attempts != 1 or not is_right for _, _, attempts, is_right in played.steady):
        found.append("a run of the other pipeline was touched")
    return found


def lines(played: Played) -> Iterator[str]:
    """The story with its figures."""
    all_of_it = executions(played.lines, "fragile")
    before = [one for one in all_of_it if played.broken_at - CONVERT_S <= one[0] < played.opened_at]
    probes = _probes(played)
    resumed = next((began for began, _, _ in all_of_it if began >= played.healed_at), math.nan)
    rule = f"opens after {THRESHOLD} rejections in a row from 3 runs; cooldown {COOLDOWN_S:.0f} s"
    yield f"a step that breaks in {played.runs:,} live runs ({rule})"
    yield _row("from the break to the opening, s", played.opened_at - played.broken_at)
    yield _row("attempts in that time", len(before))
    yield _row("begun after it, let through before", len(_late(played)), f"in the first {SPREAD_S:.0f} s")
    yield _row("open for, s", played.healed_at - played.opened_at)
    yield _row("probes", len(probes), f"at most {_at_a_time(probes)} at a time; {_probes_max(played)} were allowed")
    yield _row("the breaker actor, killed meanwhile, is back after, s", played.back_at - played.killed_at)
    yield _row("from the healing to the next attempt, s", resumed - played.healed_at)
    yield _row("from the healing to the end of the last run, s", played.finished_at - played.healed_at)
    yield _row("runs that succeeded", played.succeeded, f"wrong outputs: {len(played.wrong)}, failed: {len(played.failed)}")
    for what, (since, until) in {"before": (0.0, played.broken_at), "while broken": (played.broken_at, played.healed_at)}.items():
        took = [seconds for began, seconds, _, _ in played.steady if since <= began < until]
        yield _row(f"runs of the other pipeline, {what}", len(took), f"p50 {median(took):.2f} s" if took else "")


def _row(what: str, figure: float, remark: str = "") -> str:
    shown = f"{figure:,}" if isinstance(figure, int) else f"{figure:.2f}"
    return f"  {what:<54} {shown:>8}   {remark}".rstrip()
