"""The trial model, one draw at a time: what an agent returns at an attempt, what the panel says about it, whom it blames.

`trial.py` asks it on behalf of the protocol. `twin.py` says the same in NumPy, written apart from this, and both must agree.
"""

from __future__ import annotations

from enum import IntEnum

from agentraft_ray.checkpoint.codec import encode_output
from agentraft_ray.errors import ErrorType
from agentraft_ray.identity import digest
from benchmarks.faults.draws import (
    ATTEMPT,
    BLAME,
    CLASS,
    FAULT,
    HARD,
    HIDDEN,
    RECHECK,
    SILENCE,
    STEP,
    TRIAL,
    VERDICT,
    below,
    draw,
    key_of,
)
from benchmarks.faults.scenario import ATTEMPTS_MAX, Scenario

__all__ = ["OUTPUTS", "OUTPUT_TEXTS", "TRUTH", "Kind", "TrialModel", "fault_thresholds", "flag_thresholds"]


class Kind(IntEnum):
    """The truth about an output. FLAWED looks right, and makes the last step of its block wrong."""

    RIGHT = 0
    FLAWED = 1
    WRONG = 2
    STUCK = 3  # wrong, and the same bytes at every attempt


_RIGHT, _WRONG = Kind.RIGHT, Kind.WRONG


def _text(kind: Kind, attempt: int) -> str:
    return "stuck" if kind is Kind.STUCK else f"{kind.name.lower()} {attempt}"


OUTPUT_TEXTS = tuple(tuple(_text(kind, attempt) for attempt in range(ATTEMPTS_MAX + 1)) for kind in Kind)
"""[kind][attempt]: an output. No two attempts agree, so that nothing is taken for a repetition, unless it is stuck."""

OUTPUTS = tuple(tuple(map(encode_output, row)) for row in OUTPUT_TEXTS)
"""The same as they are stored."""

TRUTH: dict[bytes, Kind] = {digest(data): kind for kind, row in zip(Kind, OUTPUTS, strict=True) for data in row}
"""By the digest of a committed output: what it is."""


def fault_thresholds(scenario: Scenario) -> list[list[tuple[int, int]]]:
    """[attempt][faults before] -> (draws below it count as a fault, draws below it are a wrong output).

    Faults of one step are exchangeable with mean p and correlation rho (Polya's urn, whose shares are beta distributed): after j
    faults among a attempts the next has probability (p (1 - rho) + rho j) / (1 - rho + rho a). A hint lets a share of them go right.
    """
    fault = scenario.fault
    p, rho = fault.p_fail, fault.retry_correlation
    rows = []
    for attempt in range(ATTEMPTS_MAX + 1 if not rho else scenario.max_retries + 1):
        chances = [(p * (1 - rho) + rho * before) / (1 - rho + rho * attempt) for before in range(attempt + 1 if rho else 1)]
        rows.append([(below(chance), below(chance * fault.retry_improvement**attempt)) for chance in chances])
    return rows


def flag_thresholds(scenario: Scenario) -> list[list[list[int]]]:
    """[is wrong][verifiers before][flags before] -> draws below it are a flag; the same urn as between attempts."""
    rho = scenario.verifier_correlation
    return [
        [
            [below((mean * (1 - rho) + rho * flags) / (1 - rho + rho * before)) for flags in range(before + 1)]
            for before in range(scenario.verifiers)
        ]
        for mean in (scenario.fpr, scenario.recall)
    ]


class TrialModel:
    """What happens to the trials of one seed under a scenario."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.key = key_of(seed)
        self.verifiers, self.reject_at = scenario.verifiers, scenario.reject_at
        self.passes_at = scenario.verifiers - scenario.reject_at + 1
        fault = scenario.fault
        self._faults = fault_thresholds(scenario)
        self._flags = flag_thresholds(scenario)
        self._is_correlated = bool(fault.retry_correlation)
        self._hard, self._hidden = below(fault.hard_core), below(fault.upstream)
        self._silence = below(scenario.verifier_fault)
        self._blame = (below(scenario.false_blame), below(scenario.blame_accuracy))
        self._recheck = (below(scenario.fpr), below(scenario.recheck_recall))
        shares = list(fault.error_dist.items())
        self._classes = [(below(sum(share for _, share in shares[: index + 1])), kind) for index, (kind, _) in enumerate(shares)]
        self._block = fault.upstream_distance + 1 if fault.upstream else 0
        self._limits = [] if self._block or self._hard or self._is_correlated else [row[0][1] for row in self._faults]

    def place(self, trial: int, step: int, attempt: int) -> int:
        """Where the draws of an attempt are."""
        return trial * TRIAL + step * STEP + attempt * ATTEMPT

    def source_of(self, step: int) -> int | None:
        """The step whose hidden flaw would spoil this one."""
        if not self._block or step % self._block != self._block - 1:
            return None
        return step - self._block + 1

    def _is_source(self, step: int) -> bool:
        return bool(self._block) and step % self._block == 0 and step + self._block <= self.scenario.n_steps

    def output(self, trial: int, step: int, attempt: int, is_spoilt: bool = False) -> Kind:
        """What the agent returns; `is_spoilt`: it works from an output that hides a flaw."""
        place = trial * TRIAL + step * STEP + attempt * ATTEMPT
        if self._limits:  # nothing but independent faults
            return _WRONG if draw(self.key, place) < self._limits[attempt] else _RIGHT
        if self._hard and draw(self.key, self.place(trial, step, 0) | HARD) < self._hard:
            return Kind.STUCK
        row = self._faults[attempt]
        before = self._faults_before(trial, step, attempt) if self._is_correlated else 0
        if draw(self.key, place | FAULT) < row[before][1] or is_spoilt:
            return Kind.WRONG
        if self._block and self._is_source(step) and draw(self.key, place | HIDDEN) < self._hidden:
            return Kind.FLAWED
        return Kind.RIGHT

    def _faults_before(self, trial: int, step: int, attempt: int) -> int:
        faults = 0
        for earlier in range(attempt):
            faults += draw(self.key, self.place(trial, step, earlier) | FAULT) < self._faults[earlier][faults][0]
        return faults

    def error_class(self, place: int) -> ErrorType:
        """What is wrong with the wrong output of the attempt at `place`."""
        drawn = draw(self.key, place | CLASS)
        return next((kind for limit, kind in self._classes if drawn < limit), self._classes[-1][1])

    def is_silent(self, place: int, call: int) -> bool:
        """Whether the panel fails to answer its `call`-th call about the output of the attempt at `place`."""
        return bool(self._silence) and draw(self.key, place | SILENCE + call) < self._silence

    def verdict(self, place: int, is_wrong: bool) -> tuple[bool, int]:
        """(whether the panel rejects, how many were asked until that was settled)."""
        flags, key = 0, self.key
        thresholds = self._flags[is_wrong]
        for asked in range(self.verifiers):
            if draw(key, place | VERDICT + asked) < thresholds[asked][flags]:
                flags += 1
                if flags == self.reject_at:
                    return True, asked + 1
            elif asked + 1 - flags == self.passes_at:
                return False, asked + 1
        raise AssertionError("the last verifier settles it")

    def blames(self, place: int, is_spoilt: bool) -> bool:
        """Whether a rejection at a block's last step names its first."""
        return draw(self.key, place | BLAME) < self._blame[is_spoilt]

    def falls(self, place: int, is_bad: bool) -> bool:
        """Whether the accused output of the attempt at `place` is rejected when it is judged again."""
        return draw(self.key, place | RECHECK) < self._recheck[is_bad]
