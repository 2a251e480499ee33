"""The engine actors of a deployment: made for every model that a verifier asks, however that verifier came to the cluster."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from agentraft_ray.actors import names
from agentraft_ray.actors.messages import EngineState, decode
from agentraft_ray.errors import InvalidConfig
from agentraft_ray.verifier.engine.settings import EngineSettings

__all__ = ["EngineHands", "EngineStaff", "wanted_in"]

_log = logging.getLogger("agentraft_ray")
_EVERY_S = 1.0

Figures = Mapping[str, float | int | str]


class EngineHands(Protocol):
    """What is done to engine actors; `cluster.staff` does it on Ray."""

    async def hire_engine(self, name: str, settings: EngineSettings) -> None:
        """Start an engine actor; it may take its time to come."""

    async def engine_state(self, name: str, wait_s: float) -> bytes | None:
        """An encoded `EngineState`, None if the actor does not answer; at the latest after `wait_s`."""

    async def figures(self, name: str) -> Figures | None:
        """What a verifier counts; None if it does not answer."""

    async def dismiss(self, name: str) -> None:
        """End an engine actor."""


class EngineStaff:
    """Each model has `count` engine actors, which stay until the cluster ends.

    A program that wraps a pipeline here waits until they have started; what came another way (by a program that joined, by `resume_all`)
    shows in the figures of the `verifiers`, and is started when it does.
    """

    def __init__(
        self,
        deployment: str,
        verifiers: Sequence[str],
        hands: EngineHands,
        *,
        count: int,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._deployment = deployment
        self._verifiers = list(verifiers)
        self._hands = hands
        self._count = count
        self._sleep = sleep
        self._names: dict[EngineSettings, list[str]] = {}
        self._turn = asyncio.Lock()

    @property
    def names(self) -> list[str]:
        """All engine actors."""
        return [name for some in self._names.values() for name in some]

    async def make(self, wanted: Sequence[EngineSettings]) -> None:
        """Start the engines that are not there; returns when all of these are ready. Raises InvalidConfig with why one is not."""
        new = [settings for settings in wanted if settings not in self._names]
        await self._hire(wanted)
        try:
            await asyncio.gather(*(self._started(name, settings) for settings in wanted for name in self._names[settings]))
        except InvalidConfig:
            for settings in new:
                for name in self._names.pop(settings, ()):
                    await self._hands.dismiss(name)
            raise

    async def run(self) -> None:
        """Start what verifiers turn out to ask, until cancelled."""
        while True:
            await self._sleep(_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """One round: ask the verifiers which engines they want."""
        for name in self._verifiers:
            found = wanted_in(await self._hands.figures(name))
            new = [settings for settings in found if settings not in self._names]
            if new:
                _log.info("%s asks for the engine of %s", name, ", ".join(one.model for one in new))
                await self._hire(new)

    async def _hire(self, wanted: Sequence[EngineSettings]) -> None:
        async with self._turn:
            for settings in wanted:
                if settings not in self._names:
                    made = [names.engine(self._deployment, settings.key, number) for number in range(self._count)]
                    self._names[settings] = made
                    for name in made:
                        await self._hands.hire_engine(name, settings)

    async def _started(self, name: str, settings: EngineSettings) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + settings.start_s
        answered = False
        while (left_s := deadline - loop.time()) > 0:
            found = await self._hands.engine_state(name, left_s)
            state: EngineState | None = None if found is None else decode(found, EngineState)
            if state is not None and state.fault is not None:
                raise InvalidConfig(f"no engine for the verifier: {state.fault.message}")
            if state is not None and state.engine:
                _log.info("%s serves %s with %s", name, settings.model, state.engine)
                return
            answered = answered or state is not None
            await self._sleep(_EVERY_S / 4)
        why = "its engine is still loading" if answered else "Ray has not started it; it may lack the CPUs or GPUs: see `ray status`"
        raise InvalidConfig(f"the engine actor {name} for {settings.model} was not ready within {settings.start_s:g} s: {why}")


def wanted_in(figures: Figures | None) -> list[EngineSettings]:
    """The engines that the figures of a verifier ask for."""
    told = str((figures or {}).get("engines_wanted", ""))
    try:
        found: list[EngineSettings] = decode(base64.b64decode(told), list[EngineSettings]) if told else []
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return []
    return found
