"""The laws of blocks with a hidden cause: a small Markov chain, solved exactly for every number of rollbacks that are left.

A pass through a block ends clean, corrupt, given up, or back at its first step with one rollback less. Only faults that hints do not
make rarer have such a law, since attempt numbers go on over a rollback.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from benchmarks.faults.predict import Prediction, StepLaw, panel_law, step_law
from benchmarks.faults.scenario import Scenario

__all__ = ["block_predictions"]


class _Pass(NamedTuple):
    """One pass through a block: how it ends (given up otherwise), and what it takes on average."""

    clean: float
    corrupt: float
    back: float
    generations: float
    verdicts: float


class _Ahead(NamedTuple):
    """From some place on: the probabilities that all is clean and that the run finishes, and what it takes on average."""

    clean: float
    finished: float
    generations: float
    verdicts: float
    rollbacks: float


class _Source(NamedTuple):
    """A kind of committed first step: how likely, whether it hides a flaw, whether it is plainly wrong."""

    chance: float
    is_flawed: bool
    is_wrong: bool


def block_predictions(scenario: Scenario) -> tuple[Prediction, ...]:
    """What trials with upstream faults come to; empty if their retries get better."""
    fault = scenario.fault
    if fault.retry_improvement != 1:
        return ()
    rest = scenario.n_steps % (fault.upstream_distance + 1)
    plain = step_law(scenario)
    passes = {can_go_back: _pass(scenario, plain, can_go_back) for can_go_back in (False, True)}

    @cache
    def ahead(left_blocks: int, left_rollbacks: int) -> _Ahead:
        """From the beginning of a block on."""
        if not left_blocks:
            return _tail(plain, rest)
        this = passes[left_rollbacks > 0]
        after = ahead(left_blocks - 1, left_rollbacks)
        again = ahead(left_blocks, left_rollbacks - 1) if this.back else _Ahead(*[0.0] * 5)
        done = this.clean + this.corrupt
        return _Ahead(
            this.clean * after.clean + this.back * again.clean,
            done * after.finished + this.back * again.finished,
            this.generations + done * after.generations + this.back * again.generations,
            this.verdicts + done * after.verdicts + this.back * again.verdicts,
            this.back + done * after.rollbacks + this.back * again.rollbacks,
        )

    whole = ahead(scenario.blocks, scenario.rollbacks_max)
    return (
        Prediction("baseline_success", "share", scenario.right_unprotected),
        Prediction("success", "share", whole.clean),
        Prediction("silent_corruption", "share", whole.finished - whole.clean),
        Prediction("caught_failure", "share", 1 - whole.finished),
        Prediction("generations", "mean", whole.generations),
        Prediction("verdicts", "mean", whole.verdicts),
        Prediction("rollbacks", "mean", whole.rollbacks),
    )


def _tail(plain: StepLaw, steps: int) -> _Ahead:
    """The steps after the last whole block."""
    goes_on = plain.right + plain.wrong
    begun = sum(goes_on**step for step in range(steps))
    return _Ahead(plain.right**steps, goes_on**steps, plain.generations * begun, plain.verdicts * begun, 0.0)


def _pass(scenario: Scenario, plain: StepLaw, can_go_back: bool) -> _Pass:
    fault, middle = scenario.fault, scenario.fault.upstream_distance - 1
    before = _tail(plain, middle + 1)  # the source and what lies between
    generations, verdicts = before.generations, before.verdicts
    between, between_clean = (plain.right + plain.wrong) ** middle, plain.right**middle
    clean = corrupt = back = 0.0
    for source in (
        _Source(plain.right * (1 - fault.upstream), False, False),
        _Source(plain.right * fault.upstream, True, False),
        _Source(plain.wrong, False, True),
    ):
        right, wrong, sent_back, tries, asked = _symptom(scenario, source, can_go_back)
        reached = source.chance * between
        is_clean = not source.is_flawed and not source.is_wrong
        clean += source.chance * between_clean * right * is_clean
        corrupt += reached * (right + wrong) - source.chance * between_clean * right * is_clean
        back += reached * sent_back
        generations += reached * tries
        verdicts += reached * asked
    return _Pass(clean, corrupt, back, generations, verdicts)


def _symptom(scenario: Scenario, source: _Source, can_go_back: bool) -> tuple[float, float, float, float, float]:
    """(committed right, committed wrong, sent back, generations, verdicts) of a block's last step."""
    p = 1.0 if source.is_flawed else scenario.fault.p_fail
    wrong_law, right_law = panel_law(scenario, True), panel_law(scenario, False)
    blamed = (scenario.blame_accuracy if source.is_flawed else scenario.false_blame) * can_go_back
    falls = scenario.recheck_recall if source.is_flawed or source.is_wrong else scenario.fpr
    passes, misses = (1 - p) * (1 - right_law.rejects), p * (1 - wrong_law.rejects)
    rejects = 1 - passes - misses
    asked = p * wrong_law.asked + (1 - p) * right_law.asked
    open_, cleared = 1.0, 0.0  # that this accuser may still blame the source, or that it stood when it did
    right = wrong = back = tries = verdicts = 0.0
    for _ in range(scenario.max_retries + 1):
        left = open_ + cleared
        right += left * passes
        wrong += left * misses
        tries += left
        accused = open_ * rejects * blamed
        verdicts += left * asked + accused
        back += accused * falls
        open_, cleared = open_ * rejects * (1 - blamed), cleared * rejects + accused * (1 - falls)
    return right, wrong, back, tries, verdicts
