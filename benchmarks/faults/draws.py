"""Randomness without a stream: every draw is a hash of (seed, trial, step, attempt, purpose).

So what one part of a trial draws never moves what another part draws: the first attempt of a step is the same one with and without
protection, under every setting and in whatever order trials run. The generator is SplitMix64 (Steele, Lea and Flood, 2014) read at
random places: draw number i of a seed is mix(key + i * GAMMA). It exists twice, in plain Python and in NumPy, bit for bit the same.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from agentraft_ray.errors import InvalidConfig

__all__ = [
    "ATTEMPT",
    "BLAME",
    "CLASS",
    "FAULT",
    "HARD",
    "HIDDEN",
    "RECHECK",
    "SILENCE",
    "STEP",
    "TRIAL",
    "TRIALS_MAX",
    "VERDICT",
    "Places",
    "below",
    "draw",
    "draws",
    "key_of",
    "lines",
    "moved",
]

Places = NDArray[np.uint64]

# A place is trial << 28 | step << 16 | attempt << 8 | purpose.
TRIAL: Final = 1 << 28
STEP: Final = 1 << 16
ATTEMPT: Final = 1 << 8
TRIALS_MAX: Final = 1 << 36

# Purposes. Silences and verdicts take one each per call and per verifier.
FAULT: Final = 0
CLASS: Final = 1
HIDDEN: Final = 2
HARD: Final = 3
BLAME: Final = 4
RECHECK: Final = 5
SILENCE: Final = 16
VERDICT: Final = 32

_MASK = (1 << 64) - 1
_GAMMA, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_BITS = 53  # as many as a float holds exactly, so that thresholds are exact
_DROPPED = 64 - _BITS


def key_of(seed: int) -> int:
    """Where the draws of a seed begin. Raises InvalidConfig for a seed that is not from 0 to 2**64 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= _MASK:
        raise InvalidConfig(f"seed={seed!r} must be a whole number from 0 to 2**64 - 1")
    return draw(seed, 1) << _DROPPED | draw(seed, 2) >> _BITS - _DROPPED


def draw(key: int, place: int) -> int:
    """A number from 0 to 2**53 - 1, uniform, the same for the same key and place."""
    number = (key + place * _GAMMA) & _MASK
    number = ((number ^ number >> 30) * _FIRST) & _MASK
    number = ((number ^ number >> 27) * _SECOND) & _MASK
    return (number ^ number >> 31) >> _DROPPED


def lines(key: int, places: Places) -> Places:
    """What `draws` takes: where the draws of `places` begin. Moving a place by `n` moves its line by `n * GAMMA`."""
    return moved(np.full(len(places), key, np.uint64), places)


def moved(begun: Places, places: Places) -> Places:
    """Lines, each moved by a place of its own."""
    return begun + places * np.uint64(_GAMMA)


def draws(begun: Places, place: int = 0, room: Places | None = None) -> Places:
    """`draw` at `place` beyond each of the lines. In `room` (two rows, long enough) the answer lies until the next call."""
    size = len(begun)
    mixed, spare = (np.empty(size, np.uint64), np.empty(size, np.uint64)) if room is None else room[:, :size]
    np.add(begun, np.uint64(place * _GAMMA & _MASK), out=mixed)
    np.right_shift(mixed, np.uint64(30), out=spare)
    mixed ^= spare
    mixed *= np.uint64(_FIRST)
    np.right_shift(mixed, np.uint64(27), out=spare)
    mixed ^= spare
    mixed *= np.uint64(_SECOND)
    np.right_shift(mixed, np.uint64(31), out=spare)
    mixed ^= spare
    mixed >>= np.uint64(_DROPPED)
    return mixed


def below(share: float) -> int:
    """How many of the 2**53 values of a draw mean yes where yes has probability `share`."""
    return round(share * (1 << _BITS))
