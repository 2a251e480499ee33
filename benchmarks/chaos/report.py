"""The findings for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from benchmarks.chaos.campaign import Findings
from benchmarks.chaos.plan import KILLED, STALLED
from benchmarks.chaos.strikes import Strike

__all__ = ["KILL_P95_S", "STALL_P95_S", "lines", "percentile", "shortfalls"]

KILL_P95_S, STALL_P95_S = 5.0, 3.0
_SHOWN = 5


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed; NaN for none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def _recoveries(found: Findings, kinds: Sequence[str]) -> list[float]:
    return [strike.recovery_s for strike in found.strikes if strike.kind in kinds and strike.recovery_s is not None]


def shortfalls(found: Findings) -> list[str]:
    """What did not hold, each in a line; empty for a campaign that passed."""
    short = [f"{kind}: {len(texts)}" for kind, texts in found.audited.violations.items() if texts]
    short += found.stuck
    if found.effective < found.faults:
        short.append(f"{found.effective} effective faults; {found.faults} were wanted")
    for kinds, limit_s, what in ((KILLED, KILL_P95_S, "a killed process"), (STALLED, STALL_P95_S, "the end of a stall")):
        p95 = percentile(_recoveries(found, kinds), 0.95)
        if p95 > limit_s:
            short.append(f"p95 from {what} to the next commit is {p95:.2f} s; {limit_s:.0f} s are allowed")
    return short


def _row(kind: str, strikes: Sequence[Strike]) -> str:
    hits = [strike for strike in strikes if strike.affected]
    times = [strike.recovery_s for strike in hits if strike.recovery_s is not None]
    runs = sum(strike.affected for strike in hits) / len(hits) if hits else 0.0
    spread = (
        f"{percentile(times, 0.5):>8.2f} {percentile(times, 0.95):>8.2f} {max(times):>8.2f}" if times else f"{'-':>8} {'-':>8} {'-':>8}"
    )
    return f"  {kind:<14} {len(strikes):>8} {len(hits):>10} {runs:>10.1f} {spread}"


def lines(found: Findings) -> Iterator[str]:
    """A table of the faults, what the logs and the tally say, and what did not hold."""
    audited = found.audited
    yield f"faults: {len(found.strikes) + sum(found.troubles.values())}, of which {found.effective} hit work in flight; seed {found.seed}"
    yield f"  {'kind':<14} {'faults':>8} {'effective':>10} {'runs hit':>10} {'p50 s':>8} {'p95 s':>8} {'max s':>8}"
    for kind in sorted({strike.kind for strike in found.strikes}):
        yield _row(kind, [strike for strike in found.strikes if strike.kind == kind])
    for how, count in sorted(found.troubles.items()):
        yield f"  {'step: ' + how:<20} {count:>2} {count:>10}"
    for kinds, what in ((KILLED, "a killed process"), (STALLED, "the end of a stall")):
        times = _recoveries(found, kinds)
        yield f"from {what} to the next commit of an affected run: p50 {percentile(times, 0.5):.2f} s, p95 {percentile(times, 0.95):.2f} s"
    yield (
        f"runs: {audited.runs:,}, commits {audited.commits:,}, verdicts {audited.verdicts:,} (rejected attempts {audited.rejections:,}), "
        f"rollbacks {audited.rollbacks:,}, claims {audited.claims:,}, executions {audited.executions:,}, of which "
        f"{audited.executed_again:,} repeat an attempt whose outcome was lost; {found.seconds:,.0f} s"
    )
    for kind, texts in audited.violations.items():
        yield f"  {kind:<20} {len(texts)}"
        yield from (f"    {text}" for text in texts[:_SHOWN])
    short = shortfalls(found)
    yield "PASSED" if not short else "NOT PASSED: " + "; ".join(short)
