"""What is to be served: a model on disk, looked at closely before anything is started with it. No torch, no network."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentraft_ray.errors import InvalidConfig, VerifierUnavailable
from agentraft_ray.verifier.classifier import LABELS, PASS, ModelDirectory, Scoring
from agentraft_ray.verifier.classifier.model_directory import MANIFEST
from agentraft_ray.verifier.engine.settings import EngineSettings, Mode

__all__ = ["ServedModel", "open_model", "servable_path", "shipped_model"]

_CLASSIFY_TOKENS_MAX = 512
_GENERATE_TOKENS_MAX = 8_192
_HEADER_BYTES_MAX = 100 * 1024 * 1024
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")
_COUNTED = ("config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt", "chat_template.jinja")
_PASSES = {PASS, "NONE", "OK"}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that was found and is whole. `digest` = of its weights, "" for one that only a hub has; `labels` = what each number of
    its head means; `tokens_max` = the longest prompt that it is used with by default."""

    model: str
    name: str
    digest: str
    labels: tuple[str, ...]
    tokens_max: int
    scoring: Scoring

    def in_order(self, probabilities: list[float]) -> list[float]:
        """The probabilities in the order of `LABELS`. Raises ValueError for another number of them than there are labels."""
        if self.labels == LABELS:
            return probabilities
        found = dict(zip(self.labels, probabilities, strict=True))
        return [found.get(label, 0.0) for label in LABELS]


def open_model(model: str | os.PathLike[str], mode: Mode, revision: str = "") -> ServedModel:
    """The model in a directory: an exported verifier, or any model of Hugging Face's form; or one of a hub, by its id.

    Raises InvalidConfig that says what is wrong: no such directory, files that are missing or cut short, a head of another kind.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return _exported(path, mode) if (path / MANIFEST).exists() else _plain(path, path.name, str(path.resolve()), mode)
    name = os.fspath(model)
    if name.startswith(("/", ".", "~")) or name.count("/") != 1:
        raise InvalidConfig(f"{name} is no directory, and no id of a model on a hub (owner/name) either")
    kept = _kept_by_hub(name, revision)
    if kept is not None:
        return _plain(kept, name, name, mode)
    limit = _CLASSIFY_TOKENS_MAX if mode == "classify" else _GENERATE_TOKENS_MAX
    return ServedModel(name, f"{name}@{revision}" if revision else name, "", LABELS, limit, Scoring())


def servable_path(settings: EngineSettings) -> str:
    """What vLLM is to load. Raises InvalidConfig where that is not what the settings were made of."""
    found = open_model(settings.model, settings.mode, settings.revision)
    if settings.digest and found.digest != settings.digest:
        raise InvalidConfig(
            f"{settings.model} is another model here ({found.digest[:12] or 'none'}) than where the verifier was made"
            f" ({settings.digest[:12]}); copy that directory here"
        )
    path = Path(settings.model)
    return str(ModelDirectory(path).servable()) if (path / MANIFEST).exists() else settings.model


def shipped_model() -> Path:
    """The directory of the verifier that comes with this package. Raises VerifierUnavailable where none does."""
    directory = Path(__file__).parents[1] / "classifier" / "shipped"
    if not (directory / MANIFEST).exists():
        raise VerifierUnavailable(
            "no trained verifier comes with this version: pass model= (a directory, or the id of a model on a hub), or set"
            " AGENTRAFT_VERIFIER_MODEL",
            provider="local",
        )
    return directory


def _exported(path: Path, mode: Mode) -> ServedModel:
    if mode != "classify":
        raise InvalidConfig(f"{path} holds a classifying verifier; use mode='classify'")
    found = ModelDirectory(path)
    return ServedModel(str(path.resolve()), path.resolve().name, found.identity, LABELS, found.manifest.tokens_max, found.scoring)


def _plain(path: Path, name: str, model: str, mode: Mode) -> ServedModel:
    config = _json(path / "config.json")
    architecture = str((config.get("architectures") or ["none"])[0])
    if mode == "classify" and not architecture.endswith("ForSequenceClassification"):
        raise InvalidConfig(f"{path} holds {architecture}, which has no head over classes; use mode='generate', or train one")
    if mode == "generate" and architecture.endswith(("ForSequenceClassification", "Model")):
        raise InvalidConfig(f"{path} holds {architecture}, which writes no text; use mode='classify'")
    if not any((path / one).exists() for one in _TOKENIZERS):
        raise InvalidConfig(f"{path} has no tokenizer ({', '.join(_TOKENIZERS)}); the directory is incomplete, copy it again")
    if mode == "generate" and not _has_chat_template(path):
        raise InvalidConfig(f"{path} has no chat template, so it is no instruct model; mode='generate' needs one")
    for file in _weights(path):
        _check_weights(file)
    longest = int(config.get("max_position_embeddings") or _CLASSIFY_TOKENS_MAX)
    labels = _labels(path, config) if mode == "classify" else LABELS
    limit = min(longest, _CLASSIFY_TOKENS_MAX if mode == "classify" else _GENERATE_TOKENS_MAX)
    return ServedModel(model, name, _digest(path), labels, limit, Scoring())


def _labels(path: Path, config: dict[str, Any]) -> tuple[str, ...]:
    told = config.get("id2label") or {}
    try:
        named = [str(label).upper() for _, label in sorted((int(at), label) for at, label in told.items())]
    except (AttributeError, TypeError, ValueError):
        raise InvalidConfig(f"{path / 'config.json'}: id2label={told!r} does not number labels") from None
    found = tuple(PASS if label in _PASSES else label for label in named)
    if len(set(found)) != len(found) or PASS not in found or len(found) < 2 or not set(found) <= set(LABELS):
        raise InvalidConfig(
            f"{path}: the labels of its head are {', '.join(named) or 'not named'}; they must be {PASS} and classes of errors:"
            f" {', '.join(LABELS[1:])} (id2label in config.json)"
        )
    return found


def _has_chat_template(path: Path) -> bool:
    if (path / "chat_template.jinja").exists():
        return True
    file = path / "tokenizer_config.json"
    return file.exists() and bool(_json(file).get("chat_template"))


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidConfig(f"{file} is missing: the directory holds no model, or only a part of one") from None
    except (OSError, ValueError) as problem:
        raise InvalidConfig(f"{file} cannot be read: {problem}; copy it again") from None
    if not isinstance(found, dict):
        raise InvalidConfig(f"{file} is damaged: it holds no object")
    return found


def _weights(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if index.exists():
        named = sorted(set(map(str, (_json(index).get("weight_map") or {}).values())))
        files = [path / one for one in named]
    else:
        files = sorted(path.glob("*.safetensors"))
    missing = [file.name for file in files if not file.exists()]
    if missing or not files:
        raise InvalidConfig(f"{path} has no weights: {', '.join(missing) or '*.safetensors'} missing; copy or export it again")
    return files


def _check_weights(file: Path) -> None:
    """That a safetensors file is as long as its own header says (huggingface/safetensors, format of version 0.x)."""
    size = file.stat().st_size
    try:
        with file.open("rb") as data:
            (length,) = struct.unpack("<Q", data.read(8))
            header = json.loads(data.read(min(length, _HEADER_BYTES_MAX)))
        ends = 8 + length + max((told["data_offsets"][1] for name, told in header.items() if name != "__metadata__"), default=0)
    except (OSError, ValueError, struct.error, LookupError, TypeError, AttributeError) as problem:
        raise InvalidConfig(f"{file} is no safetensors file, or damaged ({problem}); copy or export it again") from None
    if ends != size:
        raise InvalidConfig(f"{file} has {size} bytes instead of {ends}: it was cut short or changed, copy or export it again")


def _digest(path: Path) -> str:
    files = [path / name for name in _COUNTED if (path / name).exists()]
    told = [(file.name, _digest_of_file(str(file), *_stamp(file))) for file in [*files, *_weights(path)]]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _stamp(file: Path) -> Iterator[int]:
    found = file.stat()
    yield found.st_size
    yield found.st_mtime_ns


@functools.lru_cache(maxsize=1_024)
def _digest_of_file(file: str, _size: int, _changed_at: int) -> str:
    with Path(file).open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _kept_by_hub(name: str, revision: str) -> Path | None:
    """The snapshot of a model that Hugging Face's cache on this machine holds; its layout is documented."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    folder = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{name.replace('/', '--')}"
    reference = folder / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision
    found = folder / "snapshots" / commit if commit else None
    return found if found is not None and (found / "config.json").exists() else None
