"""Commands that look after a store: audit and prune."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentraft_ray.cluster.cli.exits import FAILED, OK
from agentraft_ray.cluster.cli.options import Duration, json_option, ledger_of, store_options
from agentraft_ray.cluster.cli.printing import Printer, count

if TYPE_CHECKING:
    from agentraft_ray.checkpoint import PruneReport
    from agentraft_ray.cluster.settings import ClusterSettings
    from agentraft_ray.ledger import AuditReport

__all__ = ["audit", "prune"]


@click.command()
@click.argument("run_ids", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="Every run of the store.")
@click.option(
    "--export", type=click.Path(dir_okay=False, path_type=Path), help="Write the log of one run to a file, for `--file` elsewhere."
)
@click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Audit an exported log instead; needs no store.")
@json_option
@store_options
def audit(run_ids: tuple[str, ...], is_all: bool, export: Path | None, file: Path | None, printer: Printer, place: ClusterSettings) -> int:
    """Check logs from their bytes alone: the hash chain is whole, every record follows from those before it, every commit carries a
    passing verdict (or a person's approval) about exactly its output, and every output is what its digest says.

    Needs no pipeline, no cluster, and with --file no store. It does not say whether a verifier was right.

    \b
    Examples:
      agentraft audit memo-17
      agentraft audit --all --json
      agentraft audit memo-17 --export memo-17.log    # here
      agentraft audit --file memo-17.log              # anywhere
    """
    if (file is not None) + bool(run_ids) + is_all != 1 or (export is not None and len(run_ids) != 1):
        raise click.UsageError("name the runs to audit, or --all, or one --file; --export takes one run")
    reports = asyncio.run(_audited(run_ids, is_all, export, file, place))
    if printer.as_json:
        printer.document({"reports": reports, "is_sound": all(report.is_sound for report in reports)})
    else:
        for report in reports:
            _print_report(printer, report)
        if export is not None:
            printer.note(f"exported to {export}")
        bad = sum(not report.is_sound for report in reports)
        printer.line(f"{count(len(reports), 'log')} checked, " + (f"{bad} NOT SOUND" if bad else "all sound"))
    return OK if all(report.is_sound for report in reports) else FAILED


@click.command()
@click.option("--older-than", type=Duration(), default="7d", show_default=True, help="Only runs that finished so long ago: 90s, 12h, 7d.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
@store_options
def prune(older_than: float, dry_run: bool, printer: Printer, place: ClusterSettings) -> None:
    """Remove the logs and outputs of finished runs. What has not finished is never touched; a tombstone keeps each id from being run
    again by mistake.

    \b
    Examples:
      agentraft prune --dry-run
      agentraft prune --older-than 30d
    """

    async def remove() -> PruneReport:
        async with ledger_of(place) as ledger:
            return await ledger.prune(older_than_s=older_than, dry_run=dry_run)

    report = asyncio.run(remove())
    if printer.as_json:
        printer.document(report)
    else:
        verb = "would be removed" if report.dry_run else "removed"
        printer.line(f"{count(report.runs, 'run')} {verb}, {report.freed_bytes / 1e6:,.1f} MB")


async def _audited(
    run_ids: tuple[str, ...], is_all: bool, export: Path | None, file: Path | None, place: ClusterSettings
) -> list[AuditReport]:
    if file is not None:
        from agentraft_ray.cluster.stores import seal_of  # noqa: PLC0415
        from agentraft_ray.ledger import audit_file  # noqa: PLC0415

        return [await audit_file(file.read_text(), seal_of(place))]  # noqa: ASYNC240 - nothing else goes on meanwhile
    async with ledger_of(place) as ledger:
        wanted = list(run_ids)
        if is_all:
            after = None
            while True:
                page = await ledger.page(limit=500, after=after)
                wanted += [run.run_id for run in page.runs]
                after = page.next
                if after is None:
                    break
        if export is not None:
            export.write_text(await ledger.export(wanted[0]))  # noqa: ASYNC240
        return [await ledger.audit(run_id) for run_id in dict.fromkeys(wanted)]


def _print_report(printer: Printer, report: AuditReport) -> None:
    verdicts = ", ".join(f"{number} by {name}" for name, number in sorted(report.verdicts.items()))
    printer.line(f"{'ok ' if report.is_sound else 'BAD'}  {report.run_id}  {report.records} records, head {report.head[:16]}")
    printer.line(
        f"     {count(report.commits, 'commit')} ({verdicts or 'none'}), {count(report.rejections, 'rejection')}, "
        f"{count(report.rollbacks, 'rollback')}, {count(report.approvals, 'approval')}, {count(report.outputs_checked, 'output')} checked"
    )
    for problem in report.problems:
        printer.line(f"     {problem}")
