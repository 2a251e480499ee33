"""Many tasks at a time: order of results, progress, bad tasks among good ones, tasks made on the way, loops left early."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from agentraft_ray import Task
from agentraft_ray.cluster import Cluster, Progress
from agentraft_ray.errors import InvalidConfig
from tests.ray.pipelines import QUICKSTART

pytestmark = pytest.mark.ray


def test_map_gives_every_result_once_with_its_progress(cluster: Cluster) -> None:
    tasks = [Task(f"task {number}") for number in range(300)]
    told: list[Progress] = []
    results = list(cluster.map(QUICKSTART, tasks, progress=told.append))
    assert sorted(result.task_id for result in results) == sorted(task.id for task in tasks)
    assert all(result.success for result in results)
    last = told[-1]
    assert (last.done, last.failed, last.under_way, last.total, last.steps) == (300, 0, 0, 300, 900)


async def test_map_is_an_async_loop_as_well(cluster: Cluster) -> None:
    async def tasks() -> AsyncIterator[Task]:
        for number in range(40):
            yield Task(f"task {number}")

    outputs = [result.output async for result in cluster.map(QUICKSTART, tasks(), at_a_time=7)]
    assert len(outputs) == 40
    assert [result.success async for result in cluster.map(QUICKSTART, [Task("one"), Task("two")])] == [True, True]
    with pytest.raises(InvalidConfig, match="async for"):
        list(cluster.map(QUICKSTART, tasks()))


def test_a_bad_task_is_a_result_and_holds_up_no_other(cluster: Cluster) -> None:
    twice = Task("twice")
    tasks = [
        Task("good"),
        Task("not data", {"what": object()}),
        Task("no id", id="a b\n"),
        twice,
        Task("another with its id", id=twice.id),
        twice,
        Task("good as well"),
    ]
    results = list(cluster.map(QUICKSTART, tasks))
    assert len(results) == len(tasks)
    failed = {result.error_kind for result in results if not result.success}
    assert sum(result.success for result in results) == 4, [(result.task_id, result.error) for result in results]
    assert len(failed) == 3, failed


def test_tasks_are_taken_as_others_end(cluster: Cluster) -> None:
    made = 0

    def tasks() -> Iterator[Task]:
        nonlocal made
        for number in range(30):
            made += 1
            yield Task(f"task {number}")

    seen = 0
    for _ in cluster.map(QUICKSTART, tasks(), at_a_time=5):
        seen += 1
        assert made <= seen + 5
    assert (seen, made) == (30, 30)


def test_a_loop_left_early_leaves_runs_that_go_on_and_can_be_mapped_again(cluster: Cluster) -> None:
    tasks = [Task(f"task {number}") for number in range(50)]
    first = next(iter(cluster.map(QUICKSTART, tasks)))
    assert first.success
    again = list(cluster.map(QUICKSTART, tasks))
    assert sorted(result.task_id for result in again) == sorted(task.id for task in tasks)
    assert all(result.success for result in again)


def test_a_generator_that_raises_raises_in_the_loop(cluster: Cluster) -> None:
    def tasks() -> Iterator[Task]:
        yield Task("one")
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(cluster.map(QUICKSTART, tasks()))
    assert list(cluster.map(QUICKSTART, [])) == []
