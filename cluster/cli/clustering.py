"""Commands about a cluster on Ray: up, down, status."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentraft_ray.cluster.cli.exits import FAILED, OK
from agentraft_ray.cluster.cli.options import json_option, store_options
from agentraft_ray.cluster.cli.printing import Printer, count
from agentraft_ray.cluster.signals import until_told
from agentraft_ray.errors import AgentRaftError, InvalidConfig

if TYPE_CHECKING:
    from agentraft_ray.cluster.settings import ClusterSettings

__all__ = ["cluster"]

_DOWN_S = 60.0
_UP_S = 180.0
_POLL_S = 0.1
_LOG_TAIL_CHARS = 2_000


@click.group()
def cluster() -> None:
    """Start, look at and end a cluster on Ray."""


@cluster.command()
@click.option("--name", help="Of the deployment (default: default); several can share a Ray cluster.")
@click.option("--workers", type=click.IntRange(1), help="Workers for steps that ask for no resources.")
@click.option("--shards", type=click.IntRange(1), help="Coordinators.")
@click.option("--resume-all", is_flag=True, default=None, help="Go on with every unfinished run of the store.")
@click.option("--detach", is_flag=True, help="Leave it running in the background; `cluster down` ends it.")
@json_option
@store_options
def up(
    name: str | None,
    workers: int | None,
    shards: int | None,
    resume_all: bool | None,
    detach: bool,
    printer: Printer,
    place: ClusterSettings,
) -> None:
    """Launch a deployment on the Ray cluster that RAY_ADDRESS names, or on a Ray that is started here, and keep it up until Ctrl-C,
    which drains it: every run is put aside in good order.

    \b
    Examples:
      agentraft cluster up
      agentraft cluster up --detach --workers 4 --resume-all
      RAY_ADDRESS=head:6379 agentraft cluster up --store redis://db:6379/0
    """
    given = {"name": name, "workers": workers, "shards": shards, "resume_all": resume_all}
    settings: dict[str, Any] = {one: getattr(place, one) for one in place.model_fields_set}
    settings |= {one: value for one, value in given.items() if value is not None}
    chosen = str(settings.get("name", "default"))
    if detach:
        _detach(printer, place, chosen)
        return
    here = str(Path.cwd())
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))  # for the workers of a Ray started here
    sys.path.insert(0, here)
    from agentraft_ray.cluster import Cluster  # noqa: PLC0415 - Ray

    with _alone(place, chosen) as note, Cluster.launch(**settings) as launched:
        note({"pid": os.getpid(), "name": launched.name, "is_ready": True})
        if printer.as_json:
            printer.document({"name": launched.name, "shards": launched.shards, "pid": os.getpid()})
        else:
            printer.line(f"cluster {launched.name!r} is up; programs join it with Cluster.connect(), Ctrl-C drains and ends it")
        sys.stdout.flush()
        until_told()


@cluster.command()
@click.option("--name", default="default", show_default=True, help="Of the deployment.")
@json_option
@store_options
def down(name: str, printer: Printer, place: ClusterSettings) -> int:
    """Drain and end the deployment that `cluster up` keeps up on this machine. Its runs can be gone on with afterwards.

    \b
    Examples:
      agentraft cluster down
    """
    file = _file(place, name)
    known = _known(file)
    if known is None:
        raise InvalidConfig(f"no `agentraft cluster up` of {name!r} is under way here (see {file.parent})")
    os.kill(int(known["pid"]), signal.SIGTERM)
    deadline = time.monotonic() + _DOWN_S
    while (still := _known(file)) is not None and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    if printer.as_json:
        printer.document({"name": name, "is_down": still is None})
    else:
        printer.line(f"cluster {name!r} has ended" if still is None else f"cluster {name!r} still drains after {_DOWN_S:.0f} s")
    return OK if still is None else FAILED


@cluster.command()
@click.option("--name", default="default", show_default=True, help="Of the deployment.")
@click.option("--address", help="Of the Ray cluster (default: RAY_ADDRESS, else the one on this machine).")
@json_option
def status(name: str, address: str | None, printer: Printer) -> None:
    """Show the actors of a deployment that runs, with their figures.

    \b
    Examples:
      agentraft cluster status
      agentraft cluster status --json | jq 'keys'
    """
    from agentraft_ray.cluster import Cluster  # noqa: PLC0415 - Ray

    with Cluster.connect(address, name) as found:
        stats = found.stats()
    if printer.as_json:
        printer.document({"name": name, "actors": stats})
        return
    printer.line(f"cluster {name!r}: {count(len(stats), 'actor')}")
    rows = []
    for actor, figures in sorted(stats.items()):
        shown = ", ".join(f"{key} {value}" for key, value in figures.items() if isinstance(value, int | float) and value)
        rows.append((actor, shown))
    printer.table(("actor", "figures"), rows)


def _detach(printer: Printer, place: ClusterSettings, name: str) -> None:
    """Start the same command again in the background, and wait until it says that it is up."""
    file = _file(place, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    words = [word for word in sys.argv[1:] if word != "--detach"]
    with file.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own arguments
            [sys.executable, "-m", "agentraft_ray.cluster.cli", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + _UP_S
    while process.poll() is None and time.monotonic() < deadline:
        known = _known(file)
        if known is not None and known.get("is_ready"):
            if printer.as_json:
                printer.document(known)
            else:
                printer.line(f"cluster {name!r} is up (process {process.pid}); `agentraft cluster down` ends it")
            return
        time.sleep(_POLL_S)
    tail = file.with_suffix(".log").read_text(errors="replace")[-_LOG_TAIL_CHARS:]
    raise AgentRaftError(f"cluster {name!r} did not come up; the end of {file.with_suffix('.log')}:\n{tail}")


def _file(place: ClusterSettings, name: str) -> Path:
    """Where the process that keeps a deployment up says so. It holds a lock on it; a file that nobody holds says nothing."""
    from agentraft_ray.actors.names import check_deployment  # noqa: PLC0415
    from agentraft_ray.checkpoint.embedded import default_directory  # noqa: PLC0415

    return Path(place.directory or default_directory()).resolve() / f"cluster-{check_deployment(name)}.json"


@contextlib.contextmanager
def _alone(place: ClusterSettings, name: str) -> Iterator[Any]:
    """Hold the file for as long as the deployment is up; yields how to write to it. Raises InvalidConfig where another one holds it."""
    file = _file(place, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidConfig(f"a cluster {name!r} is kept up from here already; `agentraft cluster down` ends it") from None

        def note(values: dict[str, Any]) -> None:
            held.seek(0)
            held.truncate()
            held.write(json.dumps(values))
            held.flush()

        note({"pid": os.getpid(), "name": name, "is_ready": False})
        try:
            yield note
        finally:
            note({})


def _known(file: Path) -> dict[str, Any] | None:
    """What the process that holds the file has written, None where nobody holds it."""
    if not file.is_file():
        return None
    with file.open() as found:
        try:
            fcntl.flock(found, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            known: dict[str, Any] = json.loads(found.read() or "{}")
            return known
    return None
