"""Simulated trials: their draws, what the protocol makes of them, and that its twin makes the same, trial by trial."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentraft_ray.errors import ErrorType, InvalidConfig
from agentraft_ray.pipeline import Step, Task
from agentraft_ray.protocol.records import AttemptRejected, StepCommitted, decode_record
from agentraft_ray.taxonomy import VerificationResult
from agentraft_ray.verifier.base import Verifier, VerifyInput
from agentraft_ray.verifier.quorum import QuorumVerifier
from benchmarks import Outcome, Scenario, evaluate, evaluate_sync
from benchmarks.faults import FaultConfig
from benchmarks.faults.draws import ATTEMPT, FAULT, STEP, TRIAL, VERDICT, below, draw, draws, key_of, lines
from benchmarks.faults.experiments import CoreTrials, Disagreement, TwinTrials, core_trials, disagreement_of
from benchmarks.faults.model import OUTPUTS, TRUTH, Kind, TrialModel
from benchmarks.faults.trial import SILENT, SUCCESS, TrialHost
from benchmarks.faults.twin import CHUNK, Twin

SHARES = st.sampled_from([0.0, 0.03, 0.2, 0.5, 0.9, 1.0])
CORRELATIONS = st.sampled_from([0.0, 0.2, 0.44, 0.9])
SEEDS = st.integers(0, 2**64 - 1)


@st.composite
def scenarios(draw_: st.DrawFn) -> Scenario:
    verifiers = draw_(st.integers(1, 4))
    has_upstream = draw_(st.booleans())
    fault = FaultConfig(
        p_fail=draw_(SHARES),
        retry_improvement=draw_(st.sampled_from([1.0, 0.45])),
        retry_correlation=0.0 if has_upstream else draw_(CORRELATIONS),
        hard_core=0.0 if has_upstream else draw_(st.sampled_from([0.0, 0.0, 0.3])),
        upstream=draw_(st.sampled_from([0.1, 0.6])) if has_upstream else 0.0,
        upstream_distance=draw_(st.integers(1, 3)),
    )
    return Scenario(
        draw_(st.integers(1, 9)),
        fault,
        draw_(SHARES),
        draw_(st.sampled_from([0.0, 0.03, 0.3])),
        draw_(st.integers(0, 4)),
        verifiers=verifiers,
        reject_at=draw_(st.integers(1, verifiers)),
        verifier_correlation=draw_(CORRELATIONS),
        verifier_fault=0.0 if has_upstream else draw_(st.sampled_from([0.0, 0.0, 0.4])),
        max_rollback_depth=draw_(st.integers(0, 3)),
        blame_accuracy=draw_(SHARES),
        false_blame=draw_(SHARES),
        recheck_recall=draw_(SHARES),
    )


# --- draws ------------------------------------------------------------------------------------------------------------------------


@given(SEEDS, st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
@example(0, [0])
def test_a_draw_is_the_same_in_python_and_in_numpy(seed: int, places: list[int]) -> None:
    key = key_of(seed)
    assert draws(lines(key, np.array(places, np.uint64))).tolist() == [draw(key, place) for place in places]


def test_draws_of_seeds_steps_attempts_and_purposes_are_uniform_and_independent() -> None:
    base = lines(key_of(0), np.arange(20_000, dtype=np.uint64) * np.uint64(TRIAL))
    columns = [draws(base, place) / 2**53 for place in (FAULT, VERDICT, STEP + FAULT, ATTEMPT + FAULT)]
    columns.append(draws(lines(key_of(1), np.arange(20_000, dtype=np.uint64) * np.uint64(TRIAL)), FAULT) / 2**53)
    for column in columns:
        assert abs(column.mean() - 0.5) < 0.01
        assert abs(column.var() - 1 / 12) < 0.003
    assert np.abs(np.corrcoef(columns) - np.eye(len(columns))).max() < 0.03


def test_certainty_is_certain() -> None:
    assert below(1.0) == 2**53
    assert below(0.0) == 0


# --- the pairing -------------------------------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(0, 10**6), scenarios(), scenarios())
@settings(max_examples=30)
def test_first_attempts_fail_alike_whatever_the_retries_the_verifiers_and_the_protocol_draw(
    seed: int, trial: int, one: Scenario, other: Scenario
) -> None:
    fault = replace(one.fault, upstream=0.0)
    first = TrialModel(replace(one, fault=fault), seed)
    second = TrialModel(replace(other, n_steps=one.n_steps, fault=fault), seed)
    host = TrialHost(second)
    host.run(trial)  # draws whatever it draws
    wrong = [first.output(trial, step, 0) for step in range(one.n_steps)]
    assert [second.output(trial, step, 0) for step in range(one.n_steps)] == wrong
    assert bool(Twin(first.scenario, seed).right_unprotected(trial, trial + 1)[0]) is all(kind is Kind.RIGHT for kind in wrong)


def test_what_is_shipped_unprotected_is_what_the_first_attempts_in_the_log_were() -> None:
    model = TrialModel(Scenario(recall=1.0, fpr=0.0), 5)
    right = Twin(model.scenario, 5).right_unprotected(0, 200)
    for trial in range(200):
        log: list[bytes] = []
        TrialHost(model).run(trial, log)
        first = [record for record in map(decode_record, log) if isinstance(record, AttemptRejected) and not record.certificate.attempt]
        assert bool(right[trial]) is (not first)


# --- the protocol and its twin -----------------------------------------------------------------------------------------------------


@given(scenarios(), SEEDS, st.integers(0, 2**36 - 100))
@settings(max_examples=120)
def test_protocol_and_twin_make_the_same_of_the_same_draws(scenario: Scenario, seed: int, start: int) -> None:
    core = core_trials(TrialModel(scenario, seed), start, start + 25)
    assert disagreement_of(scenario, seed, start, core, Twin(scenario, seed).run(start, start + 25)) is None


def test_a_twin_that_differs_is_reported_with_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario()
    lenient = replace(scenario, recall=0.5)
    core = core_trials(TrialModel(scenario, 1), 0, 200)
    said = disagreement_of(scenario, 1, 0, core, Twin(lenient, 1).run(0, 200))
    assert said is not None
    assert "of seed 1: outcome" in said
    monkeypatch.setattr("benchmarks.faults.experiments.Twin", lambda _, seed: Twin(lenient, seed))
    with pytest.raises(Disagreement, match="in the protocol"):
        CoreTrials(scenario).run(1, 0, 200)


def test_batches_add_up_to_the_same_however_they_are_cut() -> None:
    scenario = Scenario(fault=FaultConfig(upstream=0.2), n_steps=6)
    whole = TwinTrials(scenario).run(3, 0, CHUNK + 900)
    core = CoreTrials(scenario)
    assert core.run(3, 100, 160) == TwinTrials(scenario).run(3, 100, 160)
    halves = [TwinTrials(scenario).run(3, 0, 500), TwinTrials(scenario).run(3, 500, CHUNK + 900)]
    assert {name: halves[0][name] + halves[1][name] for name in whole} == whole


def test_outputs_of_all_attempts_differ_so_that_none_passes_for_a_repetition() -> None:
    fresh = [data for kind in (Kind.RIGHT, Kind.FLAWED, Kind.WRONG) for data in OUTPUTS[kind]]
    assert len(set(fresh)) == len(fresh)
    assert len(TRUTH) == len(fresh) + 1


def test_a_stuck_step_is_judged_once_and_then_rejected_unseen() -> None:
    host = TrialHost(TrialModel(Scenario(1, FaultConfig(hard_core=1.0), recall=1.0, max_retries=3), 1))
    result = host.run(0)
    assert (result.generations, result.verdicts) == (4, 1)


def test_certificates_carry_the_class_of_the_fault_and_retries_its_hint() -> None:
    scenario = Scenario(fault=FaultConfig(p_fail=0.5, error_dist={ErrorType.SCOPE_CREEP: 1.0}), recall=1.0, fpr=0.0)
    log: list[bytes] = []
    TrialHost(TrialModel(scenario, 2)).run(0, log)
    rejected = [record for record in map(decode_record, log) if isinstance(record, AttemptRejected)]
    assert rejected
    assert {record.certificate.error_type for record in rejected} == {"SCOPE_CREEP"}
    assert all("scope" in record.hint for record in rejected)
    assert sum(isinstance(record, StepCommitted) for record in map(decode_record, log)) == 10


class _Says(Verifier):
    def __init__(self, flags: bool) -> None:
        self._flags = flags

    async def verify(self, request: VerifyInput) -> VerificationResult:
        return VerificationResult.fail(ErrorType.INCOMPLETE) if self._flags else VerificationResult.ok()


async def test_a_panel_decides_as_the_quorum_verifier_does() -> None:
    request = VerifyInput(Task("judge"), Step("a", str), "text")
    for count in (1, 2, 3, 4):
        for reject_at, flags in itertools.product(range(1, count + 1), itertools.product((False, True), repeat=count)):
            members = [_Says(flag) for flag in flags]
            quorum = QuorumVerifier(members, k=count - reject_at + 1, rule="k_of_n")
            assert (not (await quorum.verify(request)).passed) is (sum(flags) >= reject_at)
            if reject_at == 1:
                assert (not (await QuorumVerifier(members).verify(request)).passed) is any(flags)


# --- evaluate ----------------------------------------------------------------------------------------------------------------------


@given(scenarios(), SEEDS)
@settings(max_examples=20)
def test_outcomes_partition_the_trials(scenario: Scenario, seed: int) -> None:
    found = evaluate_sync(scenario, trials=8, seed=seed)
    for arm in (found.baseline, found.protected):
        assert arm.success + arm.silent_corruption + arm.caught_failure == arm.trials == 8
    assert found.baseline.caught_failure == 0


@given(scenarios(), SEEDS)
@settings(max_examples=30)
def test_a_perfect_verifier_ships_nothing_bad(scenario: Scenario, seed: int) -> None:
    perfect = replace(scenario, fault=replace(scenario.fault, upstream=0.0), recall=1.0, fpr=0.0)
    host = TrialHost(TrialModel(perfect, seed))
    assert SILENT not in [host.run(trial).outcome for trial in range(10)]


def test_with_perfect_agents_and_verifiers_everything_is_right_at_once() -> None:
    host = TrialHost(TrialModel(Scenario(fault=FaultConfig(p_fail=0.0), recall=1.0, fpr=0.0), 4))
    assert {host.run(trial)[:3] for trial in range(20)} == {(SUCCESS, 10, 10)}


async def test_evaluate_gives_what_users_of_the_seed_know() -> None:
    scenario = Scenario(n_steps=12, fault=FaultConfig(p_fail=0.12), recall=0.9, fpr=0.03)
    found = await evaluate(scenario, trials=120, seed=1)
    assert found.protected.success_rate > found.baseline.success_rate
    assert found.protected.silent_corruption_rate < found.baseline.silent_corruption_rate
    assert found.protected.success_rate == found.protected.success / 120
    assert found.rescued - found.harmed == found.protected.success - found.baseline.success
    assert found.corruption_reduction > 1
    assert [outcome.value for outcome in Outcome] == ["success", "silent_corruption", "caught_failure"]
    assert await evaluate(scenario, trials=120, seed=1) == found


async def test_the_layer_is_cheaper_than_running_everything_again() -> None:
    found = await evaluate(Scenario(n_steps=20, fault=FaultConfig(p_fail=0.1), recall=0.9), trials=80, seed=6)
    assert found.cost_vs_full_rerun > 1.0
    assert found.full_rerun_cost == pytest.approx(20 / 0.9**20)


async def test_better_verifiers_ship_less() -> None:
    fault = FaultConfig(p_fail=0.15)
    low = await evaluate(Scenario(n_steps=15, fault=fault, recall=0.5), trials=150, seed=4)
    high = await evaluate(Scenario(n_steps=15, fault=fault, recall=0.99), trials=150, seed=4)
    assert high.protected.silent_corruption_rate <= low.protected.silent_corruption_rate


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"n_steps": 0}, "n_steps=0 must be a whole number from 1 to 4,096"),
        ({"recall": 1.5}, r"recall=1\.5 must be a share from 0 to 1"),
        ({"verifiers": 2, "reject_at": 3}, "reject_at=3 must be a whole number from 1 to 2"),
        ({"verifier_correlation": 1.0}, "from 0 to just under 1"),
        ({"max_retries": -1}, "max_retries=-1"),
        ({"verify_cost_ratio": float("nan")}, "verify_cost_ratio=nan"),
        ({"fault": {"p_fail": -0.1}}, "p_fail=-0.1 must be a share"),
        ({"fault": {"error_dist": {ErrorType.NONE: 1.0}}}, "and not NONE"),
        ({"fault": {"error_dist": {ErrorType.FORMAT: 0.5}}}, "must add up to 1"),
        ({"fault": {"upstream": 0.1, "hard_core": 0.1}}, "upstream faults are simulated alone"),
        ({"fault": {"upstream": 0.1}, "verifier_fault": 0.1}, "leave out verifier_fault"),
    ],
)
def test_scenarios_that_cannot_be_are_refused(words: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidConfig, match=said):
        Scenario(**{**words, "fault": FaultConfig(**words.get("fault", {}))})  # type: ignore[arg-type]


async def test_numbers_of_trials_and_seeds_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="trials=0"):
        await evaluate(Scenario(), trials=0)
    with pytest.raises(InvalidConfig, match="seed=-1"):
        await evaluate(Scenario(), trials=1, seed=-1)
