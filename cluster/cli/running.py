"""Commands that run pipelines: run and resume, in this process or on a cluster."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentraft_ray.cluster.cli.exits import INTERRUPTED, exit_of, worst
from agentraft_ray.cluster.cli.looking import event_line
from agentraft_ray.cluster.cli.options import json_option, pair, run_options, store_options
from agentraft_ray.cluster.cli.printing import Printer, clean, count
from agentraft_ray.errors import InvalidConfig
from agentraft_ray.pipeline import Task

if TYPE_CHECKING:
    from agentraft_ray.cluster.settings import ClusterSettings
    from agentraft_ray.events import Event
    from agentraft_ray.result import RunResult
    from agentraft_ray.runtime.blueprint import RunSettings

__all__ = ["resume", "run"]

Settings = Callable[[Mapping[str, Any]], "RunSettings"]


@click.command()
@click.argument("pipeline", metavar="PIPELINE")
@click.option("--goal", help="What the run is to do.")
@click.option("--input", "inputs", multiple=True, metavar="NAME=VALUE", help="An input of the task: JSON, or else text. May be repeated.")
@click.option("--id", "run_id", help="The run's id. With one of your own it is safe to run again: it goes on, or answers from its log.")
@click.option(
    "--tasks", type=click.Path(exists=True, dir_okay=False, path_type=Path), help='A line {"goal", "inputs", "id"} for every run.'
)
@click.option("--at-a-time", type=click.IntRange(1), default=100, show_default=True, help="Runs of --tasks that are under way at once.")
@click.option("--verifier", default="", metavar="MODULE:VERIFIER", help="What judges the outputs (default: as `wrap` finds it).")
@click.option("--cluster/--no-cluster", default=None, help="Run on Ray (default: where RAY_ADDRESS is set) or in this process.")
@click.option("--quiet", is_flag=True, help="Show no events while it runs.")
@run_options
@json_option
@store_options
def run(
    pipeline: str,
    goal: str | None,
    inputs: tuple[str, ...],
    run_id: str | None,
    tasks: Path | None,
    at_a_time: int,
    verifier: str,
    cluster: bool | None,
    quiet: bool,
    settings: Settings,
    printer: Printer,
    place: ClusterSettings,
) -> int:
    """Run a pipeline on one task, or on a file of them. PIPELINE is where it is imported from, module:variable, or a name that
    [serve.pipelines] in agentraft.toml gives it, with its verifier and settings.

    The run is in the store from its first step on: `ls`, `show` and `tail` see it, and after a crash or Ctrl-C (which puts it aside in
    good order) `resume` goes on with it. Runs of --tasks have ids that follow from the file, so that the same command again goes on
    where it was stopped.

    \b
    Examples:
      agentraft run memo --goal "Write the Q3 board memo" --input quarter=3
      agentraft run pipeline:pipeline --tasks tasks.jsonl --at-a-time 200
      agentraft run pipeline:pipeline --goal g --budget attempts=20 --budget tokens=50000
      agentraft run pipeline:pipeline --goal g --cluster --json | jq .output
    """
    if (goal is None) == (tasks is None):
        raise click.UsageError("give the task: --goal TEXT, or --tasks FILE")
    sys.path.insert(0, str(Path.cwd()))  # a console script does not look there by itself
    on_cluster = bool(os.environ.get("RAY_ADDRESS")) if cluster is None else cluster
    wanted = _tasks_of(tasks) if tasks is not None else [_task(goal or "", inputs, run_id)]
    hook = None if quiet or printer.as_json or tasks is not None else _tell
    work = _work(pipeline, verifier, settings, on_cluster, place, hook)
    work.at_a_time = at_a_time
    progress = _Progress(len(wanted)) if tasks is not None and not quiet else None
    results, interrupted = _on_cluster(work, wanted, progress) if on_cluster else asyncio.run(_here(work, wanted, progress))
    return _report(printer, results, is_single=tasks is None, interrupted=interrupted)


@click.command()
@click.argument("run_ids", nargs=-1, required=True)
@click.option("--pipeline", default="", metavar="MODULE:PIPELINE", help="Where its pipeline is, if the store does not know.")
@click.option("--verifier", default="", metavar="MODULE:VERIFIER", help="What judges the outputs, with --pipeline.")
@click.option("--cluster/--no-cluster", default=None, help="Go on on Ray (default: where RAY_ADDRESS is set) or in this process.")
@click.option("--quiet", is_flag=True, help="Show no events while it runs.")
@run_options
@json_option
@store_options
def resume(
    run_ids: tuple[str, ...],
    pipeline: str,
    verifier: str,
    cluster: bool | None,
    quiet: bool,
    settings: Settings,
    printer: Printer,
    place: ClusterSettings,
) -> int:
    """Go on with runs where their logs end: after a crash, an approval, a breaker's cooldown, as forks. What has been committed is not
    done again. The store remembers where the pipeline of a run is imported from, and under which settings it runs.

    \b
    Examples:
      agentraft resume memo-17
      agentraft resume memo-17 memo-18 --json
      agentraft resume old-run --pipeline pipeline:pipeline
    """
    sys.path.insert(0, str(Path.cwd()))
    on_cluster = bool(os.environ.get("RAY_ADDRESS")) if cluster is None else cluster
    hook = None if quiet or printer.as_json else _tell
    work = _work(pipeline, verifier, settings, on_cluster, place, hook)
    results, interrupted = _on_cluster(work, run_ids, None) if on_cluster else asyncio.run(_here(work, run_ids, None))
    return _report(printer, results, is_single=len(run_ids) == 1, interrupted=interrupted)


class _Work:
    """What a command line asks for, beside the tasks."""

    def __init__(
        self,
        pipeline: str,
        verifier: str,
        settings: RunSettings,
        place: ClusterSettings,
        hook: Callable[[Event], None] | None,
    ) -> None:
        self.pipeline = pipeline
        self.verifier = verifier
        self.settings = settings
        self.place = place
        self.hook = hook
        self.at_a_time = 1


def _work(
    pipeline: str,
    verifier: str,
    settings: Settings,
    on_cluster: bool,
    place: ClusterSettings,
    hook: Callable[[Event], None] | None,
) -> _Work:
    """A pipeline by its path, or by the name that the settings of a server give it. Raises InvalidConfig for a name that nothing has."""
    if ":" in pipeline or not pipeline:
        return _Work(pipeline, verifier, settings({"on_open": "park" if on_cluster else "fail"}), place, hook)
    from agentraft_ray.cluster.serve.settings import ServeSettings  # noqa: PLC0415 - only where a name is used
    from agentraft_ray.cluster.sources import made  # noqa: PLC0415

    known = made(ServeSettings).pipelines
    if pipeline not in known:
        there = ", ".join(sorted(known)) or "none"
        raise InvalidConfig(
            f"{pipeline!r} is neither module:variable nor a name in [serve.pipelines] of agentraft.toml; there are: {there}"
        )
    named = known[pipeline]
    return _Work(named.path, verifier or named.verifier, settings(named.model_dump(exclude={"path", "verifier"})), place, hook)


class _Progress:
    """How far a file of tasks has come, on standard error: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = self._bad = 0
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console  # noqa: PLC0415
            from rich.progress import Progress  # noqa: PLC0415

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.start()
            self._row = self._bar.add_task("runs", total=total)

    def note(self, result: RunResult) -> None:
        """One more has ended."""
        self._done += 1
        self._bad += not result.success
        if self._bar is not None:
            self._bar.update(self._row, advance=1, description=f"runs{f', {self._bad} did not succeed' if self._bad else ''}")
        elif self._done % max(1, self._total // 10) == 0 or self._done == self._total:
            click.echo(f"{self._done}/{self._total} runs" + (f", {self._bad} did not succeed" if self._bad else ""), err=True)

    def end(self) -> None:
        """No more come."""
        if self._bar is not None:
            self._bar.stop()


# --- in this process ---------------------------------------------------------------------------------------------------------


async def _here(work: _Work, wanted: Sequence[Task | str], progress: _Progress | None) -> tuple[list[RunResult], bool]:
    """Tasks are run, ids are resumed. The results in the order in which they came, and whether somebody interrupted."""
    from agentraft_ray.cluster.cli.driving import Driving  # noqa: PLC0415 - the runtime and the store's client

    room = asyncio.Semaphore(work.at_a_time)
    results: list[RunResult] = []
    async with Driving(work.place, work.settings, work.hook) as driving:

        async def one(what: Task | str) -> None:
            async with room:
                if driving.is_interrupted:
                    return
                result = await driving.drive(what, work.pipeline, work.verifier)
                results.append(result)
                if progress is not None:
                    progress.note(result)

        try:
            await asyncio.gather(*map(one, wanted))
        finally:
            if progress is not None:
                progress.end()
        return results, driving.is_interrupted


# --- on a cluster ------------------------------------------------------------------------------------------------------------


def _on_cluster(work: _Work, wanted: Sequence[Task | str], progress: _Progress | None) -> tuple[list[RunResult], bool]:
    from agentraft_ray.cluster import Cluster  # noqa: PLC0415 - Ray, only where it is asked for

    results: list[RunResult] = []
    settings = {name: value for name in work.place.model_fields_set if (value := getattr(work.place, name)) is not None}
    with Cluster.auto(**settings) as cluster:
        try:
            if all(isinstance(one, Task) for one in wanted):
                coordinator = cluster.coordinator(work.pipeline, work.verifier or None, work.settings, work.hook)
                tasks = [one for one in wanted if isinstance(one, Task)]
                if len(tasks) == 1:
                    return [coordinator.run_sync(tasks[0])], False
                for result in cluster.map(coordinator, tasks, at_a_time=work.at_a_time):
                    results.append(result)
                    if progress is not None:
                        progress.note(result)
            else:
                for run_id in wanted:
                    handle = cluster.handle(str(run_id))
                    results.append(cluster.background.run(handle.coordinator.resume(str(run_id))))
        except KeyboardInterrupt:
            return results, True
        finally:
            if progress is not None:
                progress.end()
    return results, False


# --- what they are made of -----------------------------------------------------------------------------------------------------


def _task(goal: str, inputs: Sequence[str], run_id: str | None) -> Task:
    values = {name: _value(text) for name, text in map(pair, inputs)}
    return Task(goal, values, run_id) if run_id is not None else Task(goal, values)


def _tasks_of(file: Path) -> list[Task]:
    """The tasks of a file; an id that is not given follows from the file's name, the line's number and what it says."""
    tasks = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            words = json.loads(line)
            goal, inputs = words["goal"], words.get("inputs", {})
            unknown = set(words) - {"goal", "inputs", "id"}
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise click.UsageError(f'{file}, line {number}: a task is {{"goal": ..., "inputs": {{...}}, "id": ...}}: {error!r}') from None
        if unknown or not isinstance(goal, str) or not isinstance(inputs, dict):
            raise click.UsageError(f"{file}, line {number}: a task has a goal (text), inputs (an object) and an id, nothing else")
        tasks.append(Task(goal, inputs, str(words.get("id") or f"{_stem(file)}-{number}-{_digest(goal, inputs)}")))
    if not tasks:
        raise click.UsageError(f"{file} holds no task")
    return tasks


def _stem(file: Path) -> str:
    return "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in file.stem)[:60]


def _digest(goal: str, inputs: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([goal, inputs], sort_keys=True).encode()).hexdigest()[:12]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _tell(event: Event) -> None:
    if event.type.value != "step_verifying":
        click.echo(clean(event_line(event)), err=True)


def _report(printer: Printer, results: Sequence[RunResult], *, is_single: bool, interrupted: bool) -> int:
    if printer.as_json:
        documents = [_document(result) for result in results]
        printer.document((documents[0] if documents else {}) if is_single else {"runs": documents})
    elif is_single:
        for result in results:
            _print_result(printer, result)
    else:
        succeeded = sum(result.success for result in results)
        printer.line(f"{count(len(results), 'run')}, {succeeded} succeeded")
        rest = [result for result in results if not result.success]
        if rest:
            printer.table(("run", "status", "why"), [(one.run_id, one.status, one.error) for one in rest])
    if interrupted:
        aside = [result.run_id for result in results if not result.success]
        printer.note(f"interrupted; go on with: agentraft resume {' '.join(aside[:5])}" if aside else "interrupted; run it again to go on")
        return INTERRUPTED
    return worst(map(exit_of, results))


def _document(result: RunResult) -> dict[str, Any]:
    return {
        "run_id": result.run_id,
        "status": result.status,
        "output": result.output,
        "error": result.error,
        "waiting_for": result.waiting_for,
        "verified": f"{result.verified_count}/{result.steps_total}",
        "rollbacks": result.rollbacks,
        "reliability": round(result.reliability, 4),
        "elapsed_ms": round(result.elapsed_ms, 1),
        "cost": result.cost,
    }


def _print_result(printer: Printer, result: RunResult) -> None:
    if result.success:
        output = result.output
        printer.line(output if isinstance(output, str) else json.dumps(output, indent=2, ensure_ascii=False, default=str))
    elif result.error:
        printer.note(result.error)
    verified = f"{result.verified_count}/{result.steps_total}"
    printer.note(
        f"{result.run_id} {result.status}: verified {verified}, {count(result.rollbacks, 'rollback')}, {result.elapsed_ms / 1000:.1f} s"
    )
    for reason in result.waiting_for:
        if reason.startswith("approval:"):
            printer.note(f"agentraft show {result.run_id} --outputs; agentraft approve {result.run_id}; agentraft resume {result.run_id}")
