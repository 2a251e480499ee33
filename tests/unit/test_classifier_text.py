"""The one text that training and serving make of a request: marks, rendering, and that no output can pass itself off as something else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentraft_ray.errors import ErrorType, InvalidConfig
from agentraft_ray.pipeline import Step, Task
from agentraft_ray.verifier import VerifyInput
from agentraft_ray.verifier.classifier import LABELS, Scoring, classifier_text, classifier_texts, label_of, marks_of, request_text
from agentraft_ray.verifier.classifier.rendering import OUTPUT_CHARS_MAX

BALANCE = "Balance: 18\nTransaction: deposit 1\nNew balance:"
TABLE = "Table: Dan lives in Delhi, code 282; Mia lives in Quito, code 908\nQuestion: What is the code of Dan?\nAnswer:"
CALL = "Request: Schedule a 15 minute meeting with Olga on Tuesday at 9:00.\nCall:"


@pytest.mark.parametrize(
    ("request_", "output", "said"),
    [
        (BALANCE, "19", "answer new, first plus second, one more than first"),
        (BALANCE, "17", "answer new, first minus second, one less than first"),
        ("Price: 3. Quantity: 4. Total:", "12", "answer new, first times second"),
        ("Numbers: 211 and 625\nLarger:", "211", "answer given, first, smallest"),
        ("Numbers: 211 and 625\nLarger:", "625", "answer given, second, largest"),
        ("Sequence: 5, 8, 11\nNext number:", "14", "next in sequence"),
        ("Start: Sunday\nDays later: 2\nDay:", "Tuesday", "answer new, day plus first"),
        ("Start: Sunday\nDays later: 2\nDay:", "Friday", "day minus first"),
        ("The film starts at 10:30 and lasts 90 minutes. It ends at:", "12:00", "time plus first minutes"),
        ("Invoice of 2024-02-27, due 3 days later. Due date:", "2024-03-01", "date plus first days"),
        ("Date: 2024-12-06\nMonth:", "December", "month of given date"),
        (TABLE, "282", "after the asked code, beside dan code"),
        (TABLE, "908", "after the asked code, beside code"),
        ("Plan: mix > peel > serve > boil\nDone: peel\nNext:", "serve", "right after the named"),
        ("Plan: mix > peel > serve > boil\nDone: peel\nNext:", "peel", "itself named again"),
        ("Numbers: [23, 6, 35]\nSorted:", "[6, 23, 35]", "same items; ascending"),
        ("Numbers: [23, 6, 35]\nSorted:", "[6, 23, 36]", "lacks 1; adds 1, 1 new"),
        ("Numbers: [23, 6, 35]\nKeep those above 20.\nKept:", "[23, 35]", "all above the limit"),
        ("State: figs=9 limes=4\nEvent: add 3 figs\nNow:", "figs=12 limes=4", "figs named own changed, new, own plus third"),
        ("State: figs=9 limes=4\nEvent: add 3 figs\nNow:", "figs=12", "lacks limes"),
        ("Row: Mia,Accra,74,6975\nJSON:", '{"name": "Mia", "city": "Mia"}', "mia repeated; unused Accra 74 6975"),
        (CALL, '{"with": "Olga", "day": "Wednesday"}', "with own same; day new"),
        (CALL, '{"with": "Olga", "day', "form broken"),
        ("Anna 45 kg, Ben 62 kg. Who is heavier?", "Ben", "its number largest"),
        ("Word: tents\nIn capital letters:", "TENTS", "in capitals"),
        ("Name: Wanda Linda\nInitials:", "WL", "initials"),
        ("", "", "form empty"),
    ],
)
def test_marks_say_how_an_output_follows_from_its_request(request_: str, output: str, said: str) -> None:
    assert said in marks_of(request_, output)


@given(st.text(max_size=200), st.text(max_size=200))
def test_marks_of_anything_are_text_without_an_error(request_: str, output: str) -> None:
    assert isinstance(classifier_text(request_, output), str)
    assert marks_of(request_, output) == marks_of(request_, output)


@given(st.text(max_size=100), st.text(max_size=300))
def test_no_output_can_open_another_part_of_the_text(request_: str, output: str) -> None:
    text = classifier_text(request_, output)
    assert [text.count(part) for part in ("request:", "answer:", "checks:")] == [1, 1, 1]
    assert "\n" not in text
    assert "[SEP]" not in classifier_text(request_, f"{output}[SEP]")
    assert "<|im_end|>" not in classifier_text(request_, f"{output}<|im_end|>")


def judged(output: object, **inputs: object) -> VerifyInput:
    return VerifyInput(Task("Ship it", inputs), Step("extract", print, "Find the city"), output, [("read", {"order": 7})])


def test_a_request_is_its_goals_inputs_and_earlier_outputs_as_one_text() -> None:
    assert request_text(judged("Oslo", message="Send 3 to Oslo")) == 'Ship it\nFind the city\nread: {"order": 7}\nSend 3 to Oslo'
    assert request_text(judged("Oslo", a=1, b="x")).endswith("a: 1\nb: x")
    assert classifier_texts(judged({"city": "Oslo"}, m="to Oslo"))[0].count('answer: {"city": "Oslo"}') == 1


def test_a_long_output_is_read_in_windows_that_leave_nothing_out() -> None:
    words = [f"word{number}" for number in range(400)]
    texts = classifier_texts(judged(" ".join(words)))
    assert len(texts) > 5
    assert all(any(f" {word} " in f" {text} " for text in texts) for word in words)
    assert max(len(text) for text in texts) < OUTPUT_CHARS_MAX + 700 + 500 + 50


def test_labels_are_pass_and_every_class_of_errors() -> None:
    assert ("PASS", *(kind.value for kind in ErrorType if kind is not ErrorType.NONE)) == LABELS
    assert [label_of(kind) for kind in (ErrorType.NONE, ErrorType.FORMAT)] == ["PASS", "FORMAT"]


def test_a_verdict_rejects_from_the_threshold_on_and_names_the_likeliest_class() -> None:
    even = [0.0] * len(LABELS)
    assert Scoring(threshold=0.86).of_logits(even).label == "PASS"
    assert Scoring(threshold=0.85).of_logits([0.0, 0.0, 1.0, *even[3:]]).label == LABELS[2]
    cold, hot = Scoring(temperature=0.5).of_logits([2.0, *even[1:]]), Scoring(temperature=5.0).of_logits([2.0, *even[1:]])
    assert cold.wrong < 0.2 < 0.7 < hot.wrong


def test_a_verdict_from_probabilities_is_that_from_logits() -> None:
    logits = [1.5, 0.2, -1.0, 0.0, 0.7, -3.0, 0.1]
    scoring = Scoring(temperature=1.7, threshold=0.4)
    shares = Scoring(threshold=1e-12)
    highest = [2.718281828459045**one for one in logits]
    direct, through = scoring.of_logits(logits), scoring.of_probabilities([one / sum(highest) for one in highest])
    assert (direct.label, round(direct.wrong, 9)) == (through.label, round(through.wrong, 9))
    assert shares.of_probabilities([1.0, *[0.0] * 6]).label != "PASS"


@pytest.mark.parametrize("logits", [[0.0], [float("nan")] * 7, [float("inf"), *[0.0] * 6]])
def test_numbers_that_are_none_make_no_verdict(logits: list[float]) -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        Scoring().of_logits(logits)


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": float("nan")}, {"threshold": 0.0}, {"threshold": 1.1}])
def test_a_scoring_that_cannot_be_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidConfig):
        Scoring(**settings)
