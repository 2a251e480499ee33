"""How the numbers of a head become a verdict: temperature, threshold. The same for training, evaluation and serving."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from agentraft_ray.errors import InvalidConfig
from agentraft_ray.verifier.classifier.labels import LABELS

__all__ = ["SCORES", "Judged", "Scoring"]

SCORES = "scores.json"
_LEAST = 1e-12  # an engine may round a probability down to nothing


class Judged(NamedTuple):
    """The label that an output gets, and the probability that it is wrong at all. A passing output's label is ``PASS``."""

    label: str
    wrong: float


@dataclass(frozen=True, slots=True)
class Scoring:
    """`temperature` divides the logits, so that the probabilities are as often right as they say; an output is rejected from a
    probability of `threshold` of being wrong on. `chosen` tells on what and for how many false alarms the two were chosen."""

    temperature: float = 1.0
    threshold: float = 0.5
    chosen: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0 and 0 < self.threshold <= 1):
            raise InvalidConfig(f"a temperature is above 0 and a threshold within (0, 1], not {self.temperature} and {self.threshold}")

    def of_logits(self, logits: Sequence[float]) -> Judged:
        """The verdict on one output.

        >>> Scoring(threshold=0.4).of_logits([2.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]).label
        'SCOPE_CREEP'
        """
        if len(logits) != len(LABELS) or not all(math.isfinite(one) for one in logits):
            raise ValueError(f"{len(LABELS)} finite numbers make a verdict, not {list(logits)!r:.200}")
        highest = max(logits)
        shares = [math.exp((one - highest) / self.temperature) for one in logits]
        wrong = sum(shares[1:]) / sum(shares)
        if wrong < self.threshold:
            return Judged(LABELS[0], wrong)
        return Judged(LABELS[1 + max(range(len(shares) - 1), key=lambda at: shares[1 + at])], wrong)

    def of_probabilities(self, probabilities: Sequence[float]) -> Judged:
        """The verdict on one output whose logits an engine has already made probabilities, at temperature 1."""
        return self.of_logits([math.log(max(one, _LEAST)) if one >= 0 else math.nan for one in probabilities])

    def save(self, directory: Path) -> None:
        """Write it into a model directory."""
        (directory / SCORES).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> Scoring:
        """Read it from a model directory. Raises InvalidConfig for a directory without, or with something else."""
        file = directory / SCORES
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as problem:
            raise InvalidConfig(f"{file} does not say how scores become verdicts: {problem}; export the model again") from None
