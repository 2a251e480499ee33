"""The verifier: the same verdicts as in one process, within their time, whatever the verifier does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agentraft_ray import (
    ErrorType,
    InMemoryCheckpointStore,
    Limits,
    MockVerifier,
    RulesVerifier,
    Step,
    Task,
    TieredVerifier,
    Verifier,
    VerifyInput,
    wrap,
)
from agentraft_ray.actors import lanes
from agentraft_ray.actors.messages import Judged, Returning, Unloaded
from agentraft_ray.checkpoint.codec import encode_output
from agentraft_ray.errors import StoreUnavailable
from agentraft_ray.identity import digest
from agentraft_ray.protocol.records import Payload, StepCommitted, decode_record
from agentraft_ray.taxonomy import VerdictKind, VerificationResult
from tests.actors.hosted import Client, blueprint, until, verifier

STEPS = [Step("a", lambda ctx: "first " * 400), Step("b", lambda ctx: "second " * 400)]


class By(Verifier):
    """Asks a function."""

    def __init__(self, fn: Callable[[VerifyInput], Awaitable[Any]], opinions: dict[str, Any] | None = None) -> None:
        self._fn = fn
        self._opinions = opinions or {}

    async def verify(self, request: VerifyInput) -> Any:
        return await self._fn(request)

    async def second_opinion(self, request: VerifyInput, previous: str) -> Any:
        return self._opinions.get(previous)


async def client(judge: Verifier, store: Any = None, **settings: Any) -> Client:
    of = blueprint(STEPS, judge)
    made = Client(verifier(of, store, **settings), of)
    await made.load()
    return made


def verdict(reply: Any) -> VerificationResult:
    assert isinstance(reply, Judged), reply
    assert reply.result is not None
    return reply.result


async def test_a_batch_of_instant_verdicts_comes_back_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "HELD_S_MAX", 60.0)
    here = await client(RulesVerifier(), hold_s=60)
    replies = await here.exchange(*(here.judge("" if k % 2 else "A sentence.") for k in range(100)))
    assert [verdict(reply).passed for reply in replies] == [True, False] * 50


async def test_a_verdict_sees_all_that_it_may_depend_on_and_has_its_wall_time() -> None:
    async def looks(request: VerifyInput) -> VerificationResult:
        await asyncio.sleep(0.02)
        assert isinstance(request.step, Step)
        seen = [
            request.task.goal,
            request.task.inputs,
            request.step.name,
            request.output,
            list(request.history),
            request.attempt,
            request.deadline_s,
        ]
        return VerificationResult.ok(reasoning=repr(seen))

    here = await client(By(looks))
    reply = await here.ask(here.judge({"x": 1}, 1, parents=((0, encode_output("up")),), attempt=3, timeout_s=9.0))
    assert verdict(reply).reasoning == repr(["the goal", {"n": 1}, "b", {"x": 1}, [("a", "up")], 3, 9.0])
    assert isinstance(reply, Judged)
    assert 0.02 <= reply.seconds < 5


async def test_what_a_verifier_does_wrong_is_a_fault() -> None:
    async def odd(request: VerifyInput) -> Any:
        if request.attempt == 0:
            raise SystemExit("no more")
        if request.attempt == 1:
            raise asyncio.CancelledError
        if request.attempt == 2:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)
        return [None, True, VerificationResult(True, confidence=7.0)][request.attempt - 3]

    here = await client(By(odd))
    for attempt in range(6):
        found = verdict(await here.ask(here.judge(attempt=attempt)))
        assert (found.kind, found.verifier) == (VerdictKind.FAULT, "By"), attempt
        assert found.reasoning


async def test_a_verifier_that_hangs_is_answered_for() -> None:
    async def hangs(request: VerifyInput) -> Any:
        while request.attempt:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return None
        return VerificationResult.ok()

    here = await client(By(hangs), hold_s=60)
    hanging, fine = here.judge(attempt=1, timeout_s=0.05), here.judge()
    await here.exchange(hanging, fine)
    assert verdict(await here.reply(fine.ticket)).passed
    reply = await here.reply(hanging.ticket)
    assert verdict(reply).reasoning == "no verdict within 0.05 s"
    assert isinstance(reply, Judged)
    assert reply.seconds >= 0.05


async def test_a_verifier_that_keeps_its_own_deadline_answers_for_itself() -> None:
    async def punctual(request: VerifyInput) -> Any:
        await asyncio.sleep(request.deadline_s or 0)
        return VerificationResult.abstain("my own time is over")

    here = await client(By(punctual))
    assert verdict(await here.ask(here.judge(timeout_s=0.05))).kind is VerdictKind.ABSTAIN


async def test_verdicts_are_bounded_in_number_and_can_be_called_off() -> None:
    opened, begun = asyncio.Event(), 0

    async def waits(request: VerifyInput) -> Any:
        nonlocal begun
        begun += 1
        await opened.wait()
        return VerificationResult.ok()

    here = await client(By(waits), hold_s=0.01, slots=3)
    requests = [here.judge() for _ in range(5)]
    await here.exchange(*requests)
    await until(lambda: begun == 3, "three are asked")
    await here.actor.cancel("client", [requests[0].ticket, requests[4].ticket])
    for called_off in (requests[0], requests[4]):
        assert verdict(await here.reply(called_off.ticket)).kind is VerdictKind.FAULT
    await until(lambda: begun == 4, "the fourth takes a place")
    await here.actor.drain()
    assert await here.ask(late := here.judge()) == Returning(late.ticket)
    opened.set()
    for request in requests[1:4]:
        assert verdict(await here.reply(request.ticket)).passed


async def test_an_unknown_definition_is_asked_for() -> None:
    of = blueprint(STEPS)
    here = Client(verifier(of), of)
    assert await here.ask(request := here.judge()) == Unloaded(request.ticket)


# --- second opinions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [-1, 5], ids=["output", "suspect"])
@pytest.mark.parametrize("previous", ["", "by another", "by the same"])
async def test_second_opinions_are_those_of_one_process(previous: str, position: int) -> None:
    async def first(request: VerifyInput) -> Any:
        return VerificationResult.ok(reasoning="first")

    here = await client(By(first, {"by another": VerificationResult.fail(ErrorType.GOAL_DRIFT, reasoning="second")}))
    reply = await here.ask(here.judge(previous=previous, position=position))
    assert isinstance(reply, Judged)
    if previous == "by the same" and position < 0:
        assert reply.result is None  # there is no other mechanism; a suspect is then judged by the same one again
    else:
        assert verdict(reply).reasoning == ("second" if previous == "by another" else "first")


async def test_a_tier_above_gives_the_second_opinion() -> None:
    here = await client(TieredVerifier(l2=MockVerifier(default=ErrorType.GOAL_DRIFT)))
    assert verdict(await here.ask(here.judge(previous="rules"))).error_type is ErrorType.GOAL_DRIFT
    reply = await here.ask(here.judge(previous="mock"))
    assert isinstance(reply, Judged)
    assert reply.result is None


# --- what lies in the store --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inline_bytes_max", [100, 100_000], ids=["blobs", "inline"])
async def test_suspects_tasks_and_ancestors_are_read_from_the_store(inline_bytes_max: int) -> None:
    async def looks(request: VerifyInput) -> Any:
        return VerificationResult.ok(reasoning=f"{request.output[:6]} {request.task.goal} {[output[:6] for _, output in request.history]}")

    store, limits = InMemoryCheckpointStore(), Limits(inline_bytes_max=inline_bytes_max)
    here = await client(By(looks), store)
    assert (
        await wrap(here.blueprint.pipeline, store=store, verifier=RulesVerifier(), limits=limits).run(Task("its goal", id="run"))
    ).success
    records = [decode_record(stored) for stored in await store.read("run")]
    position = max(place for place, record in enumerate(records) if isinstance(record, StepCommitted))
    data = encode_output("second " * 400)
    payload = Payload(digest(data), len(data), None)
    suspect = here.judge(step=1, output=payload, position=position, task=None, parents=((0, None),))
    assert verdict(await here.ask(suspect)).reasoning == "second its goal ['first ']"
    if inline_bytes_max == 100:
        proposed = here.judge(step=1, output=payload, parents=((0, encode_output("first as it came")),))
        assert verdict(await here.ask(proposed)).reasoning == "second the goal ['first ']"
    lost = here.judge(step=1, output=Payload(digest(b"?"), 1, None))
    assert "not in the store any more" in verdict(await here.ask(lost)).reasoning


async def test_a_suspect_is_judged_again_by_another_mechanism_than_the_one_in_its_certificate() -> None:
    async def first(request: VerifyInput) -> Any:
        return VerificationResult.ok(verifier="by another")

    store = InMemoryCheckpointStore()
    verifier = By(first, {"by another": VerificationResult.fail(ErrorType.GOAL_DRIFT, reasoning="second")})
    here = await client(verifier, store)
    assert (await wrap(here.blueprint.pipeline, store=store, verifier=verifier).run(Task("its goal", id="run"))).success
    records = [decode_record(stored) for stored in await store.read("run")]
    position = max(place for place, record in enumerate(records) if isinstance(record, StepCommitted))
    suspect = here.judge(step=1, output=Payload(b"", 0, None), position=position, task=None, parents=((0, None),))
    assert verdict(await here.ask(suspect)).reasoning == "second"


async def test_while_the_store_does_not_answer_requests_are_handed_back() -> None:
    class Down(InMemoryCheckpointStore):
        def read_blocking(self, run_id: str, index: int) -> bytes | None:
            raise StoreUnavailable("down")

    here = await client(RulesVerifier(), Down())
    request = here.judge(task=None)
    assert await here.ask(request) == Returning(request.ticket)
