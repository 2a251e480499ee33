"""Training as a whole on a tiny model: the same seed gives the same figures, a stopped one goes on, and what is exported says the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agentraft_ray.errors import InvalidConfig, VerifierUnavailable
from agentraft_ray.verifier.classifier import LABELS, ModelDirectory, Scoring, classifier_text
from agentraft_ray.verifier.training import __main__ as command
from agentraft_ray.verifier.training.cases import Case, write_cases
from agentraft_ray.verifier.training.dataset import made_cases
from agentraft_ray.verifier.training.families import FAMILIES, TEST, TRAIN
from agentraft_ray.verifier.training.fit import Settings, fit
from agentraft_ray.verifier.training.model import Architecture, Trainable, scores
from agentraft_ray.verifier.training.study import scored
from agentraft_ray.verifier.training.trained import open_trained, train

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore::FutureWarning")]  # of transformers, about itself


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return made_cases([FAMILIES["ledger"], FAMILIES["compare"], FAMILIES["toolcall"]], TRAIN, 0, 12, 3)


@pytest.fixture(scope="module")
def settings(tiny_base: str) -> Settings:
    return Settings(Architecture(tiny_base, "encoder", 4, 128), epochs=1, batch=16, checkpoint_steps=2)


def quiet(*_: object) -> None:
    """Tell nobody."""


def logits(trained: Trainable, cases: list[Case]) -> np.ndarray:
    return scores(trained, [classifier_text(case.asked, case.output) for case in cases])


def test_the_same_seed_trains_the_same_model_and_another_one_another(cases, settings, tmp_path: Path) -> None:
    one, again = (fit(cases, settings, tmp_path / name, quiet) for name in ("a", "b"))
    other = fit(cases, replace(settings, seed=1), tmp_path / "c", quiet)
    assert np.array_equal(logits(one, cases[:20]), logits(again, cases[:20]))
    assert not np.allclose(logits(one, cases[:20]), logits(other, cases[:20]))


def test_a_training_that_was_stopped_goes_on_to_the_same_end(cases, settings, tmp_path: Path) -> None:
    whole = fit(cases, settings, tmp_path / "whole", quiet)

    class Stopped(Exception):
        pass

    def stop(step: int, of: int, loss: float) -> None:
        if step == of // 2:
            raise Stopped

    with pytest.raises(Stopped):
        fit(cases, settings, tmp_path / "parts", stop)
    steps: list[int] = []
    resumed = fit(cases, settings, tmp_path / "parts", lambda step, of, loss: steps.append(step))
    assert steps[0] > 1
    assert np.allclose(logits(whole, cases[:20]), logits(resumed, cases[:20]), atol=1e-5)


def test_a_checkpoint_of_something_else_is_refused(cases, settings, tmp_path: Path) -> None:
    fit(cases[:32], settings, tmp_path, quiet)
    with pytest.raises(InvalidConfig, match="from other cases or settings"):
        fit(cases[:48], settings, tmp_path, quiet)
    with pytest.raises(InvalidConfig, match="holds no training"):
        fit(cases[:32], settings, tmp_path / "next", quiet, start=tmp_path / "nowhere")


def test_training_learns(settings, tmp_path: Path) -> None:
    told = [("!!!!", "PASS"), ("~~~~", "FORMAT")]
    simple = [Case("f", "d", str(item), "?" * (item % 9 + 1), output, label) for item in range(48) for output, label in told]
    trained = fit(simple, replace(settings, epochs=6, learning_rate=1e-2), tmp_path, quiet)
    said = [LABELS[int(row.argmax())] for row in logits(trained, simple)]
    assert sum(label == case.label for label, case in zip(said, simple, strict=True)) >= 0.95 * len(simple)


@pytest.mark.parametrize("rank", [0, 4])
def test_what_is_exported_says_what_was_trained(cases, settings, tmp_path: Path, rank: int) -> None:
    from agentraft_ray.verifier.training.export import export

    architecture = replace(settings.architecture, rank=rank)
    train(cases, replace(settings, architecture=architecture), tmp_path / "trained", quiet)
    trained, scoring = open_trained(tmp_path / "trained")
    before = logits(trained, cases[:20])
    made = export(trained, scoring, {"data": {"cases": len(cases)}}, tmp_path / "exported")
    again, same = open_trained(tmp_path / "exported")
    assert np.allclose(before, logits(again, cases[:20]), atol=1e-3)
    assert same == scoring
    assert made.manifest.kind == "merged"  # only adapters of the packaged encoder are written as such
    assert again.model.config.id2label == dict(enumerate(LABELS))
    assert "## Limits" in (tmp_path / "exported" / "README.md").read_text()
    weights = tmp_path / "exported" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InvalidConfig, match="was cut short or changed"):
        open_trained(tmp_path / "exported")


def test_an_adapter_of_the_packaged_encoder_is_small_and_merges_to_the_same_model(tmp_path: Path, monkeypatch) -> None:
    from agentraft_ray.verifier.training.bases import ENCODER, base_directory
    from agentraft_ray.verifier.training.export import export

    try:
        base_directory(ENCODER)
    except VerifierUnavailable:
        pytest.skip(f"{ENCODER} is not installed")
    trained = Trainable.build(Architecture(ENCODER, "encoder", 8, 64), 0)
    import torch

    with torch.no_grad():
        for value in trained.trained().values():
            value.add_(0.01 * torch.randn_like(value))
    texts = [classifier_text("Numbers: 3 and 8\nLarger:", answer) for answer in ("3", "8", "the larger one is 8")]
    before = scores(trained, texts)
    made = export(trained, Scoring(), {}, tmp_path / "adapter")
    assert made.manifest.kind == "adapter"
    assert sum(size for size, _ in made.manifest.files.values()) < 2 * 1024 * 1024
    after, _ = open_trained(tmp_path / "adapter")
    assert np.allclose(before, scores(after, texts), atol=5e-3)
    assert ModelDirectory(tmp_path / "adapter").servable() == made.servable()


def test_equal_texts_are_read_once_and_come_back_in_order(cases, settings, tmp_path: Path) -> None:
    trained = fit(cases[:32], settings, tmp_path, quiet)
    twice = [*cases[:5], *cases[:5]]
    found = scored(trained, twice).logits
    assert np.array_equal(found[:5], found[5:])
    assert np.allclose(found[:5], logits(trained, cases[:5]), atol=1e-5)


def test_the_commands_train_measure_and_export(tiny_base: str, tmp_path: Path, capsys) -> None:
    fresh = made_cases([FAMILIES["toolcall"], FAMILIES["compare"]], TEST, 3, 35, 2)
    write_cases(tmp_path / "fresh.jsonl", fresh)
    trained, words = tmp_path / "trained", ["--base", tiny_base, "--rank", "4", "--epochs", "0.2", "--items", "2", "--tokens-max", "128"]
    assert command.main(["train", "--out", str(trained), *words]) == 0
    told = ["--set", f"fresh={tmp_path / 'fresh.jsonl'}", "--json", str(tmp_path / "figures.json")]
    assert command.main(["eval", "--model", str(trained), *told]) == 0
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["sets"]["fresh"]["auroc_families"] == 2
    assert found["cost"]["ms_alone_p50"] > 0
    out = ["--out", str(tmp_path / "exported"), "--figures", str(tmp_path / "figures.json")]
    assert command.main(["export", "--model", str(trained), *out]) == 0
    assert "## Measured on fresh" in (tmp_path / "exported" / "README.md").read_text()
    assert command.main(["eval", "--model", str(tmp_path / "nowhere"), *told]) == 1
    assert "holds neither a finished training" in capsys.readouterr().err
