"""Commands about the command line itself: its settings and its completion."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click
from click.shell_completion import get_completion_class

from agentraft_ray.cluster.cli.options import json_option
from agentraft_ray.cluster.cli.printing import Printer

if TYPE_CHECKING:
    from agentraft_ray.cluster.sources import Setting

__all__ = ["completion", "config"]


@click.group()
def config() -> None:
    """Show the settings and where they come from."""


@config.command()
@click.option("--sources", is_flag=True, help="Show where each value comes from, and what it means.")
@click.option("--config", "file", type=click.Path(exists=True, dir_okay=False), help="A file of settings instead of agentraft.toml.")
@json_option
def show(sources: bool, file: str | None, printer: Printer) -> None:
    """Show every setting of the store, the cluster and the server. Secrets are shown as stars.

    Options win over environment variables (AGENTRAFT_SHARDS, AGENTRAFT_SERVE_PORT), those over agentraft.toml (or the file that
    AGENTRAFT_CONFIG names), that over [tool.agentraft] in pyproject.toml.

    \b
    Examples:
      agentraft config show --sources
      agentraft config show --json | jq .serve.port
    """
    from agentraft_ray.cluster.serve.settings import ServeSettings  # noqa: PLC0415
    from agentraft_ray.cluster.sources import explain  # noqa: PLC0415
    from agentraft_ray.cluster.stores import explain_here  # noqa: PLC0415

    if file is not None:
        os.environ["AGENTRAFT_CONFIG"] = file
    found = {"store and cluster": explain_here(), "serve": explain(ServeSettings)}
    if printer.as_json:
        names = {"store and cluster": "cluster", "serve": "serve"}
        printer.document({names[title]: {one.name: _shown(one, sources) for one in settings} for title, settings in found.items()})
        return
    for title, settings in found.items():
        printer.line(f"[{title}]")
        if sources:
            printer.table(("setting", "value", "from", "meaning"), [(one.name, one.value, one.source, one.meaning) for one in settings])
        else:
            printer.table(("setting", "value"), [(one.name, one.value) for one in settings])
        printer.line()


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      eval "$(agentraft completion bash)"                       # now
      agentraft completion fish > ~/.config/fish/completions/agentraft.fish
    """
    from agentraft_ray.cluster.cli.main import cli  # noqa: PLC0415 - it loads this file

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "agentraft", "_AGENTRAFT_COMPLETE").source())


def _shown(setting: Setting, sources: bool) -> object:
    value = setting.value if isinstance(setting.value, int | float | str | bool | None) else _plain(setting.value)
    return {"value": value, "source": setting.source, "meaning": setting.meaning} if sources else value


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {name: one.model_dump(mode="json") if hasattr(one, "model_dump") else str(one) for name, one in value.items()}
    return list(value) if isinstance(value, tuple) else str(value)
