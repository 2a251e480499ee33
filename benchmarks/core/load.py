"""Whole runs through the bare core, driven by the plainest host there can be, with the package of any checkout.

The names come from the package that is loaded when a `Load` is made, so that two checkouts can be measured in one process.
"""

from __future__ import annotations

import gc
import importlib
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["SCENARIOS", "Load"]

SCENARIOS = ("chain of 10", "chain of 10, observed", "chain of 1", "1 to 8 to 1", "fold of a chain of 10")

_PACKAGE = "agentraft_ray"
_STEPS_PER_BATCH = 300
_LIVE_RUNS = 1_000
_TURNS_TO_THE_MIDDLE = 14
_NOW = 1.8e9


class Load:
    """The core of the checkout at `root` (the one that is imported anyway where it is None)."""

    def __init__(self, root: Path | None = None) -> None:
        if root is not None:
            for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
                del sys.modules[name]
            sys.path.insert(0, str(root))
        try:
            self._agentraft = importlib.import_module(_PACKAGE)
            self._blueprint, self._machine, self._state, self._records, self._messages, self._taxonomy = (
                importlib.import_module(f"{_PACKAGE}.{name}")
                for name in ("runtime.blueprint", *(f"protocol.{one}" for one in ("machine", "state", "records", "messages")), "taxonomy")
            )
        finally:
            if root is not None:
                sys.path.remove(str(root))
        if root is not None and not str(self._agentraft.__file__).startswith(str(root)):
            raise FileNotFoundError(f"there is no {_PACKAGE} in {root}: name the root of a checkout")
        self._verdict = self._taxonomy.VerificationResult.ok(verifier="rules-l1", reasoning="x")
        self._cost = self._taxonomy.Cost(0, 0.0, 0.001)

    def batch(self, scenario: str) -> Callable[[], float]:
        """A function that does some 300 steps of `scenario`; CPU in us per step."""
        work, steps = self._scenario(scenario)
        repeats = max(1, _STEPS_PER_BATCH // steps)

        def measure() -> float:
            started = time.thread_time()
            for _ in range(repeats):
                work()
            return (time.thread_time() - started) / repeats / steps * 1e6

        return measure

    def live(self) -> tuple[float, float]:
        """(bytes, containers that the garbage collector visits) per run that waits for a verdict in the middle of its chain of 10."""
        plan = self._chain(10)
        self._run(plan)
        gc.collect()
        containers = len(gc.get_objects())
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        runs = []
        for _ in range(_LIVE_RUNS):
            machine = self._begin(plan)
            for _ in range(_TURNS_TO_THE_MIDDLE):
                self._turn(machine)
            runs.append(machine)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        return held / len(runs), (len(gc.get_objects()) - containers) / len(runs)

    def _scenario(self, name: str) -> tuple[Callable[[], Any], int]:
        if name.startswith("fold"):
            log: list[bytes] = []
            self._run(self._chain(10), log=log)
            return (lambda: self._state.fold("run", log)), 10
        plan = self._chain(1) if name == "chain of 1" else self._fan() if name == "1 to 8 to 1" else self._chain(10)
        return (lambda: self._run(plan, observed=name.endswith("observed"))), plan.size

    def _chain(self, steps: int) -> Any:
        return self._plan([self._agentraft.Step(f"s{k}", str) for k in range(steps)])

    def _fan(self) -> Any:
        make = self._agentraft.Step
        middle = [make(f"b{k}", str, after=("a",)) for k in range(8)]
        return self._plan([make("a", str), *middle, make("z", str, after=tuple(step.name for step in middle))])

    def _plan(self, steps: list[Any]) -> Any:
        settings = self._blueprint.RunSettings(on_open="park")
        return self._blueprint.plan_of_pipeline(self._agentraft.Pipeline(steps), self._agentraft.RulesVerifier(), settings)

    def _run(self, plan: Any, *, observed: bool = False, log: list[bytes] | None = None) -> None:
        machine = self._begin(plan, observed=observed, log=log)
        while self._turn(machine, log):
            pass
        if machine.state.finished.outcome != "succeeded":
            raise RuntimeError(f"a run of the benchmark ended as {machine.state.finished}")

    def _begin(self, plan: Any, *, observed: bool = False, log: list[bytes] | None = None) -> Any:
        records = self._records
        state = self._state.RunState("run")
        admitted = records.RunAdmitted("run", records.TaskRecord("measure", b"\x80", "run"), plan.spec, plan.fingerprint, _NOW)
        for record in (admitted, records.OwnerClaimed(1, "a" * 16, _NOW)):
            stored = records.encode_record(record)
            state.apply(record, stored)
            if log is not None:
                log.append(stored)
        machine = self._machine.RunMachine(state, listening=observed)
        machine.start(_NOW)
        return machine

    def _turn(self, machine: Any, log: list[bytes] | None = None) -> bool:
        ready = machine.take_ready()
        if ready is None:
            return False
        if log is not None:
            log.extend(ready.records)
        messages = self._messages
        for command in ready.commands:
            kind = type(command)
            if kind is messages.AcquirePermit:
                machine.feed(messages.PermitGranted(command.call, 1), _NOW)
            elif kind is messages.RunStep:
                machine.feed(messages.StepReturned(command.call, b"\xb6s0 of measure is done.", self._cost), _NOW)
            elif kind is messages.Verify:
                machine.feed(messages.VerdictReturned(command.call, self._verdict), _NOW)
        return True
