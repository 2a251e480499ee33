"""Blocks of steps with a hidden cause, in NumPy: the part of the twin in which a run goes back.

A block's first step (the source) may hide a flaw that spoils its last step (the symptom). A rejection there may accuse the source; if
it falls when it is judged again, the whole block starts over in a new lineage. Attempt numbers never restart: a step that is removed
goes on one number later, the accuser, whose rejected attempt had ended already, two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.faults.draws import ATTEMPT, BLAME, HIDDEN, RECHECK, STEP, Places, below, draws, moved
from benchmarks.faults.trial import CAUGHT

if TYPE_CHECKING:
    from benchmarks.faults.twin import Flags, Rows, Twin

__all__ = ["run_block"]


def run_block(twin: Twin, first: int) -> None:
    """Everybody alive goes through the block at step `first`; those whose source fell go through it again."""
    block = _Block(twin, first)
    rows = np.flatnonzero(twin.alive)
    while len(rows):
        for offset in range(twin.width - 1):
            rows = block.tried(offset, rows)
        rows, again = block.tried_last(rows)
        twin.corrupt[rows] |= block.bad[:, rows].any(axis=0) | block.flawed[rows]
        rows = again


class _Block:
    """One block of all trials. `number` is the open attempt of each of its steps, `bad` whether the committed output is wrong."""

    def __init__(self, twin: Twin, first: int) -> None:
        count = len(twin.base)
        self._twin = twin
        self._first = first
        self.number: Places = np.zeros((twin.width, count), np.uint64)
        self.bad: Flags = np.zeros((twin.width, count), np.bool_)
        self.flawed: Flags = np.zeros(count, np.bool_)

    def tried(self, offset: int, rows: Rows) -> Rows:
        """The rows whose step `offset` was committed in the end; the others are caught."""
        committed = []
        for _ in range(self._twin.scenario.max_retries + 1):
            passed, rows, _ = self._attempt(offset, rows)
            committed.append(passed)
        self._twin.end(rows, CAUGHT)
        return np.sort(np.concatenate(committed))

    def tried_last(self, rows: Rows) -> tuple[Rows, Rows]:
        """The rows whose last step was committed, and those that start the block over."""
        cleared: Flags = np.zeros(len(self.flawed), np.bool_)
        committed, back = [], []
        for _ in range(self._twin.scenario.max_retries + 1):
            passed, rows, begun = self._attempt(self._twin.width - 1, rows)
            committed.append(passed)
            fallen = self._accused(rows, begun, cleared)
            back.append(rows[fallen])
            rows = rows[~fallen]
        self._twin.end(rows, CAUGHT)
        return np.sort(np.concatenate(committed)), np.sort(np.concatenate(back))

    def _begun(self, offset: int, rows: Rows) -> Places:
        """The lines of the open attempts of a step."""
        places = self.number[offset, rows] * np.uint64(ATTEMPT) + np.uint64((self._first + offset) * STEP)
        return moved(self._twin.base[rows], places)

    def _attempt(self, offset: int, rows: Rows) -> tuple[Rows, Rows, Places]:
        """(rows that passed, rows that were rejected, the lines of those)."""
        twin = self._twin
        begun = self._begun(offset, rows)
        wrong = twin.wrong_at(begun, self.number[offset, rows])
        if offset == twin.width - 1:
            wrong |= self.flawed[rows]
        rejected, asked = twin.judged(begun, 0, wrong)
        twin.generations[rows] += 1
        twin.verdicts[rows] += asked
        passed = rows[~rejected]
        self.bad[offset, passed] = wrong[~rejected]
        if not offset:
            hidden = draws(begun, HIDDEN) < np.uint64(below(twin.scenario.fault.upstream))
            self.flawed[passed] = (hidden & ~wrong)[~rejected]
        self.number[offset, rows[rejected]] += np.uint64(1)
        return passed, rows[rejected], begun[rejected]

    def _accused(self, rows: Rows, begun: Places, cleared: Flags) -> Flags:
        """Whose source was blamed at these lines and fell; what stands is cleared of this accuser."""
        twin, scenario = self._twin, self._twin.scenario
        limits = np.where(self.flawed[rows], np.uint64(below(scenario.blame_accuracy)), np.uint64(below(scenario.false_blame)))
        accused = draws(begun, BLAME) < limits
        accused &= ~cleared[rows] & (twin.rollbacks[rows] < scenario.rollbacks_max)
        suspects = self.bad[0, rows] | self.flawed[rows]
        limits = np.where(suspects, np.uint64(below(scenario.recheck_recall)), np.uint64(below(scenario.fpr)))
        falls = accused & (draws(self._begun(0, rows), RECHECK) < limits)
        twin.verdicts[rows] += accused
        cleared[rows[accused & ~falls]] = True
        twin.rollbacks[rows[falls]] += 1
        self.number[:, rows[falls]] += np.uint64(1)
        return falls
