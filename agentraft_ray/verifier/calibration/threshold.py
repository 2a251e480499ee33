"""Which threshold to take: the one that catches most at the false alarms that one is ready to pay. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from agentraft_ray.errors import InvalidConfig

__all__ = ["best_threshold"]

_DIGITS = 4


def best_threshold(right: Sequence[float | None], wrong: Sequence[float | None], false_positive_rate: float) -> float:
    """The threshold with the highest recall among those that reject at most `false_positive_rate` of the right outputs.

    `right` and `wrong` are the confidences with which right and wrong outputs passed, None for those that were rejected anyway. A pass
    under the threshold counts as a rejection. Of equally good ones it is the lowest, half-way between two confidences that were seen.

    Raises InvalidConfig where there is nothing to choose by, or no threshold is enough: the verifier itself rejects more than that.

    >>> best_threshold([0.9, 0.8, 0.95, 0.7], [0.6, 0.75, None], 0.0)
    0.65
    >>> best_threshold([0.9, 0.8, 0.95, 0.7], [0.6, 0.75, None], 0.25)
    0.775
    """
    if not right or not wrong:
        raise InvalidConfig(f"a threshold is chosen by verdicts about right and wrong outputs; there are {len(right)} and {len(wrong)}")
    seen = sorted({confidence for confidence in (*right, *wrong) if confidence is not None})
    candidates = [0.0, *(round((low + high) / 2, _DIGITS) for low, high in pairwise(seen))]
    allowed = [one for one in candidates if _rejected(right, one) <= false_positive_rate * len(right)]
    if not allowed:
        raise InvalidConfig(
            f"no threshold keeps false alarms within {false_positive_rate:.1%}: the verifier rejects {_rejected(right, 0.0)} of"
            f" {len(right)} right outputs whatever its confidence"
        )
    return max(allowed, key=lambda one: (_rejected(wrong, one), -one))


def _rejected(confidences: Sequence[float | None], threshold: float) -> int:
    return sum(confidence is None or confidence < threshold for confidence in confidences)
