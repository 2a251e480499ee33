"""The directory of a trained verifier: what is missing, cut short or of another version is said before anything runs."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.verifier.classifier import LABELS, ModelDirectory, Scoring
from agentraft_ray.verifier.classifier.model_directory import MANIFEST, Manifest, merged


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory of kind "merged" with a file that stands for the weights."""
    (tmp_path / "model.safetensors").write_bytes(b"weights" * 100)
    Scoring(1.5, 0.3, "20 cases").save(tmp_path)
    files = {
        file.name: (file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()) for file in tmp_path.iterdir() if file.is_file()
    }
    (tmp_path / MANIFEST).write_text(Manifest("merged", files).to_json())
    return tmp_path


def test_a_whole_directory_opens_and_names_its_weights(directory: Path) -> None:
    found = ModelDirectory(directory)
    assert found.servable() == directory
    assert found.scoring == Scoring(1.5, 0.3, "20 cases")
    assert found.identity == ModelDirectory(directory).identity
    assert len(found.identity) == 16


def test_what_is_wrong_with_a_directory_is_said(directory: Path) -> None:
    with pytest.raises(InvalidConfig, match="is no directory"):
        ModelDirectory(directory / "nowhere")
    (directory / "empty").mkdir()
    with pytest.raises(InvalidConfig, match=f"has no {MANIFEST}"):
        ModelDirectory(directory / "empty")
    weights = directory / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(InvalidConfig, match="699 bytes instead of 700: it was cut short"):
        ModelDirectory(directory)
    weights.write_bytes(b"x" + whole[1:])
    with pytest.raises(InvalidConfig, match="is not the file that was exported"):
        ModelDirectory(directory)
    weights.unlink()
    with pytest.raises(InvalidConfig, match="is missing"):
        ModelDirectory(directory)


@pytest.mark.parametrize(
    ("key", "value"), [("labels", ["PASS", "FAIL"]), ("labels", [*LABELS[:-2], *LABELS[:-3:-1]]), ("rendering", "0"), ("format", 9)]
)
def test_other_labels_or_another_rendering_are_refused(directory: Path, key: str, value: object) -> None:
    told = json.loads((directory / MANIFEST).read_text())
    (directory / MANIFEST).write_text(json.dumps(told | {key: value}))
    with pytest.raises(InvalidConfig, match="made for another version"):
        ModelDirectory(directory)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": 3}', '{"files": {}, "labels": [], "unheard": 1}'])
def test_a_damaged_manifest_is_refused(directory: Path, text: str) -> None:
    (directory / MANIFEST).write_text(text)
    with pytest.raises(InvalidConfig, match="damaged or of another version"):
        ModelDirectory(directory)


def test_a_directory_without_scores_says_so(directory: Path) -> None:
    found = ModelDirectory(directory)
    (directory / "scores.json").write_text("{}x")
    with pytest.raises(InvalidConfig, match="does not say how scores become verdicts"):
        _ = found.scoring


def test_an_adapter_adds_its_product_and_replaces_the_head() -> None:
    base = {"a.weight": np.ones((2, 3), np.float32), "b.bias": np.zeros(2, np.float32)}
    low, high = np.arange(3, dtype=np.float16).reshape(1, 3), np.ones((2, 1), np.float16)
    found = merged(base, {"a.lora_A": low, "a.lora_B": high, "head.weight": np.full((7, 2), 4, np.float16)}, 2.0)
    assert found["a.weight"].tolist() == [[1.0, 3.0, 5.0]] * 2
    assert found["head.weight"].dtype == np.float32
    assert found["b.bias"].tolist() == [0.0, 0.0]


def test_an_adapter_of_something_else_is_refused() -> None:
    part = {"a.lora_A": np.zeros((1, 3), np.float16), "a.lora_B": np.zeros((2, 1), np.float16)}
    with pytest.raises(InvalidConfig, match="does not have in that size"):
        merged({"a.weight": np.zeros((2, 4), np.float32)}, part, 2.0)
    with pytest.raises(InvalidConfig, match="does not have in that size"):
        merged({}, part, 2.0)
