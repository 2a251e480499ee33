"""Looking at runs through their store alone, and deciding about them: no pipeline's code is needed for either."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from agentraft_ray import (
    Budget,
    Coordinator,
    ErrorType,
    InMemoryCheckpointStore,
    Limits,
    MockVerifier,
    Pipeline,
    Step,
    StepContext,
    Task,
    wrap,
)
from agentraft_ray.checkpoint.base import Answer, AppendEntry
from agentraft_ray.checkpoint.seal import EncryptingSeal
from agentraft_ray.errors import AgentRaftError, InvalidConfig, LogRewound, RunExpired, RunIdConflict, RunNotFound
from agentraft_ray.ledger import Ledger, RunFilter, audit_file, statuses_of

QUICK = Limits(inbox_poll_s=0.01, drain_s=0.5, lease_ttl_s=2.0)
GRAPH = Pipeline(
    [
        Step("read", lambda ctx: f"read {ctx.task.goal}", goal="Read it"),
        Step("left", lambda ctx: {"n": 1}, after=("read",)),
        Step("right", lambda ctx: b"\x00\xff", after=("read",)),
        Step("publish", lambda ctx: "published", after=("left", "right"), needs_approval=True),
    ],
    name="graph",
)


@pytest.fixture
def store() -> InMemoryCheckpointStore:
    return InMemoryCheckpointStore(limits=QUICK)


def graph(store: InMemoryCheckpointStore, **options: Any) -> Coordinator:
    return wrap(GRAPH, store=store, limits=QUICK, **options)


def chain(store: InMemoryCheckpointStore, name: str = "chain", steps: int = 2, **options: Any) -> Coordinator:
    block = [Step(f"s{number}", lambda ctx: ctx.step_name) for number in range(steps)]
    return wrap(Pipeline(block, name=name), store=store, limits=QUICK, **options)


async def listed(ledger: Ledger, wanted: RunFilter, limit: int = 2) -> list[str]:
    found: list[str] = []
    after: str | None = None
    while True:
        page = await ledger.page(wanted, limit=limit, after=after)
        assert len(page.runs) <= limit
        found += [run.run_id for run in page.runs]
        if page.next is None:
            return found
        after = page.next


# --- lists -------------------------------------------------------------------------------------------------------------------


async def test_runs_are_listed_by_status_pipeline_and_text_page_by_page(store: InMemoryCheckpointStore) -> None:
    ledger = Ledger(store, limits=QUICK)
    failing = chain(store, "failing", verifier=MockVerifier(default=ErrorType.GOAL_DRIFT), failure_threshold=1_000)
    for number in range(3):
        await chain(store).run(Task(f"write memo {number}", id=f"memo-{number}"))
        await failing.run(Task("drift", id=f"bad-{number}"))
        await graph(store).run(Task("wait for me", id=f"wait-{number}"))
    finished = [f"{name}-{number}" for number in (2, 1, 0) for name in ("bad", "memo")]
    assert await listed(ledger, RunFilter()) == ["wait-2", "wait-1", "wait-0", *finished]
    for wanted, found in {
        RunFilter(statuses_of(["succeeded"])): ["memo-2", "memo-1", "memo-0"],
        RunFilter(statuses_of(["failed", "waiting"]), text="-2"): ["wait-2", "bad-2"],
        RunFilter(statuses_of(["running"])): [],
        RunFilter(pipeline="graph"): ["wait-2", "wait-1", "wait-0"],
        RunFilter(text="MEMO 1"): ["memo-1"],
    }.items():
        assert await listed(ledger, wanted) == found, wanted
        assert await listed(ledger, wanted, limit=100) == found, wanted
    first = (await ledger.page(limit=1)).runs[0]
    assert (first.status, first.committed, first.steps, first.waiting_for) == ("waiting", 3, 4, ("approval:publish",))
    bad = await ledger.summary("bad-0")
    assert bad.error is not None
    assert bad.error.startswith("MaxRetriesExceeded")
    for place in ("", "u.1", "x.1.a", "u.-1.a", "u.1.a b"):
        with pytest.raises(InvalidConfig, match="no place in the list"):
            await ledger.page(after=place)
    with pytest.raises(InvalidConfig, match="no status 'done'"):
        statuses_of(["done"])


async def test_a_long_log_is_summed_up_from_its_ends(store: InMemoryCheckpointStore) -> None:
    step = Step("s", lambda ctx: 1)
    await wrap(Pipeline.repeat(step, 400, name="long"), store=store, limits=QUICK).run(Task("long", id="long"))
    read: list[tuple[int, int | None]] = []
    plain = store.read

    async def counting(run_id: str, start: int = 0, count: int | None = None) -> list[bytes]:
        read.append((start, count))
        return await plain(run_id, start, count)

    store.read = counting  # type: ignore[method-assign]
    ledger = Ledger(store, limits=QUICK)
    summary = await ledger.summary("long")
    assert (summary.status, summary.committed, summary.steps, summary.records) == ("succeeded", 400, 400, 403)
    assert read == [(0, 1), (383, 20)]
    await ledger.summary("long")
    assert len(read) == 2, "what has not moved is not read again"


async def test_a_log_that_cannot_be_read_is_listed_with_what_is_wrong(store: InMemoryCheckpointStore) -> None:
    await chain(store, encryption_key=bytes(32)).run(Task("secret", id="secret"))
    [run] = (await Ledger(store, limits=QUICK).page()).runs
    assert (run.run_id, run.status, run.pipeline) == ("secret", "succeeded", "")
    assert run.error is not None
    assert "give it the key" in run.error
    [run] = (await Ledger(store, EncryptingSeal(bytes(32)), QUICK).page()).runs
    assert (run.pipeline, run.goal, run.error) == ("chain", "secret", None)


async def test_unknown_and_expired_runs_are_told_apart(store: InMemoryCheckpointStore) -> None:
    ledger = Ledger(store, limits=QUICK)
    await chain(store).run(Task("t", id="r"))
    await ledger.prune()
    calls = [
        ledger.summary,
        ledger.view,
        ledger.timeline,
        ledger.audit,
        ledger.export,
        ledger.cancel,
        lambda run_id: ledger.output(run_id, "s0"),
        lambda run_id: ledger.approve(run_id, "s0"),
        lambda run_id: ledger.fork(run_id, "s0"),
        lambda run_id: anext(ledger.events(run_id)),
        lambda run_id: anext(ledger.follow(run_id)),
    ]
    for call in calls:
        with pytest.raises(RunExpired):
            await call("r")
        with pytest.raises(RunNotFound):
            await call("nowhere")
        with pytest.raises(InvalidConfig, match="not allowed"):
            await call("no such/run")


# --- one run -----------------------------------------------------------------------------------------------------------------


async def test_a_view_shows_what_a_run_waits_for_its_graph_and_its_steps(store: InMemoryCheckpointStore) -> None:
    budget = Budget(attempts=50, seconds=600)
    await graph(store, budget=budget).run(Task("it", {"n": 1, "raw": b"\x01"}, id="r"))
    ledger = Ledger(store, limits=QUICK)
    view = await ledger.view("r")
    assert (view.status, view.owner_alive, view.waiting_for) == ("waiting", False, ("approval:publish",))
    assert view.inputs == {"n": 1, "raw": {"base64": "AQ=="}}
    assert view.budget == {"attempts": 50, "seconds": 600}
    [wait] = view.waits
    assert (wait.step, wait.about) == ("publish", "output")
    assert wait.verdict is not None
    assert wait.verdict.kind == "pass"
    assert [(node.name, node.after, node.status) for node in view.graph] == [
        ("read", (), "committed"),
        ("left", ("read",), "committed"),
        ("right", ("read",), "committed"),
        ("publish", ("left", "right"), "waiting"),
    ]
    assert [(step.name, step.status, step.attempts) for step in view.steps_shown] == [
        ("read", "committed", 1),
        ("left", "committed", 1),
        ("right", "committed", 1),
        ("publish", "waiting", 1),
    ]
    assert [step.name for step in (await ledger.view("r", steps_from=1, steps_count=2)).steps_shown] == ["left", "right"]
    output = await ledger.output("r", "publish")
    assert (output.state, output.value, output.digest) == ("proposed", "published", wait.digest)
    assert (await ledger.output("r", "right")).value == {"base64": "AP8="}


async def test_a_view_of_a_repeated_block_has_one_node_for_all_its_repeats(store: InMemoryCheckpointStore) -> None:
    block = [Step("a", lambda ctx: 1), Step("b", lambda ctx: 1 / (ctx.lineage + 1), max_errors=0)]
    block[1].fn = lambda ctx: 1 // 0 if ctx.step_name == "b[2]" else 1
    await wrap(Pipeline.repeat(block, 5, name="loop"), store=store, limits=QUICK).run(Task("t", id="r"))
    view = await Ledger(store, limits=QUICK).view("r", steps_from=4, steps_count=3)
    assert [(node.name, node.committed, node.total, node.status) for node in view.graph] == [
        ("a", 3, 5, "pending"),
        ("b", 2, 5, "failed"),
    ]
    assert [(step.name, step.status) for step in view.steps_shown] == [("a[2]", "committed"), ("b[2]", "failed"), ("a[3]", "pending")]


async def test_a_timeline_has_one_entry_for_every_record(store: InMemoryCheckpointStore) -> None:
    judge = MockVerifier({"s1": [ErrorType.HALLUCINATION, ErrorType.NONE]})
    await chain(store, verifier=judge).run(Task("t", id="r"))
    ledger = Ledger(store, limits=QUICK)
    whole = await ledger.timeline("r")
    assert [(entry.kind, entry.step, entry.attempt) for entry in whole.entries] == [
        ("admitted", "", 0),
        ("claimed", "", 0),
        ("committed", "s0", 0),
        ("rejected", "s1", 0),
        ("committed", "s1", 1),
        ("finished", "", 0),
    ]
    rejected = whole.entries[3]
    assert rejected.verdict is not None
    assert rejected.verdict.error_type == "HALLUCINATION"
    assert rejected.verdict.hint
    assert whole.next is None
    first = await ledger.timeline("r", count=4)
    assert first.next == 4
    assert (await ledger.timeline("r", start=4)).entries == whole.entries[4:]


# --- events ------------------------------------------------------------------------------------------------------------------


async def test_following_a_run_gives_every_event_once_whatever_the_place_and_the_time(store: InMemoryCheckpointStore) -> None:
    coordinator = graph(store)
    await coordinator.run(Task("t", id="r"))
    ledger = Ledger(store, limits=QUICK)
    seen = []

    async def listen(after: str | None) -> list[str | None]:
        return [event.id async for event in ledger.follow("r", after)]

    async with asyncio.timeout(10):
        async for event in ledger.follow("r"):
            seen.append(event.id)
            if event.type.value == "run_parked":
                break
        rest = asyncio.create_task(listen(seen[-1]))
        whole = asyncio.create_task(listen(None))
        await ledger.approve("r", "publish", by="ann")
        await coordinator.resume("r")
        expected = [event.id async for event in coordinator.events("r")]
        assert seen + await rest == expected
        assert await whole == expected
        assert await listen(expected[-1]) == []
    assert [event.id async for event in ledger.events("r", seen[-1])] == expected[len(seen) :]
    with pytest.raises(InvalidConfig, match="no id of an event"):
        await anext(ledger.follow("r", "other:1:0"))
    with pytest.raises(LogRewound):
        await anext(ledger.follow("r", "r:999:0"))
    await ledger.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_following_a_log_that_is_replaced_says_so(store: InMemoryCheckpointStore) -> None:
    await graph(store).run(Task("t", id="r"))
    ledger = Ledger(store, limits=QUICK)
    events = ledger.follow("r")
    async with asyncio.timeout(10):
        while (await anext(events)).type.value != "run_parked":
            pass
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        store.table.runs["r"].records[3:] = [b"something else"]
        with pytest.raises(LogRewound, match="was replaced"):
            await waiting
    await ledger.close()


# --- decisions ---------------------------------------------------------------------------------------------------------------


async def test_a_decision_is_about_exactly_the_output_that_was_seen(store: InMemoryCheckpointStore) -> None:
    coordinator, ledger = graph(store), Ledger(store, limits=QUICK)
    await coordinator.run(Task("t", id="r"))
    output = await ledger.output("r", "publish")
    with pytest.raises(AgentRaftError, match="another output"):
        await ledger.approve("r", "publish", digest="00" * 32)
    with pytest.raises(AgentRaftError, match="waits for no approval"):
        await ledger.approve("r", "read")
    with pytest.raises(AgentRaftError, match="no step 'nothing'"):
        await ledger.deny("r", "nothing")
    assert await store.inbox("r") == []
    for _ in range(2):  # asked twice under one id, decided once
        await ledger.approve("r", "publish", by="ann", digest=output.digest, command_id="decision-1")
    assert len(await store.inbox("r")) == 1
    assert (await coordinator.resume("r")).success
    await ledger.approve("r", "publish", command_id="decision-1")
    with pytest.raises(AgentRaftError, match="nothing left to deny"):
        await ledger.deny("r", "publish")
    [taken] = [entry for entry in (await ledger.timeline("r")).entries if entry.kind == "command"]
    assert taken.detail == "approve by ann"


async def test_cancelling_ends_a_run_that_nobody_drives_and_leaves_one_that_is_driven_to_its_driver(store: InMemoryCheckpointStore) -> None:
    ledger = Ledger(store, limits=QUICK)
    await graph(store).run(Task("t", id="parked"))
    assert await ledger.cancel("parked", by="ann")
    assert (await ledger.summary("parked")).status == "cancelled"
    assert await ledger.cancel("parked")
    begun = asyncio.Event()

    async def slow(ctx: StepContext) -> str:
        begun.set()
        await asyncio.sleep(60)
        return "never"

    driver = wrap(Pipeline([Step("slow", slow)]), store=store, limits=QUICK)
    async with asyncio.timeout(10):
        work = asyncio.create_task(driver.run(Task("t", id="driven")))
        await begun.wait()
        assert not await ledger.cancel("driven", by="ann")
        assert (await work).status == "cancelled"
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_fork_is_made_once_under_its_id_and_runs_when_it_is_resumed(store: InMemoryCheckpointStore) -> None:
    coordinator, ledger = chain(store), Ledger(store, limits=QUICK)
    await coordinator.run(Task("t", id="r"))
    await coordinator.run(Task("t", id="other"))
    forked = await ledger.fork("r", "s1")
    assert (await ledger.summary(forked)).forked_from == "r"
    assert (await coordinator.resume(forked)).success
    assert [await ledger.fork("r", "s1", new_id="again") for _ in range(2)] == ["again", "again"]
    with pytest.raises(RunIdConflict):
        await ledger.fork("r", "s1", new_id="other")
    with pytest.raises(AgentRaftError, match="no step 'x'"):
        await ledger.fork("r", "x")


# --- audits ------------------------------------------------------------------------------------------------------------------


def forge(store: InMemoryCheckpointStore, run_id: str, index: int) -> None:
    """Flip a bit in a record."""
    records = store.table.runs[run_id].records
    records[index] = records[index][:-1] + bytes([records[index][-1] ^ 1])


async def test_an_audit_counts_what_stands_in_a_log_and_finds_what_does_not_belong_there(store: InMemoryCheckpointStore) -> None:
    coordinator, ledger = graph(store), Ledger(store, limits=QUICK)
    await coordinator.run(Task("t", id="r"))
    await ledger.approve("r", "publish", by="ann")
    await coordinator.resume("r")
    sound = await ledger.audit("r")
    assert sound.is_sound
    assert (sound.outcome, sound.commits, sound.approvals, sound.outputs_checked) == ("succeeded", 4, 1, 5)
    assert sum(sound.verdicts.values()) == 4
    store.table.runs["r"].head = bytes(32)
    assert "are on file" in (await ledger.audit("r")).problems[0]
    store.table.runs["r"].head = bytes.fromhex(sound.head)
    del store.table.runs["r"].records[3]
    cut = await ledger.audit("r")
    assert not cut.is_sound
    assert cut.problems[0].startswith("record 4: ")


async def test_an_audit_reads_blobs_and_finds_one_that_was_changed(store: InMemoryCheckpointStore) -> None:
    big = Pipeline([Step("big", lambda ctx: "x" * 200_000)])
    await wrap(big, store=store, limits=QUICK).run(Task("t", id="r"))
    ledger = Ledger(store, limits=QUICK)
    assert (await ledger.audit("r")).outputs_checked == 1
    exported = await ledger.export("r")
    assert (await audit_file(exported)).is_sound
    [name] = store.table.runs["r"].blobs
    store.table.runs["r"].blobs[name] = b"y" * 200_000
    assert "not the one that its verdict is about" in (await ledger.audit("r")).problems[0]
    del store.table.runs["r"].blobs[name]
    assert "is missing" in (await ledger.audit("r")).problems[0]


async def test_an_exported_log_is_audited_without_a_store(store: InMemoryCheckpointStore) -> None:
    key = bytes(range(32))
    await chain(store).run(Task("t", id="plain"))
    await chain(store, encryption_key=key).run(Task("t", id="sealed"))
    plain = await Ledger(store, limits=QUICK).export("plain")
    assert (await audit_file(plain)).is_sound
    head, *lines = plain.splitlines()
    shortened = await audit_file("\n".join([head, *lines[:-1]]))
    assert "are on file" in shortened.problems[0]
    swapped = await audit_file("\n".join([head, lines[0], lines[2], lines[1], *lines[3:]]))
    assert swapped.problems
    sealed = await Ledger(store, EncryptingSeal(key), QUICK).export("sealed")
    assert (await audit_file(sealed, EncryptingSeal(key))).is_sound
    assert "give it the key" in (await audit_file(sealed)).problems[0]
    for text in ("", "{}", "[1]", "not json", json.dumps({"format": "x", "run_id": "r", "records": 1, "head": ""})):
        with pytest.raises(InvalidConfig):
            await audit_file(text)


async def test_an_audit_of_a_run_that_goes_on_meanwhile_finds_nothing_wrong(store: InMemoryCheckpointStore) -> None:
    await graph(store).run(Task("t", id="r"))
    ledger = Ledger(store, limits=QUICK)
    plain, calls = store.read, []

    async def moving(run_id: str, start: int = 0, count: int | None = None) -> list[bytes]:
        if not calls:
            calls.append(run_id)
            await Ledger(store, limits=QUICK).cancel("r")
        return await plain(run_id, start, count)

    store.read = moving  # type: ignore[method-assign]
    assert (await ledger.audit("r")).is_sound


# --- the pulse ---------------------------------------------------------------------------------------------------------------


async def test_the_pulse_tells_of_every_run_that_moved_and_of_every_end_once(store: InMemoryCheckpointStore) -> None:
    judge = MockVerifier({"s1": [ErrorType.HALLUCINATION, ErrorType.NONE]})
    coordinator = chain(store, verifier=judge)
    await coordinator.run(Task("t", id="before"))
    ledger = Ledger(store, limits=QUICK)
    ledger.pulse._beat_s = ledger.pulse._look_s = 0.01
    ended: list[str] = []
    async with asyncio.timeout(10):
        beats = ledger.pulse.beats()
        first = await anext(beats)
        assert (first.is_partial, first.changed, first.running, first.waiting) == (True, (), 0, 0)
        await graph(store).run(Task("t", id="waits"))
        for number in range(5):
            await coordinator.run(Task("t", id=f"r{number}"))
        waiting = 0
        async for beat in beats:
            waiting = waiting or beat.waiting
            ended += [change.run_id for change in beat.changed if change.status == "succeeded"]
            if beat.succeeded == 5:
                break
        assert sorted(ended) == [f"r{number}" for number in range(5)]
        ledger.pulse.moved("waits")
        await ledger.cancel("waits")
        async for beat in beats:
            if beat.cancelled:
                break
        assert waiting == 1
        assert (beat.running, beat.waiting) == (0, 0)
        await beats.aclose()
    mock = next(score for score in ledger.pulse.scoreboard.scores() if score.verifier == "mock")
    assert (mock.rejected, mock.by_class) == (6, {"HALLUCINATION": 6})
    assert mock.passed == 12
    await ledger.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_slow_onlooker_is_told_to_list_anew(store: InMemoryCheckpointStore) -> None:
    ledger = Ledger(store, limits=QUICK)
    ledger.pulse._beat_s = ledger.pulse._look_s = 0.0
    async with asyncio.timeout(10):
        slow, quick = ledger.pulse.beats(), ledger.pulse.beats()
        await anext(slow)
        assert (await anext(quick)).is_partial
        while (await anext(quick)).number < 80:
            pass
        late = await anext(slow)
        assert late.is_partial
        assert late.number > 30
        await slow.aclose()
        await quick.aclose()
    await ledger.close()


async def test_a_claim_that_comes_between_leaves_the_cancellation_to_who_claimed(store: InMemoryCheckpointStore) -> None:
    await graph(store).run(Task("t", id="r"))
    plain, appended = store.append, []

    async def stolen(entry: AppendEntry) -> Answer:
        if not appended:
            appended.append(entry)
            await wrap(GRAPH, store=store, limits=QUICK).resume("r")
        return await plain(entry)

    store.append = stolen  # type: ignore[method-assign]
    async with asyncio.timeout(10):
        assert await Ledger(store, limits=QUICK).cancel("r")
    assert (await Ledger(store, limits=QUICK).summary("r")).status == "cancelled"
