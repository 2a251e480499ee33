"""Figures for people: tables in Markdown, and the reliability diagram as a picture. No figure is made here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentraft_ray.errors import VerifierUnavailable

__all__ = ["class_rows", "family_rows", "fold_rows", "plot_reliability", "summary", "table"]

Rows = Sequence[Sequence[str]]


def table(rows: Rows) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = rows
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *body]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines)


def family_rows(found: Mapping[str, Any]) -> Rows:
    """One row a family, and the macro row; AUROC is left out where there are too few cases of a kind."""
    rows = [["family", "cases", "wrong", "AUROC", "recall at 5 %", "recall at 10 %", "recall", "false alarms"]]
    for name, one in found["families"].items():
        at = one["recall_at"] or {}
        rows.append(
            [name, str(one["cases"]), str(one["wrong"]), _number(one["auroc"]), _number(at.get("0.05")), _number(at.get("0.1")),
             _interval(one["recall"]), _interval(one["false_positives"])]
        )  # fmt: skip
    rows.append(
        ["all", str(found["cases"]), str(found["wrong"]), f"macro {_number(found['auroc_macro'])}", "", "",
         _interval(found["recall"]), _interval(found["false_positives"])]
    )  # fmt: skip
    return rows


def class_rows(found: Mapping[str, Any]) -> Rows:
    """One row a class: how many were rejected, how many under the right name."""
    rows = [["class", "cases", "rejected", "named rightly"]]
    rows.extend([name, str(one["cases"]), _interval(one["rejected"]), _interval(one["named"])] for name, one in found["classes"].items())
    return rows


def fold_rows(results: Mapping[str, Mapping[str, Any]]) -> Rows:
    """One row a fold of a study, and the mean over the families that were held out."""
    rows = [["held out", "cases", "wrong", "AUROC within families", "recall", "false alarms", "ECE", "leaks"]]
    for name, one in results.items():
        rows.append(
            [name, str(one["cases"]), str(one["wrong"]), _number(one["auroc_macro"]), _interval(one["recall"]),
             _interval(one["false_positives"]), _number(one["ece"]), f"{one['leaks']['items']} of {one['leaks']['of']}"]
        )  # fmt: skip
    known = [one["auroc_macro"] for name, one in results.items() if name.startswith("family:") and one["auroc_macro"] is not None]
    if known:
        rows.append([f"mean of {len(known)} families", "", "", _number(sum(known) / len(known)), "", "", "", ""])
    return rows


def summary(name: str, found: Mapping[str, Any]) -> str:
    """A test set in a few lines."""
    within, pooled, prior = (_number(found[key]) for key in ("auroc_macro", "auroc_pooled", "auroc_of_family_prior"))
    f1, majority = _number(found["class_macro_f1"]), _number(found["class_macro_f1_of_majority"])
    agreed = _interval(found["recall_on_consensus_wrong"])
    lines = [
        f"{name}: {found['cases']} cases of {found['items']} items, {found['wrong']} wrong",
        f"  AUROC within families {within} (mean of {found['auroc_families']}), pooled {pooled}, by the family's rate alone {prior}",
        f"  recall {_interval(found['recall'])}, false alarms {_interval(found['false_positives'])}",
        f"  recall on wrong answers that most samples agree on {agreed}",
        f"  class macro F1 {f1} (the most frequent class alone {majority}), ECE {_number(found['ece'])}",
    ]
    return "\n".join(lines)


def plot_reliability(sets: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw the reliability diagram of some test sets. Raises VerifierUnavailable without matplotlib."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an extra
    except ImportError:
        raise VerifierUnavailable("a plot needs matplotlib: pip install 'agentraft-ray[bench]'") from None
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after its backend is chosen

    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, found in sets.items():
        predicted, observed, counts = zip(*found["reliability"], strict=True)
        axes.plot(predicted, observed, marker="o", label=f"{name} (ECE {_number(found['ece'])}, {sum(counts)} cases)")
    axes.set(xlabel="predicted P(wrong)", ylabel="share that was wrong", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left", fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(told: Mapping[str, Any] | None) -> str:
    if told is None or told["share"] is None:
        return "-"
    return f"{100 * told['share']:.1f} % ({100 * told['low']:.1f} to {100 * told['high']:.1f})"
