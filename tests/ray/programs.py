"""Programs of their own process, as a user writes them; `python -m tests.ray.programs NAME ARGS...` runs one. Output is JSON lines."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from agentraft_ray import Pipeline, Step, Task, wrap
from agentraft_ray.cluster import Cluster
from agentraft_ray.errors import InvalidConfig

PROGRAM_S = 45


def say(**facts: Any) -> None:
    """Tell the test something."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def descendants() -> list[int]:
    """The processes below this one."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, left = [], [os.getpid()]
    while left:
        children = parents.get(left.pop(), [])
        found += children
        left += children
    return found


def launch_and_close(directory: str) -> None:
    """A cluster comes and goes twice; what it leaves behind, and what it refuses meanwhile."""
    for _ in range(2):
        before = set(threading.enumerate())
        with Cluster.launch(directory=directory, workers=1, num_cpus=2, log_to_driver=False) as cluster:
            actors = [int(figures["pid"]) for figures in cluster.stats().values()]
            below = descendants()
            run = wrap("tests.ray.pipelines:QUICKSTART", cluster=cluster).run_sync(Task("leaving nothing"))
            say(output=run.output, actors=len(actors), servers=len(servers(directory)), address=addresses())
        cluster.close()  # once more does no harm
        say(
            left=[pid for pid in {*actors, *below} if not has_ended(pid)],
            threads=[thread.name for thread in threading.enumerate() if thread not in before and "agentraft" in thread.name],
            sockets=[path.name for path in Path(directory).rglob("*.sock")],
            servers=servers(directory),
        )


def servers(directory: str) -> list[int]:
    """The processes that name a directory in their command line, this one aside."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if directory.encode() in file.read_bytes() and int(file.parent.name) not in {os.getpid(), os.getppid()}:
                found.append(int(file.parent.name))
    return found


def addresses() -> list[str]:
    import ray

    return sorted({node["NodeManagerAddress"] for node in ray.nodes()})


def has_ended(pid: int) -> bool:
    """Whether a process has ended, collected by its parent or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def busy(name: str, directory: str, tally: str, count: str, seconds: str) -> None:
    """Map counting runs and wait for a signal, or for the end."""
    with Cluster.launch(name=name, directory=directory, workers=1, num_cpus=2, log_to_driver=False) as cluster:
        say(pids=[os.getpid(), *descendants()])
        inputs = {"tally": tally, "seconds": float(seconds)}
        tasks = [Task("count", inputs, id=f"{name}-{number}") for number in range(int(count))]
        for result in cluster.map("tests.ray.pipelines:COUNT_20", tasks):
            say(done=result.task_id, status=result.status)


def visit(name: str, run_id: str, asking_id: str) -> None:
    """Join a deployment that another process has launched, and work with it."""
    own = Pipeline([Step("shout", lambda ctx: ctx.task.goal.upper())], name="of the program")  # has no path: it travels by value
    with Cluster.connect(name=name) as cluster:
        say(output=cluster.handle(run_id).result(20).output)
        handle = cluster.handle(asking_id)
        handle.approve("s01", by="the visitor")
        say(approved=handle.result(20).output)
        say(mapped=sorted(str(result.output) for result in cluster.map(own, [Task("one"), Task("two")])))
        with Cluster.auto(name=name) as same:
            say(auto=same.name)
        run = cluster.submit(own, Task("three"))
        run.result(20)
        say(left=run.run_id)
        try:
            wrap(Pipeline([Step("fly", lambda ctx: "up", resources={"wings": 2})]), cluster=cluster)
        except InvalidConfig as error:
            say(refused=str(error))


def nowhere() -> None:
    """Join a Ray that is not there."""
    for address in ("127.0.0.1:1", "no address"):
        began = time.monotonic()
        try:
            Cluster.connect(address)
        except InvalidConfig as error:
            say(refused=str(error), seconds=time.monotonic() - began)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(PROGRAM_S)  # before the test's patience ends
    globals()[sys.argv[1]](*sys.argv[2:])
