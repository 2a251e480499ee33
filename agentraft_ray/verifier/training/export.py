"""From a training to a directory that a verifier loads: the adapter alone where there is one, else the whole model. With its card."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.verifier.classifier import Scoring
from agentraft_ray.verifier.classifier.model_directory import ENCODER_PACKAGE, MANIFEST, Manifest, ModelDirectory, base_archive
from agentraft_ray.verifier.training.card import model_card
from agentraft_ray.verifier.training.model import Trainable

__all__ = ["export"]

_BYTES_MAX = 20 * 1024 * 1024  # of an adapter: beyond, it does not belong into a repository
_CARD = "README.md"


def export(trained: Trainable, scoring: Scoring, told: Mapping[str, Any], directory: Path) -> ModelDirectory:
    """Write `trained` to `directory`, which must not exist or be an earlier export, and open it as a verifier would.

    An encoder from its package with LoRA becomes an adapter in half precision; everything else is merged and written whole. `told` is
    what the card says: data, settings, figures (the JSON of `eval` and of a study).
    """
    if directory.exists() and any(directory.iterdir()) and not (directory / MANIFEST).exists():
        raise InvalidConfig(f"{directory} is no export and not empty; give another directory")
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    architecture = trained.architecture
    if architecture.base == ENCODER_PACKAGE and architecture.rank:
        more = _write_adapter(trained, partial)
    else:
        more = _write_whole(trained, partial)
    scoring.save(partial)
    (partial / "figures.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    files = {file.name: _described(file) for file in sorted(partial.iterdir())}
    manifest = Manifest(files=files, tokens_max=architecture.tokens_max, base=architecture.base, **more)
    (partial / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    (partial / _CARD).write_text(model_card(manifest, scoring, told), encoding="utf-8")
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
    return ModelDirectory(directory)


def _write_adapter(trained: Trainable, directory: Path) -> dict[str, Any]:
    from safetensors.torch import save_file  # noqa: PLC0415 - comes with transformers

    weights = {_plain_name(name): value.detach().cpu().half().contiguous() for name, value in trained.trained().items()}
    size = sum(value.numel() * value.element_size() for value in weights.values())
    if size > _BYTES_MAX:
        raise InvalidConfig(f"the adapter has {size:,} bytes, over {_BYTES_MAX:,}; train with a lower --rank")
    save_file(weights, directory / "adapter.safetensors")
    return {"kind": "adapter", "scale": 2.0, "prefix": "bert.", "base_sha256": hashlib.sha256(base_archive().read_bytes()).hexdigest()}


def _plain_name(name: str) -> str:
    """``base_model.model.bert.x.lora_A.default.weight`` -> ``bert.x.lora_A``; ``base_model.model.classifier.modules_to_save.default.bias``
    -> ``classifier.bias``."""
    plain = name.removeprefix("base_model.model.").replace(".modules_to_save.default.", ".")
    for part in ("lora_A", "lora_B"):
        plain = plain.replace(f".{part}.default.weight", f".{part}")
    return plain


def _write_whole(trained: Trainable, directory: Path) -> dict[str, Any]:
    model = trained.model.merge_and_unload() if trained.architecture.rank else trained.model
    model.save_pretrained(directory)
    trained.tokenizer.save_pretrained(directory)
    return {"kind": "merged", "prefix": "", "base_sha256": ""}


def _described(file: Path) -> tuple[int, str]:
    data = file.read_bytes()
    return len(data), hashlib.sha256(data).hexdigest()
