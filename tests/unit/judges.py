"""Models and requests for tests of verifiers: a scripted call in the place of the network's."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from agentraft_ray.pipeline import Criticality, Step, Task
from agentraft_ray.verifier import Completion, LLMVerifier, Price, VerifyInput

PRICES = {"m": Price(input=100.0, output=1_000.0), "dear": Price(input=1_000.0, output=10_000.0)}


def says(verdict: str = "PASS", confidence: float = 0.9, **more: Any) -> str:
    return json.dumps({"verdict": verdict, "confidence": confidence, "hint": None, "reasoning": "looked", **more})


def request(output: Any = "Rome is old.", *, criticality: Criticality = Criticality.MEDIUM, **more: Any) -> VerifyInput:
    step = Step("draft", print, goal="Write about Rome", criticality=criticality)
    return VerifyInput(Task("Describe cities", {"city": "Rome"}, id="t"), step, output, [("extract", {"people": 2_800_000})], **more)


class Model:
    """Answers with 1,000 tokens in and 10 out, in turn, the last answer again and again. A closed `gate` keeps it waiting."""

    def __init__(self, *replies: Any, gate: asyncio.Event | None = None, tokens: tuple[int, int] = (1_000, 10)) -> None:
        self.replies = replies or (says(),)
        self.gate = gate
        self.tokens = tokens
        self.asked = 0
        self.cancelled = 0

    async def __call__(self, system: str, user: str) -> Any:
        self.asked += 1
        reply = self.replies[min(self.asked, len(self.replies)) - 1]
        try:
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(reply, Exception):
            raise reply
        return Completion(reply, *self.tokens) if isinstance(reply, str) else reply


def judge(model: Any, *, name: str = "m", **options: Any) -> LLMVerifier:
    """A model verifier with known prices: 100 dollars per million tokens in, 1,000 out, for "m"."""
    return LLMVerifier(complete_fn=model, model=name, **{"prices": PRICES, **options})


async def until(condition: Any) -> None:
    """Wait for what other tasks of this loop are about to do."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)
