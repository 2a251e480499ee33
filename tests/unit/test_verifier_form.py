"""Completeness, schema, recomputation, user functions and scripts as verifiers."""

import dataclasses

import pydantic
import pytest

from agentraft_ray.errors import ErrorType, InvalidConfig
from agentraft_ray.pipeline import Step, Task
from agentraft_ray.taxonomy import VerdictKind, VerificationResult
from agentraft_ray.verifier import (
    NOT_COMPUTABLE,
    CallableVerifier,
    CompletenessVerifier,
    MockVerifier,
    RecomputeVerifier,
    SchemaVerifier,
    VerifyInput,
)


async def judge(verifier, output, **inputs):
    return await verifier.verify(VerifyInput(Task("t", inputs), Step("draft", print), output, attempt=inputs.get("attempt", 0)))


REPORT = """# Report
## 1. Summary
All went well.
Findings
--------
### Details
Three of them.
**Risks**
None known.
Owner: Eva
## Empty
### Also empty
"""


class TestCompleteness:
    @pytest.mark.parametrize("title", ["Summary", "findings", "Risks", "Owner", "Report", "Details"])
    async def test_filled_sections_are_found_in_any_dress(self, title):
        assert (await judge(CompletenessVerifier(sections=[title]), REPORT)).passed

    @pytest.mark.parametrize("title", ["Conclusion", "Empty", "Also empty", "went"])
    async def test_missing_and_empty_sections_are_named(self, title):
        verdict = await judge(CompletenessVerifier(sections=["Summary", title]), REPORT)
        assert verdict.error_type is ErrorType.INCOMPLETE
        assert len(verdict.evidence) == 1
        assert title in verdict.hint

    async def test_headings_in_code_are_no_sections(self):
        assert not (await judge(CompletenessVerifier(sections=["Usage"]), "```\n# Usage\nrun it\n```")).passed

    async def test_required_takes_keys_of_data_and_sections_or_words_of_text(self):
        verifier = CompletenessVerifier(["city", "people"])
        assert (await judge(verifier, {"city": "Rome", "people": 0})).passed
        assert (await judge(verifier, '{"city": "Rome", "people": 0}')).passed
        assert (await judge(verifier, "A city of many people.")).passed
        for output in ({"city": "Rome"}, {"city": " ", "people": 1}, {"city": None, "people": 1}, "A town of people", "cityscape, people"):
            assert (await judge(verifier, output)).error_type is ErrorType.INCOMPLETE, output

    async def test_keys_reach_into_nested_data(self):
        verifier = CompletenessVerifier(keys=["a.b", "items.id", "list.0"])
        whole = {"a": {"b": False}, "items": [{"id": 1}, {"id": 2}], "list": ["x"]}
        assert (await judge(verifier, whole)).passed
        verdict = await judge(verifier, {"a.b": 1, "items": [{"id": 1}, {}], "list": []})
        assert verdict.evidence == ("key items.id", "key list.0")

    async def test_values_must_be_repeated_and_may_come_from_the_request(self):
        verifier = CompletenessVerifier(values=lambda request: request.task.inputs["all"])
        assert (await judge(verifier, "Rome has 1,000 cats", all=["rome", 1000])).passed
        verdict = await judge(verifier, {"place": "Romeo", "cats": 1000}, all=["rome", 1000])
        assert verdict.evidence == ("value rome",)

    def test_requiring_nothing_is_refused(self):
        with pytest.raises(InvalidConfig):
            CompletenessVerifier()


SCHEMA = {
    "type": "object",
    "properties": {
        "day": {"enum": ["Monday", "Sunday"]},
        "minutes": {"type": "integer", "minimum": 1},
        "tags": {"items": {"type": "string"}},
    },
    "required": ["day", "minutes"],
    "additionalProperties": False,
}


@dataclasses.dataclass
class Meeting:
    day: str
    minutes: int


class MeetingModel(pydantic.BaseModel):
    day: str
    minutes: int


class TestSchema:
    @pytest.mark.parametrize("form", [SCHEMA, Meeting, MeetingModel])
    async def test_the_right_form_passes_as_data_as_text_and_as_an_instance(self, form):
        verifier = SchemaVerifier(form)
        for output in (
            {"day": "Monday", "minutes": 15},
            '{"day": "Monday", "minutes": 15}',
            Meeting("Monday", 15),
            MeetingModel(day="Monday", minutes=1),
        ):
            verdict = await judge(verifier, output)
            assert verdict.passed, verdict.reasoning

    @pytest.mark.parametrize("form", [SCHEMA, Meeting, MeetingModel])
    async def test_a_wrong_type_is_a_format_error_with_its_place(self, form):
        for output in ({"day": "Monday", "minutes": "15"}, '{"day": "Monday", "minutes": "15"}', {"day": "Monday", "minutes": True}):
            verdict = await judge(SchemaVerifier(form), output)
            assert verdict.error_type is ErrorType.FORMAT
            assert "minutes" in verdict.hint

    @pytest.mark.parametrize("form", [SCHEMA, Meeting, MeetingModel])
    async def test_a_missing_part_is_incomplete(self, form):
        verdict = await judge(SchemaVerifier(form), {"day": "Monday"})
        assert verdict.error_type is ErrorType.INCOMPLETE
        assert "minutes" in verdict.hint

    @pytest.mark.parametrize(
        "output",
        [
            "Monday, 15",
            '```json\n{"day": "Monday", "minutes": 15}\n```',
            '{"day": "Monday", "day": "Sunday", "minutes": 1}',
            '{"day": "Mon',
            7,
            {"day": "Monday", "minutes": float("nan")},
        ],
    )
    async def test_nothing_is_repaired(self, output):
        assert (await judge(SchemaVerifier(SCHEMA), output)).error_type is ErrorType.FORMAT

    async def test_a_schema_of_text_takes_text(self):
        assert (await judge(SchemaVerifier({"type": "string", "maxLength": 3}), "yes")).passed
        assert (await judge(SchemaVerifier({"enum": ["yes", "no"]}), "yes")).passed
        assert (await judge(SchemaVerifier(str), "{not json")).passed
        assert not (await judge(SchemaVerifier({"enum": ["yes", "no"]}), "maybe")).passed

    async def test_deep_places_are_named_and_offending_values_are_not(self):
        verdict = await judge(SchemaVerifier(SCHEMA), {"day": "Doomsday", "minutes": 1, "tags": ["a", 5]})
        assert "tags[1]" in verdict.hint
        assert "Doomsday" not in verdict.hint
        assert "Monday" in verdict.hint

    async def test_an_unknown_reference_is_not_fetched(self):
        verifier = SchemaVerifier({"$ref": "http://127.0.0.1:9/nothing.json"})
        with pytest.raises(Exception, match="nothing.json"):
            await judge(verifier, {})

    def test_what_is_no_schema_is_refused(self):
        for schema in ({"type": "objekt"}, {"properties": 7}, 7, "object"):
            with pytest.raises(InvalidConfig):
                SchemaVerifier(schema)

    def test_the_identity_follows_the_schema(self):
        assert SchemaVerifier(SCHEMA).identity != SchemaVerifier({**SCHEMA, "required": []}).identity
        assert SchemaVerifier(Meeting).identity == SchemaVerifier(Meeting).identity


class TestRecompute:
    async def test_equal_by_value_passes_and_a_difference_is_a_contradiction_with_its_place(self):
        verifier = RecomputeVerifier(lambda request: {"total": sum(request.task.inputs["rows"]), "rows": [1, 2.0]})
        assert (await judge(verifier, {"total": 0.3, "rows": (1.0, 2)}, rows=[0.1, 0.2])).passed
        verdict = await judge(verifier, {"total": 4, "rows": [1, 3], "more": 1}, rows=[1, 2])
        assert verdict.error_type is ErrorType.CONTRADICTION
        assert set(verdict.evidence) == {"more", "total", "rows[1]"}
        assert "3" not in verdict.hint.replace("rows[1]", "")

    async def test_a_bool_is_not_a_number_and_lengths_count(self):
        assert not (await judge(RecomputeVerifier(lambda request: 1), True)).passed
        assert not (await judge(RecomputeVerifier(lambda request: [1]), [1, 1])).passed
        assert not (await judge(RecomputeVerifier(lambda request: 1.0), 10**400)).passed

    async def test_own_equality_and_nothing_to_compute(self):
        folded = RecomputeVerifier(lambda request: "ROME", lambda expected, output: expected == output.upper())
        assert (await judge(folded, "rome")).passed
        assert not (await judge(folded, "roma")).passed
        assert (await judge(RecomputeVerifier(lambda request: NOT_COMPUTABLE), 1)).kind is VerdictKind.ABSTAIN

    async def test_a_blocking_function_runs_in_a_thread(self):
        import threading

        threads = []
        await judge(RecomputeVerifier(lambda request: threads.append(threading.current_thread()), blocking=True), 1)
        assert threads[0] is not threading.main_thread()


class TestCallable:
    @pytest.mark.parametrize(
        ("answer", "passed", "error_type", "kind"),
        [
            (True, True, ErrorType.NONE, VerdictKind.PASS),
            (False, False, ErrorType.SCOPE_CREEP, VerdictKind.REJECT),
            (ErrorType.NONE, True, ErrorType.NONE, VerdictKind.PASS),
            (ErrorType.GOAL_DRIFT, False, ErrorType.GOAL_DRIFT, VerdictKind.REJECT),
            (VerificationResult.ok(confidence=0.4), True, ErrorType.NONE, VerdictKind.PASS),
            (None, False, ErrorType.NONE, VerdictKind.FAULT),
            ("yes", False, ErrorType.NONE, VerdictKind.FAULT),
            (1, False, ErrorType.NONE, VerdictKind.FAULT),
        ],
    )
    async def test_answers_mean_verdicts_and_nothing_passes_by_accident(self, answer, passed, error_type, kind):
        async def later(request):
            return answer

        for fn in (lambda request: answer, later):
            verdict = await judge(CallableVerifier(fn, "mine", error_type=ErrorType.SCOPE_CREEP), "x")
            assert (verdict.passed, verdict.error_type, verdict.kind, verdict.verifier) == (passed, error_type, kind, "mine")

    def test_it_is_named_after_its_function(self):
        def is_polite(request):
            return True

        assert CallableVerifier(is_polite).name == "is_polite"
        assert CallableVerifier(is_polite, version="2").identity != CallableVerifier(is_polite).identity


class TestMock:
    async def test_the_script_is_indexed_by_attempt_and_the_last_entry_repeats(self):
        mock = MockVerifier({"draft": [ErrorType.GOAL_DRIFT, ErrorType.HALLUCINATION, ErrorType.NONE], "other": []})
        seen = [(await judge(mock, "x", attempt=attempt)).error_type for attempt in range(5)]
        assert seen == [ErrorType.GOAL_DRIFT, ErrorType.HALLUCINATION, ErrorType.NONE, ErrorType.NONE, ErrorType.NONE]
        assert (await judge(mock, "x")).hint

    async def test_function_and_default(self):
        assert (await judge(MockVerifier(), "x")).passed
        assert (await judge(MockVerifier(default=ErrorType.INCOMPLETE), "x")).error_type is ErrorType.INCOMPLETE
        by_fn = MockVerifier(fn=lambda request: ErrorType.SCOPE_CREEP if request.output == "x" else None, default=ErrorType.NONE)
        assert (await judge(by_fn, "x")).error_type is ErrorType.SCOPE_CREEP
        assert (await judge(by_fn, "y")).passed
