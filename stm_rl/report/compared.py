"""Agents of one environment compared: a table, who is best, and how probably each is better than another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm_rl.evaluation.statistics import verdict
from stm_rl.report.statistics import Resamples, improvement, iqm, iqm_interval, percentiles
from stm_rl.report.tables import Scores, Task

FloatArray = NDArray[np.float64]
NONE = "none"
MATRIX = 14
"""Agents in a matrix, at most."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95% interval."""

    mean: float
    low: float
    high: float

    def as_json(self) -> dict[str, Any]:
        """Return it as in ``eval.json``."""
        return {"mean": round(self.mean, 4), "ci95": [round(self.low, 4), round(self.high, 4)]}

    def above_zero(self) -> str:
        """Return in a word what it says as a difference."""
        return verdict(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Row:
    """What one agent earned.

    Attributes:
        scores: The agent.
        mean: Mean return, nats.
        iqm: Interquartile mean of returns; None without ``episodes.json``.
    """

    scores: Scores
    mean: Estimate
    iqm: Estimate | None


@dataclass(frozen=True, slots=True)
class Compared:
    """Agents in one environment.

    Attributes:
        task: The environment.
        resamples: Resamples of its episodes.
        rows: All agents, best mean first.
    """

    task: Task
    resamples: Resamples
    rows: list[Row]

    @property
    def best(self) -> Row | None:
        """The best agent with the same budget as all; None if there is none."""
        return next((row for row in self.rows if row.scores.role != "reference"), None)

    @property
    def best_learned(self) -> Row | None:
        """The best learned agent; None if there is none."""
        return next((row for row in self.rows if row.scores.role == "learned"), None)

    @property
    def best_heuristic(self) -> Row | None:
        """The best heuristic, no memory among them; None if there is none."""
        return next((row for row in self.rows if row.scores.role == "heuristic"), None)

    def row(self, name: str) -> Row | None:
        """Return the row of an agent; None if it did not play."""
        return next((row for row in self.rows if row.scores.agent == name), None)

    def difference(self, a: Row, b: Row) -> Estimate | None:
        """Return the mean difference of returns, a minus b, paired by episode; None without ``episodes.json``."""
        one, other = a.scores.returns, b.scores.returns
        if one is None or other is None:
            return None
        means = self.resamples.bootstrap.means
        return Estimate(float(one.mean() - other.mean()), *percentiles(means(one) - means(other)))

    def improvement(self, a: Row, b: Row) -> Estimate | None:
        """Return how probably a earns more than b in an episode; None without ``episodes.json``."""
        one, other = a.scores.returns, b.scores.returns
        if one is None or other is None:
            return None
        return Estimate(improvement(one, other), *self.resamples.improvement(one, other))

    def matrix(self) -> tuple[list[str], FloatArray]:
        """Return agents, best first and learned ones before others if there are too many, and who is better than whom.

        Returns:
            Names, and probabilities of shape ``(n, n)`` that the agent of the row earns more; NaN on the diagonal.
        """
        known = [row for row in self.rows if row.scores.returns is not None]
        kept = sorted(known, key=lambda row: row.scores.role != "learned")[:MATRIX]
        kept = [row for row in known if row in kept]
        chances = np.full((len(kept), len(kept)), np.nan)
        for i, one in enumerate(kept):
            for j, other in enumerate(kept):
                if i != j and one.scores.returns is not None and other.scores.returns is not None:
                    chances[i, j] = improvement(one.scores.returns, other.scores.returns)
        return [row.scores.agent for row in kept], chances


def compare(task: Task) -> Compared:
    """Return the agents of an environment, compared."""
    told = any(scores.returns is not None for scores in task.agents.values())
    resamples = Resamples(task.episodes if told else 1)
    rows = [_row(scores, resamples) for scores in task.agents.values()]
    return Compared(task, resamples, sorted(rows, key=lambda row: -row.mean.mean))


def _row(scores: Scores, resamples: Resamples) -> Row:
    if scores.returns is None:
        entry = scores.entries[0]["return"]
        return Row(scores, Estimate(entry["mean"], *entry["ci95"]), None)
    interval = percentiles(resamples.bootstrap.means(scores.returns))
    middle = Estimate(iqm(scores.returns), *iqm_interval([scores.returns], [resamples]))
    return Row(scores, Estimate(float(scores.returns.mean()), *interval), middle)


def normalised(compared: Sequence[Compared]) -> dict[str, Estimate]:
    """Return the interquartile mean over all environments of each agent that played in each of them.

    Returns are normalised in each environment: 0 is no memory, 1 is the mean of the oracle. Empty if there is one
    environment, or one without the oracle or details.
    """
    if len(compared) < 2:
        return {}
    scales = []
    for one in compared:
        none, oracle = one.row(NONE), one.row("oracle")
        if none is None or oracle is None or oracle.mean.mean <= none.mean.mean:
            return {}
        scales.append((none.mean.mean, oracle.mean.mean - none.mean.mean))
    found = {}
    for name in compared[0].task.agents:
        rows = [one.row(name) for one in compared]
        scores = [
            (row.scores.returns - zero) / scale
            for row, (zero, scale) in zip(rows, scales, strict=True)
            if row is not None and row.scores.returns is not None
        ]
        if len(scores) == len(compared):
            middle = iqm(np.concatenate([one.ravel() for one in scores]))
            found[name] = Estimate(middle, *iqm_interval(scores, [one.resamples for one in compared]))
    return dict(sorted(found.items(), key=lambda item: -item[1].mean))
