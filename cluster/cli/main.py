"""The entry point: which commands there are, in what order, and how errors of ours end a command. Imports nothing heavy."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from agentraft_ray import __version__
from agentraft_ray.cluster.cli.exits import EXIT_CODES, FAILED, USAGE
from agentraft_ray.errors import AgentRaftError, InvalidConfig, InvalidPipeline

__all__ = ["main"]


class _Known(NamedTuple):
    """A command: where it is, and what it does in a line."""

    module: str
    attribute: str
    help: str


_COMMANDS: dict[str, dict[str, _Known]] = {
    "Run": {
        "init": _Known("project", "init", "Make a project that runs."),
        "run": _Known("running", "run", "Run a pipeline on a task, or on a file of tasks."),
        "resume": _Known("running", "resume", "Go on with a run where its log ends."),
    },
    "Look": {
        "ls": _Known("looking", "ls", "List runs, newest first."),
        "show": _Known("looking", "show", "Show one run: its steps, verdicts and log."),
        "tail": _Known("looking", "tail", "Follow the events of a run."),
        "monitor": _Known("serving", "monitor", "Look at runs in a browser."),
    },
    "Decide": {
        "approve": _Known("deciding", "approve", "Approve what a run waits for."),
        "deny": _Known("deciding", "deny", "Refuse what a run waits for."),
        "cancel": _Known("deciding", "cancel", "End a run."),
        "fork": _Known("deciding", "fork", "Begin a new run that shares the first steps of another."),
    },
    "Care": {
        "audit": _Known("caring", "audit", "Check logs: hash chain, certificates, outputs."),
        "prune": _Known("caring", "prune", "Remove the logs of finished runs."),
        "doctor": _Known("doctor", "doctor", "Say what is missing here, and how to fix it."),
        "bench": _Known("bench", "bench", "Measure the store and the runtime here."),
        "config": _Known("configuring", "config", "Show the settings and where they come from."),
    },
    "Serve": {
        "serve": _Known("serving", "serve", "Serve the HTTP API and the monitor."),
        "cluster": _Known("clustering", "cluster", "Start, look at and end a cluster on Ray."),
        "completion": _Known("configuring", "completion", "Print the completion script of a shell."),
    },
}


class _Group(click.Group):
    """Loads a command when it is called; the overview needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for family in _COMMANDS.values() for name in family]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for family in _COMMANDS.values():
            if cmd_name in family:
                known = family[cmd_name]
                module = importlib.import_module(f"agentraft_ray.cluster.cli.{known.module}")
                found: click.Command = getattr(module, known.attribute)
                return found
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, family in _COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, known.help) for name, known in family.items()])


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EXIT_CODES)
@click.version_option(__version__, prog_name="agentraft")
def cli() -> None:
    """Run agent pipelines whose every step is verified, fenced and durable before it counts.

    \b
    A first run:
      agentraft init demo && cd demo
      agentraft run memo --goal "rollbacks"
      agentraft ls
      agentraft monitor

    Runs live in a store: a server of our own in .agentraft, or the one that --store, AGENTRAFT_STORE, agentraft.toml or REDIS_URL
    names. Every command takes --json.
    """


def main(arguments: Sequence[str] | None = None) -> Any:
    """The console script. Ends the process with one of the documented exit codes."""
    try:
        sys.exit(cli.main(args=None if arguments is None else list(arguments), prog_name="agentraft", standalone_mode=False) or 0)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(USAGE if isinstance(error, click.UsageError) else error.exit_code)
    except (InvalidConfig, InvalidPipeline) as error:
        click.echo(f"agentraft: {error}", err=True)
        sys.exit(USAGE)
    except AgentRaftError as error:
        click.echo(f"agentraft: {type(error).__name__}: {error}", err=True)
        sys.exit(FAILED)
    except (KeyboardInterrupt, click.Abort):
        click.echo("agentraft: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:  # `agentraft ls | head` has read enough
        sys.stderr.close()
        sys.exit(0)
