"""The trial model in NumPy: the same trials as `trial.py` runs through the protocol, on the same draws, without any protocol.

It says what must come out if the protocol does what it promises, and it is fast enough for the deep tails of 10**9 trials. All
trials of a chunk go through a step together; those whose output was rejected go on as a smaller and smaller set of rows. Blocks of
steps with a hidden cause are in `twin_blocks.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.faults import twin_blocks
from benchmarks.faults.draws import ATTEMPT, FAULT, HARD, HIDDEN, SILENCE, STEP, TRIAL, VERDICT, Places, below, draws, key_of, lines
from benchmarks.faults.model import fault_thresholds, flag_thresholds
from benchmarks.faults.scenario import Scenario
from benchmarks.faults.trial import CAUGHT, PARKED, SILENT

__all__ = ["CHUNK", "Flags", "Rows", "Trials", "Twin", "drawn"]

CHUNK = 1 << 15  # trials at a time: their arrays stay in the processor's cache

Flags = NDArray[np.bool_]
Numbers = NDArray[np.int32]
Rows = NDArray[np.intp]
_CALLS_MAX = 3  # of a panel that does not answer, then the run is parked: Limits.verifier_faults_max


class Trials(NamedTuple):
    """How trials ended, one entry a trial; the fields are those of `TrialResult`."""

    outcome: NDArray[np.uint8]
    generations: Numbers
    verdicts: Numbers
    rollbacks: Numbers
    silences: Numbers


class Twin:
    """The twin of a `TrialHost`. `run(start, stop)` gives the trials from `start` up to `stop`, best `CHUNK` at a time."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.width = scenario.fault.upstream_distance + 1 if scenario.fault.upstream else 1
        self._key = key_of(seed)
        self._faults = [np.array(row, np.uint64) for row in fault_thresholds(scenario)]
        self._first_faults: Places = np.array([row[0, 1] for row in self._faults], np.uint64)
        # [verifiers before][flags before, is wrong]
        self._flags = [np.array(rows, np.uint64).T.copy() for rows in zip(*flag_thresholds(scenario), strict=True)]
        self._restart(0, 0)

    def _restart(self, start: int, stop: int) -> None:
        count = stop - start
        self.base = self._lines(start, stop)
        self._room: Places = np.empty((2, count), np.uint64)
        self.outcome = np.zeros(count, np.uint8)
        self.corrupt: Flags = np.zeros(count, np.bool_)
        self.alive: Flags = np.ones(count, np.bool_)
        self.generations, self.verdicts, self.rollbacks, self.silences = (np.zeros(count, np.int32) for _ in range(4))

    def _lines(self, start: int, stop: int) -> Places:
        return lines(self._key, np.arange(start, stop, dtype=np.uint64) * np.uint64(TRIAL))

    def run(self, start: int, stop: int) -> Trials:
        """The trials from `start` up to `stop`."""
        self._restart(start, stop)
        step, steps = 0, self.scenario.n_steps
        while step < steps:
            if self.width > 1 and step + self.width <= steps:
                twin_blocks.run_block(self, step)
                step += self.width
            else:
                self._step(step)
                step += 1
        self.outcome[self.alive & self.corrupt] = SILENT
        return Trials(self.outcome, self.generations, self.verdicts, self.rollbacks, self.silences)

    def right_unprotected(self, start: int, stop: int) -> Flags:
        """Of the same trials: whether all first attempts are right, which is what the pipeline ships without protection."""
        fault, steps = self.scenario.fault, self.scenario.n_steps
        base = self._lines(start, stop)
        right: Flags = np.ones(stop - start, np.bool_)
        for step in range(steps):
            right &= draws(base, step * STEP + FAULT) >= self._faults[0][0, 1]
            if fault.hard_core:
                right &= ~drawn(base, step * STEP + HARD, fault.hard_core)
            if self.width > 1 and not step % self.width and step + self.width <= steps:
                right &= ~drawn(base, step * STEP + HIDDEN, fault.upstream)
        return right

    def end(self, rows: Rows, outcome: int) -> None:
        """These trials go no further."""
        self.outcome[rows] = outcome
        self.alive[rows] = False

    def _step(self, step: int) -> None:
        """First every trial at once (the dead go along, uncounted), then those that were rejected."""
        fault = self.scenario.fault
        stuck = drawn(self.base, step * STEP + HARD, fault.hard_core) if fault.hard_core else None
        faults = np.zeros(len(self.base), np.int64) if fault.retry_correlation else None
        at: Rows | slice = slice(None)
        for attempt in range(self.scenario.max_retries + 1):
            base, live, place = self.base[at], self.alive[at], step * STEP + attempt * ATTEMPT
            wrong = self._wrong(base, place, attempt, faults, at)
            if stuck is not None:
                wrong |= stuck[at]
            rejected, asked = self.judged(base, place, wrong)
            repeats = stuck[at] if stuck is not None and attempt else None  # the same bytes again: rejected unseen
            if repeats is not None:
                rejected |= repeats
                asked[repeats] = 0
            self.generations[at] += live
            if self.scenario.verifier_fault:
                heard = live if repeats is None else live & ~repeats
                live = live & ~self._without_verdict(base, place, at, heard)
            self.verdicts[at] += asked * live
            self.corrupt[at] |= wrong & ~rejected & live
            again = np.flatnonzero(rejected & live)
            at = again if isinstance(at, slice) else at[again]
            if not len(at):
                return
        assert not isinstance(at, slice)
        self.end(at, CAUGHT)

    def _wrong(self, base: Places, place: int, attempt: int, faults: NDArray[np.int64] | None, at: Rows | slice) -> Flags:
        found = draws(base, place + FAULT, self._room)
        if faults is None:
            return found < np.uint64(self._faults[attempt][0, 1])
        limits = self._faults[attempt][faults[at]]
        faults[at] += found < limits[:, 0]
        return found < limits[:, 1]

    def wrong_at(self, begun: Places, attempts: Places) -> Flags:
        """The same for attempts of different numbers, where faults are independent."""
        return draws(begun, FAULT) < self._first_faults[attempts]

    def judged(self, begun: Places, place: int, wrong: Flags) -> tuple[Flags, NDArray[np.int8]]:
        """(rejected, how many verifiers were asked) of outputs."""
        count, reject_at = self.scenario.verifiers, self.scenario.reject_at
        flags, asked = np.zeros(len(begun), np.int8), np.ones(len(begun), np.int8)
        is_open: Flags | None = None
        wrong_rows = np.flatnonzero(wrong)
        for before, limits in enumerate(self._flags):
            found = draws(begun, place + VERDICT + before, self._room)
            if self.scenario.verifier_correlation:
                is_flag = found < limits[np.minimum(flags, before), wrong.view(np.int8)]
            else:
                is_flag = found < limits[0, 0]
                is_flag[wrong_rows] = found[wrong_rows] < limits[0, 1]
            if is_open is not None:
                is_flag &= is_open
                asked += is_open
            flags += is_flag
            if before + 1 < count:
                is_open = (flags < reject_at) & (flags > before + reject_at - count)
        return flags >= reject_at, asked

    def _without_verdict(self, base: Places, place: int, at: Rows | slice, heard: Flags) -> Flags:
        """Whose panel failed to answer as often as it may; those runs are parked."""
        lost = heard.copy()
        for call in range(_CALLS_MAX):
            lost &= drawn(base, place + SILENCE + call, self.scenario.verifier_fault)
            self.silences[at] += lost
        rows = np.flatnonzero(lost)
        self.end(rows if isinstance(at, slice) else at[rows], PARKED)
        return lost


def drawn(begun: Places, place: int, share: float) -> Flags:
    """At which lines the draw at `place` says yes, which has probability `share`."""
    return draws(begun, place) < np.uint64(below(share))
