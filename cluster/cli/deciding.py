"""Commands that decide about runs through the store, whoever drives them: approve, deny, cancel, fork."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import click

from agentraft_ray.cluster.cli.options import by_option, json_option, ledger_of, store_options
from agentraft_ray.cluster.cli.printing import Printer

if TYPE_CHECKING:
    from agentraft_ray.cluster.settings import ClusterSettings
    from agentraft_ray.ledger import Ledger

__all__ = ["approve", "cancel", "deny", "fork"]


@click.command()
@click.argument("run_id")
@click.argument("step", required=False)
@click.option("--digest", default="", help="Only if that is still the output that waits (see `show --json`).")
@click.option("--note", default="", help="A word for the log.")
@by_option
@json_option
@store_options
def approve(run_id: str, step: str | None, digest: str, note: str, by: str, printer: Printer, place: ClusterSettings) -> None:
    """Approve what a run waits for: exactly the output that lies there now, or the running of a step.

    Without STEP the one that waits. Whoever drives the run goes on at once; if nobody does, `agentraft resume` does.

    \b
    Examples:
      agentraft show memo-17 --outputs
      agentraft approve memo-17 publish --note "checked the figures"
    """
    _decide("approve", run_id, step, digest, note, by, printer, place)


@click.command()
@click.argument("run_id")
@click.argument("step", required=False)
@click.option("--digest", default="", help="Only if that is still the output that waits (see `show --json`).")
@click.option("--note", default="", help="What is wrong with it: the hint for the next attempt.")
@by_option
@json_option
@store_options
def deny(run_id: str, step: str | None, digest: str, note: str, by: str, printer: Printer, place: ClusterSettings) -> None:
    """Refuse what a run waits for: the output is thrown away and the step tries again, within its retries.

    \b
    Examples:
      agentraft deny memo-17 publish --note "the second figure is from last year"
    """
    _decide("deny", run_id, step, digest, note, by, printer, place)


@click.command()
@click.argument("run_id")
@by_option
@json_option
@store_options
def cancel(run_id: str, by: str, printer: Printer, place: ClusterSettings) -> None:
    """End a run, whatever it does and whoever drives it. One that has finished stays as it is.

    \b
    Examples:
      agentraft cancel memo-17
    """

    async def decide() -> bool:
        async with ledger_of(place) as ledger:
            return await ledger.cancel(run_id, by=by)

    is_ended = asyncio.run(decide())
    if printer.as_json:
        printer.document({"run_id": run_id, "is_ended": is_ended})
    else:
        printer.line(f"{run_id} has ended" if is_ended else f"{run_id} ends as soon as whoever drives it looks into its inbox")


@click.command()
@click.argument("run_id")
@click.option("--step", required=True, help="The first step that is not shared.")
@click.option("--id", "new_id", help="The id of the new run (default: made up).")
@json_option
@store_options
def fork(run_id: str, step: str, new_id: str | None, printer: Printer, place: ClusterSettings) -> None:
    """Begin a new run that shares everything before a step with another one, which stays as it is. `resume` runs it.

    \b
    Examples:
      agentraft fork memo-17 --step draft --id memo-17b
      agentraft resume memo-17b
    """

    async def decide() -> str:
        async with ledger_of(place) as ledger:
            return await ledger.fork(run_id, step, new_id=new_id)

    made = asyncio.run(decide())
    if printer.as_json:
        printer.document({"run_id": made, "forked_from": run_id})
    else:
        printer.line(made)
        printer.note(f"agentraft resume {made} runs it")


def _decide(
    kind: Literal["approve", "deny"],
    run_id: str,
    step: str | None,
    digest: str,
    note: str,
    by: str,
    printer: Printer,
    place: ClusterSettings,
) -> None:
    async def decide() -> tuple[str, bool]:
        async with ledger_of(place) as ledger:
            about = step or await _waiting(ledger, run_id)
            call = ledger.approve if kind == "approve" else ledger.deny
            await call(run_id, about, by=by, note=note, digest=digest)
            return about, (await ledger.view(run_id, steps_count=0)).owner_alive

    about, is_driven = asyncio.run(decide())
    if printer.as_json:
        printer.document({"run_id": run_id, "step": about, "decision": kind})
        return
    printer.line(f"{run_id}: {about} {'approved' if kind == 'approve' else 'denied'}")
    if not is_driven:
        printer.note(f"a server or cluster that serves its pipeline goes on with it; else: agentraft resume {run_id}")


async def _waiting(ledger: Ledger, run_id: str) -> str:
    waits = [wait.step for wait in (await ledger.view(run_id, steps_count=0)).waits]
    if len(waits) == 1:
        return waits[0]
    raise click.UsageError(f"run {run_id} waits for {'several decisions: ' + ', '.join(waits) if waits else 'no decision'}; name a STEP")
