"""The values of the comparison: which systems there are, what was measured of them, and what their settings promise."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import msgspec

from benchmarks.machine import Machine

__all__ = ["COMMON_RUNS", "OURS", "SYSTEMS", "Answer", "Comparison", "Figures", "System", "promise_of", "ratio_at", "ratio_of_bests"]

COMMON_RUNS = 64  # the number of runs at a time at which all are compared, beside everybody's own best one


class System(msgspec.Struct, frozen=True):
    """One way to run the chain: a program and what it stores in. `needs` = the distributions without which it is skipped."""

    name: str
    store: str
    module: str
    needs: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return self.name if self.name == OURS else f"{self.name} ({self.store})"


OURS = "AgentRaft"

_LANGGRAPH = "benchmarks.peers.programs.langgraph_chain"
_DBOS = "benchmarks.peers.programs.dbos_chain"

SYSTEMS = (
    System(OURS, "", "benchmarks.peers.ours"),
    System("LangGraph", "none", _LANGGRAPH, ("langgraph",)),
    System("LangGraph", "memory", _LANGGRAPH, ("langgraph",)),
    System("LangGraph", "sqlite", _LANGGRAPH, ("langgraph", "langgraph-checkpoint-sqlite")),
    System("LangGraph", "postgres", _LANGGRAPH, ("langgraph", "langgraph-checkpoint-postgres", "psycopg")),
    System("DBOS", "sqlite", _DBOS, ("dbos",)),
    System("DBOS", "postgres", _DBOS, ("dbos", "psycopg")),
)


class Answer(msgspec.Struct, frozen=True):
    """What a program found at one number of runs at a time: one figure a repetition, and the settings that it read back."""

    steps_per_s: tuple[float, ...]
    settings: dict[str, str]

    @property
    def median(self) -> float:
        return statistics.median(self.steps_per_s)

    @property
    def spread(self) -> float:
        """(fastest - slowest repetition) / median."""
        return (max(self.steps_per_s) - min(self.steps_per_s)) / self.median


class Figures(msgspec.Struct, frozen=True):
    """One system at every number of runs at a time that was measured; never empty."""

    system: System
    by_runs: dict[int, Answer]

    @property
    def best_runs(self) -> int:
        """The number of runs at a time with the highest median."""
        return max(self.by_runs, key=lambda runs: self.by_runs[runs].median)

    @property
    def best(self) -> Answer:
        return self.by_runs[self.best_runs]

    @property
    def promise(self) -> str:
        """What survives, as its settings say."""
        return promise_of(self.system.store, self.best.settings)


class Comparison(msgspec.Struct, frozen=True):
    """Everything that one call of the program found; the JSON that it writes. `missing` = why a system has no figures."""

    machine: Machine
    load_after: float
    seconds: float
    steps_per_run: int
    figures: tuple[Figures, ...]
    missing: dict[str, str]

    @property
    def ours(self) -> Figures | None:
        return next((one for one in self.figures if one.system.name == OURS), None)


def ratio_of_bests(ours: Figures | None, theirs: Figures) -> float | None:
    """Our throughput / theirs, each at its own best number of runs at a time; None without ours, and for ours itself."""
    return None if ours is None or theirs.system.name == OURS else ours.best.median / theirs.best.median


def ratio_at(runs: int, ours: Figures | None, theirs: Figures) -> float | None:
    """Our throughput / theirs at the same number of runs at a time; None where either was not measured there, and for ours itself."""
    if ours is None or theirs.system.name == OURS or runs not in ours.by_runs or runs not in theirs.by_runs:
        return None
    return ours.by_runs[runs].median / theirs.by_runs[runs].median


def promise_of(store: str, settings: Mapping[str, str]) -> str:
    """What a finished step survives, as the settings that were read back say; "?" where they say too little."""
    match store:
        case "none":
            return "nothing (it is not stored)"
        case "memory":
            return "nothing (it is in the process)"
        case "sqlite":
            return _sqlite_promise(settings.get("journal_mode", ""), settings.get("synchronous", ""))
        case "postgres":
            return _postgres_promise(settings.get("fsync", ""), settings.get("synchronous_commit", ""))
        case _:
            durability = settings.get("durability", "")
            return _POWER if durability == "fsync" else durability or "?"


_POWER = "kill -9 and a power cut (fsync)"
_PROCESS = "kill -9, no power cut"


def _sqlite_promise(journal: str, synchronous: str) -> str:
    """https://www.sqlite.org/pragma.html#pragma_synchronous: 0 OFF and 1 NORMAL may lose commits; 2 FULL syncs every commit, but with a
    rollback journal not the removal of the journal, which is what commits; 3 EXTRA syncs that too."""
    match synchronous:
        case "0" | "1":
            return _PROCESS
        case "2":
            return _POWER if journal == "wal" else "kill -9; a power cut but for the last commit"
        case "3":
            return _POWER
        case _:
            return "?"


def _postgres_promise(fsync: str, synchronous_commit: str) -> str:
    """https://www.postgresql.org/docs/current/runtime-config-wal.html: without fsync the operating system may not crash; with
    synchronous_commit off even a crash of the server takes the last moments."""
    if not fsync or not synchronous_commit:
        return "?"
    if synchronous_commit == "off":
        return "kill -9 of the client only"
    return _POWER if fsync == "on" else _PROCESS
