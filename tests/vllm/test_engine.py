"""A real engine as a child of this process: what it says, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from agentraft_ray import Budget, Cost, ErrorType, Pipeline, Step, Task, TieredVerifier, wrap
from agentraft_ray.taxonomy import VerdictKind
from agentraft_ray.verifier import VLLMVerifier
from agentraft_ray.verifier.classifier import LABELS, ModelDirectory, classifier_texts
from agentraft_ray.verifier.engine.local import local_engines
from agentraft_ray.verifier.engine.port import Scores
from tests.vllm.conftest import CASES, KV_BYTES, SMALL, case, engine_processes, is_alive, until

pytestmark = pytest.mark.vllm
ROOT = Path(__file__).resolve().parents[2]


def scored(verifier: VLLMVerifier, texts: list[str]) -> np.ndarray:
    (settings,) = verifier.engines()
    answer = asyncio.run(local_engines().score(settings, texts))
    assert isinstance(answer, Scores), answer
    return np.array(answer.probabilities)


def by_transformers(directory: Path, texts: list[str], tokens_max: int) -> np.ndarray:
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32).eval()
    found = []
    with torch.inference_mode():
        for text in texts:
            tokens = tokenizer(text, truncation=True, max_length=tokens_max, return_tensors="pt", return_token_type_ids=False)
            found.append(torch.softmax(model(**tokens).logits[0], -1).numpy())
    return np.array(found)


TEXTS = [text for one in CASES for text in classifier_texts(one)]


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape == (len(TEXTS), len(LABELS))
    assert np.abs(found - expected).max() < 1e-2
    assert (found.argmax(1) == expected.argmax(1)).all()
    assert len(set(expected.argmax(1))) > 1 or expected.max(0).min() > 0.05  # else anything would agree


def test_an_exported_encoder_scores_as_transformers_does(judge: VLLMVerifier, encoder: Path) -> None:
    assert_same(scored(judge, TEXTS), by_transformers(ModelDirectory(encoder).servable(), TEXTS, 256))


def test_a_verdict_names_the_model_the_engine_and_the_class(judge: VLLMVerifier, encoder: Path) -> None:
    passed = asyncio.run(judge.verify(case()))
    failed = asyncio.run(judge.at_threshold(1.0).verify(case()))
    assert (passed.kind, failed.kind) == (VerdictKind.PASS, VerdictKind.REJECT)
    assert passed.verifier == f"vllm:encoder-7@{ModelDirectory(encoder).identity[:12]}"
    assert passed.prompt == failed.prompt
    assert passed.prompt.startswith("classifier-")
    assert passed.prompt.endswith("@vllm-0.32.0-cpu-float32-eager")
    assert failed.error_type is not ErrorType.NONE
    assert passed.confidence == pytest.approx(1 - failed.confidence)
    assert passed.cost.tokens > 5
    assert passed.cost.usd == 0


def test_a_long_output_is_judged_in_windows_and_its_worst_counts(judge: VLLMVerifier) -> None:
    long = case("The bridge opened again in May, the mayor said. " * 40)
    texts = classifier_texts(long)
    wrong = 1 - scored(judge, list(texts))[:, LABELS.index("PASS")]
    verdict = asyncio.run(judge.at_threshold(1.0).verify(long))
    assert len(texts) > 3
    assert verdict.confidence == pytest.approx(wrong.max(), abs=1e-3)
    assert verdict.evidence == (f"window {wrong.argmax() + 1} of {len(texts)}",)


def test_many_verdicts_at_a_time_come_out_as_one_by_one(judge: VLLMVerifier) -> None:
    async def together() -> list[float]:
        verdicts = await asyncio.gather(*(judge.verify(case(str(number))) for number in range(64)))
        return [verdict.confidence for verdict in verdicts]

    async def apart() -> list[float]:
        return [(await judge.verify(case(str(number)))).confidence for number in range(0, 64, 16)]

    assert asyncio.run(together())[::16] == pytest.approx(asyncio.run(apart()), abs=1e-3)


def test_a_cancelled_verdict_is_taken_back_from_the_engine(judge: VLLMVerifier) -> None:
    (settings,) = judge.engines()
    engine = local_engines().running(settings)
    assert engine is not None

    async def cancel() -> None:
        many = asyncio.create_task(local_engines().score(settings, ["word " * 250] * 400))
        await asyncio.sleep(0)
        assert engine.open == 1
        many.cancel()
        with pytest.raises(asyncio.CancelledError):
            await many
        began = time.monotonic()
        await judge.verify(case())  # not behind 400 texts
        return time.monotonic() - began

    alone = asyncio.run(cancel())
    began = time.monotonic()
    scored(judge, ["word " * 250] * 100)
    assert alone < time.monotonic() - began  # a quarter of what was given up takes longer
    assert engine.open == 0


def test_a_verdict_without_time_is_a_fault_and_no_pass(judge: VLLMVerifier) -> None:
    verdict = asyncio.run(judge.verify(case(deadline_s=1e-6)))
    assert verdict.kind is VerdictKind.FAULT
    assert "no answer within" in verdict.reasoning


def test_a_pipeline_in_one_process_commits_by_it_and_its_budget_counts(judge: VLLMVerifier) -> None:
    pipeline = Pipeline([Step(name, lambda ctx: "Some words that say what was asked for.") for name in ("a", "b", "c")])
    coordinator = wrap(pipeline, verifier=TieredVerifier(l2=judge, borderline_below=0.0))
    result = coordinator.run_sync(Task("Say something."))
    assert result.success, result.error
    assert {step.verification.verifier for step in result.steps if step.verification} == {judge.name}
    tokens = sum(step.verification.cost.tokens for step in result.steps if step.verification)
    assert 0 < tokens == result.cost.tokens
    short = wrap(pipeline, verifier=TieredVerifier(l2=judge), budget=Budget(tokens=tokens // 2, reserve=Cost(tokens=1)))
    assert not short.run_sync(Task("Say something.")).success


def test_a_rejection_sends_the_step_back_with_a_hint(judge: VLLMVerifier) -> None:
    hints = []

    def step(ctx):
        hints.append(ctx.hint)
        return "Some words."

    result = wrap(Pipeline([step]), verifier=TieredVerifier(l2=judge.at_threshold(1.0)), max_retries=1).run_sync(Task("Say something."))
    assert not result.success
    assert hints[0] is None
    assert hints[1]


def test_the_engine_is_started_again_after_it_was_killed(judge: VLLMVerifier) -> None:
    (settings,) = judge.engines()
    first = local_engines().running(settings)
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    assert until(lambda: first.fault is not None)
    assert asyncio.run(judge.verify(case())).passed
    second = local_engines().running(settings)
    assert second is not None
    assert second.pid != first.pid
    assert engine_processes() == [second.pid]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_an_engine_when_its_program_ends(encoder: Path, number: int) -> None:
    program = (
        "import asyncio\n"
        "from agentraft_ray.verifier import VLLMVerifier\n"
        "from agentraft_ray.verifier.engine.local import local_engines\n"
        f"verifier = VLLMVerifier({str(encoder)!r}, kv_bytes={KV_BYTES})\n"
        "async def main():\n"
        "    starting = asyncio.create_task(verifier.start())\n"
        "    await asyncio.sleep(0.1)\n"
        "    print(local_engines().running(verifier.engines()[0]).pid, flush=True)\n"
        "    await asyncio.sleep(3600)\n"
        "asyncio.run(main())\n"
    )
    running = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    pid = int(running.stdout.readline())
    assert is_alive(pid)
    running.send_signal(number)
    running.communicate(timeout=60)
    assert until(lambda: not is_alive(pid))


def test_an_instruct_model_answers_with_a_letter_and_a_decoder_with_a_head(agent: Path, decoder: Path) -> None:
    local_engines().close()  # one at a time: they take much memory
    asked = VLLMVerifier(agent, mode="generate", tokens_max=2_048, kv_bytes=4 * KV_BYTES)
    verdicts = [asyncio.run(asked.verify(one)) for one in CASES[:2]]
    assert {verdict.kind for verdict in verdicts} <= {VerdictKind.PASS, VerdictKind.REJECT}
    assert all(verdict.prompt.startswith("label-1@vllm-") for verdict in verdicts)
    long = asyncio.run(asked.verify(case("word " * 3_000, deadline_s=200)))
    assert long.kind is VerdictKind.ABSTAIN or long.evidence  # it does not fit, or was judged in windows
    asked.close()
    headed = VLLMVerifier(decoder, tokens_max=256, **SMALL)
    found = scored(headed, TEXTS)
    headed.close()
    assert_same(found, by_transformers(decoder, TEXTS, 256))


def test_a_model_that_vllm_cannot_load_says_why(tmp_path: Path, encoder: Path) -> None:
    import json
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(ModelDirectory(encoder).servable(), broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"hidden_size": 100}))
    verifier = VLLMVerifier(broken, **SMALL)
    verdict = asyncio.run(verifier.verify(case()))
    verifier.close()
    assert verdict.kind is VerdictKind.FAULT
    assert str(broken) in verdict.reasoning
