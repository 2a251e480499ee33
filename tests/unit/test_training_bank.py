"""The bank of generations, cases as files, cases out of logs, and the cascade that is frozen before it is measured."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agentraft_ray import Pipeline, Step, Task, wrap
from agentraft_ray.checkpoint import InMemoryCheckpointStore
from agentraft_ray.errors import ErrorType, InvalidConfig
from agentraft_ray.taxonomy import VerificationResult
from agentraft_ray.verifier import CallableVerifier, MockVerifier
from agentraft_ray.verifier.training.bank import Bank, Generation, cases_of, prompt_hash, read_bank
from agentraft_ray.verifier.training.cascade import Frozen, Signals, agreement, freeze, measure
from agentraft_ray.verifier.training.cases import Case, read_cases, write_cases
from agentraft_ray.verifier.training.collecting import Plan, collect_natural
from agentraft_ray.verifier.training.families import FAMILIES, TEST, TRAIN
from agentraft_ray.verifier.training.from_logs import finished_cases


def generation(sample: int = 0, **more: str) -> Generation:
    told = {"generator": "g", "prompt": "p", "family": "compare", "pool": "test", "request": "Numbers: 3 and 8\nLarger:", "gold": "8"}
    return Generation(sample=sample, **told | {"output": "8", "truth": "PASS"} | more)


def test_a_bank_keeps_what_it_has_and_adds_only_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "bank.jsonl"
    with Bank(path) as bank:
        assert bank.add([generation(0), generation(1), generation(1)]) == 2
    with Bank(path) as bank:
        assert len(bank) == 2
        assert bank.missing("g", "p", 4) == [2, 3]
        assert bank.add([generation(1, output="3"), generation(2)]) == 1
    assert [one.output for one in read_bank(path)] == ["8", "8", "8"]


def test_a_half_written_line_is_cut_off_and_drawn_again(tmp_path: Path) -> None:
    path = tmp_path / "bank.jsonl"
    with Bank(path) as bank:
        bank.add([generation(0), generation(1)])
    path.write_bytes(path.read_bytes()[:-9])
    assert len(list(read_bank(path))) == 1
    with Bank(path) as bank:
        assert bank.missing("g", "p", 2) == [1]
        bank.add([generation(1)])
    assert [one.sample for one in read_bank(path)] == [0, 1]


def test_a_bank_is_added_to_by_one_process_at_a_time(tmp_path: Path) -> None:
    with Bank(tmp_path / "bank.jsonl"), pytest.raises(InvalidConfig, match="another process adds to"), Bank(tmp_path / "bank.jsonl"):
        pass


def test_a_line_that_is_no_generation_is_named(tmp_path: Path) -> None:
    (tmp_path / "bank.jsonl").write_text('{"generator": "g"}\n')
    with pytest.raises(InvalidConfig, match="line 1, is no generation"):
        list(read_bank(tmp_path / "bank.jsonl"))


class Parrot:
    """An agent that always answers alike, and counts how often it is asked."""

    name = "parrot"

    def __init__(self) -> None:
        self.asked = 0

    def sample(self, prompts, samples, tokens_max, temperature):
        self.asked += len(prompts)
        return [[f"answer {sample}" for sample in range(samples)] for _ in prompts]


def test_collecting_judges_and_banks_every_answer_and_goes_on_where_it_was(tmp_path: Path) -> None:
    plan = Plan([FAMILIES["compare"], FAMILIES["toolcall"]], TEST, items=5, samples=2, seed=0, batch=2)
    agent, seen = Parrot(), []
    with Bank(tmp_path / "bank.jsonl") as bank:
        assert collect_natural(agent, bank, plan, lambda *told: seen.append(told)) == 20
        assert agent.asked == 10
        assert seen[-1] == ("toolcall", 5, 5)
        assert collect_natural(agent, bank, plan, lambda *_: None) == 0
        assert agent.asked == 10
        assert collect_natural(agent, bank, replace(plan, samples=3), lambda *_: None) == 10
    found = list(read_bank(tmp_path / "bank.jsonl"))
    assert {one.generator for one in found} == {"parrot:4-shot:t0.7"}
    assert {one.truth for one in found if one.family == "toolcall"} == {"FORMAT"}
    cases = cases_of(found)
    assert len({case.item for case in cases}) == 10
    assert all(case.natural and case.generator and case.pool == "test" for case in cases)


def test_a_prompt_has_one_hash() -> None:
    assert prompt_hash("a") == prompt_hash("a") != prompt_hash("b")


def test_cases_come_back_from_a_file_as_they_were(tmp_path: Path) -> None:
    cases = [Case("f", "d", "i", "ásked\n", "out", "FORMAT"), Case("f", "d", "j", "b", "", "PASS", "log:approved")]
    assert write_cases(tmp_path / "cases.jsonl", cases) == 2
    assert list(read_cases(tmp_path / "cases.jsonl")) == cases
    (tmp_path / "cases.jsonl").write_text('{"family": "f"}\n')
    with pytest.raises(InvalidConfig, match="line 1, is no labelled case"):
        list(read_cases(tmp_path / "cases.jsonl"))
    bad = {"family": "f", "domain": "d", "item": "i", "asked": "a", "output": "o", "label": "BAD"}
    (tmp_path / "cases.jsonl").write_text(json.dumps(bad) + "\n")
    with pytest.raises(InvalidConfig, match="has the label 'BAD'"):
        list(read_cases(tmp_path / "cases.jsonl"))


async def test_a_log_tells_what_was_committed_and_in_which_request() -> None:
    store = InMemoryCheckpointStore()
    pipeline = Pipeline([Step("read", lambda ctx: {"city": "Oslo"}), Step("write", lambda ctx: "To Oslo", goal="Say where")], "post")
    result = await wrap(pipeline, verifier=MockVerifier(), store=store).run(Task("Send it", {"message": "to Oslo"}, id="r1"))
    assert result.success
    cases = [case async for case in finished_cases(store)]
    assert [(case.family, case.output, case.label, case.origin) for case in cases] == [
        ("post/read", '{\n "city": "Oslo"\n}', "PASS", "log:committed"),
        ("post/write", "To Oslo", "PASS", "log:committed"),
    ]
    assert cases[1].asked == 'Send it\nSay where\nread: {"city": "Oslo"}\nto Oslo'


async def test_an_output_that_a_rollback_took_back_is_a_wrong_one_with_its_class() -> None:
    store = InMemoryCheckpointStore()
    drafts = iter(["in Rome", "in Oslo"])

    def verdict(request):
        if request.step.name == "check" and "Rome" in dict(request.history)["draft"]:
            return VerificationResult.fail(ErrorType.CONTRADICTION, blame="draft")
        if request.step.name == "draft" and "Rome" in request.output and seen:
            return VerificationResult.fail(ErrorType.HALLUCINATION)
        seen.append(request.step.name)
        return VerificationResult.ok()

    seen: list[str] = []
    pipeline = Pipeline([Step("draft", lambda ctx: next(drafts)), Step("check", lambda ctx: "checked")], "post")
    result = await wrap(pipeline, verifier=CallableVerifier(verdict), store=store).run(Task("Where", id="r2"))
    assert result.success
    cases = [case async for case in finished_cases(store)]
    assert ("in Rome", "HALLUCINATION", "log:rolled-back") in [(case.output, case.label, case.origin) for case in cases]
    assert ("in Oslo", "PASS", "log:committed") in [(case.output, case.label, case.origin) for case in cases]


def signal(family: str, item: int, output: str, label: str, votes: int, learned: float, **checks: bool) -> Signals:
    return Signals(Case(family, "d", f"{family}{item}", "asked", output, label), checks, votes, 8, learned)


def bank_of_signals() -> list[Signals]:
    found = []
    for item in range(100):
        found += [signal("lane", item, "r", "PASS", 7, 0.1, form=False)] * 7
        found.append(signal("lane", item, "w", "FORMAT", 1, 0.9, form=item % 2 == 0))
        found += [signal("trap", item, "w", "CONTRADICTION", 8, 0.2)] * 8
    return found


def test_a_cascade_commits_where_the_majority_is_right_and_abstains_in_traps() -> None:
    rules = freeze(bank_of_signals(), "m", "1,600 generations")
    assert rules.regimes == {"lane": "commit", "trap": "abstain"}
    assert rules.votes_min == 7
    assert 0.1 < rules.learned_max <= 0.9
    found = measure(rules, bank_of_signals())
    assert (found["recall"]["hits"], found["recall"]["of"], found["false_positives"]["hits"]) == (100, 100, 0)
    assert found["trap_silent"] == {"share": 0.0, "low": 0.0, "high": 0.0362, "hits": 0, "of": 800} | {"high": found["trap_silent"]["high"]}
    assert found["alone"]["form"]["recall"]["share"] == 0.5
    assert found["joint_misses"]["checks+agreement"]["both_miss"] == 0.0
    assert found["missed"] == []


def test_what_a_cascade_misses_is_listed_and_joint_misses_are_measured() -> None:
    rules = freeze(bank_of_signals(), "m", "")
    fresh = [signal("lane", 1, "w", "FORMAT", 8, 0.0), signal("lane", 2, "w", "FORMAT", 1, 0.9), signal("new", 3, "w", "FORMAT", 8, 0.0)]
    found = measure(rules, fresh)
    assert [one["output"] for one in found["missed"]] == ["w"]
    assert found["joint_misses"]["all"]["both_miss"] == 0.5
    assert found["families"]["new"] == "abstain"
    assert found["trap_silent"]["hits"] == 0


def test_frozen_rules_come_back_and_cannot_be_changed_unseen(tmp_path: Path) -> None:
    rules = freeze(bank_of_signals(), "m", "told")
    rules.save(tmp_path / "frozen.json")
    assert Frozen.load(tmp_path / "frozen.json") == rules
    assert Frozen.load(tmp_path / "frozen.json").seed == rules.seed == int(rules.digest[:12], 16)
    told = json.loads((tmp_path / "frozen.json").read_text())
    (tmp_path / "frozen.json").write_text(json.dumps(told | {"votes_min": 1}))
    with pytest.raises(InvalidConfig, match="was changed after it was frozen"):
        Frozen.load(tmp_path / "frozen.json")
    replace(rules, rules="0").save(tmp_path / "frozen.json")
    with pytest.raises(InvalidConfig, match="freeze anew"):
        Frozen.load(tmp_path / "frozen.json")


def test_agreement_counts_equal_answers_to_one_request() -> None:
    cases = [Case("f", "d", "i", "a", text, "PASS") for text in ("x", "x", "y")] + [Case("f", "d", "j", "a", "x", "PASS")]
    assert agreement(cases) == [(2, 3), (2, 3), (1, 3), (1, 1)]


def test_items_that_are_drawn_after_the_rules_differ_from_those_that_they_were_chosen_on() -> None:
    seed = freeze(bank_of_signals(), "m", "").seed
    chosen = {item.request for item in FAMILIES["toolcall"].items(0, TRAIN, 50)}
    assert not chosen & {item.request for item in FAMILIES["toolcall"].items(seed, TEST, 50)}
