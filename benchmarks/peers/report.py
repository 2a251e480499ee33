"""The comparison as a table for people. Nothing is measured here, and nothing that was measured is left out."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.peers.figures import COMMON_RUNS, OURS, Comparison, Figures, ratio_at, ratio_of_bests

__all__ = ["report"]

_LOAD_PER_CORE_MAX = 2.0  # one peer and its server make about one per core


def report(found: Comparison) -> str:
    """All of it."""
    return "\n".join([*_head_lines(found), *_table_lines(found), *_missing_lines(found), *_every_figure(found), *_settings_lines(found)])


def _head_lines(found: Comparison) -> Iterator[str]:
    machine = found.machine
    yield f"{machine.cores} cores ({machine.cpu}), load {machine.load:.1f} before the start and {found.load_after:.1f} at the end"
    disk = f"{machine.disk} with {machine.fsync_us:,.0f} us per small write and fdatasync"
    yield f"{machine.python}; {disk}; measured in {found.seconds:,.0f} s"
    if max(machine.load, found.load_after) > machine.cores * _LOAD_PER_CORE_MAX:
        yield "others used this machine while it was measured: these figures say little, measure again when it is free"
    if machine.disk == "tmpfs":
        yield "this disk is memory: nothing here is durable, the figures show the software alone"
    yield f"\nRuns of {found.steps_per_run} trivial steps; steps per second, medians of the repetitions, spread = (max - min) / median"
    yield f"{OURS} also judges every step and fences its log; the others record what a step returned. Compare the ratios, not the figures."


def _table_lines(found: Comparison) -> Iterator[str]:
    if not found.figures:
        return
    yield (
        f"\n{'':<21} {'at its best':>12} {'runs':>5} {'spread':>7} {'ours/its':>9}   "
        f"{f'at {COMMON_RUNS} runs':>11} {'spread':>7} {'ours/its':>9}   a step survives"
    )
    for one in found.figures:
        common = one.by_runs.get(COMMON_RUNS)
        at_common = f"{common.median:>11,.0f} {common.spread:>7.0%}" if common else f"{'-':>11} {'-':>7}"
        yield (
            f"{one.system.label:<21} {one.best.median:>12,.0f} {one.best_runs:>5,} {one.best.spread:>7.0%} "
            f"{_times(ratio_of_bests(found.ours, one)):>9}   "
            f"{at_common} {_times(ratio_at(COMMON_RUNS, found.ours, one)):>9}   {one.promise}"
        )


def _missing_lines(found: Comparison) -> Iterator[str]:
    for label, reason in found.missing.items():
        yield f"{label:<21} {reason}"


def _every_figure(found: Comparison) -> Iterator[str]:
    if found.figures:
        yield "\nBy runs at a time"
    for one in found.figures:
        yield f"  {one.system.label:<21} " + "  ".join(f"{runs:,}: {answer.median:,.0f}" for runs, answer in sorted(one.by_runs.items()))


def _settings_lines(found: Comparison) -> Iterator[str]:
    if found.figures:
        yield "\nSettings, as each one read them back"
    for one in found.figures:
        yield f"  {one.system.label:<21} {_settings(one)}"


def _settings(one: Figures) -> str:
    return ", ".join(f"{name} {value}" for name, value in one.best.settings.items()) or "none stated"


def _times(ratio: float | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio:.1f}x" if ratio >= 1 else f"{ratio:.2f}x"
