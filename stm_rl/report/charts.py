"""Charts of what agents earned: returns, who is better than whom, what memory was used for, terms of the reward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from stm_rl.report.figure import COLOURS, FAINT, INK, STYLES, Figure, canvas
from stm_rl.report.tables import Role, Scores, Task

FloatArray = NDArray[np.float64]
LOOKS: dict[Role, tuple[str, str, str]] = {
    "learned": (COLOURS["orange"], "o", "learned"),
    "heuristic": (COLOURS["blue"], "s", "heuristic, same budget"),
    "reference": (COLOURS["grey"], "D", "reference, knows more or has no budget"),
}
SCALE = ("#0a6fae", "#f4f4f4", "#d1600a")
"""Colours of probabilities from 0 to 1. The page leaves them as they are, light or dark, or they would be no scale."""
TERMS = len(STYLES)
"""Reward terms drawn each by itself; the others are summed up."""


def returns_figure(task: Task, name: str, rows: Sequence[tuple[Scores, float, float, float]]) -> Figure:
    """Draw the mean return of each agent with its interval.

    Args:
        task: The environment.
        name: Name of the figure.
        rows: Agents, best first, each with its mean and the ends of its interval.
    """
    with canvas(7.2, 0.9 + 0.24 * len(rows)) as (drawn, ((axes,),)):
        shown: set[Role] = set()
        for place, (scores, mean, low, high) in enumerate(rows):
            colour, mark, label = LOOKS[scores.role]
            legend = label if scores.role not in shown else None
            shown.add(scores.role)
            axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
            axes.plot([mean], [place], mark, color=colour, markersize=6, label=legend)
        axes.axvline(0, color=FAINT, linewidth=0.8)
        axes.set_yticks(range(len(rows)), [scores.agent for scores, *_ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("return per episode (nats), mean and 95% interval")
        axes.grid(axis="x")
        drawn.legend(loc="outside upper left", ncols=3, fontsize=8)
    return Figure(name, f"Return of each agent on {task.title}, {task.episodes} held-out episodes.", drawn)


def improvement_figure(task: Task, name: str, agents: Sequence[str], chances: FloatArray) -> Figure:
    """Draw how probably each agent earns more than each other one.

    Args:
        task: The environment.
        name: Name of the figure.
        agents: Agents, best first.
        chances: Probabilities that the agent of the row earns more than that of the column, NaN on the diagonal.
    """
    size = len(agents)
    colours = LinearSegmentedColormap.from_list("improvement", SCALE)
    with canvas(1.9 + 0.46 * size, 1.5 + 0.34 * size) as (drawn, ((axes,),)):
        for i in range(size):
            for j in range(size):
                if i == j:
                    continue
                value = float(chances[i, j])
                red, green, blue, _ = colours(value)
                axes.add_patch(_cell(j, i, (red, green, blue)))
                dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
                text = "#ffffff" if dark else "#111111"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color=text)
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.set_xticks(range(size), agents, rotation=40, ha="left")
        axes.set_yticks(range(size), agents)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    caption = (
        "Probability that the agent of the row earns more than that of the column in the same episode of "
        f"{task.title}; orange: more, blue: less."
    )
    return Figure(name, caption, drawn)


def _cell(x: float, y: float, colour: tuple[float, float, float]) -> Rectangle:
    return Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, color=colour, linewidth=0)


def memory_figure(task: Task, name: str, rows: Sequence[Scores]) -> Figure:
    """Draw how often each agent writes and reads, and how much of the evidence its memory held.

    Args:
        task: The environment.
        name: Name of the figure.
        rows: Agents, best first.
    """
    panels = {"writes_per_turn": "writes per turn", "reads_per_turn": "reads per turn", "evidence_recall": "recall"}
    with canvas(7.2, 0.8 + 0.24 * len(rows), columns=3, sharey=True) as (drawn, (axes,)):
        for column, (entry, label) in zip(axes, panels.items(), strict=True):
            for place, scores in enumerate(rows):
                value = scores.mean(entry)
                if value is None or (entry == "evidence_recall" and scores.agent == "full-context"):
                    continue
                colour, mark, _ = LOOKS[scores.role]
                column.plot([0, value], [place, place], color=colour, linewidth=2.5, alpha=0.5)
                column.plot([value], [place], mark, color=colour, markersize=6, clip_on=False)
            column.set_xlim(left=0)
            column.set_title(label)
            column.grid(axis="x")
        axes[0].set_yticks(range(len(rows)), [scores.agent for scores in rows])
        axes[0].set_ylim(len(rows) - 0.4, -0.6)
    caption = (
        f"Writes and reads per turn on {task.title}, and evidence recall: the share of dependent turns whose evidence "
        "the memory held."
    )
    return Figure(name, caption, drawn)


def terms_figure(task: Task, name: str, rows: Sequence[Scores]) -> Figure | None:
    """Draw the mean of each weighted reward term for each agent; None if no terms are known.

    Args:
        task: The environment.
        name: Name of the figure.
        rows: Agents, best first.
    """
    rows = [scores for scores in rows if scores.terms]
    if not rows:
        return None
    means = {s.agent: {term: float(values.mean()) for term, values in s.terms.items()} for s in rows}
    sizes: dict[str, float] = {}
    for entry in means.values():
        for term, value in entry.items():
            sizes[term] = max(sizes.get(term, 0.0), abs(value))
    terms = sorted(sizes, key=lambda term: -sizes[term])
    if len(terms) > TERMS:
        kept = terms[: TERMS - 1]
        rest = f"{len(terms) - len(kept)} others"
        means = {
            agent: {**{t: entry.get(t, 0.0) for t in kept}, rest: sum(v for t, v in entry.items() if t not in kept)}
            for agent, entry in means.items()
        }
        terms = [*kept, rest]
    with canvas(7.2, 1.0 + 0.26 * len(rows)) as (drawn, ((axes,),)):
        above, below = np.zeros(len(rows)), np.zeros(len(rows))
        for term, (colour, _, _, hatch) in zip(terms, STYLES, strict=False):
            values = np.array([means[scores.agent].get(term, 0.0) for scores in rows])
            left = np.where(values >= 0, above, below)
            axes.barh(
                range(len(rows)), values, left=left, height=0.62, color=colour, hatch=hatch, edgecolor=INK,
                linewidth=0.4, label=term,
            )  # fmt: skip
            above, below = above + np.maximum(values, 0), below + np.minimum(values, 0)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(rows)), [scores.agent for scores in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("nats per episode, weighted")
        axes.grid(axis="x")
        drawn.legend(loc="outside upper left", ncols=4, fontsize=8)
    return Figure(name, f"What the return of each agent on {task.title} is the sum of.", drawn)
