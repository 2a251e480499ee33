"""The names, defaults and return shapes that users of the seed know, and its quickstart with only the import changed."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import warnings
from typing import Any

import pytest

import agentraft_ray
from agentraft_ray import (
    AgentRaftConfig,
    AgentRaftError,
    BreakerState,
    Checkpoint,
    CheckpointStore,
    CircuitBreaker,
    CircuitBreakerOpen,
    Coordinator,
    Criticality,
    ErrorType,
    Event,
    EventType,
    InMemoryCheckpointStore,
    MaxRetriesExceeded,
    MockVerifier,
    Pipeline,
    RetryPolicy,
    RulesVerifier,
    RunResult,
    Step,
    StepContext,
    StepRun,
    Task,
    TieredVerifier,
    VerificationResult,
    VerifierUnavailable,
    wrap,
)
from agentraft_ray.errors import InvalidConfig

SEED_NAMES = """
wrap Pipeline Step step Task StepContext Criticality Coordinator RunResult StepRun AgentRaftConfig CircuitBreaker BreakerState
RetryPolicy Checkpoint CheckpointStore InMemoryCheckpointStore RedisCheckpointStore ErrorType Event EventType Verifier VerifyInput
VerificationResult RulesVerifier MockVerifier TieredVerifier LLMVerifier AgentRaftError CircuitBreakerOpen MaxRetriesExceeded
VerifierUnavailable
""".split()

PROVIDER_VARIABLES = (
    "OPENAI_API_KEY ANTHROPIC_API_KEY GOOGLE_API_KEY GEMINI_API_KEY AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_PROFILE "
    "AWS_BEARER_TOKEN_BEDROCK AWS_WEB_IDENTITY_TOKEN_FILE AWS_CONTAINER_CREDENTIALS_RELATIVE_URI AGENTRAFT_VERIFIER_PROVIDER "
    "AGENTRAFT_VERIFIER_MODEL REDIS_URL"
).split()


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROVIDER_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def _required(function: Any) -> dict[str, Any]:
    return {name: one.default for name, one in inspect.signature(function).parameters.items()}


# --- names -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEED_NAMES)
def test_the_seeds_names_are_importable_and_public(name: str) -> None:
    assert getattr(agentraft_ray, name) is not None
    assert name in agentraft_ray.__all__


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("errors", "AgentRaftError CircuitBreakerOpen MaxRetriesExceeded VerifierUnavailable ErrorType CORRECTION_HINTS"),
        ("events", "Event EventType"),
        ("config", "AgentRaftConfig RetryPolicy"),
        ("breaker", "CircuitBreaker BreakerState RetryPolicy"),
        ("pipeline", "Pipeline Step step Task StepContext Criticality"),
        ("coordinator", "Coordinator RunResult StepRun wrap"),
        ("checkpoint", "Checkpoint CheckpointStore InMemoryCheckpointStore RedisCheckpointStore"),
        ("verifier", "Verifier VerifyInput RulesVerifier MockVerifier TieredVerifier LLMVerifier VerificationResult"),
        ("verifier.base", "Verifier VerifyInput VerificationResult"),
        ("verifier.rules", "RulesVerifier"),
        ("verifier.mock", "MockVerifier"),
        ("verifier.tiered", "TieredVerifier"),
        ("verifier.llm", "LLMVerifier DEFAULT_MODELS"),
    ],
)
def test_the_seeds_submodules_re_export_their_public_names(module: str, names: str) -> None:
    found = importlib.import_module(f"agentraft_ray.{module}")
    missing = [name for name in names.split() if getattr(found, name, None) is None]
    assert not missing
    assert set(names.split()) <= set(found.__all__)


def test_importing_the_library_imports_no_heavy_package() -> None:
    program = (
        "import sys, agentraft_ray, agentraft_ray.coordinator, agentraft_ray.verifier, agentraft_ray.checkpoint\n"
        "heavy = set('ray boto3 botocore openai anthropic google.genai vllm torch cryptography jsonschema redis'.split())\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- shapes ------------------------------------------------------------------------------------------------------------------


def test_a_task_has_a_goal_inputs_and_a_random_id_of_12_hex_digits() -> None:
    first, second = Task("goal"), Task(goal="goal")
    assert (first.goal, first.inputs) == ("goal", {})
    assert len(first.id) == 12
    assert int(first.id, 16) >= 0
    assert first.id != second.id


def test_a_step_takes_name_fn_goal_criticality_and_retries_in_this_order() -> None:
    fn = lambda ctx: 1
    made = Step("name", fn, "goal", Criticality.HIGH, 1)
    assert (made.name, made.fn, made.goal, made.criticality, made.max_retries) == ("name", fn, "goal", Criticality.HIGH, 1)
    plain = Step("name", fn)
    assert (plain.goal, plain.criticality, plain.max_retries) == (None, Criticality.MEDIUM, None)


def test_our_own_step_keywords_exist() -> None:
    wanted = "after timeout_s max_errors needs_approval approve_before samples version isolate num_cpus num_gpus resources"
    assert set(wanted.split()) <= set(_required(Step))


def test_the_decorator_works_bare_and_called() -> None:
    @agentraft_ray.step
    def bare(ctx: StepContext) -> str:
        return "x"

    @agentraft_ray.step("named", goal="g", criticality=Criticality.LOW, max_retries=0)
    async def called(ctx: StepContext) -> str:
        return "x"

    @agentraft_ray.step(goal="only a goal")
    def unnamed(ctx: StepContext) -> str:
        return "x"

    assert (bare.name, called.name, unnamed.name) == ("bare", "named", "unnamed")
    assert (called.goal, called.criticality, called.max_retries) == ("g", Criticality.LOW, 0)


def test_a_pipeline_accepts_bare_callables_and_refuses_none_and_duplicates() -> None:
    def one(ctx: StepContext) -> int:
        return 1

    assert [step.name for step in Pipeline([one, Step("two", one)]).steps] == ["one", "two"]
    assert Pipeline([one]).name == "pipeline"
    with pytest.raises(AgentRaftError, match="no steps"):
        Pipeline([])
    with pytest.raises(ValueError, match="two steps named 'one'"):
        Pipeline([one, one])


def test_a_first_attempt_has_number_0_no_hint_and_is_no_retry() -> None:
    seen: list[tuple[int, str | None, bool]] = []

    def look(ctx: StepContext) -> str:
        seen.append((ctx.attempt, ctx.hint, ctx.is_retry))
        return "text"

    verifier = MockVerifier({"look": [ErrorType.INCOMPLETE, ErrorType.NONE]})
    assert wrap(Pipeline([look]), verifier=verifier).run_sync(Task("t")).success
    assert seen[0] == (0, None, False)
    attempt, hint, is_retry = seen[1]
    assert (attempt, is_retry) == (1, True)
    assert hint
    assert "missing" in hint


def test_wrap_has_the_seeds_keywords_and_defaults() -> None:
    wanted = "verifier store max_retries failure_threshold cooldown_seconds rollback_on_failure on_event config"
    assert set(wanted.split()) <= set(_required(wrap))
    assert isinstance(wrap(Pipeline([Step("a", lambda ctx: 1)])), Coordinator)
    assert set("durability on_open budget require_model max_rollback_depth".split()) <= set(_required(wrap))


def test_wrap_takes_the_settings_of_the_seeds_text() -> None:
    from agentraft_ray.verifier import LLMVerifier

    coordinator = wrap(
        Pipeline([Step("a", lambda ctx: "words", criticality=Criticality.LOW)]),
        verifier=TieredVerifier(l1=RulesVerifier(), l2=LLMVerifier(provider="anthropic")),
        max_retries=3,
        failure_threshold=5,
        cooldown_seconds=30,
        rollback_on_failure=True,
    )
    assert coordinator.run_sync(Task("t")).success


def test_the_config_has_the_seeds_fields_in_order() -> None:
    wanted = ["verifier", "store", "retry", "breaker", "on_event", "rollback_on_failure"]
    assert list(_required(AgentRaftConfig))[: len(wanted)] == wanted
    assert AgentRaftConfig().retry == RetryPolicy()
    assert AgentRaftConfig().rollback_on_failure is True


def test_the_config_is_used_and_a_keyword_beside_it_wins() -> None:
    def always_bad(**options: Any) -> RunResult:
        pipeline = Pipeline([Step("a", lambda ctx: f"try {ctx.attempt}")])
        return wrap(pipeline, **options).run_sync(Task("t"))

    config = AgentRaftConfig(verifier=MockVerifier(default=ErrorType.GOAL_DRIFT), retry=RetryPolicy(max_retries=4))
    assert always_bad(config=config).steps[0].attempts == 5
    assert always_bad(config=config, max_retries=0).steps[0].attempts == 1
    assert always_bad(config=config, verifier=MockVerifier()).success
    assert always_bad(config=config, rollback_on_failure=False).rollbacks == 0


def test_a_breaker_keyword_beside_a_configured_breaker_keeps_its_other_setting() -> None:
    given = CircuitBreaker(failure_threshold=2, cooldown_seconds=60)
    config = AgentRaftConfig(verifier=MockVerifier(default=ErrorType.GOAL_DRIFT), breaker=given, retry=RetryPolicy(max_retries=9))
    pipeline = Pipeline([Step("a", lambda ctx: f"try {ctx.attempt}")])
    opened = wrap(pipeline, config=config, failure_threshold=4).run_sync(Task("t"))
    assert opened.error is not None
    assert opened.error.startswith("CircuitBreakerOpen")
    assert opened.steps[0].attempts == 4
    assert 50 < opened.error_fields["retry_after_s"] <= 60


def test_settings_that_cannot_be_are_refused_and_none_is_ignored() -> None:
    pipeline = Pipeline([Step("a", lambda ctx: 1)])
    bad: list[dict[str, Any]] = [
        {"max_retries": -1},
        {"failure_threshold": 0},
        {"cooldown_seconds": -1},
        {"max_rollback_depth": -1},
        {"on_open": "explode"},
        {"store": "nowhere"},
        {"durability": "fsync", "store": "memory"},
        {"durability": "fsync", "store": InMemoryCheckpointStore()},
        {"encryption_key": b"short"},
        {"config": {}},
        {"verifier": "rules"},
        {"on_event": "print"},
    ]
    for options in bad:
        with pytest.raises(InvalidConfig):
            wrap(pipeline, **options)
    with pytest.raises(TypeError):
        wrap(pipeline, retries=3)  # type: ignore[call-arg]
    with pytest.raises(InvalidConfig, match="Pipeline"):
        wrap([Step("a", lambda ctx: 1)])  # type: ignore[arg-type]


def test_high_steps_without_a_model_warn_once_and_require_model_refuses() -> None:
    from agentraft_ray.runtime import blueprint

    blueprint._warned.clear()
    pipeline = Pipeline([Step("a", lambda ctx: "x", criticality=Criticality.HIGH)])
    with pytest.warns(UserWarning, match="judged by rules alone"):
        wrap(pipeline)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrap(pipeline)
    with pytest.raises(InvalidConfig, match="model verifier"):
        wrap(pipeline, require_model=True)


def test_a_forced_provider_whose_package_is_missing_is_refused_at_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.setenv("AGENTRAFT_VERIFIER_PROVIDER", "openai")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with pytest.raises(VerifierUnavailable):
        wrap(Pipeline([Step("a", lambda ctx: "x")]))


# --- results -----------------------------------------------------------------------------------------------------------------


def test_the_quickstart_with_only_its_import_changed() -> None:
    """The text of the seed, character by character but for its import."""
    quickstart = """
import asyncio
from agentraft_ray import wrap, Pipeline, Step, Task, Criticality
async def research(ctx): return f"Sources on: {ctx.task.goal}"
async def draft(ctx): return "Board memo draft …"
async def review(ctx): return "Reviewed and approved."
pipeline = Pipeline([
Step("research", research, goal="Gather relevant sources"),
Step("draft", draft, goal="Write an on-topic memo", criticality=Criticality.HIGH),
Step("review", review, goal="Check accuracy and tone"),
])
async def main():
    global result
    result = await wrap(pipeline).run(Task(goal="Write the Q3 board memo"))
    print(result.summary()) # {'success': True, 'verified': '3/3', 'rollbacks': 0, ...}
    print(result.output)
asyncio.run(main())
"""
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(quickstart, names)
    summary = names["result"].summary()
    assert (summary["success"], summary["verified"], summary["rollbacks"]) == (True, "3/3", 0)
    assert names["result"].output == "Reviewed and approved."


def test_a_result_has_the_seeds_fields_and_summary() -> None:
    task = Task("t")
    result = wrap(Pipeline([Step("a", lambda ctx: "one"), Step("b", lambda ctx: "two")])).run_sync(task)
    assert (result.task_id, result.success, result.output, result.rollbacks, result.error) == (task.id, True, "two", 0, None)
    assert (result.verified_count, result.reliability) == (2, 1.0)
    assert result.elapsed_ms > 0
    assert list(result.summary()) == ["task_id", "success", "verified", "rollbacks", "reliability", "elapsed_ms", "error"]
    assert result.summary()["verified"] == "2/2"
    assert result.summary()["error"] is None
    first = result.steps[0]
    assert isinstance(first, StepRun)
    assert (first.index, first.name, first.status, first.attempts, first.output) == (0, "a", "committed", 1, "one")
    assert first.elapsed_ms > 0
    assert first.verification is not None
    assert first.verification.passed
    assert first.verification.verifier == "rules-l1"


def test_a_failed_result_names_the_error_class_and_the_step() -> None:
    pipeline = Pipeline([Step("a", lambda ctx: "fine"), Step("b", lambda ctx: ""), Step("c", lambda ctx: "never")])
    result = wrap(pipeline).run_sync(Task("t"))
    assert not result.success
    assert result.output is None
    assert result.error is not None
    assert result.error.startswith("MaxRetriesExceeded")
    assert "'b'" in result.error
    assert result.reliability == pytest.approx(1 / 3)
    assert result.summary()["verified"] == "1/3"
    assert [(one.status, one.attempts) for one in result.steps] == [("committed", 1), ("failed", 3), ("pending", 0)]
    assert result.steps[1].verification is not None
    assert result.steps[1].verification.error_type is ErrorType.INCOMPLETE


def test_rollbacks_count_the_rejected_outputs_that_were_thrown_away() -> None:
    verifier = MockVerifier({"b": [ErrorType.GOAL_DRIFT, ErrorType.HALLUCINATION, ErrorType.NONE]})
    pipeline = Pipeline([Step("a", lambda ctx: "fine"), Step("b", lambda ctx: f"try {ctx.attempt}")])
    result = wrap(pipeline, verifier=verifier).run_sync(Task("t"))
    assert (result.success, result.rollbacks, result.steps[1].attempts) == (True, 2, 3)


async def test_run_or_raise_gives_the_output_or_the_error_with_its_fields() -> None:
    assert await wrap(Pipeline([Step("a", lambda ctx: {"x": 1})])).run_or_raise(Task("t")) == {"x": 1}
    bad = wrap(Pipeline([Step("a", lambda ctx: f"try {ctx.attempt}")]), verifier=MockVerifier(default=ErrorType.SCOPE_CREEP))
    with pytest.raises(MaxRetriesExceeded) as caught:
        await bad.run_or_raise(Task("t"))
    assert (caught.value.step, caught.value.attempts, caught.value.error_type) == ("a", 3, ErrorType.SCOPE_CREEP)
    breaker = CircuitBreaker(failure_threshold=1)
    breaker.record_failure()
    with pytest.raises(CircuitBreakerOpen):
        await wrap(Pipeline([Step("a", lambda ctx: 1)]), config=AgentRaftConfig(breaker=breaker)).run_or_raise(Task("t"))


@pytest.mark.parametrize("bad", ["", "a b", "ö", "x" * 129, "a/b", "{a}"])
async def test_a_run_id_outside_its_alphabet_is_refused(bad: str) -> None:
    with pytest.raises(InvalidConfig, match="run id"):
        await wrap(Pipeline([Step("a", lambda ctx: 1)])).run(Task("t", id=bad))


# --- stores, breaker, retry, events ------------------------------------------------------------------------------------------


def test_a_checkpoint_goes_to_a_dict_and_back() -> None:
    made = Checkpoint("t", 0, "a", {"x": 1}, 2)
    assert made.verification == {}
    assert made.created_at > 0
    assert Checkpoint.from_dict(made.to_dict()) == made


async def test_the_seeds_store_calls_work_by_hand() -> None:
    store: CheckpointStore = InMemoryCheckpointStore()
    for index, name in enumerate(["a", "b", "c"]):
        await store.save(Checkpoint("t", index, name, name.upper(), 0))
    assert [one.step_name for one in await store.history("t")] == ["a", "b", "c"]
    assert (await store.latest("t")).step_name == "c"  # type: ignore[union-attr]
    assert (await store.at("t", 1)).output == "B"  # type: ignore[union-attr]
    await store.rollback_to("t", 0)
    assert await store.outputs("t") == {"a": "A"}
    await store.rollback_to("t", -1)
    assert await store.latest("t") is None
    await store.clear("t")
    assert await store.history("t") == []


async def test_the_seeds_store_calls_see_the_log_of_a_run() -> None:
    store = InMemoryCheckpointStore()
    task = Task("t")
    await wrap(Pipeline([Step("a", lambda ctx: "A"), Step("b", lambda ctx: {"n": 2})]), store=store).run(task)
    assert await store.outputs(task.id) == {"a": "A", "b": {"n": 2}}
    latest = await store.latest(task.id)
    assert latest is not None
    assert (latest.step_index, latest.step_name, latest.attempt) == (1, "b", 0)
    assert latest.verification["passed"] is True


def test_the_breaker_keeps_the_seeds_meaning() -> None:
    breaker = CircuitBreaker(failure_threshold=2, cooldown_seconds=30.0)
    assert breaker.state is BreakerState.CLOSED
    breaker.record_failure()
    breaker.check()
    breaker.record_failure()
    assert (breaker.state, breaker.consecutive_failures) == (BreakerState.OPEN, 2)
    with pytest.raises(CircuitBreakerOpen):
        breaker.check()
    breaker.record_success()
    assert (breaker.state, breaker.consecutive_failures) == (BreakerState.CLOSED, 0)
    at_once = CircuitBreaker(failure_threshold=1, cooldown_seconds=0)
    at_once.record_failure()
    assert at_once.state is BreakerState.HALF_OPEN


def test_the_retry_policy_doubles_up_to_its_cap() -> None:
    assert (RetryPolicy().max_retries, RetryPolicy().base_delay, RetryPolicy().max_delay) == (2, 0.0, 8.0)
    policy = RetryPolicy(base_delay=1.0, max_delay=5.0)
    assert [policy.delay_for(attempt) for attempt in range(5)] == [0.0, 1.0, 2.0, 4.0, 5.0]


def test_event_types_have_lower_snake_case_values_and_events_the_seeds_fields() -> None:
    seeds = "RUN_START STEP_START STEP_VERIFYING STEP_COMMITTED STEP_FAILED STEP_ROLLBACK STEP_RETRY RUN_SUCCESS RUN_FAILED BREAKER_OPEN"
    assert set(seeds.split()) <= set(EventType.__members__)
    assert all(one.value == one.name.lower() for one in EventType)
    event = Event(EventType.STEP_START, "t")
    for name in "type task_id step_index step_name attempt verification detail run_id timestamp".split():
        assert hasattr(event, name), name


def test_error_types_and_verdicts_have_the_seeds_shape() -> None:
    assert all(one.value == one.name for one in ErrorType)
    assert set("NONE GOAL_DRIFT CONTRADICTION HALLUCINATION INCOMPLETE SCOPE_CREEP".split()) <= set(ErrorType.__members__)
    plain = VerificationResult(True)
    assert (plain.error_type, plain.confidence, plain.hint, plain.reasoning, plain.verifier) == (ErrorType.NONE, 1.0, None, "", "")
    assert VerificationResult.ok().passed
    assert VerificationResult.fail(ErrorType.CONTRADICTION).to_dict()["error_type"] == "CONTRADICTION"


async def test_events_begin_with_run_start_and_end_with_the_outcome() -> None:
    events: list[Event] = []
    verifier = MockVerifier({"b": [ErrorType.GOAL_DRIFT, ErrorType.NONE]})
    task = Task("t")
    await wrap(Pipeline([Step("a", lambda ctx: 1), Step("b", lambda ctx: ctx.attempt)]), verifier=verifier, on_event=events.append).run(
        task
    )
    kinds = [event.type.name for event in events]
    assert (
        kinds
        == (
            "RUN_START STEP_START STEP_VERIFYING STEP_COMMITTED STEP_START STEP_VERIFYING STEP_FAILED STEP_ROLLBACK STEP_RETRY "
            "STEP_START STEP_VERIFYING STEP_COMMITTED RUN_SUCCESS"
        ).split()
    )
    assert {event.task_id for event in events} == {task.id}
    assert all(event.timestamp > 0 for event in events)
    failed = next(event for event in events if event.type is EventType.STEP_FAILED)
    assert (failed.step_index, failed.step_name, failed.attempt) == (1, "b", 0)
    assert failed.verification is not None
    assert failed.verification.error_type is ErrorType.GOAL_DRIFT
