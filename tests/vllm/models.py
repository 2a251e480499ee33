"""Models for these tests, made once from packages with their bases, by a seed; no hub is asked: ``python -m tests.vllm.models``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from agentraft_ray.verifier.classifier import LABELS, Scoring
from agentraft_ray.verifier.classifier.model_directory import ENCODER_PACKAGE, cache_directory

SEED = 7
_HEAD_STD = 0.5  # so that the heads tell texts apart, which fresh ones hardly do


def agent() -> Path:
    """The small agent itself, SmolLM2-135M-Instruct, dequantised: for mode "generate"."""
    from agentraft_ray.verifier.training.bases import GENERATOR
    from agentraft_ray.verifier.training.generators import agent_directory

    return Path(agent_directory(GENERATOR))


def encoder() -> Path:
    """An exported verifier: an adapter of the 22M encoder, as `training export` writes it, with weights drawn by a seed."""
    return _made("encoder", _make_encoder)


def decoder() -> Path:
    """The small agent with a head over the labels in place of its own, in the form of Hugging Face."""
    return _made("decoder", _make_decoder)


def _made(name: str, make: Callable[[Path], None]) -> Path:
    target = cache_directory() / "tests" / f"{name}-{SEED}"
    if not target.exists():
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        make(partial)
        partial.rename(target)
    return target


def _make_encoder(target: Path) -> None:
    import torch

    from agentraft_ray.verifier.training.export import export
    from agentraft_ray.verifier.training.model import Architecture, Trainable

    trained = Trainable.build(Architecture(ENCODER_PACKAGE, "encoder", 4, 256), SEED)
    for name, weight in trained.trained().items():
        torch.nn.init.normal_(weight, std=_HEAD_STD if "classifier" in name else 0.02)
    export(trained, Scoring(), {}, target)


def _make_decoder(target: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(SEED)
    source = agent()
    config = transformers.AutoConfig.from_pretrained(source)
    config.id2label, config.label2id = dict(enumerate(LABELS)), {label: at for at, label in enumerate(LABELS)}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source, config=config, dtype=torch.float32)
    torch.nn.init.normal_(model.score.weight, std=_HEAD_STD)
    model.save_pretrained(target)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(target)


if __name__ == "__main__":
    for one in (agent, encoder, decoder):
        print(one())
