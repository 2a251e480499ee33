"""Where batches of trials are made: here, in processes of this machine, or in tasks of a Ray cluster. Results come as they end.

What a batch comes to depends on nothing but the batch, so it does not matter where, when or how often it is made.
"""

from __future__ import annotations

import importlib
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, NamedTuple

from benchmarks.faults.counts import Counts
from benchmarks.faults.experiments import Experiment
from benchmarks.ray_session import worker_environment

__all__ = ["Job", "Spread", "WorkersLost", "in_processes", "on_ray", "perform", "serially"]

_JOBS_PER_WORKER = 2  # under way or waiting, so that no worker is idle while results are written down


class Job(NamedTuple):
    """One batch: the trials from `start` up to `stop` of cell number `cell`."""

    cell: int
    experiment: Experiment
    seed: int
    start: int
    stop: int


Spread = Callable[[Iterable[Job]], Iterator[tuple[Job, Counts]]]
"""Makes jobs, in any order; takes each from its iterable only when there is somebody to make it."""


class WorkersLost(RuntimeError):
    """A process that made trials died, so that the sweep could not go on."""


def perform(job: Job) -> Counts:
    """Make a batch, in whatever process this is."""
    return job.experiment.run(job.seed, job.start, job.stop)


def serially(jobs: Iterable[Job]) -> Iterator[tuple[Job, Counts]]:
    """Make all batches here, one after the other."""
    for job in jobs:
        yield job, perform(job)


@contextmanager
def in_processes(workers: int) -> Iterator[Spread]:
    """Make batches in `workers` processes of this machine."""

    def done(pending: Iterable[futures.Future[Counts]]) -> Iterable[tuple[futures.Future[Counts], Counts]]:
        ended, _ = futures.wait(pending, return_when=futures.FIRST_COMPLETED)
        try:
            return [(future, future.result()) for future in ended]
        except BrokenProcessPool as error:
            raise WorkersLost("a process that made trials died; the same command with the same --journal goes on") from error

    context = multiprocessing.get_context("spawn")  # a fork would copy whatever threads and sessions this process has
    pool = futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_interrupts_to_the_parent)
    try:
        yield lambda jobs: _in_flight(jobs, lambda job: pool.submit(perform, job), done, workers * _JOBS_PER_WORKER)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def on_ray(address: str | None = None) -> Iterator[Spread]:
    """Make batches in tasks of the Ray cluster at `address` or RAY_ADDRESS, else of one that is started here and ends with this."""
    session = importlib.import_module("agentraft_ray.cluster.ray_session")
    settings = importlib.import_module("agentraft_ray.cluster.settings").settings_of(log_to_driver=False)
    owns = session.start_or_join(settings, address)
    ray = importlib.import_module("ray")
    remote = ray.remote(num_cpus=1, max_retries=3, runtime_env=worker_environment())(perform)
    at_a_time = _JOBS_PER_WORKER * max(1, int(ray.cluster_resources().get("CPU", 1)))

    def done(pending: Iterable[Any]) -> Iterable[tuple[Any, Counts]]:
        ended, _ = ray.wait(list(pending), num_returns=1)
        try:
            return [(reference, ray.get(reference)) for reference in ended]
        except ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except ray.exceptions.RayError as error:
            raise WorkersLost(f"a batch was lost on the cluster ({error}); the same command with the same --journal goes on") from error

    try:
        yield lambda jobs: _in_flight(jobs, remote.remote, done, at_a_time)
    finally:
        if owns:
            session.stop()


def _in_flight(
    jobs: Iterable[Job],
    submit: Callable[[Job], Any],
    done: Callable[[Iterable[Any]], Iterable[tuple[Any, Counts]]],
    at_a_time: int,
) -> Iterator[tuple[Job, Counts]]:
    """Keep `at_a_time` jobs under way."""
    pending: dict[Any, Job] = {}
    for job in jobs:
        pending[submit(job)] = job
        while len(pending) >= at_a_time:
            yield from [(pending.pop(handle), counts) for handle, counts in done(pending)]
    while pending:
        yield from [(pending.pop(handle), counts) for handle, counts in done(pending)]
