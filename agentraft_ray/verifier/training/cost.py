"""What a verdict costs: seconds on this machine, one at a time and in batches, and floating-point operations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from agentraft_ray.verifier.training.model import Trainable, device, scores

__all__ = ["cost_of"]

_ALONE = 32
_TOGETHER = 256


def cost_of(trained: Trainable, texts: Sequence[str]) -> dict[str, Any]:
    """Milliseconds per verdict alone (median and 95th percentile) and in batches of 64, tokens read, and operations by 2 x weights x tokens
    (Kaplan et al. 2020), embeddings not counted."""
    scores(trained, texts[:2])  # the first call sets things up
    alone = []
    for text in texts[:_ALONE]:
        began = time.perf_counter()
        scores(trained, [text])
        alone.append((time.perf_counter() - began) * 1000)
    many = list(texts[:_TOGETHER])
    began = time.perf_counter()
    scores(trained, many)
    together = (time.perf_counter() - began) * 1000 / max(1, len(many))
    tokens = sum(len(trained.tokenizer(text)["input_ids"]) for text in many) / max(1, len(many))
    weights = sum(value.numel() for name, value in trained.model.named_parameters() if "embed" not in name)
    alone.sort()
    return {
        "device": device(),
        "ms_alone_p50": round(alone[len(alone) // 2], 2),
        "ms_alone_p95": round(alone[int(len(alone) * 0.95)], 2),
        "ms_in_batches_of_64": round(together, 2),
        "tokens_read": round(tokens, 1),
        "gflop": round(2 * weights * tokens / 1e9, 3),
    }
