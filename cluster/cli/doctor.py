"""The command that looks at everything a run needs here, says what is missing, and how to fix it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from agentraft_ray.cluster.cli.exits import FAILED, OK
from agentraft_ray.cluster.cli.options import json_option, store_options
from agentraft_ray.cluster.cli.printing import Printer

if TYPE_CHECKING:
    from agentraft_ray.cluster.settings import ClusterSettings

__all__ = ["doctor"]

_SIGNS = {"ok": "✓", "warning": "!", "missing": "✗"}


@click.command()
@json_option
@store_options
def doctor(printer: Printer, place: ClusterSettings) -> int:
    """Look at what runs need here: versions, the store with its durability, eviction and clock, runs that nobody drives, credentials of
    model providers, GPUs, Ray, optional packages. Changes nothing. Ends with 1 where something is missing that runs cannot do without.

    \b
    Examples:
      agentraft doctor
      agentraft doctor --store redis://db:6379/0 --json
    """
    from agentraft_ray.cluster.checkup import checkup  # noqa: PLC0415

    findings = asyncio.run(checkup(place))
    is_well = all(one.state != "missing" for one in findings)
    if printer.as_json:
        printer.document({"is_well": is_well, "findings": findings})
        return OK if is_well else FAILED
    for one in findings:
        printer.line(f"{_SIGNS[one.state]} {one.what:<12} {one.found}")
        if one.fix:
            printer.line(f"  {'':<12} → {one.fix}")
    return OK if is_well else FAILED
