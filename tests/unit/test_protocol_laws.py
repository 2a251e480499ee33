"""Laws of the protocol core that need no host: golden traces and logs, folding, tampering, determinism, pickling."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentraft_ray.errors import LogCorrupted
from agentraft_ray.identity import GENESIS, chain
from agentraft_ray.protocol import RunMachine, RunState, decode_record, encode_record, fold
from agentraft_ray.protocol.messages import Call, CommandReceived, PermitGranted, StepRaised, StepReturned, Tick, VerdictReturned
from agentraft_ray.protocol.records import Record, RunAdmitted, RunFinished, StepCommitted
from agentraft_ray.taxonomy import FailureCause, VerificationResult
from agentraft_ray.testing.world import World
from tests.unit.scripted_runs import RUN, SCRIPTED, ScriptedRun

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
REWRITE = "AGENTRAFT_REWRITE_GOLDEN"
scripted = pytest.mark.parametrize("make", SCRIPTED.values(), ids=SCRIPTED)


def golden(folder: str, name: str, text: str) -> str:
    """The kept text of `name`; rewritten first if the environment says so."""
    file = GOLDEN / folder / f"{name}.txt"
    if os.environ.get(REWRITE):
        file.write_text(text)
    assert file.is_file(), f"{file.name} is missing; make it with {REWRITE}=1"
    return file.read_text()


def kept_logs() -> dict[str, list[bytes]]:
    return {file.stem: [bytes.fromhex(line) for line in file.read_text().split()] for file in sorted((GOLDEN / "logs").glob("*.txt"))}


def simulated_logs() -> list[tuple[str, list[bytes]]]:
    found = []
    for seed in (3, 14, 25, 36):
        world = World(seed)
        world.run()
        found += [(run, row.records) for run, row in world.store.table.runs.items()]
    return found


LOGS = simulated_logs()


@scripted
def test_what_a_scripted_run_does_is_what_it_always_did(make: Callable[[], ScriptedRun]) -> None:
    """After a change that is meant: AGENTRAFT_REWRITE_GOLDEN=1, then read the difference."""
    trace = "\n".join(make().trace) + "\n"
    assert trace == golden("traces", make.__name__, trace)


@scripted
def test_every_scripted_run_ends_with_its_live_state_equal_to_the_fold(make: Callable[[], ScriptedRun]) -> None:
    run = make()
    state = fold(RUN, run.log)
    assert state == run.machine.state
    assert state.finished is not None


def test_the_golden_logs_have_every_record_type_and_always_restore() -> None:
    if os.environ.get(REWRITE):
        for name, make in SCRIPTED.items():
            file = GOLDEN / "logs" / f"{name}.txt"
            if not file.exists():  # a kept log is what some release has written: it is never written anew
                file.write_text("\n".join(stored.hex() for stored in make().log) + "\n")
    logs = kept_logs()
    assert logs.keys() >= SCRIPTED.keys()
    seen = set()
    for name, log in logs.items():
        state = fold(RUN, log)
        assert state.index == len(log), name
        assert state.finished is not None, name
        seen |= {type(decode_record(stored)) for stored in log}
    assert set(get_args(Record)) - seen == set()


@pytest.mark.parametrize("name", sorted(kept_logs()))
def test_a_golden_log_can_be_resumed_at_every_point(name: str) -> None:
    log = kept_logs()[name]
    for length in range(2, len(log) + 1):
        machine = RunMachine(fold(RUN, log[:length]))
        machine.start(1e6)
        ready = machine.take_ready()
        assert machine.state.finished is not None or ready is not None or machine.idle


def test_every_record_comes_back_from_its_bytes() -> None:
    for _, log in LOGS:
        for stored in log:
            assert encode_record(decode_record(stored)) == stored


@given(st.data())
def test_a_changed_record_is_refused_or_changes_the_head(data: st.DataObject) -> None:
    run, log = data.draw(st.sampled_from(LOGS))
    place = data.draw(st.integers(0, len(log) - 1))
    offset = data.draw(st.integers(0, len(log[place]) - 1))
    changed = bytearray(log[place])
    changed[offset] ^= data.draw(st.integers(1, 255))
    assert_noticed(run, log, [*log[:place], bytes(changed), *log[place + 1 :]])


@given(st.data())
def test_an_omitted_repeated_or_moved_record_is_refused_or_changes_the_head(data: st.DataObject) -> None:
    run, log = data.draw(st.sampled_from(LOGS))
    place, other = data.draw(st.integers(0, len(log) - 1)), data.draw(st.integers(0, len(log) - 1))
    rest = [*log[:place], *log[place + 1 :]]
    assert_noticed(run, log, rest)
    assert_noticed(run, log, [*log[: place + 1], *log[place:]])
    if log[place] != log[other]:
        assert_noticed(run, log, [*rest[:other], log[place], *rest[other:]])


def assert_noticed(run: str, log: list[bytes], tampered: list[bytes]) -> None:
    if tampered == log:
        return
    try:
        state = fold(run, tampered)
    except LogCorrupted:
        return
    assert (state.index, state.head) != (len(log), fold(run, log).head)


def test_a_digest_known_by_heart_vouches_for_no_other_bytes() -> None:
    for run, log in LOGS:
        for place, stored in enumerate(log):
            record = decode_record(stored)
            if not isinstance(record, StepCommitted) or record.output.data is None:
                continue
            output = record.output
            for forged in (
                msgspec.structs.replace(output, data=output.data + b"x"),
                msgspec.structs.replace(output, digest=bytes(32)),
            ):
                state = fold(run, log[:place])
                assert state.payload_of(output.data) == output
                with pytest.raises(LogCorrupted):
                    state.apply(msgspec.structs.replace(record, output=forged), stored)
            state = fold(run, log[:place])
            state.apply(msgspec.structs.replace(record, output=state.payload_of(output.data)), stored)
            assert state == fold(run, log[: place + 1])


@given(st.sampled_from(LOGS), st.data())
def test_a_commit_with_any_other_certificate_is_refused(found: tuple[str, list[bytes]], data: st.DataObject) -> None:
    run, log = found
    places = [k for k, stored in enumerate(log) if isinstance(decode_record(stored), StepCommitted)]
    if not places:
        return
    place = data.draw(st.sampled_from(places))
    record = decode_record(log[place])
    assert isinstance(record, StepCommitted)
    certificate = record.certificate
    forged = msgspec.structs.replace(
        certificate,
        **data.draw(
            st.sampled_from(
                [
                    {"run": certificate.run + "x"},
                    {"lineage": certificate.lineage + 1},
                    {"attempt": certificate.attempt + 1},
                    {"inputs": bytes(32)},
                    {"parents": (*certificate.parents, 0)},
                    {"output": bytes(32)},
                    {"goal": bytes(32)},
                    {"policy": bytes(32)},
                    {"kind": "reject"},
                    {"kind": "fault"},
                ]
            )
        ),
    )
    with pytest.raises(LogCorrupted):
        fold(run, [*log[:place], encode_record(msgspec.structs.replace(record, certificate=forged))])


def test_a_log_of_another_run_is_refused() -> None:
    for run, log in LOGS:
        with pytest.raises(LogCorrupted):
            fold(run + "-other", log)


def test_the_head_is_the_hash_over_the_stored_bytes() -> None:
    for run, log in LOGS:
        head = GENESIS
        for stored in log:
            head = chain(head, stored)
        assert fold(run, log).head == head


def test_folding_a_prefix_and_then_the_rest_is_folding_the_whole() -> None:
    for run, log in LOGS:
        state = RunState(run)
        for stored in log:
            state.apply(decode_record(stored), stored)
        assert state == fold(run, log)


@scripted
def test_the_same_events_give_the_same_bytes(make: Callable[[], ScriptedRun]) -> None:
    first, second = make(), make()
    assert first.log == second.log
    assert first.trace == second.trace


@scripted
def test_records_and_messages_survive_a_pickle_round_trip(make: Callable[[], ScriptedRun]) -> None:
    run = make()
    records = [decode_record(stored) for stored in run.log]
    assert pickle.loads(pickle.dumps(records)) == records
    machine = RunMachine(fold(RUN, run.log[:2]))
    machine.start(1e6)
    ready = machine.take_ready()
    assert pickle.loads(pickle.dumps(ready)) == ready


@scripted
def test_late_and_unknown_replies_change_nothing(make: Callable[[], ScriptedRun]) -> None:
    run = make()
    for length in range(2, len(run.log)):
        machine = RunMachine(fold(RUN, run.log[:length]))
        machine.start(1e6)
        machine.take_ready()
        old = machine.token._replace(owner="another")
        before = (machine.state.index, machine.state.head, sorted(machine.attempts))
        for number in range(1, 6):
            call = Call(old, number)
            machine.feed(StepReturned(call, b"late"), 1e6)
            machine.feed(StepRaised(call, FailureCause.RAISED, "late"), 1e6)
            machine.feed(VerdictReturned(call, VerificationResult.ok(verifier="v1")), 1e6)
            machine.feed(PermitGranted(call, None), 1e6)
        assert (machine.state.index, machine.state.head, sorted(machine.attempts)) == before
        assert machine.take_ready() is None


@given(st.text(max_size=12), st.integers(-2, 3), st.integers(0, 3), st.binary(max_size=32))
def test_a_command_of_an_unknown_kind_leaves_the_inbox_and_has_no_effect(kind: str, step: int, lineage: int, output: bytes) -> None:
    if kind in {"approve", "deny", "cancel"}:
        return
    for make in SCRIPTED.values():
        run = make()
        machine = RunMachine(fold(RUN, run.log[:3]))
        if machine.state.finished is not None:
            continue
        machine.start(1e6)
        machine.take_ready()
        if machine.state.finished is not None:
            continue
        parked = machine.state.parked
        machine.feed(CommandReceived("strange", kind, step, lineage, output), 1e6)
        ready = machine.take_ready()
        assert ready is not None
        assert ready.taken == ("strange",)
        assert [(type(record).__name__, record.applied) for record in ready.decided] == [("CommandTaken", False)]
        assert machine.state.parked == parked


def test_ticks_that_come_early_change_nothing() -> None:
    run = SCRIPTED["retries_with_a_hint"]()
    machine = RunMachine(fold(RUN, run.log[:3]))
    machine.start(200.0)
    machine.take_ready()
    machine.feed(Tick(), 201.0)
    assert machine.take_ready() is None


def test_a_finished_log_starts_nothing() -> None:
    for run, log in LOGS:
        machine = RunMachine(fold(run, log))
        machine.start(1e6)
        machine.feed(Tick(), 2e6)
        assert machine.take_ready() is None
        assert isinstance(decode_record(log[-1]), RunFinished)
        assert isinstance(decode_record(log[0]), RunAdmitted)
