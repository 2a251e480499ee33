"""The training loop: seeded, with checkpoints from which a stopped one goes on to the same end. Heavy packages are imported late."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.verifier.classifier import LABELS, RENDERING_VERSION
from agentraft_ray.verifier.training.batches import batches_of
from agentraft_ray.verifier.training.cases import Case
from agentraft_ray.verifier.training.dataset import balanced_weights
from agentraft_ray.verifier.training.model import Architecture, Trainable
from agentraft_ray.verifier.training.views import View, view_of

__all__ = ["CHECKPOINT", "ONE_PROCESS", "Settings", "Workers", "fit", "load_weights"]

CHECKPOINT = "checkpoint.pt"
"""The file in a directory of training that it is gone on from, and that its weights are read from."""

_GRADIENT_NORM_MAX = 1.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How to train. `contrast` weighs the loss that ranks the wrong answers to a request above the right ones."""

    architecture: Architecture
    seed: int = 0
    epochs: float = 3.0
    batch: int = 32
    learning_rate: float = 1e-3
    warm_up: float = 0.1
    weight_decay: float = 0.01
    contrast: float = 0.5
    view: View = "whole"
    checkpoint_steps: int = 100


class Workers(Protocol):
    """The processes that train together: the seam to Ray Train. `fit` asks nothing else of it."""

    rank: int
    world: int

    def prepared(self, model: Any) -> Any:
        """The model as this process trains it."""
        ...


class _OneProcess:
    rank, world = 0, 1

    def prepared(self, model: Any) -> Any:
        return model


ONE_PROCESS: Workers = _OneProcess()

Progress = Callable[[int, int, float], None]


def fit(
    cases: Sequence[Case],
    settings: Settings,
    directory: Path,
    progress: Progress,
    start: Path | None = None,
    workers: Workers = ONE_PROCESS,
) -> Trainable:
    """Train on `cases` and return the model; `progress(step, of, loss)` is called after every step.

    `start` is the directory of an earlier training whose weights are the first ones of this.
    A checkpoint in `directory` is gone on from, if it was made of the same cases with the same settings, and else refused with
    InvalidConfig. Interrupted at any moment, at most `checkpoint_steps` steps are lost.
    """
    import torch  # noqa: PLC0415 - heavy

    directory.mkdir(parents=True, exist_ok=True)
    trainable = Trainable.build(settings.architecture, settings.seed)
    if start is not None:
        load_weights(trainable, start)
    encoded = _Encoded(trainable, cases, settings.view)
    model = workers.prepared(trainable.model)
    optimizer = torch.optim.AdamW(trainable.trained().values(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    plan = list(_plan(cases, encoded.lengths, settings))
    stamp = _stamp(cases, settings, start)
    first = _resumed(directory / CHECKPOINT, stamp, trainable, optimizer)
    smoothed = math.nan
    for step in range(first, len(plan)):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _rate(step, len(plan), settings.warm_up)
        model.train()
        loss = _loss(model, encoded.batch(plan[step][workers.rank :: workers.world]), settings.contrast)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable.trained().values(), _GRADIENT_NORM_MAX)
        optimizer.step()
        smoothed = loss.item() if math.isnan(smoothed) else 0.95 * smoothed + 0.05 * loss.item()
        progress(step + 1, len(plan), smoothed)
        if workers.rank == 0 and ((step + 1) % settings.checkpoint_steps == 0 or step + 1 == len(plan)):
            _save(directory / CHECKPOINT, stamp, step + 1, trainable, optimizer)
    return trainable


def _plan(cases: Sequence[Case], lengths: Sequence[int], settings: Settings) -> Iterator[list[int]]:
    """The batches of all epochs; a broken last epoch is a part of one."""
    for epoch in range(math.ceil(settings.epochs)):
        batches = batches_of(cases, lengths, settings.batch, settings.seed, epoch)
        yield from batches[: math.ceil(len(batches) * min(1.0, settings.epochs - epoch))]


def _rate(step: int, steps: int, warm_up: float) -> float:
    rising = max(1, int(steps * warm_up))
    return (step + 1) / rising if step < rising else max(0.0, (steps - step) / max(1, steps - rising))


class _Encoded:
    """The cases as token ids, made once."""

    def __init__(self, trainable: Trainable, cases: Sequence[Case], view: View) -> None:
        texts = [view_of(case, view) for case in cases]
        tokenizer, longest = trainable.tokenizer, trainable.architecture.tokens_max
        self._ids: list[list[int]] = tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
        self._trainable = trainable
        self._labels = [LABELS.index(case.label) for case in cases]
        self._weights = balanced_weights(cases)
        self._items = [case.item for case in cases]
        self.lengths = [len(ids) for ids in self._ids]

    def batch(self, places: Sequence[int]) -> dict[str, Any]:
        import torch  # noqa: PLC0415 - heavy

        where = self._trainable.model.device
        shown = self._trainable.tokenizer.pad({"input_ids": [self._ids[place] for place in places]}, return_tensors="pt").to(where)
        items = [self._items[place] for place in places]
        return {
            "shown": shown,
            "labels": torch.tensor([self._labels[place] for place in places], device=where),
            "weights": torch.tensor([self._weights[place] for place in places], device=where),
            "items": torch.tensor([items.index(item) for item in items], device=where),
        }


def _loss(model: Any, batch: dict[str, Any], contrast: float) -> Any:
    """Weighted cross-entropy over the labels, and for each pair of a wrong and a right answer to one request their order."""
    import torch  # noqa: PLC0415 - heavy

    logits = model(**batch["shown"]).logits.float()
    labels, weights = batch["labels"], batch["weights"]
    loss = (torch.nn.functional.cross_entropy(logits, labels, reduction="none") * weights).mean()
    if contrast:
        wrongness = torch.logsumexp(logits[:, 1:], 1) - logits[:, 0]
        pairs = (labels[:, None] != 0) & (labels[None, :] == 0) & (batch["items"][:, None] == batch["items"][None, :])
        if bool(pairs.any()):
            loss = loss + contrast * torch.nn.functional.softplus(wrongness[None, :] - wrongness[:, None])[pairs].mean()
    return loss


def _stamp(cases: Sequence[Case], settings: Settings, start: Path | None) -> str:
    """What a checkpoint belongs to: the very cases, the settings, what cases look like to the model, and where it began."""
    told = json.dumps([RENDERING_VERSION, asdict(settings), [asdict(case) for case in cases]], sort_keys=True)
    begun = (start / CHECKPOINT).read_bytes() if start is not None else b""
    return hashlib.sha256(told.encode() + hashlib.sha256(begun).digest()).hexdigest()


def load_weights(trainable: Trainable, directory: Path) -> None:
    """Put the weights of an earlier training into a model. Raises InvalidConfig where there are none, or those of another model."""
    import torch  # noqa: PLC0415 - heavy

    file = directory / CHECKPOINT
    if not file.exists():
        raise InvalidConfig(f"{directory} holds no training: there is no {CHECKPOINT} in it")
    weights = torch.load(file, weights_only=True)["weights"]
    ours = trainable.trained()
    if {name: tuple(value.shape) for name, value in weights.items()} != {name: tuple(value.shape) for name, value in ours.items()}:
        raise InvalidConfig(f"{file} holds the weights of another architecture; give the same base and rank as it was trained with")
    with torch.no_grad():
        for name, value in ours.items():
            value.copy_(weights[name])


def _save(path: Path, stamp: str, step: int, trainable: Trainable, optimizer: Any) -> None:
    import torch  # noqa: PLC0415 - heavy

    partial = path.with_name(f"{path.name}.partial")
    weights = {name: value.detach().cpu() for name, value in trainable.trained().items()}
    state = {"stamp": stamp, "step": step, "weights": weights, "optimizer": optimizer.state_dict(), "chance": torch.get_rng_state()}
    torch.save(state, partial)
    partial.replace(path)


def _resumed(path: Path, stamp: str, trainable: Trainable, optimizer: Any) -> int:
    """The step to go on from: that of the checkpoint, 0 without one."""
    if not path.exists():
        return 0
    import torch  # noqa: PLC0415 - heavy

    state = torch.load(path, weights_only=True)
    if state["stamp"] != stamp:
        raise InvalidConfig(f"{path} was made from other cases or settings; train into another directory, or remove it")
    with torch.no_grad():
        for name, value in trainable.trained().items():
            value.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["chance"])
    return int(state["step"])
