"""The formulas beside which figures are printed: against published values, against enumeration, and against measurements."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from scipy.stats import beta as beta_distribution
from scipy.stats import binom

from benchmarks.faults import FaultConfig, Scenario
from benchmarks.faults.counts import added
from benchmarks.faults.experiments import TwinTrials
from benchmarks.faults.fleet import FleetScenario, run_episode
from benchmarks.faults.intervals import disagreements, interval_of, p_value, wilson
from benchmarks.faults.predict import Prediction, panel_law, pipeline_predictions, rates_of_steps, step_law
from benchmarks.faults.predict_fleet import fleet_predictions
from benchmarks.faults.sequential import decided, law_of_stopping, log_evidence, sequence_interval, trials_at_least
from benchmarks.faults.studies.base import predictions_of

NO_HELP = FaultConfig(p_fail=0.25, retry_improvement=1.0)


def named(scenario: Scenario) -> dict[str, float]:
    return {one.name: one.value for one in predictions_of(TwinTrials(scenario))}


# --- one step and a panel ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 1, 3, 7])
def test_a_step_without_help_of_hints_is_a_geometric_series(retries: int) -> None:
    p, r, f = 0.25, 0.95, 0.1
    a, b = (1 - p) * (1 - f), p * (1 - r)
    c = 1 - a - b
    attempts = (1 - c ** (retries + 1)) / (1 - c)
    law = step_law(Scenario(1, NO_HELP, r, f, retries))
    assert law[:3] == pytest.approx((a * attempts, b * attempts, c ** (retries + 1)))
    assert law.generations == law.verdicts == pytest.approx(attempts)


@pytest.mark.parametrize(
    ("correlation", "silent"),
    [(0.01, (0.0125, 0.0165, 0.0182, 0.0184)), (0.46, (0.0126, 0.0202, 0.0295, 0.0393)), (0.70, (0.0126, 0.0222, 0.0371, 0.0579))],
)
def test_with_correlated_faults_retries_make_more_of_what_is_shipped_wrong(correlation: float, silent: tuple[float, ...]) -> None:
    for retries, expected in zip((0, 1, 3, 7), silent, strict=True):
        scenario = Scenario(1, replace(NO_HELP, retry_correlation=correlation), 0.95, 0.10, retries)
        assert step_law(scenario).wrong == pytest.approx(expected, rel=0.015)  # those figures were drawn, not computed


def test_rates_of_correlated_steps_have_the_moments_of_a_beta_distribution() -> None:
    scenario = Scenario(1, replace(NO_HELP, retry_correlation=0.3), max_retries=5)
    rates = list(rates_of_steps(scenario))
    exact = beta_distribution(0.25 * 0.7 / 0.3, 0.75 * 0.7 / 0.3)
    for power in range(7):
        assert sum(weight * rate**power for weight, rate in rates) == pytest.approx(float(exact.moment(power)) if power else 1.0)


@pytest.mark.parametrize(
    ("count", "correlation", "missed"), [(3, 0.0, 1.25e-4), (5, 0.0, 3.125e-7), (3, 0.1, 1.6e-3), (3, 0.44, 1.5e-2), (5, 0.44, 8.0e-3)]
)
def test_a_panel_misses_what_all_of_it_miss(count: int, correlation: float, missed: float) -> None:
    law = panel_law(Scenario(recall=0.95, verifiers=count, verifier_correlation=correlation), True)
    assert 1 - law.rejects == pytest.approx(missed, rel=0.05)


@pytest.mark.parametrize("reject_at", [1, 2, 3, 4])
def test_an_independent_panel_is_binomial_and_stops_when_it_is_settled(reject_at: int) -> None:
    law = panel_law(Scenario(recall=0.7, verifiers=4, reject_at=reject_at), True)
    assert law.rejects == pytest.approx(float(binom.sf(reject_at - 1, 4, 0.7)))
    asked = 0.0
    for flags in itertools.product((0, 1), repeat=4):
        chance = math.prod(0.7 if flag else 0.3 for flag in flags)
        asked += chance * next(n for n in range(1, 5) if sum(flags[:n]) == reject_at or n - sum(flags[:n]) == 5 - reject_at)
    assert law.asked == pytest.approx(asked)


def test_the_three_verifiers_of_the_readme_stay_flat() -> None:
    said = named(Scenario(20, FaultConfig(0.1, retry_improvement=1.0), max_retries=4, verifiers=3))
    assert said["silent_corruption"] == pytest.approx(0.0024, abs=1e-4)
    assert said["caught_failure"] == pytest.approx(0.0036, abs=1e-4)


def test_outcomes_of_formulas_partition() -> None:
    for scenario in (Scenario(), Scenario(fault=FaultConfig(upstream=0.2, retry_improvement=1.0)), Scenario(verifier_fault=0.3)):
        said = named(scenario)
        assert said["success"] + said["silent_corruption"] + said["caught_failure"] == pytest.approx(1.0)


def test_upstream_faults_whose_retries_get_better_have_no_formula() -> None:
    assert predictions_of(TwinTrials(Scenario(fault=FaultConfig(upstream=0.2)))) == ()


# --- beside measurements -----------------------------------------------------------------------------------------------------------

MEASURED = [
    Scenario(),
    Scenario(20, FaultConfig(retry_improvement=1.0), max_retries=4, verifiers=3),
    Scenario(verifiers=4, reject_at=2, verifier_correlation=0.44, fault=FaultConfig(p_fail=0.3)),
    Scenario(fault=FaultConfig(p_fail=0.25, retry_correlation=0.46, retry_improvement=0.8), max_retries=5),
    Scenario(fault=FaultConfig(hard_core=0.1, retry_correlation=0.3), verifier_fault=0.3, verifiers=3, reject_at=2),
    Scenario(8, FaultConfig(upstream=0.4, retry_improvement=1.0), recheck_recall=0.5, false_blame=0.3, max_retries=1),
    Scenario(11, FaultConfig(upstream=0.3, upstream_distance=3, retry_improvement=1.0), false_blame=0.5, verifiers=2, fpr=0.2),
    Scenario(11, FaultConfig(upstream=0.3, upstream_distance=3, retry_improvement=1.0), max_rollback_depth=2),
]


def test_every_formula_agrees_with_a_hundred_thousand_trials() -> None:
    checks = []
    for scenario in MEASURED:
        counts = TwinTrials(scenario).run(11, 0, 100_000)
        checks += [(scenario, one, p_value(one, counts), interval_of(one, counts)) for one in predictions_of(TwinTrials(scenario))]
    wrong = disagreements([value for _, _, value, _ in checks])
    assert [checks[index] for index in wrong] == []
    assert len(checks) > 50


def test_a_formula_that_is_a_tenth_off_is_found_out() -> None:
    counts = TwinTrials(Scenario()).run(11, 0, 100_000)
    said = pipeline_predictions(Scenario())
    off = [one._replace(value=one.value * 1.1) if one.name == "silent_corruption" else one for one in said]
    wrong = disagreements([p_value(one, counts) for one in off])
    assert [off[index].name for index in wrong] == ["silent_corruption"]


FLEETS = [
    FleetScenario(runs=12, n_steps=12, outage_from=2, outage_rounds=8, p_outage=0.8),
    FleetScenario(runs=12, n_steps=12, outage_from=2, outage_rounds=8, p_outage=0.8, breaker=False),
    FleetScenario(runs=12, n_steps=12, outage_from=2, outage_rounds=8, p_fail=0.0, recall=1.0, fpr=0.0),
    FleetScenario(runs=12, n_steps=12, outage_from=2, outage_rounds=8, p_fail=0.0, recall=1.0, fpr=0.0, breaker=False),
]


@pytest.mark.parametrize("fleet", FLEETS)
def test_fleets_come_to_what_their_formulas_say(fleet: FleetScenario) -> None:
    counts = added(run_episode(fleet, 7, number) for number in range(25))
    assert counts["success"] + counts["silent_corruption"] + counts["caught_failure"] == counts["runs"] == 300
    said = fleet_predictions(fleet)
    assert said
    assert disagreements([p_value(one, counts) for one in said]) == []


def test_the_breaker_saves_attempts_and_runs() -> None:
    off, on = (added(run_episode(replace(FLEETS[0], breaker=breaker), 7, number) for number in range(10)) for breaker in (False, True))
    assert on["outage_generations"] < off["outage_generations"] / 2
    assert on["success"] > 2 * off["success"]


# --- intervals and tests -----------------------------------------------------------------------------------------------------------


def test_wilson_intervals_cover_what_they_should() -> None:
    for of, truth in ((20, 0.1), (200, 0.02), (1_000, 0.5)):
        chances = binom.pmf(range(of + 1), of, truth)
        covered = sum(chance for hits, chance in enumerate(chances) if wilson(hits, of).low <= truth <= wilson(hits, of).high)
        assert covered > 0.93
    assert wilson(0, 1_000).low == 0.0
    assert wilson(0, 1_000).high == pytest.approx(3.84 / 1_000, rel=0.01)
    assert wilson(7, 7).high == 1.0


def test_holm_counts_a_disagreement_only_if_it_is_unlikely_among_all() -> None:
    assert disagreements([0.004] + [0.5] * 9) == []
    assert disagreements([0.0009] + [0.5] * 9) == [0]
    assert disagreements([0.5, None, 1e-9, 1e-3]) == [2, 3]
    assert disagreements([]) == []


def test_a_mean_of_too_few_events_is_not_tested_and_an_impossible_one_is_found() -> None:
    counts = {"trials": 50, "rare": 1, "rare_sq": 1, "fixed": 150, "fixed_sq": 450}
    assert p_value(Prediction("rare", "mean", 0.001), counts) is None
    assert p_value(Prediction("fixed", "mean", 3.0), counts) == 1.0
    assert p_value(Prediction("fixed", "mean", 3.1), counts) == 0.0
    assert p_value(Prediction("rare", "share", 0.0), counts) == 0.0


# --- stopping early ----------------------------------------------------------------------------------------------------------------


def test_the_evidence_is_a_martingale_under_its_target() -> None:
    for target in (0.05, 0.3):
        step = (1 - target, target)
        for trials in (0, 1, 7):
            for events in range(trials + 1):
                ahead = sum(step[hit] * math.exp(log_evidence(trials + 1, events + hit, target)) for hit in (0, 1))
                assert ahead == pytest.approx(math.exp(log_evidence(trials, events, target)))


def test_a_rate_at_the_target_is_rarely_decided_and_others_are_on_the_right_side() -> None:
    at = law_of_stopping(0.1, 0.1, look=20, looks_max=25)
    assert at.below + at.above < 0.05
    low = law_of_stopping(0.02, 0.1, look=20, looks_max=25)
    assert low.below > 0.99
    assert low.above < 0.05
    assert trials_at_least(0.02, 0.1) < low.trials < 500
    assert low.below + low.above + low.undecided == pytest.approx(1.0)


def test_what_is_decided_is_outside_of_the_interval() -> None:
    for events in (0, 3, 40, 200):
        interval = sequence_interval(200, events)
        assert interval.low <= events / 200 <= interval.high
        assert decided(200, events, max(1e-12, interval.low * 0.99)) == ("above" if interval.low else None)
        assert decided(200, events, min(1.0, interval.high * 1.01)) in {"below", None}
    assert decided(200, 3, 0.1) == "below"
    assert decided(0, 0, 0.1) is None
    assert decided(10, 1, 0.0) == "above"
