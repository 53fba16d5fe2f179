"""The learning curve as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
"""Okabe and Ito's colours, which colour-blind readers tell apart."""

ENV_STEPS = "environment steps"


def plot_learning_curve(
    curves: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    path: Path,
    *,
    title: str = "",
    references: Mapping[str, float] | None = None,
    unit: str = ENV_STEPS,
) -> None:
    """Draw validation returns over steps and save them as PNG.

    Args:
        curves: By what they are called in the legend: runs, each as the rows of its ``metrics.jsonl``.
        path: File to write.
        title: Title of the plot.
        references: Returns to draw as horizontal lines, by the name of the agent.
        unit: What steps are.
    """
    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for (name, runs), colour in zip(curves.items(), cycle((BLUE, PURPLE)), strict=False):
        for number, rows in enumerate(runs):
            points = [(row["steps"], row["validation/return"]) for row in rows if "validation/return" in row]
            label = name if number == 0 else None
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.8, alpha=0.9, marker=".", label=label)
    for (name, value), colour in zip((references or {}).items(), (GREEN, ORANGE, GREY, GREY, GREY), strict=False):
        axes.axhline(value, color=colour, linestyle="--", linewidth=1.2)
        axes.annotate(
            name, (1.0, value), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            va="center", color=colour, fontsize=9,
        )  # fmt: skip
    axes.set_xlim(left=0)
    axes.set_xlabel(unit)
    axes.set_ylabel("return on validation episodes (nats)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize=9, ncols=2
        )  # above, clear of the lines
    figure.savefig(path)
