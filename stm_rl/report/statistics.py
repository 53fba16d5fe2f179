"""Interquartile means and probabilities of improvement, with bootstrap intervals over seeds and episodes.

As in Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice" (NeurIPS 2021), whose
library is rliable, with the held-out episodes as tasks: every agent plays the same ones, so comparisons are made
within an episode. Other than there, episodes are drawn anew too, beside seeds: with a few seeds of hundreds of
episodes, most of the chance is in the episodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import trim_mean  # type: ignore[import-untyped]

from stm_rl.evaluation import Bootstrap

FloatArray = NDArray[np.float64]
CUT = 0.25
"""Share of scores that an interquartile mean leaves out on each side."""
RESAMPLES = 2000
CELLS = 4_000_000
"""Numbers of resamples held at once, at most."""


def iqm(values: FloatArray) -> float:
    """Return the mean of the middle half of all scores."""
    return float(trim_mean(values.ravel(), CUT))


def improvement(a: FloatArray, b: FloatArray) -> float:
    """Return how probably a run of ``a`` earns more than one of ``b`` in the same episode; a tie counts half.

    Args:
        a: Shape ``(seeds of a, episodes)``.
        b: Shape ``(seeds of b, episodes)``.
    """
    return float(_wins(a, b).mean())


def _wins(a: FloatArray, b: FloatArray) -> FloatArray:
    over = a[:, None] - b[None]
    return np.asarray((over > 0) + 0.5 * (over == 0), np.float64)


def trimmed_means(values: FloatArray, counts: NDArray[np.int64]) -> FloatArray:
    """Return the interquartile mean of each resample.

    Args:
        values: Scores, shape ``(n,)``.
        counts: How often each resample holds each score, shape ``(resamples, n)``.
    """
    order = values.argsort(kind="stable")
    until = counts[:, order].cumsum(1)
    total = until[:, -1:]
    cut = np.floor(CUT * total).astype(np.int64)
    kept = np.diff(np.clip(until, cut, total - cut), axis=1, prepend=cut)
    return np.asarray(kept @ values[order] / kept.sum(1))


def percentiles(samples: FloatArray) -> tuple[float, float]:
    """Return the ends of the 95% interval."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


class Resamples:
    """Resamples of the episodes of one environment, the same for all agents.

    Args:
        episodes: Number of episodes.
        seed: Seeds the draws.
    """

    def __init__(self, episodes: int, seed: int = 0) -> None:
        self.bootstrap = Bootstrap(episodes, seed)
        self.rng = np.random.default_rng([seed, 1])
        self.episodes = _counts(self.bootstrap.draws[:RESAMPLES], episodes)

    def runs(self, seeds: int) -> NDArray[np.int64]:
        """Return how often each resample holds each of ``seeds`` runs, shape ``(RESAMPLES, seeds)``.

        They are drawn anew at each call: the runs of one agent have nothing to do with those of another.
        """
        return _counts(self.rng.integers(seeds, size=(RESAMPLES, seeds)), seeds)

    def improvement(self, a: FloatArray, b: FloatArray) -> tuple[float, float]:
        """Return the 95% interval of :func:`improvement`."""
        wins = _wins(a, b)
        runs = self.runs(len(a))[:, :, None] * self.runs(len(b))[:, None, :]
        samples = np.zeros(RESAMPLES)
        for i in range(len(a)):
            for j in range(len(b)):
                samples += runs[:, i, j] * (self.episodes @ wins[i, j])
        return percentiles(samples / wins.size)


def _counts(draws: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return how often each row of draws holds each number below ``size``."""
    rows = np.arange(len(draws))[:, None] * size
    return np.bincount((rows + draws).ravel(), minlength=len(draws) * size).reshape(len(draws), size)


def iqm_interval(scores: Sequence[FloatArray], resamples: Sequence[Resamples]) -> tuple[float, float]:
    """Return the 95% interval of the interquartile mean of one agent's scores in several environments together.

    Resamples are stratified: each environment keeps its share.

    Args:
        scores: For each environment, shape ``(seeds, episodes)``.
        resamples: Resamples of each environment.
    """
    values = np.concatenate([one.ravel() for one in scores])
    runs = [one.runs(len(own)) for own, one in zip(scores, resamples, strict=True)]
    step = max(1, CELLS // len(values))
    means = []
    for first in range(0, RESAMPLES, step):
        part = slice(first, first + step)
        counts = [
            (drawn[part, :, None] * one.episodes[part, None, :]).reshape(len(drawn[part]), -1)
            for drawn, one in zip(runs, resamples, strict=True)
        ]
        means.append(trimmed_means(values, np.concatenate(counts, axis=1)))
    return percentiles(np.concatenate(means))
