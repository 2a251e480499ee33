"""Commands that serve: the HTTP API with the monitor, and the monitor alone."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentraft_ray.cluster.cli.options import json_option, store_options
from agentraft_ray.cluster.cli.printing import Printer
from agentraft_ray.errors import InvalidConfig

if TYPE_CHECKING:
    from agentraft_ray.cluster.settings import ClusterSettings

__all__ = ["monitor", "serve"]


@click.command()
@click.option("--host", help="Where to listen (default 127.0.0.1); beyond loopback only with tokens.")
@click.option("--port", type=click.IntRange(0, 65_535), help="The port (default 8700); 0 takes one that is free.")
@click.option("--pipeline", "pipelines", multiple=True, metavar="MODULE:PIPELINE", help="What may be submitted, besides [serve.pipelines].")
@click.option("--tokens-file", type=click.Path(path_type=Path), help="Who may do what: a line 'NAME SCOPES SHA256' for each token.")
@click.option("--new-token", metavar="NAME", help="Make a token: print it, and its line for --tokens-file; serves nothing.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(["read", "submit", "operate"]), help="Of the new token (default: all).")
@click.option("--allow-host", "hosts", multiple=True, help="A name under which the server is reached.")
@click.option("--cluster", is_flag=True, help="Let a cluster drive the runs: join it, or launch one.")
@click.option("--ray-serve", is_flag=True, help="Serve by Ray Serve, on the cluster.")
@json_option
@store_options
def serve(
    host: str | None,
    port: int | None,
    pipelines: tuple[str, ...],
    tokens_file: Path | None,
    new_token: str | None,
    scopes: tuple[str, ...],
    hosts: tuple[str, ...],
    cluster: bool,
    ray_serve: bool,
    printer: Printer,
    place: ClusterSettings,
) -> None:
    """Serve the HTTP API and the monitor. Submitted runs are driven here (or, with --cluster, by a cluster); so are those of the same
    pipelines that nobody drives. Ctrl-C puts aside what is under way; the next `serve` goes on with it.

    Only pipelines that are listed can be submitted. Without tokens only this machine is answered.

    \b
    Examples:
      agentraft serve
      agentraft serve --new-token ann --scope read --scope operate
      agentraft serve --host 0.0.0.0 --tokens-file tokens --allow-host agents.example
    """
    if new_token is not None:
        _print_token(printer, new_token, scopes)
        return
    sys.path.insert(0, str(Path.cwd()))
    _need_extra()
    from agentraft_ray.cluster.serve.settings import ServeSettings  # noqa: PLC0415
    from agentraft_ray.cluster.sources import made  # noqa: PLC0415

    given: dict[str, Any] = {"host": host, "port": port, "tokens_file": tokens_file, "allowed_hosts": hosts or None}
    given = {name: value for name, value in given.items() if value is not None}
    listed = {name: one.model_dump() for name, one in made(ServeSettings).pipelines.items()}
    settings = made(ServeSettings, **given, pipelines={**listed, **{path: {"path": path} for path in pipelines}})
    if ray_serve:
        from agentraft_ray.cluster.serve import ray_serve as on_ray  # noqa: PLC0415

        on_ray.run(settings, place, lambda url: _ready(printer, url))
        return
    from agentraft_ray.cluster.serve.server import run  # noqa: PLC0415

    if cluster:
        from agentraft_ray.cluster.serve.cluster_host import opened_on_cluster  # noqa: PLC0415

        opening = opened_on_cluster(settings, place)
    else:
        from agentraft_ray.cluster.serve.services import opened_here  # noqa: PLC0415

        opening = opened_here(settings, place)
    run(settings, opening, lambda url: _ready(printer, url))


@click.command()
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="The port; by default one that is free.")
@click.option("--open/--no-open", "opens", default=True, help="Open it in a browser, where there is one.")
@json_option
@store_options
def monitor(port: int, opens: bool, printer: Printer, place: ClusterSettings) -> None:
    """Look at the runs of a store in a browser, whoever drives them, and decide about them. Drives nothing itself: an approval lies in
    the run's inbox until whoever drives the run takes it.

    \b
    Examples:
      agentraft monitor
      agentraft monitor --store redis://localhost:6379/0 --port 8701 --no-open
    """
    _need_extra()
    from agentraft_ray.cluster.serve.server import run  # noqa: PLC0415
    from agentraft_ray.cluster.serve.services import opened_here  # noqa: PLC0415
    from agentraft_ray.cluster.serve.settings import ServeSettings  # noqa: PLC0415
    from agentraft_ray.cluster.sources import made  # noqa: PLC0415

    settings = made(ServeSettings, host="127.0.0.1", port=port, pipelines={}, tokens_file=None, tokens=None)

    def ready(url: str) -> None:
        _ready(printer, url)
        if opens:
            webbrowser.open(url)

    run(settings, opened_here(settings, place), ready)


def _ready(printer: Printer, url: str) -> None:
    if printer.as_json:
        printer.document({"url": url})
    else:
        printer.line(f"{url}  the monitor;  {url}/v1/openapi.json  the API;  Ctrl-C stops")
    sys.stdout.flush()


def _print_token(printer: Printer, name: str, scopes: tuple[str, ...]) -> None:
    from agentraft_ray.cluster.serve.tokens import SCOPES, new_token  # noqa: PLC0415

    secret, line = new_token(name, scopes or SCOPES)
    if printer.as_json:
        printer.document({"token": secret, "line": line})
        return
    printer.line(secret)
    printer.note("this is shown once; keep it secret. The line that makes it known, for the file of tokens:")
    printer.note(line)


def _need_extra() -> None:
    try:
        import fastapi  # noqa: F401, PLC0415
        import uvicorn  # noqa: F401, PLC0415
    except ImportError as error:
        raise InvalidConfig(f"the server needs the package {error.name}: pip install 'agentraft-ray[serve]'") from None
