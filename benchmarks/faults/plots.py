"""Pictures of the studies: what was measured with its intervals, formulas as lines. PNG to look at, SVG to print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.faults.findings import Findings
from benchmarks.faults.studies.base import Panel, Picture, Series

__all__ = ["draw", "draw_all"]

_COLOURS = ("#1b6ca8", "#d1495b", "#3a8f5c", "#8e6bbf", "#c98a1b", "#4c4c4c")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "agentraft",  # the same picture is the same file
}
_SMALL: dict[str, Any] = {"fontsize": 7.5, "color": "0.45"}
_INCHES = (4.6, 3.9)
_TICKS_MAX = 8


def draw_all(findings: Findings, folder: Path) -> list[Path]:
    """A picture of every study as PNG and SVG in `folder`; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for study, results in findings.studies:
        for kind in ("png", "svg"):
            files.append(folder / f"{study.name}.{kind}")
            draw(study.picture(results), files[-1])
    return files


def draw(picture: Picture, file: Path) -> None:
    """One picture; the kind of file follows from its suffix."""
    with mpl.rc_context(_STYLE):
        width, height = _INCHES
        figure = Figure(figsize=(max(6.4, width * len(picture.panels)), height), layout="constrained")
        figure.suptitle(picture.title, fontsize=11)
        figure.supxlabel("points: measured, with 95 % intervals; arrows: none seen, from the interval's end; dashed: formula", **_SMALL)
        for axes, panel in zip(
            figure.subplots(1, len(picture.panels), squeeze=False, sharey=picture.shares_y)[0], picture.panels, strict=True
        ):
            _draw_panel(axes, panel)
        is_svg = file.suffix == ".svg"
        figure.savefig(file, dpi=150, metadata={"Date": None} if is_svg else {"Software": None})


def _draw_panel(axes: Any, panel: Panel) -> None:
    places = sorted({x for series in panel.series for x, _ in series.points})
    beside = 0.012 * (places[-1] - places[0]) if places and panel.shares_x and panel.x_scale == "linear" else 0.0
    for number, series in enumerate(panel.series):
        shift = beside * (number - (len(panel.series) - 1) / 2)
        look = {"color": _COLOURS[number % len(_COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}
        _draw_series(axes, series, shift, look, is_log=panel.scale == "log")
    for value, label in panel.marks:
        axes.axhline(value, color="0.4", linewidth=0.8, linestyle=":")
        axes.annotate(label, (0.01, value), xycoords=("axes fraction", "data"), va="bottom", fontsize=8, color="0.3")
    axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y, xscale=panel.x_scale, yscale=panel.scale)
    if panel.scale == "linear":
        axes.set_ylim(bottom=0)
    if panel.x_scale == "log" or (panel.shares_x and len(places) <= _TICKS_MAX):
        axes.set_xticks(places, [f"{x:g}" for x in places])
        axes.xaxis.set_minor_locator(NullLocator())
    known = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if len(known) > 1:
        named = [series.label for series in panel.series if series.label in known]
        axes.legend([known[name] for name in named], named, fontsize=8, edgecolor="none", framealpha=0.8)


def _draw_series(axes: Any, series: Series, shift: float, look: dict[str, Any], *, is_log: bool) -> None:
    colour = look["color"]
    label: str | None = series.label
    shown = [(x + shift, one) for x, one in series.points if not is_log or one.estimate > 0]
    if shown:
        ends = [[max(0.0, one.estimate - one.low) for _, one in shown], [max(0.0, one.high - one.estimate) for _, one in shown]]
        xs, ys = [x for x, _ in shown], [one.estimate for _, one in shown]
        axes.errorbar(xs, ys, yerr=ends, linestyle="none", markersize=4.5, capsize=3, linewidth=1.2, label=label, **look)
        label = None
    none = [(x + shift, one.high) for x, one in series.points if is_log and not one.estimate > 0]
    for x, high in none:
        arrow = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (x, high * 0.4), (x, high), arrowprops=arrow)
    if none and label is not None:
        axes.plot([], [], linestyle="none", label=label, **look)
        label = None
    drawn = [(x, y) for x, y in series.predicted if y > 0 or not is_log]
    if drawn:
        axes.plot(*zip(*drawn, strict=True), color=colour, linewidth=1, linestyle="--" if series.points else "-", alpha=0.8, label=label)
