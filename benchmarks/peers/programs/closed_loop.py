"""The same closed loop around every peer: so many runs at a time, each place starts its next run when its last one has ended."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version

__all__ = ["Asked", "answer", "asked_on_the_command_line", "measure", "versions"]

_WARM_UP_RUNS_MAX = 64

RunOnce = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Asked:
    """One measurement. `where` = the file or URL of the database, "" where there is none."""

    store: str
    where: str
    runs_at_a_time: int
    steps: int
    repetitions: int
    seconds: float


async def measure(run_once: RunOnce, asked: Asked) -> list[float]:
    """Steps per second of each repetition: whole runs, from the start of the first to the end of the last.

    A repetition lasts `asked.seconds` or one round of runs, whichever is longer; `run_once` gets a new run id every time.
    """
    first = await _rate(run_once, asked, "warm-up", min(asked.runs_at_a_time, _WARM_UP_RUNS_MAX), 1)
    rounds = max(1, math.ceil(first * asked.seconds / (asked.runs_at_a_time * asked.steps)))
    return [await _rate(run_once, asked, f"run-{number}", asked.runs_at_a_time, rounds) for number in range(asked.repetitions)]


def asked_on_the_command_line() -> Asked:
    """The first argument is an `Asked` as JSON."""
    return Asked(**json.loads(sys.argv[1]))


def answer(rates: list[float], settings: Mapping[str, str]) -> None:
    """Print the figures; the last line of the output is what the other side reads."""
    print(json.dumps({"steps_per_s": rates, "settings": dict(settings)}), flush=True)


def versions(*distributions: str) -> dict[str, str]:
    """The installed versions of the packages that do the work."""
    return {name: version(name) for name in distributions}


async def _rate(run_once: RunOnce, asked: Asked, name: str, places: int, rounds: int) -> float:
    async def place(number: int) -> None:
        for turn in range(rounds):
            await run_once(f"{name}-{number}-{turn}")

    started = time.perf_counter()
    await asyncio.gather(*(place(number) for number in range(places)))
    return places * rounds * asked.steps / (time.perf_counter() - started)
