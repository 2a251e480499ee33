"""Task families: their truth is exact, their classes follow the rules, their entities do not meet. And perturbations, judged alike."""

import itertools
import random
from pathlib import Path

import pytest

from agentraft_ray.errors import ErrorType
from agentraft_ray.verifier.training.cases import item_id
from agentraft_ray.verifier.training.checks import CHECKED_FAMILIES, verdicts_of
from agentraft_ray.verifier.training.dataset import balanced_weights, made_cases, natural_cases, renamed
from agentraft_ray.verifier.training.families import FAMILIES, FIRST_TEN, PLAIN, POOLS, SHOTS, TEST, TRAIN, Item, judge
from agentraft_ray.verifier.training.perturb import HARD_POSITIVES, PERTURBATIONS, perturbed

NATURAL = Path(__file__).resolve().parents[2] / "benchmarks" / "data" / "natural_errors.json"
SEED = 5


@pytest.fixture(scope="module")
def natural() -> list:
    return natural_cases(NATURAL)


def test_the_checkers_agree_with_every_label_of_the_first_bank(natural: list) -> None:
    # `natural_cases` raises at the first answer whose recorded truth differs from the rule's.
    assert len(natural) == 4800
    assert {case.family for case in natural} == {family.name for family in FIRST_TEN}
    assert len({case.item for case in natural}) == 560  # some requests were drawn more than once


def test_there_are_many_families_in_many_domains() -> None:
    assert len(FIRST_TEN) == 10
    assert len(FAMILIES) >= 50
    assert len({family.domain for family in FAMILIES.values()}) >= 8
    assert {family.lane for family in FAMILIES.values()} == {"A", "B", "C"}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_a_right_answer_is_right_and_a_foil_is_wrong(family) -> None:
    for pool in POOLS.values():
        for item in family.items(SEED, pool, 5):
            assert judge(item, item.gold) is ErrorType.NONE
            assert judge(item, "") is ErrorType.INCOMPLETE
            assert all(judge(item, foil) in (kind, ErrorType.NONE) for foil, kind in item.foils)
            assert all(judge(item, foil) is not ErrorType.NONE for foil, _ in item.foils if foil != item.gold)


def test_the_same_seed_gives_the_same_items_and_another_one_others() -> None:
    family = FAMILIES["booking"]
    assert family.items(1, TRAIN, 9) == family.items(1, TRAIN, 9)
    assert family.items(1, TRAIN, 9) != family.items(2, TRAIN, 9)
    assert len({item.request for item in family.items(1, TRAIN, 50)}) == 50


def test_the_pools_share_no_entity() -> None:
    for kind in ("names", "cities", "goods", "acts", "firms", "things"):
        for one, other in itertools.combinations(POOLS.values(), 2):
            assert not set(getattr(one, kind)) & set(getattr(other, kind)), (kind, one.name, other.name)


def test_a_prompt_shows_worked_examples_and_ends_with_the_request() -> None:
    family = FAMILIES["ledger"]
    item, shots = family.items(0, TRAIN, 1)[0], family.items(0, SHOTS, 4)
    prompt = family.prompt(item, shots)
    assert prompt.endswith(item.request)
    assert all(f"{shot.request} {shot.gold}" in prompt for shot in shots)


CALL = Item("Request: 30 minutes with Ben on Friday.\nCall:", '{"with": "Ben", "day": "Friday", "minutes": 30}', "json")


@pytest.mark.parametrize(
    ("item", "output", "kind"),
    [
        (CALL, '{"minutes":30,"day":"Friday","with":"Ben"}', ErrorType.NONE),
        (CALL, '{"with": "Ben", "day": "Friday", "minutes": "30"}', ErrorType.FORMAT),
        (CALL, '{"with": "Ben", "day": "Friday"', ErrorType.FORMAT),
        (CALL, '{"with": "Ben", "day": "Friday"}', ErrorType.INCOMPLETE),
        (CALL, '{"with": "Ann", "day": "Friday", "minutes": 30}', ErrorType.HALLUCINATION),
        (CALL, '{"with": "Friday", "day": "Ben", "minutes": 30}', ErrorType.CONTRADICTION),
        (CALL, '{"with": "Ann", "day": "Monday", "minutes": 15}', ErrorType.GOAL_DRIFT),
        (CALL, '{"with": "Ben", "day": "Friday", "minutes": 30, "note": "Ben"}', ErrorType.SCOPE_CREEP),
        (Item("Numbers: 3 and 8\nLarger:", "8"), "3", ErrorType.CONTRADICTION),
        (Item("Numbers: 3 and 8\nLarger:", "8"), "9", ErrorType.HALLUCINATION),
        (Item("Numbers: 3 and 8\nLarger:", "8"), "8 and 3", ErrorType.SCOPE_CREEP),
        (Item("Start: Friday\nDays later: 1\nDay:", "Saturday", "computed"), "Monday", ErrorType.CONTRADICTION),
        (Item("Start: Friday\nDays later: 1\nDay:", "Saturday", "computed"), "Peru", ErrorType.HALLUCINATION),
        (Item("List: [2, 1]\nSorted:", "[1, 2]", "list"), "[2, 1]", ErrorType.CONTRADICTION),
        (Item("List: [2, 1]\nSorted:", "[1, 2]", "list"), "[1]", ErrorType.INCOMPLETE),
        (Item("List: [2, 1]\nSorted:", "[1, 2]", "list"), "[1, 7]", ErrorType.HALLUCINATION),
        (Item("List: [2, 1]\nSorted:", "[1, 2]", "list"), "[1, 2, 2]", ErrorType.SCOPE_CREEP),
        (Item("State: a=1 b=2\nNext:", "a=2 b=2", "state"), "a=1 b=2", ErrorType.CONTRADICTION),
        (Item("State: a=1 b=2\nNext:", "a=2 b=2", "state"), "a=2", ErrorType.INCOMPLETE),
        (Item("State: a=1 b=2\nNext:", "a=2 b=2", "state"), "a=2 c=2", ErrorType.HALLUCINATION),
        (Item("Facts: Eva, Bern", "Eva lives in Bern.", "sentence"), "Eva lives in Rome.", ErrorType.HALLUCINATION),
        (Item("Facts: Eva, Bern", "Eva lives in Bern.", "sentence"), "Eva lives there.", ErrorType.INCOMPLETE),
        (Item("Facts: Eva, Bern", "Eva lives in Bern.", "sentence"), "Eva does not live in Bern.", ErrorType.CONTRADICTION),
    ],
)
def test_what_is_wrong_has_the_class_that_the_rules_give_it(item: Item, output: str, kind: ErrorType) -> None:
    assert judge(item, output) is kind


def test_every_kind_of_perturbation_occurs_and_is_judged_exactly() -> None:
    rng, kinds = random.Random(0), set()
    for family in FAMILIES.values():
        items = family.items(SEED, TRAIN, 3)
        for item, other in zip(items, [*items[1:], items[0]], strict=True):
            for one in perturbed(item, other, TRAIN, rng):
                kinds.add(one.kind)
                assert one.truth is judge(item, one.output)
                assert one.kind not in HARD_POSITIVES or one.truth is ErrorType.NONE
    assert kinds == {*PERTURBATIONS, *HARD_POSITIVES}


def test_made_cases_contrast_answers_to_one_request_and_can_leave_kinds_out() -> None:
    cases = made_cases([FAMILIES["toolcall"], FAMILIES["compare"]], TRAIN, 1, 10, 3)
    assert cases == made_cases([FAMILIES["toolcall"], FAMILIES["compare"]], TRAIN, 1, 10, 3)
    by_item = {case.item: [one for one in cases if one.item == case.item] for case in cases}
    assert all({one.wrong for one in group} == {True, False} and len({one.asked for one in group}) == 1 for group in by_item.values())
    without = made_cases([FAMILIES["toolcall"]], TRAIN, 1, 10, 9, frozenset({"slot_swap"}))
    assert "made:slot_swap" not in {case.origin for case in without}


def test_weights_make_right_and_wrong_weigh_the_same_in_every_family(natural: list) -> None:
    weights = balanced_weights(natural)
    sums: dict = {}
    for case, weight in zip(natural, weights, strict=True):
        sums[case.family, case.wrong] = sums.get((case.family, case.wrong), 0.0) + weight
    assert sum(weights) == pytest.approx(len(natural))
    assert sums["csv2json", True] == pytest.approx(sums["csv2json", False])
    assert sums["csv2json", True] + sums["csv2json", False] == pytest.approx(sums["inventory", True])  # there is no right one
    assert len({round(sum(value for key, value in sums.items() if key[0] == name), 6) for name, _ in sums}) == 1


def test_renamed_cases_share_no_entity_with_those_that_they_were_made_of(natural: list) -> None:
    changed = renamed(natural, PLAIN, TRAIN, 0)
    assert [case.label for case in changed] == [case.label for case in natural]
    assert [case.item for case in changed] == [case.item for case in natural]
    text = " ".join(case.asked for case in changed)
    assert not [name for name in (*PLAIN.names, *PLAIN.cities) if f" {name} " in f" {text} "]
    copied = [(case, other) for case, other in zip(natural, changed, strict=True) if case.family == "csv2json" and not case.wrong]
    assert all(word in other.asked for _, other in copied[:50] for word in other.output.split('"') if word.isalpha() and word[0].isupper())


async def test_the_checks_pass_right_answers_and_catch_natural_errors(natural: list) -> None:
    cases = [case for case in natural if case.family in CHECKED_FAMILIES]
    caught = [any((await verdicts_of(case)).values()) for case in cases]
    wrong = [hit for case, hit in zip(cases, caught, strict=True) if case.wrong]
    right = [hit for case, hit in zip(cases, caught, strict=True) if not case.wrong]
    assert (sum(wrong), len(wrong)) == (215, 215)
    assert (sum(right), len(right)) == (2, 1225)


async def test_the_checks_pass_right_answers_of_fresh_requests_about_other_entities() -> None:
    alarms = []
    for name in sorted(CHECKED_FAMILIES):
        cases = [case for case in made_cases([FAMILIES[name]], TEST, 77, 20, 0) if case.origin == "made:gold"]
        alarms += [(case.asked, case.output) for case in cases if any((await verdicts_of(case)).values())]
    assert alarms == []


def test_an_item_is_known_by_its_family_and_request() -> None:
    assert item_id("a", "b") == item_id("a", "b") != item_id("b", "a")
