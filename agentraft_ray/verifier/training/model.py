"""The model under training: a base with a classification head over `LABELS`, whole or with LoRA. The only place that builds one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentraft_ray.errors import VerifierUnavailable
from agentraft_ray.verifier.classifier import LABELS
from agentraft_ray.verifier.training.bases import base_directory

__all__ = ["Architecture", "Trainable", "device", "scores"]

_ENCODER_LINEAR = r".*encoder\.layer\.\d+\.(attention\.self\.(query|key|value)|(attention\.)?output\.dense|intermediate\.dense)"
_DECODER_LINEAR = r".*layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


@dataclass(frozen=True, slots=True)
class Architecture:
    """What is trained. `rank` 0 trains all weights. `tokens_max` is the longest text that the model reads."""

    base: str
    kind: Literal["encoder", "decoder"] = "encoder"
    rank: int = 16
    tokens_max: int = 256


@dataclass
class Trainable:
    """A model with its tokenizer."""

    model: Any
    tokenizer: Any
    architecture: Architecture

    @classmethod
    def build(cls, architecture: Architecture, seed: int) -> Trainable:
        """The base with a fresh head. Raises VerifierUnavailable when what training needs is not installed."""
        torch, transformers = _libraries()
        torch.manual_seed(seed)
        source = base_directory(architecture.base)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=len(LABELS), id2label=dict(enumerate(LABELS)), label2id={label: at for at, label in enumerate(LABELS)}
        )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
        if architecture.rank:
            model = _with_lora(model, architecture)
        return cls(model.to(device()), tokenizer, architecture)

    def encode(self, texts: Sequence[str]) -> Any:
        """Token ids and mask of `texts`, padded to the longest, cut at `tokens_max`."""
        return self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.architecture.tokens_max, return_tensors="pt",
            return_token_type_ids=False,
        ).to(device())  # fmt: skip

    def trained(self) -> dict[str, Any]:
        """The weights that training changes, by name."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}


def _libraries() -> tuple[Any, Any]:
    try:
        import torch  # noqa: PLC0415 - heavy
        import transformers  # noqa: PLC0415 - heavy
    except ImportError as missing:
        raise VerifierUnavailable(f"training needs {missing.name}: pip install 'agentraft-ray[train]'") from None
    return torch, transformers


def _with_lora(model: Any, architecture: Architecture) -> Any:
    try:
        import peft  # noqa: PLC0415 - heavy
    except ImportError:
        raise VerifierUnavailable("LoRA needs peft: pip install 'agentraft-ray[train]', or train all weights with --rank 0") from None
    names = [name for name, _ in model.named_modules()]
    pattern = _ENCODER_LINEAR if architecture.kind == "encoder" else _DECODER_LINEAR
    heads = [name for name in ("classifier", "score", "pooler") if any(re.search(rf"(^|\.){name}$", one) for one in names)]
    settings = peft.LoraConfig(
        r=architecture.rank, lora_alpha=2 * architecture.rank, lora_dropout=0.0, target_modules=pattern, modules_to_save=heads
    )
    return peft.get_peft_model(model, settings)


def device() -> str:
    """Where it runs: the first GPU, else the CPU."""
    torch, _ = _libraries()
    return "cuda" if torch.cuda.is_available() else "cpu"


def scores(trainable: Trainable, texts: Sequence[str], batch: int = 64) -> Any:
    """The logits of `texts`, (number of texts, number of labels), as a numpy array in their order."""
    torch, _ = _libraries()
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))  # like lengths together: less padding
    found = torch.zeros(len(texts), len(LABELS))
    trainable.model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            places = order[start : start + batch]
            found[places] = trainable.model(**trainable.encode([texts[at] for at in places])).logits.float().cpu()
    return found.numpy()
