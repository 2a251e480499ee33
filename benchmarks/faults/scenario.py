"""What is simulated: how agents fail, how verifiers err, what the protocol may do about it. Values and their limits, no randomness.

`benchmarks/README.md` explains every knob; `predict.py` has the formulas that belong to them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from agentraft_ray.config import Limits
from agentraft_ray.errors import ErrorType, InvalidConfig

__all__ = ["ERROR_DIST", "FaultConfig", "Outcome", "Scenario"]

ERROR_DIST: Mapping[ErrorType, float] = {
    ErrorType.GOAL_DRIFT: 0.30,
    ErrorType.HALLUCINATION: 0.25,
    ErrorType.INCOMPLETE: 0.20,
    ErrorType.CONTRADICTION: 0.15,
    ErrorType.SCOPE_CREEP: 0.10,
}
"""The classes of the seed's faults and their shares."""

STEPS_MAX, ATTEMPTS_MAX = 4_096, 255  # what the counters of the random draws have room for
VERIFIERS_MAX = 16
_ROLLBACKS_MAX = Limits().rollbacks_max


class Outcome(str, Enum):
    """How a trial ended: all that was shipped is right; something wrong was shipped; nothing was shipped."""

    SUCCESS = "success"
    SILENT_CORRUPTION = "silent_corruption"
    CAUGHT_FAILURE = "caught_failure"


def check_share(name: str, value: float, *, below_one: bool = False) -> None:
    """Raise InvalidConfig unless `value` is a probability."""
    if not (0 <= value < 1 if below_one else 0 <= value <= 1):
        raise InvalidConfig(f"{name}={value!r} must be a share from 0 to {'just under 1' if below_one else '1'}")


def check_count(name: str, value: int, least: int, most: int) -> None:
    """Raise InvalidConfig unless `value` is a whole number in the range."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidConfig(f"{name}={value!r} must be a whole number from {least:,} to {most:,}")


@dataclass(frozen=True, slots=True)
class FaultConfig:
    """How agents fail.

    Attempt `a` of a step is wrong with probability `p_fail * retry_improvement ** a`: hints help by assumption, 1 means that they
    do not. `retry_correlation` is the correlation of faults within one step of one trial: its own error rate is drawn from a beta
    distribution around `p_fail`. A share `hard_core` of steps gives the same wrong output however often it is asked.

    Steps come in blocks of `upstream_distance` + 1. With probability `upstream` the right-looking output of a block's first step
    hides a flaw that its own verifier cannot see, and that makes every output of the block's last step wrong.
    """

    p_fail: float = 0.10
    error_dist: Mapping[ErrorType, float] = field(default_factory=lambda: dict(ERROR_DIST))
    retry_improvement: float = 0.45
    retry_correlation: float = 0.0
    hard_core: float = 0.0
    upstream: float = 0.0
    upstream_distance: int = 1

    def __post_init__(self) -> None:
        for name in ("p_fail", "retry_improvement", "hard_core", "upstream"):
            check_share(name, getattr(self, name))
        check_share("retry_correlation", self.retry_correlation, below_one=True)
        check_count("upstream_distance", self.upstream_distance, 1, STEPS_MAX - 1)
        if not self.error_dist or ErrorType.NONE in self.error_dist:
            raise InvalidConfig("error_dist must name at least one class, and not NONE")
        if not all(weight >= 0 for weight in self.error_dist.values()) or not math.isclose(sum(self.error_dist.values()), 1.0):
            raise InvalidConfig(f"the shares of error_dist must add up to 1, not to {sum(self.error_dist.values())!r}")
        if self.upstream and (self.retry_correlation or self.hard_core):
            raise InvalidConfig("upstream faults are simulated alone: leave out retry_correlation and hard_core")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One pipeline of `n_steps` steps, its agents, its verifiers, and the protocol's settings.

    `verifiers` judge every output one after the other, each with `recall` = P(flag | wrong) and `fpr` = P(flag | right); it is
    rejected when `reject_at` of them flag it (1 = any veto). `verifier_correlation` is that of their errors about one output. A
    call of the panel fails with probability `verifier_fault`. A generation costs 1, a verdict `verify_cost_ratio`.

    For upstream faults: a rejection at a block's last step blames its first with probability `blame_accuracy` where that is
    flawed, `false_blame` where it is not; judged again, a bad one falls with probability `recheck_recall`, a good one with `fpr`.
    `max_rollback_depth=0` switches deep rollback off.
    """

    n_steps: int = 10
    fault: FaultConfig = field(default_factory=FaultConfig)
    recall: float = 0.90
    fpr: float = 0.03
    max_retries: int = 3
    verify_cost_ratio: float = 0.08
    label: str = ""
    verifiers: int = 1
    reject_at: int = 1
    verifier_correlation: float = 0.0
    verifier_fault: float = 0.0
    max_rollback_depth: int = 3
    blame_accuracy: float = 0.5
    false_blame: float = 0.0
    recheck_recall: float = 0.9

    def __post_init__(self) -> None:
        for name in ("recall", "fpr", "verifier_fault", "blame_accuracy", "false_blame", "recheck_recall"):
            check_share(name, getattr(self, name))
        check_share("verifier_correlation", self.verifier_correlation, below_one=True)
        check_count("n_steps", self.n_steps, 1, STEPS_MAX)
        check_count("verifiers", self.verifiers, 1, VERIFIERS_MAX)
        check_count("reject_at", self.reject_at, 1, self.verifiers)
        check_count("max_rollback_depth", self.max_rollback_depth, 0, STEPS_MAX)
        # A rolled back step keeps counting its attempts, and loses one number more.
        check_count(
            "max_retries", self.max_retries, 0, ATTEMPTS_MAX // (_ROLLBACKS_MAX + 1) - 2 if self.fault.upstream else ATTEMPTS_MAX - 1
        )
        if not 0 <= self.verify_cost_ratio < math.inf:
            raise InvalidConfig(f"verify_cost_ratio={self.verify_cost_ratio!r} must be a number from 0 up")
        if self.fault.upstream and self.verifier_fault:
            raise InvalidConfig("upstream faults are simulated alone: leave out verifier_fault")

    @property
    def rollbacks_max(self) -> int:
        """Deep rollbacks that one run may make."""
        return _ROLLBACKS_MAX if self.max_rollback_depth >= self.fault.upstream_distance else 0

    @property
    def blocks(self) -> int:
        """How many blocks may hide a flaw in their first step."""
        return self.n_steps // (self.fault.upstream_distance + 1) if self.fault.upstream else 0

    @property
    def right_unprotected(self) -> float:
        """The probability that all first attempts are right: `p^n`, and what else may go wrong."""
        fault = self.fault
        return float(((1 - fault.p_fail) * (1 - fault.hard_core)) ** self.n_steps * (1 - fault.upstream) ** self.blocks)

    def settings(self) -> dict[str, Any]:
        """Everything that decides what happens, as plain data."""
        plain = asdict(self)
        plain["fault"]["error_dist"] = {kind.value: share for kind, share in self.fault.error_dist.items()}
        del plain["label"]
        return plain
