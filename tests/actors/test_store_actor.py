"""The store actor without a server: what it is made of, and that what goes wrong crosses its boundary as a value."""

from __future__ import annotations

import msgspec
import pytest

from agentraft_ray.actors.checkpoint_store import CheckpointStoreActor
from agentraft_ray.actors.messages import decode, encode
from agentraft_ray.actors.store_messages import (
    Outcome,
    Refusal,
    admissions_from,
    admitted,
    answers_from,
    appended,
    error_from,
    refusal_of,
)
from agentraft_ray.actors.store_spec import StoreSpec, limits_of, open_store
from agentraft_ray.checkpoint.base import Admission, Answer, AnswerKind, AppendEntry, NewRun, RunMeta
from agentraft_ray.config import Limits
from agentraft_ray.errors import InvalidConfig, PayloadTooLarge, StoreError, StoreFull, StoreUnavailable
from agentraft_ray.identity import GENESIS, OwnerToken

TOKEN = OwnerToken(3, "owner")
NOWHERE = StoreSpec.server("unix:///nowhere/socket", limits=Limits(store_wait_s=0.05))


def entry(number: int) -> AppendEntry:
    blobs = ((b"name", b"data"),)
    return AppendEntry(
        f"run-{number}", TOKEN, b"id", number, GENESIS, (b"one", b"two"), b"h" * 32, OwnerToken(2, "x"), blobs, (b"n",), ("c",)
    )


def test_entries_and_answers_survive_the_way_there_and_back() -> None:
    entries = [entry(number) for number in range(4)]
    assert decode(encode(entries), list[AppendEntry]) == entries
    full = StoreFull("out of memory", key="k", odd=object())
    answers = [
        Answer(AnswerKind.APPENDED, TOKEN, 2, b"h" * 32),
        Answer(AnswerKind.FENCED, OwnerToken(9, "other"), 7, b"x" * 32),
        full,
        Answer(AnswerKind.APPENDED, TOKEN, 5, b"h" * 32),
    ]
    back = answers_from(entries, appended(answers))
    assert back[:2] + back[3:] == answers[:2] + answers[3:]
    assert (type(back[2]), str(back[2]), getattr(back[2], "fields", None)) == (StoreFull, "out of memory", {"key": "k"})


def test_admissions_survive_the_way_there_and_back() -> None:
    news = [NewRun(f"run-{number}", b"d", b"r", b"h", ((b"name", b"data"),), b"nonce") for number in range(2)]
    assert decode(encode(news), list[NewRun]) == news
    meta = RunMeta(TOKEN, 3, b"h" * 32, "parked", b"d", "", False, 9)
    back = admissions_from(news, admitted([Admission(True, meta), StoreError("no")]))
    assert back[0] == Admission(True, meta)
    assert isinstance(back[1], StoreError)


def test_an_error_keeps_its_class_and_one_of_an_unknown_class_is_a_failure_of_the_store() -> None:
    error = error_from(refusal_of(PayloadTooLarge("too large", document="d", size_bytes=2, limit_bytes=1)))
    assert (type(error), str(error), error.limit_bytes) == (PayloadTooLarge, "too large", 1)
    assert type(error_from(Refusal("SystemExit", "text"))) is StoreError
    [value] = answers_from([entry(0)], appended([InvalidConfig("bad")]))
    assert type(value) is StoreError, "in a batch only failures of the store are values"


def test_a_spec_is_plain_data_and_says_which_limits_differ() -> None:
    spec = StoreSpec.embedded("data", prefix="p", durability="memory", limits=Limits(batch_runs_max=7))
    assert decode(encode(spec), StoreSpec) == spec
    assert spec.limits == {"batch_runs_max": 7}
    assert limits_of(spec) == Limits(batch_runs_max=7)
    assert spec.place.startswith("/"), "another process has another working directory"
    store = open_store(spec, reader=True)
    assert (store.keys.prefix, store.durability, store.limits) == ("p", "memory", Limits(batch_runs_max=7))
    assert "secret" not in repr(StoreSpec.server("redis://user:secret@host"))
    with pytest.raises(InvalidConfig, match="no_such_limit"):
        limits_of(msgspec.structs.replace(spec, limits={"no_such_limit": 1}))


async def test_an_actor_is_made_without_io_and_a_store_that_is_not_there_is_a_value() -> None:
    actor = CheckpointStoreActor(encode(NOWHERE))
    values = answers_from([entry(0), entry(1)], await actor.append(encode([entry(0), entry(1)])))
    assert [type(value) for value in values] == [StoreUnavailable] * 2
    news = [NewRun("run", b"d", b"r", b"h")]
    assert [type(value) for value in admissions_from(news, await actor.admit(encode(news)))] == [StoreUnavailable]
    for call in (actor.put_document("name", b"data"), actor.delete_run("run"), actor.renew_lease("owner", 5), actor.revoke_lease("owner")):
        refusal = decode(await call, Outcome).refusal
        assert refusal is not None
        assert refusal.kind == "StoreUnavailable"
    figures = await actor.stats()
    assert (figures["calls"], figures["refused"], figures["in_flight"]) == (4, 4, 0)
    await actor.drain()


async def test_a_spec_that_this_machine_cannot_use_does_not_keep_the_actor_from_answering() -> None:
    spec = msgspec.structs.replace(StoreSpec.embedded("data"), machine="elsewhere")
    actor = CheckpointStoreActor(encode(spec))
    [value] = answers_from([entry(0)], await actor.append(encode([entry(0)])))
    assert isinstance(value, StoreError)
    assert "elsewhere" in str(value)
