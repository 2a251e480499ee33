"""The small agent whose natural errors are collected: vLLM where it can be imported, transformers otherwise. One seam, two hosts."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from agentraft_ray.errors import VerifierUnavailable
from agentraft_ray.verifier.classifier.model_directory import cache_directory
from agentraft_ray.verifier.training.bases import GENERATOR, gguf_file

__all__ = ["Generator", "agent_directory", "open_generator"]

_STOP = "\n"


class Generator(Protocol):
    """Answers few-shot prompts; an answer ends at the first line break."""

    name: str

    def sample(self, prompts: Sequence[str], samples: int, tokens_max: int, temperature: float) -> list[list[str]]:
        """`samples` answers to each prompt, without white space around them."""
        ...


def open_generator(model: str = GENERATOR, host: str = "auto") -> Generator:
    """The agent in `model` (our package, a path, or a hub id) under ``vllm``, ``transformers``, or whichever is there.

    Raises VerifierUnavailable when neither is.
    """
    if host in ("auto", "vllm") and importlib.util.find_spec("vllm") is not None:
        return _Vllm(model)
    if host in ("auto", "transformers") and importlib.util.find_spec("transformers") is not None:
        return _Transformers(model)
    raise VerifierUnavailable(f"no host {host!r} for the agent: install vllm, or pip install 'agentraft-ray[train]'")


def agent_directory(model: str) -> str:
    """A directory with safetensors; the packaged GGUF is made one, once."""
    if model != GENERATOR:
        return model
    source = gguf_file()
    target = cache_directory() / "agents" / f"{GENERATOR}-{source.stat().st_size}"
    if not (target / "config.json").exists():
        _dequantise(source, target)
    return str(target)


def _dequantise(source: Path, target: Path) -> None:
    import torch  # noqa: PLC0415 - heavy
    import transformers  # noqa: PLC0415 - heavy

    options: dict[str, Any] = {"gguf_file": source.name}
    settings = getattr(transformers, "GgufConfig", None)
    if settings is not None:
        options["quantization_config"] = settings(dequantize=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **options)
    model.config.quantization_config = None
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    model.to(torch.bfloat16).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(target)


class _Transformers:
    """Sampling by hand: a prompt is read once, whatever the number of answers to it."""

    def __init__(self, model: str) -> None:
        import torch  # noqa: PLC0415 - heavy
        import transformers  # noqa: PLC0415 - heavy

        self.name = Path(model).name
        source = agent_directory(model)
        self._torch = torch
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(source, padding_side="left")
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()

    def sample(self, prompts: Sequence[str], samples: int, tokens_max: int, temperature: float) -> list[list[str]]:
        torch = self._torch
        with torch.inference_mode():
            shown = self._tokenizer(list(prompts), return_tensors="pt", padding=True)
            mask = shown["attention_mask"]
            first = self._model(**shown, position_ids=_positions(mask), use_cache=True)
            past = first.past_key_values
            past.batch_repeat_interleave(samples)
            mask = mask.repeat_interleave(samples, 0)
            logits = first.logits[:, -1].repeat_interleave(samples, 0)
            made = torch.zeros(len(mask), 0, dtype=torch.long)
            done = torch.zeros(len(mask), dtype=torch.bool)
            for _ in range(tokens_max):
                chosen = torch.multinomial(torch.softmax(logits / temperature, -1), 1) if temperature else logits.argmax(-1, keepdim=True)
                made = torch.cat([made, chosen], 1)
                done |= torch.tensor([_STOP in self._tokenizer.decode(one) for one in chosen]) | (
                    chosen[:, 0] == self._tokenizer.eos_token_id
                )
                if bool(done.all()):
                    break
                mask = torch.cat([mask, torch.ones_like(chosen)], 1)
                step = self._model(
                    input_ids=chosen, attention_mask=mask, position_ids=_positions(mask)[:, -1:], past_key_values=past, use_cache=True
                )
                past, logits = step.past_key_values, step.logits[:, -1]
        texts = [_first_line(text) for text in self._tokenizer.batch_decode(made, skip_special_tokens=True)]
        return [texts[at * samples : (at + 1) * samples] for at in range(len(prompts))]


def _positions(mask: Any) -> Any:
    return (mask.cumsum(-1) - 1).clamp(min=0)


class _Vllm:
    """An offline engine. No per-request seeds: with several samples a request they end the engine of the CPU build."""

    def __init__(self, model: str) -> None:
        import vllm  # noqa: PLC0415 - heavy

        self.name = Path(model).name
        self._vllm: Any = vllm
        self._engine: Any = vllm.LLM(model=agent_directory(model), max_model_len=1024, enforce_eager=True, enable_prefix_caching=True)

    def sample(self, prompts: Sequence[str], samples: int, tokens_max: int, temperature: float) -> list[list[str]]:
        settings = self._vllm.SamplingParams(n=samples, temperature=temperature, max_tokens=tokens_max, stop=[_STOP])
        answers = self._engine.generate(list(prompts), settings, use_tqdm=False)
        return [[_first_line(one.text) for one in answer.outputs] for answer in answers]


def _first_line(text: str) -> str:
    return text.split(_STOP, 1)[0].strip()
