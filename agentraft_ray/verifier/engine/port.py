"""The port to whoever runs engines: in a child of this process, in an actor of the cluster, behind HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from agentraft_ray.taxonomy import VerifierFault
from agentraft_ray.verifier.engine.settings import EngineSettings

__all__ = ["Engines", "Scores"]


class Scores(msgspec.Struct, frozen=True, array_like=True):
    """What a model said about some texts: for each, a probability per label, in the order of the model's head (of `LABELS` in mode
    "generate"). `tokens` = read and written, `engine` = the program and device that it ran on."""

    probabilities: list[list[float]]
    tokens: int
    engine: str


class Engines(Protocol):
    """Engines by their settings; one is started when it is first asked."""

    async def score(self, settings: EngineSettings, texts: Sequence[str]) -> Scores | VerifierFault:
        """Score texts, together with whatever else the engine has to do. Cancelling it takes its work back from the engine.

        There is no time-out here: who asks sets one. What goes wrong with the engine is a fault, never raised.
        """
