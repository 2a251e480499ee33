"""A measured share with its interval. Values and one formula."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Proportion"]

_Z = 1.959963984540054  # 95%, two-sided


@dataclass(frozen=True, slots=True)
class Proportion:
    """`count` of `of` cases, with Wilson's 95% score interval (E. B. Wilson, JASA 22 (1927), 209-212).

    Cases of one group, such as several outputs for the same request, say little more than one of them; with fewer `groups` than
    cases the interval is that of so many cases, which is the widest that it can be.

    >>> Proportion(8, 10)
    8/10 = 80.0% (49.0 to 94.3)
    """

    count: int
    of: int
    groups: int | None = None

    @property
    def rate(self) -> float | None:
        """The share, None of nothing."""
        return self.count / self.of if self.of else None

    @property
    def low(self) -> float:
        """The lower bound."""
        return self._bounds()[0]

    @property
    def high(self) -> float:
        """The upper bound."""
        return self._bounds()[1]

    def _bounds(self) -> tuple[float, float]:
        share, size = self.rate, min(self.of, self.groups or self.of)
        if share is None:
            return 0.0, 1.0
        spread = _Z * math.sqrt(share * (1 - share) / size + (_Z / (2 * size)) ** 2)
        middle, scale = share + _Z**2 / (2 * size), 1 + _Z**2 / size
        # At the ends the bound is exact; rounding must not move it away from there.
        low = 0.0 if self.count == 0 else max(0.0, (middle - spread) / scale)
        return low, 1.0 if self.count == self.of else min(1.0, (middle + spread) / scale)

    def __str__(self) -> str:
        if self.rate is None:
            return "no cases"
        return f"{self.count}/{self.of} = {self.rate:.1%} ({100 * self.low:.1f} to {100 * self.high:.1f})"

    __repr__ = __str__
