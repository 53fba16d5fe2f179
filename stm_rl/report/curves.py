"""Learning curves: seeds of one agent as one line with a band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from stm_rl.evaluation import Bootstrap
from stm_rl.report.figure import STYLES, Figure, canvas
from stm_rl.report.reading import Source

FloatArray = NDArray[np.float64]
MEASURES = (
    ("validation/return", "return on validation episodes (nats)"),
    ("train/return", "return while training (nats)"),
    ("return", "mean return of recent episodes"),
)
"""Columns of ``metrics.jsonl`` that can be a learning curve; the first that a run has is drawn."""
TRAINING_STEPS, ENV_STEPS = "training steps", "environment steps"
POINTS = 300
"""Points of a line, at most."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What one run learned.

    Attributes:
        panel: What is on the axes, and the environment: curves that can be in one figure.
        agent: Its agent.
        steps: Steps, growing, shape ``(n,)``.
        values: What was measured then, shape ``(n,)``.
    """

    panel: tuple[str, str, str]
    agent: str
    steps: FloatArray
    values: FloatArray


def curve_of(source: Source, agent: str) -> Curve | None:
    """Return the learning curve of a run; None if it has none yet."""
    for column, label in MEASURES:
        found: dict[float, float] = {}
        for row in source.metrics:
            step, value = row.get("steps"), row.get(column)
            if isinstance(step, int | float) and isinstance(value, int | float) and isfinite(step) and isfinite(value):
                found[float(step)] = float(value)
        if found:
            unit = TRAINING_STEPS if source.command == "finetune" else ENV_STEPS
            env = str(source.request.get("env", "")) if not source.request.get("transcripts") else "own transcripts"
            points = np.array(sorted(found.items())).T
            return Curve((env, unit, label), agent, points[0], points[1])
    return None


def learning_figures(curves: Sequence[Curve]) -> tuple[list[Figure], list[str]]:
    """Draw the curves, those of one environment and measure in one figure.

    Returns:
        The figures, and the agents that were left out because there are too many.
    """
    figures: list[Figure] = []
    left_out: list[str] = []
    for number, panel in enumerate(dict.fromkeys(curve.panel for curve in curves), start=1):
        agents = list(dict.fromkeys(curve.agent for curve in curves if curve.panel == panel))
        left_out += agents[len(STYLES) :]
        shown = {a: [c for c in curves if c.panel == panel and c.agent == a] for a in agents[: len(STYLES)]}
        figures.append(_draw(f"learning-{number}", panel, shown))
    return figures, left_out


def _draw(name: str, panel: tuple[str, str, str], shown: dict[str, list[Curve]]) -> Figure:
    env, unit, label = panel
    with canvas(7.2, 3.6) as (drawn, ((axes,),)):
        for (agent, runs), (colour, line, mark, _) in zip(shown.items(), STYLES, strict=False):
            steps, mean, low, high = band(runs)
            if len(runs) > 1:
                axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
                for run in runs:
                    axes.plot(*_thin(run.steps, run.values), color=colour, linewidth=0.6, alpha=0.6)
            text = agent if len(runs) == 1 else f"{agent} ({len(runs)} seeds)"
            every = max(1, len(steps) // 12)
            axes.plot(
                steps, mean, color=colour, linestyle=line, marker=mark, markevery=every, markersize=5, linewidth=1.8,
                label=text,
            )  # fmt: skip
        axes.set_xlim(left=0)
        axes.set_xlabel(unit)
        axes.set_ylabel(label)
        axes.xaxis.set_major_formatter(_thousands)
        axes.grid()
        drawn.legend(loc="outside upper left", ncols=3, fontsize=8)
    several = any(len(runs) > 1 for runs in shown.values())
    note = " Thin lines: seeds. Line and band: their mean and its 95% bootstrap interval over seeds." if several else ""
    return Figure(name, f"{label[0].upper()}{label[1:]} over {unit}, {env}.{note}", drawn)


def _thousands(value: float, _: int | None) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def _thin(steps: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(POINTS, len(steps))).round().astype(int))
    return steps[chosen], values[chosen]


def band(runs: Sequence[Curve]) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return steps, and the mean of the runs with its 95% interval there.

    Runs are compared at the steps that all of them came to; between its points a run is on a straight line.

    Returns:
        Steps, means, and lower and upper ends of intervals, each of shape ``(n,)``.
    """
    first, last = max(run.steps[0] for run in runs), min(run.steps[-1] for run in runs)
    steps = np.unique(np.concatenate([run.steps for run in runs]))
    steps = steps[(steps >= first) & (steps <= last)]
    if not len(steps):  # no two seeds measured over the same steps
        runs = [max(runs, key=lambda run: len(run.steps))]
        steps = runs[0].steps
    steps, _ = _thin(steps, steps)
    values = np.stack([np.interp(steps, run.steps, run.values) for run in runs])
    drawn = values[Bootstrap(len(runs)).draws].mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return steps, values.mean(0), low, high
