"""Commands that look at runs and change nothing: ls, show, tail."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from agentraft_ray.cluster.cli.options import json_option, ledger_of, store_options
from agentraft_ray.cluster.cli.printing import Printer, ago, clean, count

if TYPE_CHECKING:
    from agentraft_ray.cluster.settings import ClusterSettings
    from agentraft_ray.events import Event
    from agentraft_ray.ledger import EntryView, Ledger, RunSummary, RunView

__all__ = ["event_line", "ls", "show", "tail"]

_STATUSES = ("running", "waiting", "succeeded", "failed", "cancelled")
_PAGE = 500
_MARKS = {
    "run_start": "▶",
    "run_claimed": "▶",
    "step_start": "▶",
    "step_verifying": "…",
    "step_committed": "✓",
    "step_failed": "✗",
    "step_rollback": "↺",
    "step_retry": "⟳",
    "suspect_cleared": "✓",
    "command_taken": "!",
    "run_parked": "⏸",
    "breaker_open": "⚠",
    "run_success": "🎉",
    "run_failed": "✗",
}


@click.command()
@click.option("--status", multiple=True, type=click.Choice(_STATUSES), help="Only runs of this status; may be given several times.")
@click.option("--pipeline", default="", help="Only runs of this pipeline.")
@click.option("--text", default="", help="Only runs with this text in their id or goal.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="How many to list at the most.")
@click.option("--after", help="Where the page before has ended: its 'next'.")
@click.option("--all", "is_all", is_flag=True, help="List every one there is.")
@json_option
@store_options
def ls(
    status: tuple[str, ...],
    pipeline: str,
    text: str,
    limit: int,
    after: str | None,
    is_all: bool,
    printer: Printer,
    place: ClusterSettings,
) -> None:
    """List runs, newest first: those that have not finished, then the others.

    \b
    Examples:
      agentraft ls
      agentraft ls --status waiting --pipeline memo
      agentraft ls --all --json | jq '.runs[].run_id'
    """
    from agentraft_ray.ledger import RunFilter, statuses_of  # noqa: PLC0415

    wanted = RunFilter(statuses_of(status), pipeline, text)

    async def read() -> tuple[list[RunSummary], str | None]:
        async with ledger_of(place) as ledger:
            page = await ledger.page(wanted, limit=_PAGE if is_all else limit, after=after)
            runs = list(page.runs)
            while page.next is not None and (is_all or len(runs) < limit):
                room = _PAGE if is_all else limit - len(runs)
                page = await ledger.page(wanted, limit=room, after=page.next)
                runs += page.runs
            return runs, page.next

    runs, following = asyncio.run(read())
    if printer.as_json:
        printer.document({"runs": runs, "next": following})
        return
    if not runs:
        printer.note("no such runs here" if status or pipeline or text else "no runs here yet; `agentraft run` makes one")
        return
    printer.table(("run", "pipeline", "status", "steps", "age", "goal"), [_row(run) for run in runs])
    if following is not None:
        printer.note(f"there are more: --after {following}, or --all")


@click.command()
@click.argument("run_id")
@click.option("--log/--no-log", default=True, help="Show the log, one line a record.")
@click.option("--outputs", is_flag=True, help="Show the outputs of the steps.")
@json_option
@store_options
def show(run_id: str, log: bool, outputs: bool, printer: Printer, place: ClusterSettings) -> None:
    """Show one run: how it stands, its steps with their verdicts, and its log.

    \b
    Examples:
      agentraft show memo-17
      agentraft show memo-17 --outputs --no-log
      agentraft show memo-17 --json | jq .waits
    """

    async def read() -> tuple[RunView, list[EntryView], dict[str, Any]]:
        async with ledger_of(place) as ledger:
            view = await ledger.view(run_id, steps_count=_PAGE)
            entries = await _entries(ledger, run_id) if log else []
            made = [step.name for step in view.steps_shown if step.status == "committed" or step.name in {one.step for one in view.waits}]
            return view, entries, {name: await ledger.output(run_id, name) for name in (made if outputs else ())}

    view, entries, made = asyncio.run(read())
    if printer.as_json:
        document = msgspec.to_builtins(view) | {"log": entries} | ({"outputs": made} if outputs else {})
        printer.document(document)
        return
    _print_view(printer, view)
    for name, output in made.items():
        printer.line(f"\n--- {name} ({output.state}, {output.size_bytes:,} bytes)")
        printer.line(_text(output.value) if output.is_shown else "(too large to show here)")
    if log:
        printer.line()
        for entry in entries:
            printer.line(_entry_line(entry))


@click.command()
@click.argument("run_id", required=False)
@click.option("--follow/--no-follow", default=True, help="Wait for further events until the run ends.")
@click.option("--after", metavar="EVENT", help="Only what comes behind the event with this id.")
@json_option
@store_options
def tail(run_id: str | None, follow: bool, after: str | None, printer: Printer, place: ClusterSettings) -> None:
    """Follow the events of a run, the newest one if none is named. Each event comes once; Ctrl-C stops looking, not the run.

    \b
    Examples:
      agentraft tail
      agentraft tail memo-17 --no-follow
      agentraft tail memo-17 --json --after memo-17:12:0
    """

    async def read() -> None:
        async with ledger_of(place) as ledger:
            wanted = run_id or await _newest(ledger)
            events = ledger.follow(wanted, after) if follow else ledger.events(wanted, after)
            async for event in events:
                if printer.as_json:
                    click.echo(json.dumps(event.to_dict(), ensure_ascii=False))
                else:
                    printer.line(event_line(event))

    asyncio.run(read())


def event_line(event: Event) -> str:
    """An event as people follow it."""
    kind = event.type.value
    about = event.step_name or event.run_id
    verdict = event.verification
    words = {
        "step_start": "",
        "step_committed": "COMMITTED",
        "step_failed": verdict.error_type.value if verdict is not None and not verdict.passed else "FAILED",
        "step_rollback": f"rollback → {event.detail}" if event.detail else "rollback",
        "step_retry": f"retry {event.detail}".rstrip(),
        "run_parked": f"waits for {event.detail}",
        "suspect_cleared": f"stands, {event.detail}",
    }.get(kind, f"{kind} {event.detail}".rstrip())
    more = ""
    if kind == "step_failed":
        more = (verdict.hint or "") if verdict is not None else event.detail
    return f"{_time(event.at)}  {_MARKS.get(kind, '·')} {about} {words}".rstrip() + (f"  {more}" if more else "")


async def _newest(ledger: Ledger) -> str:
    page = await ledger.page(limit=_PAGE)
    if not page.runs:
        raise click.UsageError("no runs here yet; `agentraft run` makes one")
    return max(page.runs, key=lambda run: run.started_at).run_id


async def _entries(ledger: Ledger, run_id: str) -> list[EntryView]:
    found: list[EntryView] = []
    start: int | None = 0
    while start is not None:
        page = await ledger.timeline(run_id, start=start, count=1_000)
        found += page.entries
        start = page.next
    return found


def _row(run: RunSummary) -> tuple[Any, ...]:
    steps = f"{'?' if run.committed is None else f'{run.committed:,}'}/{run.steps:,}"
    return run.run_id, run.pipeline, run.status, steps, ago(run.updated_at or run.started_at), run.error or run.goal


def _print_view(printer: Printer, view: RunView) -> None:
    printer.line(f"{view.run_id}  {view.status}  {view.pipeline}  {view.committed}/{view.steps} steps")
    printer.line(f"goal      {view.goal}")
    printer.line(f"started   {_date(view.started_at)}, last record {ago(view.updated_at)} ago")
    spent = f"{view.cost.tokens:,} tokens, " + ("unknown price" if view.cost.usd is None else f"${view.cost.usd:.4f}")
    used = f"{count(view.attempts, 'attempt')}, {count(view.rollbacks, 'rollback')}, {spent}, {view.cost.seconds:.1f} s of work"
    printer.line(f"used      {used}")
    if view.budget:
        printer.line("budget    " + ", ".join(f"{name} {limit:g}" for name, limit in view.budget.items()))
    if view.forked_from:
        printer.line(f"forked    from {view.forked_from}")
    if view.waiting_for:
        printer.line(f"waits for {'; '.join(view.waiting_for)}")
    for wait in view.waits:
        printer.line(f"          agentraft approve {view.run_id} {wait.step}   (or deny)")
    if view.error:
        printer.line(f"error     {view.error}")
    printer.line()
    rows = []
    for step in view.steps_shown:
        verdict = step.verdict
        said = "" if verdict is None else verdict.kind if verdict.kind != "reject" else verdict.error_type
        rows.append((step.name, step.status, step.attempts, said, verdict.verifier if verdict else "", f"{step.cost.seconds * 1e3:,.0f}"))
    printer.table(("step", "status", "attempts", "verdict", "by", "ms"), rows)
    if view.steps > len(view.steps_shown):
        printer.note(f"the first {len(view.steps_shown):,} of {view.steps:,} steps")


def _entry_line(entry: EntryView) -> str:
    place = f"{entry.step} #{entry.attempt}" if entry.step and entry.kind != "command" else entry.step
    verdict = entry.verdict
    said = "" if verdict is None else f"{verdict.verifier}: {verdict.error_type if verdict.kind == 'reject' else verdict.kind}"
    parts = [part for part in (place, said, entry.detail, verdict.hint if verdict is not None else "") if part]
    return f"{entry.position:>5}  {_time(entry.at)}  {entry.kind:<11} {'  '.join(parts)}".rstrip()


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%H:%M:%S") if at else " " * 8


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _text(value: Any) -> str:
    return clean(value) if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
