"""When a provider wants to be asked again, in seconds from now: what its headers and error bodies say about it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

from agentraft_ray.config import ProviderLimits

__all__ = ["duration_s", "retry_after_s"]

_LONGEST_S = ProviderLimits().retry_after_s_max
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
# Anthropic and OpenAI say per kind of limit what is left and when it is full again. A limit that has something left stops nobody.
_ANTHROPIC_LIMITS = ("requests", "tokens", "input-tokens", "output-tokens")
_OPENAI_LIMITS = ("requests", "tokens")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What an answer's headers (names in lower case) say; None where they say nothing. Never negative, and bounded."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        number = _number(headers.get(name))
        if number is not None:
            return _bounded(number * unit_s)
    date = _date(headers.get("retry-after"))
    if date is not None:
        return _bounded(date - (_date(headers.get("date")) or time.time()))  # by the server's own clock where it shows it
    resets = [*_anthropic_resets(headers), *_openai_resets(headers)]
    return _bounded(max(resets)) if resets else None


def duration_s(text: str) -> float | None:
    """``"53s"``, ``"1.5s"``, ``"6m0s"`` or ``"12ms"`` in seconds; None for anything else."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        return None
    return _bounded(sum(float(number) * _UNIT_S[unit] for number, unit in parts))


def _anthropic_resets(headers: Mapping[str, str]) -> list[float]:
    found = []
    for limit in _ANTHROPIC_LIMITS:
        prefix = f"anthropic-ratelimit-{limit}"
        reset = headers.get(f"{prefix}-reset")
        if headers.get(f"{prefix}-remaining") == "0" and reset:
            try:
                found.append(datetime.fromisoformat(reset).timestamp() - (_date(headers.get("date")) or time.time()))
            except ValueError:
                continue
    return found


def _openai_resets(headers: Mapping[str, str]) -> list[float]:
    found = []
    for limit in _OPENAI_LIMITS:
        if headers.get(f"x-ratelimit-remaining-{limit}") == "0":
            seconds = duration_s(headers.get(f"x-ratelimit-reset-{limit}", ""))
            if seconds is not None:
                found.append(seconds)
    return found


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text else None
    except ValueError:
        return None
    return number if number is not None and not math.isnan(number) else None


def _date(text: str | None) -> float | None:
    if not text:
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def _bounded(seconds: float) -> float:
    return min(max(0.0, seconds), _LONGEST_S)
