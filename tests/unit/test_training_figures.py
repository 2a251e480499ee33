"""Figures against known values, splits that leak nothing, batches, and reports."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentraft_ray.verifier.classifier import LABELS, Scoring
from agentraft_ray.verifier.training.batches import batches_of
from agentraft_ray.verifier.training.cases import Case
from agentraft_ray.verifier.training.dataset import made_cases
from agentraft_ray.verifier.training.evaluation import Scored, chosen_scoring, consensus_wrong, figures
from agentraft_ray.verifier.training.families import FAMILIES, FIRST_TEN, TEST, TRAIN
from agentraft_ray.verifier.training.metrics import (
    auroc,
    calibration_bins,
    clopper_pearson,
    cluster_interval,
    expected_calibration_error,
    fit_temperature,
    macro_f1,
    recall_at,
    softmax,
    threshold_at,
    wilson,
)
from agentraft_ray.verifier.training.report import class_rows, family_rows, fold_rows, summary, table
from agentraft_ray.verifier.training.splits import by_item, leaks, leave_out, overlap
from agentraft_ray.verifier.training.study import HELD_OUT_KINDS, Materials, folds
from agentraft_ray.verifier.training.views import VIEWS, view_of


def case(family: str = "f", item: str = "i", output: str = "x", label: str = "PASS", **more: str) -> Case:
    return Case(family, more.pop("domain", "d"), item, more.pop("asked", f"asked {item}"), output, label, **more)


def test_auroc_of_known_rankings() -> None:
    assert auroc([True, True, False, False], [4, 3, 2, 1]) == 1.0
    assert auroc([True, True, False, False], [1, 2, 3, 4]) == 0.0
    assert auroc([True, False, True, False], [0.9, 0.1, 0.4, 0.4]) == 0.875
    assert auroc([True, False], [1, 1]) == 0.5
    assert math.isnan(auroc([True, True], [1, 2]))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_auroc_is_the_share_of_pairs_in_order(pairs: list[tuple[bool, int]]) -> None:
    wrong = [score for label, score in pairs if label]
    right = [score for label, score in pairs if not label]
    if wrong and right:
        share = sum((a > b) + (a == b) / 2 for a in wrong for b in right) / (len(wrong) * len(right))
        assert auroc([label for label, _ in pairs], [score for _, score in pairs]) == pytest.approx(share)


def test_exact_intervals_of_known_counts() -> None:
    # scipy 1.14: beta.ppf([.025, .975], [95, 96], [6, 5])
    found = clopper_pearson(95, 100)
    assert (found.low, found.high) == pytest.approx((0.88716509, 0.98356812), abs=1e-8)
    assert clopper_pearson(0, 100).high == pytest.approx(1 - 0.025**0.01)
    assert (clopper_pearson(0, 9).low, clopper_pearson(9, 9).high) == (0.0, 1.0)
    assert (clopper_pearson(0, 0).low, clopper_pearson(0, 0).high) == (0.0, 1.0)


def test_wilson_of_a_known_count() -> None:
    found = wilson(8, 10)
    assert (found.low, found.high) == pytest.approx((0.49015, 0.94331), abs=1e-4)
    assert wilson(0, 0).high == 1.0


def test_an_interval_over_clusters_is_wider_than_one_over_rows_and_sees_doubt_where_all_hit() -> None:
    hits = [cluster % 2 == 0 for cluster in range(20) for _ in range(8)]
    clusters = [str(cluster) for cluster in range(20) for _ in range(8)]
    found, rows = cluster_interval(hits, clusters), wilson(80, 160)
    assert found.high - found.low > 2 * (rows.high - rows.low)
    assert cluster_interval([True] * 160, clusters).low == pytest.approx(clopper_pearson(20, 20).low)
    assert cluster_interval([False] * 160, clusters).high == pytest.approx(clopper_pearson(0, 20).high)
    assert cluster_interval([], []).total == 0


def test_a_threshold_flags_at_most_the_share_that_it_may() -> None:
    wrong, score = [False] * 4 + [True] * 2, [0.1, 0.2, 0.3, 0.4, 0.35, 0.9]
    assert 0.3 < threshold_at(wrong, score, 0.25) <= 0.35
    assert recall_at(wrong, score, 0.25) == 1.0
    assert recall_at(wrong, score, 0.0) == 0.5
    assert math.isnan(recall_at([True], [0.1], 0.1))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.floats(0, 0.99))
def test_no_threshold_flags_more(right: list[float], rate: float) -> None:
    threshold = threshold_at([False] * len(right), right, rate)
    assert sum(score >= threshold for score in right) <= rate * len(right) + 1e-9


def test_macro_f1_of_a_known_confusion() -> None:
    truth, said = ["A", "A", "B", "B", "C"], ["A", "B", "B", "B", "A"]
    assert macro_f1(truth, said, ["A", "B", "C"]) == pytest.approx((0.5 + 0.8 + 0) / 3)
    assert macro_f1(truth, said, ["A", "B", "C"], least=2) == pytest.approx((0.5 + 0.8) / 2)


def test_calibration_error_of_known_bins() -> None:
    bins = calibration_bins([True, False, True, True], [0.1, 0.1, 0.9, 1.0], 10)
    assert [(one.observed, one.cases) for one in bins] == [(0.5, 2), (1.0, 2)]
    assert expected_calibration_error(bins) == pytest.approx(0.5 * 0.4 + 0.5 * 0.05)


def test_a_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 4))
    truth = [int(rng.choice(4, p=row)) for row in softmax(logits)]
    assert fit_temperature(logits * 3, truth) == pytest.approx(3, rel=0.1)
    assert fit_temperature(logits, truth) == pytest.approx(1, rel=0.1)


def test_all_outputs_to_a_request_stand_on_one_side_of_a_split() -> None:
    cases = [case(item=str(number // 3), output=str(number)) for number in range(900)]
    split = by_item(cases, 0.3, 1)
    assert overlap(split.train, split.test) == []
    assert 0.2 < len(split.test) / 900 < 0.4
    assert by_item(cases, 0.3, 1) == split != by_item(cases, 0.3, 2)


def test_a_family_or_domain_is_left_out_whole() -> None:
    cases = made_cases([FAMILIES["ledger"], FAMILIES["score"], FAMILIES["compare"]], TRAIN, 0, 4)
    assert {one.family for one in leave_out(cases, family="ledger").test} == {"ledger"}
    assert {one.family for one in leave_out(cases, domain="arithmetic").test} == {"ledger", "score"}
    assert {one.family for one in leave_out(cases, domain="arithmetic").train} == {"compare"}


def test_a_leak_is_a_run_of_eight_words_that_stands_on_both_sides() -> None:
    train = [case(asked="please send 12 lamps to Eva in Oslo by 9:30")]
    assert leaks(train, [case(item="j", asked="now SEND 12 lamps, to Eva in Oslo by 9:45")]).items == 1
    assert leaks(train, [case(item="j", asked="please send 13 lamps to Eva in Oslo")]).items == 0
    assert leaks([case(asked="take 3 from 8")], [case(item="j", asked="take 3 from 8")]).items == 1
    wording = "what is the name of the person who was asked"
    assert leaks([case(asked=wording)], [case(item="j", asked=wording)]).items == 0  # says nothing of any item


def test_requests_about_the_entities_of_the_test_pool_do_not_leak_into_those_of_training() -> None:
    train, test = (made_cases(FAMILIES.values(), pool, 0, 12, 1) for pool in (TRAIN, TEST))
    drawn = {one.item for one in train}  # of a few numbers or days there are not many requests; equal ones are left out of tests
    found = leaks(train, [one for one in test if one.item not in drawn])
    assert found.items / found.of < 0.02, found


def test_batches_keep_items_whole_and_hold_every_case_once() -> None:
    cases = [case(item=str(number // 5)) for number in range(503)]
    lengths = [random.Random(number).randrange(10, 90) for number in range(503)]
    found = batches_of(cases, lengths, 32, 1, 0)
    assert sorted(place for batch in found for place in batch) == list(range(503))
    assert max(len(batch) for batch in found) <= 32
    assert all(len({cases[place].item for place in batch}) * 5 >= len(batch) for batch in found)
    owners = [{cases[place].item for place in batch} for batch in found]
    assert sum(len(one) for one in owners) == len(set.union(*owners))
    assert found == batches_of(cases, lengths, 32, 1, 0) != batches_of(cases, lengths, 32, 1, 1)


def scored_by_truth(cases: list[Case], noise: float = 0.0) -> Scored:
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=noise or 1e-9, size=(len(cases), len(LABELS)))
    for row, one in enumerate(cases):
        logits[row, LABELS.index(one.label)] += 4
    return Scored(cases, logits)


def test_figures_of_a_perfect_and_of_a_blind_model() -> None:
    cases = made_cases([FAMILIES["toolcall"], FAMILIES["sort4"]], TEST, 0, 40, 2)
    found = figures(scored_by_truth(cases), Scoring())
    assert (found["auroc_macro"], found["auroc_families"], found["class_macro_f1"]) == (1.0, 2, 1.0)
    assert (found["recall"]["share"], found["false_positives"]["share"]) == (1.0, 0.0)
    assert found["families"]["toolcall"]["recall_at"]["0.05"] == 1.0
    blind = figures(Scored(cases, np.zeros((len(cases), len(LABELS)))), Scoring())
    assert (blind["auroc_macro"], blind["recall"]["share"]) == (0.5, 1.0)


def test_no_auroc_is_given_where_there_are_too_few_cases_of_a_kind() -> None:
    cases = [case(item=str(number), label="PASS" if number < 29 else "FORMAT") for number in range(100)]
    assert figures(scored_by_truth(cases), Scoring())["families"]["f"]["auroc"] is None
    assert figures(scored_by_truth(cases), Scoring())["auroc_macro"] is None


def test_the_wrong_answers_that_samples_agree_on_are_told_apart() -> None:
    cases = [case(output=text, label="PASS" if text == "r" else "FORMAT") for text in ("w", "w", "r")]
    assert consensus_wrong(cases) == [True, True, False]
    assert consensus_wrong([*cases, *[case(output="r")] * 2]) == [False] * 5


def test_a_threshold_is_chosen_for_the_false_alarms_that_are_allowed() -> None:
    cases = made_cases([FAMILIES["toolcall"]], TEST, 0, 60, 2)
    noisy = scored_by_truth(cases, 3.0)
    chosen = chosen_scoring(noisy, 1.3, 0.05)
    assert chosen.temperature == 1.3
    assert figures(noisy, chosen)["false_positives"]["share"] <= 0.05


def test_reports_say_what_was_measured() -> None:
    found = figures(scored_by_truth(made_cases([FAMILIES["toolcall"]], TEST, 0, 40, 2)), Scoring())
    assert "| toolcall | " in table(family_rows(found))
    assert "| HALLUCINATION |" in table(class_rows(found)).replace("  ", " ") or "HALLUCINATION" in table(class_rows(found))
    assert "AUROC within families 1.000 (mean of 1)" in summary("fresh", found)
    study = {"family:toolcall": {**found, "leaks": {"items": 0, "of": 40}}}
    assert "mean of 1 families" in table(fold_rows(study))


def test_a_view_shows_its_part_and_nothing_else() -> None:
    one = case(asked="Larger of 3 and 8:", output="3")
    shown = {view: view_of(one, view) for view in VIEWS}
    assert shown["whole"] == "request: Larger of 3 and 8: answer: 3 checks: answer given, first, smallest"
    assert shown["request"] == "request: Larger of 3 and 8:"
    assert shown["output"] == "answer: 3"
    assert shown["unmarked"] == "request: Larger of 3 and 8: answer: 3"
    assert shown["marks"] == "checks: answer given, first, smallest"


def test_every_fold_tests_on_what_it_does_not_train_on() -> None:
    first = [
        case(family.name, f"{family.name}{number}", asked=f"{family.name} {number}", domain=family.domain, label=label)
        for family in FIRST_TEN
        for number in range(4)
        for label in ("PASS", "FORMAT")
    ]
    found = {fold.name: fold for fold in folds(Materials(first, items=2))}
    assert {name for name in found if name.startswith("family:")} == {f"family:{family.name}" for family in FIRST_TEN}
    for name, fold in found.items():
        kind, _, value = name.partition(":")
        assert fold.test
        assert overlap(fold.train, fold.test) == [], name
        if kind in ("family", "domain"):
            assert {getattr(one, kind) for one in fold.test} == {value}
            assert value not in {getattr(one, kind) for one in fold.train}
    assert not {one.origin for one in found["kinds"].train} & {f"made:{kind}" for kind in HELD_OUT_KINDS}
    assert sorted(one.label for one in found["control:labels"].train) == sorted(one.label for one in found["items"].train)
    assert {fold.view for fold in found.values()} == set(VIEWS)
