"""Means with bootstrap intervals, paired by episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm_rl.evaluation.runner import Played

FloatArray = NDArray[np.float64]
RESAMPLES = 5000


class Bootstrap:
    """Percentile bootstrap over episodes and, for agents trained several times, over their seeds.

    Every agent is resampled with the same draws of episodes, so intervals of differences are paired
    (Efron and Tibshirani, 1993).

    Args:
        episodes: Number of episodes.
        seed: Seeds the draws.
    """

    def __init__(self, episodes: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.draws = self.rng.integers(episodes, size=(RESAMPLES, episodes))
        self._seed_draws: dict[int, NDArray[np.int64]] = {}

    def means(self, values: FloatArray, weights: FloatArray | None = None) -> FloatArray:
        """Return the mean under each resample, shape ``(RESAMPLES,)``.

        Args:
            values: Shape ``(seeds, episodes)``.
            weights: Divide the sum by the sum of these instead of the number of episodes; a resample
                in which they are all 0 has no mean and gives NaN.
        """
        below = np.ones_like(values) if weights is None else weights
        if len(values) == 1:
            drawn, total = values[0][self.draws].sum(1), below[0][self.draws].sum(1)
        else:
            seeds = self._seeds(len(values))[:, :, None]
            drawn = values[seeds, self.draws[:, None, :]].sum((1, 2))
            total = below[seeds, self.draws[:, None, :]].sum((1, 2))
        return np.asarray(np.divide(drawn, total, out=np.full(len(drawn), np.nan), where=total > 0))

    def _seeds(self, count: int) -> NDArray[np.int64]:
        if count not in self._seed_draws:
            self._seed_draws[count] = self.rng.integers(count, size=(RESAMPLES, count))
        return self._seed_draws[count]

    def interval(self, values: FloatArray, weights: FloatArray | None = None) -> dict[str, Any]:
        """Return ``{"mean": ..., "ci95": [low, high]}``."""
        below = np.ones_like(values) if weights is None else weights
        low, high = np.nanpercentile(self.means(values, weights), [2.5, 97.5])
        mean = float(values.sum() / below.sum())
        return {"mean": round(mean, 4), "ci95": [round(float(low), 4), round(float(high), 4)]}


def summarize(played: Sequence[Played], bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the entry of one agent in ``eval.json``.

    Args:
        played: What it did, once for each training seed.
        bootstrap: Draws shared by all agents.
    """

    def stack(name: str) -> FloatArray:
        return np.stack([getattr(one, name) for one in played])

    asked = stack("asked")
    entry: dict[str, Any] = {
        "return": bootstrap.interval(stack("returns")),
        "coherence_gain": bootstrap.interval(stack("gains")),
        "evidence_recall": bootstrap.interval(stack("recalled"), asked) if asked.any() else None,
    }
    turns = float(stack("turns").sum())
    entry["writes_per_turn"] = round(float(stack("writes").sum()) / turns, 4)
    entry["reads_per_turn"] = round(float(stack("reads").sum()) / turns, 4)
    return entry


def difference(a: Sequence[Played], b: Sequence[Played], bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the paired difference of returns, a minus b, with its interval."""
    one, other = (np.stack([played.returns for played in side]) for side in (a, b))
    low, high = np.percentile(bootstrap.means(one) - bootstrap.means(other), [2.5, 97.5])
    return {
        "mean": round(float(one.mean() - other.mean()), 4),
        "ci95": [round(float(low), 4), round(float(high), 4)],
    }


def verdict(low: float, high: float) -> str:
    """Return in words what the interval of a difference says."""
    return "better" if low > 0 else ("worse" if high < 0 else "no clear difference")
