"""Training needs torch, transformers and peft (`pip install '.[train]'`). Where they are missing, these tests are skipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NEEDS = ("torch", "transformers", "peft", "safetensors")
WORDS = "request answer checks new given first second plus minus named own changed same larger smallest largest after beside unused"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import importlib.util

    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    for item in items:
        if "tests/training" in str(item.path) and missing:
            item.add_marker(pytest.mark.skip(reason=f"training needs {', '.join(missing)}: pip install 'agentraft-ray[train]'"))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT of two small layers with random weights and a vocabulary of characters and a few words: a base that trains in seconds."""
    import torch
    import transformers

    directory = tmp_path_factory.mktemp("tiny")
    letters = [chr(code) for code in range(33, 127)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *WORDS.split()]
    (directory / "vocab.txt").write_text("\n".join(dict.fromkeys(tokens)))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(dict.fromkeys(tokens)), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=256, architectures=["BertModel"],
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(directory)
    transformers.BertTokenizerFast(str(directory / "vocab.txt")).save_pretrained(directory)
    assert json.loads((Path(directory) / "config.json").read_text())["hidden_size"] == 32
    return str(directory)
