"""What a program sees of a cluster when nothing goes wrong: the same calls as in one process."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from pathlib import Path

import pytest

from agentraft_ray import Event, EventType, MockVerifier, Pipeline, Step, StepContext, Task, wrap
from agentraft_ray.cluster import Cluster
from agentraft_ray.errors import ErrorType, InvalidConfig, MaxRetriesExceeded, RunIdConflict, RunNotFound
from tests.ray.pipelines import COUNT_3, COUNT_3_ASKING, GRUMBLING, QUICKSTART, VOTING, executions_of

pytestmark = pytest.mark.ray


def counting(tally: Path, seconds: float = 0.0) -> Task:
    return Task("count", {"tally": str(tally), "seconds": seconds})


def test_the_quickstart_gives_what_it_gives_in_one_process(cluster: Cluster) -> None:
    here, there = wrap(QUICKSTART).run_sync(Task("durable agents")), wrap(QUICKSTART, cluster=cluster).run_sync(Task("durable agents"))
    assert there.success, there.error
    assert there.output == here.output == "A report on 5 words of findings."
    assert [(step.name, step.status, step.attempts, step.output) for step in there.steps] == [
        (step.name, step.status, step.attempts, step.output) for step in here.steps
    ]
    assert (there.summary()["verified"], there.summary()["rollbacks"]) == ("3/3", 0)


def test_a_pipeline_may_be_named_by_its_path(cluster: Cluster) -> None:
    assert wrap("tests.ray.pipelines:QUICKSTART", cluster=cluster).run_sync(Task("paths")).output == "A report on 4 words of findings."


def test_a_pipeline_of_the_program_itself_travels_by_value(cluster: Cluster) -> None:
    word = uuid.uuid4().hex

    async def close_over(ctx: StepContext) -> str:
        return f"{word} {ctx.task.goal}"

    pipeline = Pipeline([Step("a", close_over), Step("b", lambda ctx: ctx.outputs["a"].upper())])
    result = wrap(pipeline, cluster=cluster).run_sync(Task("travels"))
    assert result.output == f"{word} travels".upper(), result.error


def test_what_cannot_travel_is_refused_with_the_way_out(cluster: Cluster) -> None:
    lock = threading.Lock()

    def holding(ctx: StepContext) -> str:
        with lock:
            return "never"

    with pytest.raises(InvalidConfig, match="cannot travel by value.*put the pipeline .* into a module"):
        wrap(Pipeline([Step("a", holding)]), cluster=cluster)


async def test_run_gives_the_result_and_run_or_raise_the_output(cluster: Cluster, tmp_path: Path) -> None:
    coordinator = wrap(COUNT_3, cluster=cluster)
    result = await coordinator.run(counting(tmp_path / "tally"))
    assert (result.status, result.output, result.verified_count) == ("succeeded", {"n": 3}, 3)
    assert executions_of(tmp_path / "tally") == {"s00": 1, "s01": 1, "s02": 1}
    assert await coordinator.run_or_raise(Task("count", {"tally": str(tmp_path / "tally"), "from": 10})) == {"n": 13}


async def test_a_step_that_fails_is_retried_and_one_out_of_retries_fails_the_run(cluster: Cluster) -> None:
    result = await wrap(GRUMBLING, cluster=cluster).run(Task("work"))
    assert (result.output, result.steps[0].attempts) == ("fine", 2)
    with pytest.raises(MaxRetriesExceeded, match="not in the mood"):
        await wrap(GRUMBLING, cluster=cluster, max_retries=0).run_or_raise(Task("work"))


async def test_a_verifier_that_rejects_is_asked_on_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    verifier = MockVerifier({"s01": [ErrorType.GOAL_DRIFT, ErrorType.NONE]})
    result = await wrap(COUNT_3, verifier=verifier, cluster=cluster).run(counting(tmp_path / "tally"))
    assert (result.success, result.rollbacks, result.steps[1].attempts) == (True, 1, 2)
    assert executions_of(tmp_path / "tally") == {"s00": 1, "s01": 2, "s02": 1}


async def test_samples_are_voted_on(cluster: Cluster) -> None:
    assert (await wrap(VOTING, cluster=cluster).run(Task("vote"))).output == "yes"


async def test_hooks_are_called_in_the_loop_and_the_order_of_the_caller(cluster: Cluster, tmp_path: Path) -> None:
    seen: dict[str, list[EventType]] = {"sync": [], "async": []}
    loop = asyncio.get_running_loop()

    def sync_hook(event: Event) -> None:
        assert threading.current_thread() is threading.main_thread()
        seen["sync"].append(event.type)

    async def async_hook(event: Event) -> None:
        assert asyncio.get_running_loop() is loop
        await asyncio.sleep(0)
        seen["async"].append(event.type)

    for hook in (sync_hook, async_hook):
        assert (await wrap(COUNT_3, cluster=cluster, on_event=hook).run(counting(tmp_path / "tally"))).success
    here: list[EventType] = []
    await wrap(COUNT_3, on_event=lambda event: here.append(event.type)).run(counting(tmp_path / "tally"))
    assert seen["sync"] == seen["async"]
    assert [kind for kind in seen["sync"] if kind is not EventType.RUN_CLAIMED] == here


async def test_stream_yields_events_while_the_run_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    events = [event async for event in wrap(COUNT_3, cluster=cluster).stream(counting(tmp_path / "tally"))]
    assert (events[0].type, events[-1].type) == (EventType.RUN_START, EventType.RUN_SUCCESS)
    assert [event.step_name for event in events if event.type is EventType.STEP_COMMITTED] == ["s00", "s01", "s02"]


async def test_a_stream_left_early_leaves_the_run_going(cluster: Cluster, tmp_path: Path) -> None:
    coordinator, task = wrap(COUNT_3, cluster=cluster), counting(tmp_path / "tally", 0.2)
    async for event in coordinator.stream(task):
        if event.type is EventType.STEP_COMMITTED:
            break
    assert cluster.handle(task.id).result(20).output == {"n": 3}
    assert [event.type async for event in coordinator.events(task.id)][-1] is EventType.RUN_SUCCESS


async def test_submit_returns_a_handle_and_result_reads_the_log(cluster: Cluster, tmp_path: Path) -> None:
    coordinator, task = wrap(COUNT_3, cluster=cluster), counting(tmp_path / "tally", 0.2)
    handle = await coordinator.submit(task)
    assert (await coordinator.result(task.id)).status == "running"
    assert (await handle.result()).output == {"n": 3}
    assert (await coordinator.result(task.id)).output == {"n": 3}
    assert (await coordinator.run(task)).output == {"n": 3}  # answered from the log
    assert executions_of(tmp_path / "tally").total() == 3


async def test_a_run_that_waits_goes_on_when_it_is_approved(cluster: Cluster, tmp_path: Path) -> None:
    coordinator, task = wrap(COUNT_3_ASKING, cluster=cluster), counting(tmp_path / "tally")
    waiting = await coordinator.run(task)
    assert (waiting.status, waiting.waiting_for) == ("waiting", ("approval:s01",)), waiting
    assert (await coordinator.resume(task.id)).status == "waiting"
    await coordinator.approve(task.id, "s01", by="ann")
    done = await coordinator.resume(task.id)
    assert (done.status, done.output) == ("succeeded", {"n": 3})
    assert executions_of(tmp_path / "tally") == {"s00": 1, "s01": 1, "s02": 1}


async def test_a_run_that_is_denied_is_judged_by_that(cluster: Cluster, tmp_path: Path) -> None:
    task = counting(tmp_path / "tally")
    handle = cluster.submit(COUNT_3_ASKING, task, max_retries=0)
    await eventually(lambda: handle.status().status == "waiting")
    handle.deny("s01", by="ann", note="no")
    assert handle.result(20).status == "failed"


async def test_a_run_is_cancelled_in_the_middle_of_a_step(cluster: Cluster, tmp_path: Path) -> None:
    task = counting(tmp_path / "tally", 5.0)
    handle = await wrap(COUNT_3, cluster=cluster).submit(task)
    began = time.monotonic()
    await handle.cancel(by="ann")
    assert (await handle.result()).status == "cancelled"
    assert time.monotonic() - began < 4.0
    assert executions_of(tmp_path / "tally").total() <= 1


async def test_a_fork_goes_on_from_a_step_of_another_run(cluster: Cluster, tmp_path: Path) -> None:
    coordinator, task = wrap(COUNT_3, cluster=cluster), counting(tmp_path / "tally")
    assert (await coordinator.run(task)).success
    fork = await coordinator.fork(task.id, "s02", new_id=f"{task.id}-fork")
    assert (await coordinator.resume(fork)).output == {"n": 3}
    assert executions_of(tmp_path / "tally") == {"s00": 1, "s01": 1, "s02": 2}


async def test_an_id_belongs_to_one_task_and_one_that_nobody_gave_is_not_found(cluster: Cluster, tmp_path: Path) -> None:
    coordinator, task = wrap(COUNT_3, cluster=cluster), counting(tmp_path / "tally")
    assert (await coordinator.run(task)).success
    with pytest.raises(RunIdConflict):
        await coordinator.run(Task("another", {"tally": str(tmp_path / "tally")}, id=task.id))
    with pytest.raises(RunNotFound):
        cluster.handle("no such run")


def test_a_handle_of_the_cluster_gives_status_and_result_to_threads_and_coroutines(cluster: Cluster, tmp_path: Path) -> None:
    handle = cluster.submit(COUNT_3, counting(tmp_path / "tally", 0.1))
    with pytest.raises(TimeoutError):
        handle.result(0.01)
    assert handle.result(20).output == {"n": 3}
    assert handle.status().status == "succeeded"

    async def awaited() -> object:
        return (await cluster.handle(handle.run_id)).output

    assert asyncio.run(awaited()) == {"n": 3}


async def test_the_cluster_works_inside_a_running_loop_of_the_caller(cluster: Cluster, tmp_path: Path) -> None:
    results = await asyncio.gather(*(wrap(COUNT_3, cluster=cluster).run(counting(tmp_path / "tally")) for _ in range(20)))
    assert [result.output for result in results] == [{"n": 3}] * 20


async def eventually(holds, within_s: float = 20.0) -> None:
    """Wait until `holds()`, which may block."""
    deadline = time.monotonic() + within_s
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, "it never came to be"
        await asyncio.sleep(0.05)
