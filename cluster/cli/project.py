"""The command that makes a project: a pipeline that runs at once, its test, and the settings to serve it."""

from __future__ import annotations

from pathlib import Path

import click

from agentraft_ray.cluster.cli.options import json_option
from agentraft_ray.cluster.cli.printing import Printer

__all__ = ["init"]

_TEMPLATE = Path(__file__).parent / "project"
_NAMES = {"gitignore": ".gitignore", "pipeline.py.txt": "pipeline.py", "test_pipeline.py.txt": "test_pipeline.py"}


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@json_option
def init(directory: Path, printer: Printer) -> None:
    """Make a project: a pipeline of three steps that runs at once, a test of it, and settings under which `serve` offers it.

    \b
    Examples:
      agentraft init demo && cd demo
      agentraft run memo --goal "rollbacks"
    """
    made = []
    files = {file: directory / _NAMES.get(file.name, file.name) for file in sorted(_TEMPLATE.iterdir()) if file.is_file()}
    there = [str(target) for target in files.values() if target.exists()]
    if there:
        raise click.UsageError(f"{there[0]} is there already; choose another directory")
    directory.mkdir(parents=True, exist_ok=True)
    for source, target in files.items():
        target.write_text(source.read_text())
        made.append(str(target))
    if printer.as_json:
        printer.document({"directory": str(directory), "files": made})
        return
    for name in made:
        printer.line(f"  {name}")
    printer.line(f'\ncd {directory}\nagentraft run memo --goal "rollbacks"')
