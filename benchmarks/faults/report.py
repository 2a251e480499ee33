"""The findings for people: tables on the terminal, and what is under way while they are made."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text

from benchmarks.faults.findings import Findings
from benchmarks.faults.studies.base import Table

__all__ = ["console", "print_findings", "print_table", "progress_on"]

_PLAIN_WIDTH = 220  # where there is no terminal whose width counts
_PLAIN_LINE_S = 10.0
_SHOWN_MAX = 20


def console() -> Console:
    """Where tables go: as wide as the terminal, or as they need."""
    return Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH, highlight=False, soft_wrap=False)


def print_table(out: Console, title: str, what: str, table: Table) -> None:
    """One table with what it shows."""
    out.print()
    out.print(Text(title, style="bold"))
    out.print(Text(what))
    rows = RichTable(box=SIMPLE_HEAD, pad_edge=False)
    for number, header in enumerate(table.headers):
        rows.add_column(header, justify="left" if not number else "right", style="dim" if header == "formula" else None)
    for row in table.rows:
        rows.add_row(*row)
    out.print(rows)


def print_findings(out: Console, findings: Findings) -> None:
    """All tables, then whether formulas and claims hold."""
    for study, results in findings.studies:
        print_table(out, study.title, study.what, study.table(results))
    if findings.stop is not None:
        for study, results in findings.studies:
            for result in results:
                if "silent_corruption" in result.counts and "runs" not in result.counts:
                    where = ", ".join(f"{name}={value}" for name, value in result.at.items())
                    said = f"{result.side} {findings.stop.target:.3g}" if result.side else f"not decided against {findings.stop.target:.3g}"
                    out.print(f"{study.name} ({where}): {said} after {result.counts['trials']:,} trials")
    tested = sum(check.agrees is not None for check in findings.checks)
    wrong = findings.disagreements
    out.print(f"\n{tested} comparisons with formulas, {len(wrong)} disagree (Holm's correction, 1 % for all of them together)")
    for check in wrong[:_SHOWN_MAX]:
        out.print(Text(f"  DISAGREES {check}", style="red"))
    if len(wrong) > _SHOWN_MAX:
        out.print(f"  and {len(wrong) - _SHOWN_MAX} more")
    for name, claim in findings.claims:
        held = {True: "HOLDS", False: "DOES NOT HOLD", None: "OPEN (more --trials would tell)"}[claim.holds]
        out.print(Text(f"{held}: {name}: {claim.text}", style="red" if claim.holds is False else ""))


class _Rate(ProgressColumn):
    """Trials per second."""

    def render(self, task) -> Text:  # type: ignore[no-untyped-def]
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="dim")


@contextmanager
def progress_on(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function of (trials made, trials in all) that shows them on standard error: a bar, or a line now and then."""
    if sys.stderr.isatty():
        with Progress(
            TextColumn(what),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        ) as bars:
            task = bars.add_task(what, total=None)
            yield lambda made, total: bars.update(task, completed=made, total=total)
        return
    started = told = time.monotonic()

    def tell(made: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= _PLAIN_LINE_S:
            told = now
            rate = made / (now - started)
            left_s = (total - made) / rate if rate else 0.0
            sys.stderr.write(f"{what}: {made:,} of {total:,} trials, {rate:,.0f}/s, {left_s:,.0f} s left\n")
            sys.stderr.flush()

    yield tell
