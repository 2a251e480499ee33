"""What a run may use, and what of it is known: every cost is booked once, wherever it was made, and budgets see all of it."""

from __future__ import annotations

import pytest

from agentraft_ray.config import Budget
from agentraft_ray.errors import ErrorType, InvalidConfig, LogCorrupted
from agentraft_ray.protocol import encode_record, fold
from agentraft_ray.protocol.messages import StepReturned, VerdictReturned, Verify, WorkerLost
from agentraft_ray.protocol.plan import BudgetSpec, Policies, StepSpec
from agentraft_ray.protocol.records import CommandTaken, RolledBack, SuspectCleared, decode_record
from agentraft_ray.taxonomy import Cost, VerificationResult
from tests.unit.scripted_runs import RUN, ScriptedRun


def policies(**budget: object) -> Policies:
    return Policies(verifier="v1", verifier_faults_max=2, max_rollback_depth=2, budget=BudgetSpec(**budget))  # type: ignore[arg-type]


def ended_by(run: ScriptedRun) -> str:
    finished = run.machine.state.finished
    return finished.error.fields["resource"] if finished and finished.error else ""  # type: ignore[return-value]


def test_an_unknown_price_ends_a_money_budget() -> None:
    run = ScriptedRun(policies(usd=1.0), first=None, second=None)
    call = run._next(type(run.open[0])).call  # type: ignore[union-attr]
    run.feed(StepReturned(call, b"one", Cost(5, None))).passes()
    assert ended_by(run) == "usd"


def test_an_unknown_price_costs_what_was_set_aside_for_it() -> None:
    run = ScriptedRun(policies(usd=1.0, reserve=(0, 0.4, 0.0)), first=None, second=None, third=None)
    for _ in range(2):
        call = run._next(type(run.open[0])).call  # type: ignore[union-attr]
        run.feed(StepReturned(call, b"one", Cost(5, None))).passes()
    assert ended_by(run) == "usd"
    assert run.machine.state.committed == 2
    assert run.machine.state.cost.usd is None


def test_a_money_budget_needs_a_reserve_whose_price_is_known() -> None:
    with pytest.raises(InvalidConfig, match="price is known"):
        Budget(usd=1.0, reserve=Cost(10, None))


def test_what_an_attempt_used_is_booked_when_another_step_fails_the_run() -> None:
    steps = {"left": StepSpec("left", ()), "right": StepSpec("right", (), max_retries=0)}
    run = ScriptedRun(Policies(verifier="v1"), **steps)
    run.returns("left", tokens=1_000)  # now with the verifier
    run.raises("boom")
    assert run.machine.state.finished is not None
    assert run.machine.state.cost.tokens == 1_000


def test_what_an_attempt_used_is_booked_when_a_rollback_closes_it() -> None:
    steps = {"root": StepSpec("root", ()), "a": StepSpec("a", (0,)), "b": StepSpec("b", (0,))}
    run = ScriptedRun(policies(tokens=10_000), **steps).commits("root")
    run.returns("a?").rejects(blame="root")  # root is judged again
    run.returns("b", tokens=700)  # b's output goes to the verifier
    recheck = next(one for one in run.open if isinstance(one, Verify) and one.position >= 0)
    run.open.remove(recheck)
    run.feed(VerdictReturned(recheck.call, VerificationResult.fail(ErrorType.HALLUCINATION, verifier="v2")))
    assert run.machine.state.rollbacks == 1
    assert run.machine.state.cost.tokens == 700


def test_a_late_reply_counts_against_the_budget_of_the_next_owner_too() -> None:
    run = ScriptedRun(policies(tokens=100), only=None)
    call = run.open[0].call  # type: ignore[union-attr]
    run.loses_worker().feed(StepReturned(call, b"late", Cost(150)))
    run.claim()
    assert ended_by(run) == "tokens"


def test_a_verifier_that_fails_after_every_resume_spends_no_more_than_the_budget() -> None:
    run = ScriptedRun(policies(tokens=500), only=None).returns("one")
    asked = 0
    while not ended_by(run):
        asked += 1
        assert asked < 20
        if not any(isinstance(one, Verify) for one in run.open):
            run.claim()
            continue
        run.answers(VerificationResult.fault("down", verifier="v1", cost=Cost(100)))
        run.feed_tick(10.0)
    assert run.machine.state.cost.tokens == 500


def test_rollbacks_stay_within_their_limit_when_two_steps_accuse_at_once() -> None:
    steps = {
        "a": StepSpec("a", ()),
        "b": StepSpec("b", ()),
        "c": StepSpec("c", (0,)),
        "d": StepSpec("d", (1,)),
    }
    limited = Policies(verifier="v1", max_rollback_depth=2, rollbacks_max=1)
    run = ScriptedRun(limited, **steps).returns("a").returns("b").passes().passes()
    run.returns("c?").returns("d?").rejects(blame="a").rejects(blame="b")
    assert len(run.machine.state.accusations) == 1


def test_samples_of_one_attempt_lose_their_workers_each_for_itself() -> None:
    run = ScriptedRun(only=StepSpec("only", (), ahead_by=5, samples_max=9))
    calls = [one.call for one in run.open]  # type: ignore[union-attr]
    for call in calls:
        run.feed(WorkerLost(call))
    assert run.machine.state.history(0).made == 0


def forged(source: ScriptedRun, record_type: type, changes: dict[str, object]) -> bytes:
    import msgspec

    record = next(found for found in map(decode_record, source.log) if isinstance(found, record_type))
    certificate = msgspec.structs.replace(record.certificate, **changes)
    return encode_record(msgspec.structs.replace(record, certificate=certificate))


@pytest.mark.parametrize("changes", [{"run": "another"}, {"lineage": 7}, {"policy": b"x" * 32}, {"output": b"x" * 32}, {"parents": (9,)}])
def test_a_rollback_needs_a_verdict_about_exactly_the_suspect(changes: dict[str, object]) -> None:
    run = ScriptedRun(Policies(verifier="v1", max_rollback_depth=1), first=None, second=None)
    run.commits("one").returns("two?").rejects(blame="first").rejects(verifier="v2")
    place = next(k for k, stored in enumerate(run.log) if isinstance(decode_record(stored), RolledBack))
    fold(RUN, run.log[: place + 1])
    with pytest.raises(LogCorrupted):
        fold(RUN, [*run.log[:place], forged(run, RolledBack, changes)])


@pytest.mark.parametrize("changes", [{"run": "another"}, {"kind": "reject"}, {"output": b"x" * 32}])
def test_a_suspect_is_cleared_only_by_a_verdict_about_it(changes: dict[str, object]) -> None:
    run = ScriptedRun(Policies(verifier="v1", max_rollback_depth=1), first=None, second=None)
    run.commits("one").returns("two?").rejects(blame="first").passes()
    place = next(k for k, stored in enumerate(run.log) if isinstance(decode_record(stored), SuspectCleared))
    with pytest.raises(LogCorrupted):
        fold(RUN, [*run.log[:place], forged(run, SuspectCleared, changes)])


def test_a_step_that_nobody_let_run_cannot_be_committed() -> None:
    run = ScriptedRun(gate=StepSpec("gate", (), approve_before=True)).says("approve", 0).commits("one")
    without = [stored for stored in run.log if not isinstance(decode_record(stored), CommandTaken)]
    with pytest.raises(LogCorrupted, match="approval"):
        fold(RUN, without)
