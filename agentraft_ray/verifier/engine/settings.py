"""What an engine is started with. A value: the same wherever an engine is started, on a GPU or without one."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from agentraft_ray.errors import InvalidConfig

__all__ = ["EngineSettings", "Mode"]

Mode = Literal["classify", "generate"]

_GIB = 1024**3


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One model in one engine.

    `model` is a directory, or the id of a model on a hub; `revision` names a version of the latter. `digest` names the weights that
    must be found there, "" for any: an engine that finds others does not start. `tokens_max` is the longest prompt; a longer one is
    cut in mode "classify", as it was in training, and refused in mode "generate". `requests_max` = prompts in one batch, `kv_bytes` =
    memory for keys and values, on a GPU or off it. `eager` starts in a third of the time and runs somewhat slower.

    `tensor_parallel` = GPUs of one machine that share the model; without GPUs it counts as 1.
    """

    model: str
    mode: Mode = "classify"
    revision: str = ""
    digest: str = ""
    tokens_max: int = 256
    dtype: str = "auto"
    quantization: str = ""
    eager: bool = True
    tensor_parallel: int = 1
    requests_max: int = 256
    kv_bytes: int = _GIB
    start_s: float = 600.0

    def check(self) -> None:
        """Raises InvalidConfig for a value that is out of range."""
        if self.mode not in ("classify", "generate"):
            raise InvalidConfig(
                f"mode={self.mode!r} is unknown: use 'classify' (a head over the classes) or 'generate' (any instruct model)"
            )
        for name in ("tokens_max", "tensor_parallel", "requests_max", "kv_bytes", "start_s"):
            if getattr(self, name) <= 0:
                raise InvalidConfig(f"{name}={getattr(self, name)} must be over 0")

    @property
    def flags(self) -> str:
        """All that can change a score, in one line."""
        parts = [self.mode, self.dtype, f"{self.tokens_max} tokens", "eager" if self.eager else "compiled"]
        parts += [self.quantization] if self.quantization else []
        parts += [f"{self.tensor_parallel} GPUs"] if self.tensor_parallel > 1 else []
        return ", ".join(parts)

    @property
    def key(self) -> str:
        """A short name of exactly these settings, fit for a process or an actor."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).hexdigest()[:12]
