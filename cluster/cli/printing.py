"""What commands print: JSON documents for programs, tables and lines for people, colours only on a terminal.

Texts of runs come from models and strangers; no control character of theirs reaches a terminal.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import click
import msgspec

__all__ = ["Printer", "ago", "clean", "count"]

_STYLES = {
    "succeeded": "green",
    "committed": "green",
    "ok": "green",
    "running": "cyan",
    "waiting": "yellow",
    "warning": "yellow",
    "failed": "red",
    "missing": "red",
    "rejected": "red",
    "cancelled": "magenta",
}


class Printer:
    """Prints what one command has to say: `as_json` decides for whom."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def document(self, value: Any) -> None:
        """One JSON document."""
        plain = msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=str)
        click.echo(json.dumps(plain, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False, default=str))

    def line(self, text: str = "") -> None:
        """A line for people."""
        click.echo(clean(text))

    def note(self, text: str) -> None:
        """A line beside the result, on standard error."""
        click.echo(clean(text), err=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Rows under their headings: with colours on a terminal, in plain columns elsewhere."""
        texts = [[_cell(one) for one in row] for row in rows]
        if sys.stdout.isatty():
            _rich_table(columns, texts)
            return
        widths = [max(len(row[place]) for row in [list(columns), *texts]) for place in range(len(columns))]
        for row in [[name.upper() for name in columns], *texts]:
            click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def clean(text: str) -> str:
    """A text without what a terminal would take for a command; line breaks and tabs stay."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def ago(at: float) -> str:
    """How long ago something was, shortly: 12s, 5m, 3h, 2d."""
    seconds = max(0.0, time.time() - at)
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"


def count(number: int, what: str) -> str:
    """A number of things in words."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _cell(value: Any) -> str:
    return clean("" if value is None else str(value)).replace("\n", " ")


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console  # noqa: PLC0415 - only where there is a terminal
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name)
    for row in rows:
        table.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in row))
    Console().print(table)
