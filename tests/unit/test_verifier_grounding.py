"""Grounding: numbers, names and quotations of an output stand in its sources."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentraft_ray.errors import ErrorType
from agentraft_ray.pipeline import Step, Task
from agentraft_ray.verifier import GroundingVerifier, VerifyInput
from agentraft_ray.verifier.mentions import names, numbers, quotations

SOURCE = (
    "On 2024-05-01 Acme Corp. of New York sold 1,200 units (45% more), worth $2.5 million, to Jane Mary Smith. "
    "Version v2.3.1 was “fast, small and free”. Losses were -7 in three regions. Ned,Oslo,70,248"
)


async def judge(output, source=SOURCE, **settings):
    settings.setdefault("sources", [source])
    request = VerifyInput(Task("t", {"city": "Rome", "n": 12}), Step("s", print), output, [("first", {"total": 99})])
    return await GroundingVerifier(**settings).verify(request)


@pytest.mark.parametrize(
    "output",
    [
        "They sold 1200 units, or 1200.0, or 1'200.",
        "Up by 45 %, that is 0.45 or 45 percent.",
        "Worth $2.5M, or 2,500,000.",
        "A loss of 7 in 3 regions.",
        "Sold to Jane Smith of New York by Acme Corp.",
        "Smith, Jane bought it on 2024-05-01.",
        'It was "fast, small and free".',
        'It was "fast, small, and free"'.replace(", and", " and"),
        "> fast, small\n> and free",
        "Version v2.3.1 is out.",
        "1. They sold 1,200 units\n2. They lost 7\n3. Done",
        "Nothing to look up here.",
        {"units": 1200, "share": 0.45, "buyer": "Jane Mary Smith", "done": True, "note": None},
        '{"units": 1200, "buyer": "Jane Mary Smith"}',
        {"age": 70, "id": 248},
    ],
)
async def test_what_stands_in_the_source_passes(output):
    verdict = await judge(output)
    assert verdict.passed, verdict.evidence


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("They sold 1,201 units.", "number"),
        ("They sold 12 units.", "number"),
        ("Up by 46%.", "number"),
        ("Worth $25 million.", "number"),
        ("Worth 2.5 billion.", "number"),
        ("It rose to -1200.", "number"),
        ("On 2024-06-01 it was sold.", "number"),
        ("Version v2.3.2 is out.", "number"),
        ("It began at 12:00 sharp.", "number"),
        ("They sold it to John Smith.", "name"),
        ("It went to Paris quickly.", "name"),
        ("Jane Acme bought it.", "name"),
        ('It was "fast, small and cheap".', "quotation"),
        ('It was "fast ... and free".', "quotation"),
        ("It was «fast and free», they say.", "quotation"),
        ("> fast and free of charge", "quotation"),
        ({"units": 1201}, "number"),
        ({"units": float("nan")}, "number"),
        ({"units": 10**500}, "number"),
        ({"buyer": {"name": "Eva"}}, "name"),
        ('{"units": 1201}', "number"),
    ],
)
async def test_what_stands_in_no_source_is_a_hallucination(output, kind):
    verdict = await judge(output)
    assert verdict.error_type is ErrorType.HALLUCINATION
    assert any(kind in line for line in verdict.evidence)


async def test_the_hint_names_places_and_not_the_text():
    verdict = await judge("All is well.\nThey sold 9,876 units\nto Xavier Quine.")
    assert "line 2" in verdict.hint
    assert "line 3" in verdict.hint
    assert "9,876" not in verdict.hint
    assert "Quine" not in verdict.hint
    assert any("9,876" in line for line in verdict.evidence)


async def test_by_default_the_task_and_earlier_outputs_are_the_sources():
    assert (await judge("In Rome 12 of 99 came.", sources=None)).passed
    assert not (await judge("In Rome 13 of 99 came.", sources=None)).passed


async def test_sources_and_allowed_values_may_be_functions():
    async def of(request):
        return [request.task.inputs, "17 cats"]

    assert (await judge("17 cats in Rome", sources=of)).passed
    assert (await judge("29 in all", sources=of, allow=lambda request: [request.task.inputs["n"] + 17])).passed
    assert not (await judge("30 in all", sources=of, allow=[29])).passed
    assert (await judge("12", sources=lambda request: request.task.inputs)).passed


async def test_generators_of_sources_last_for_more_than_one_verdict():
    verifier = GroundingVerifier(text for text in ["17 cats"])
    request = VerifyInput(Task("t"), Step("s", print), "17 cats")
    assert [(await verifier.verify(request)).passed for _ in range(2)] == [True, True]


async def test_a_true_value_in_the_wrong_slot_is_found():
    sources = {"name": "Eva", "city": "Rome", "n": 5, "m": 6}
    slots = {"city": lambda request: "Rome", "n": lambda request: [5]}
    assert (await judge({"city": "Rome", "n": 5}, sources, slots=slots)).passed
    assert not (await judge({"city": "Eva", "n": 5}, sources, slots=slots)).passed
    assert not (await judge({"city": "Rome", "n": 6}, sources, slots=slots)).passed
    by_path = {"where.city": "inputs.city", "total": "history.first.total"}
    assert (await judge({"where": {"city": "Rome"}, "total": 99}, sources=None, slots=by_path)).passed
    assert not (await judge({"where": {"city": "Rome"}, "total": 12}, sources=None, slots=by_path)).passed


async def test_checks_can_be_turned_off_one_by_one():
    output = 'Paris had 77 "happy free people" there, said Eva.'
    assert (await judge(output, numbers=False, names=False, quotations=False)).passed
    for kind in ("numbers", "names", "quotations"):
        assert not (await judge(output, **{other: other == kind for other in ("numbers", "names", "quotations")})).passed
    assert (await judge({"Bob Stone": "units"})).passed
    assert not (await judge({"Bob Stone": "units"}, keys=True)).passed


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "{:,}", "{}.0", "{:_}"]), st.sampled_from(["{}", "{:,}", "{}.0"]))
@settings(max_examples=60, deadline=None)
def test_a_number_is_the_same_however_it_is_written(value, one, other):
    first, second = (next(iter(numbers(f"about {form.format(value)} of them"))) for form in (one, other))
    assert first.value == second.value == value


@given(st.text(max_size=300))
@settings(max_examples=80, deadline=None)
def test_extraction_takes_any_text(text):
    for number in numbers(text):
        assert number.text in text
    for name in names(text):
        assert text[name.start :].startswith(name.text)
    list(quotations(text))


@pytest.mark.parametrize("piece", ["1,", "1.", '"', '" ', "A ", "A. ", "> ", "\n", "a-", "1-", "1a", ")", "#", "1 "])
def test_extraction_takes_time_linear_in_the_text(piece):
    text = piece * (100_000 // len(piece)) + "x"
    started = time.process_time()
    for extract in (numbers, names, quotations):
        list(extract(text))
    assert time.process_time() - started < 5.0
